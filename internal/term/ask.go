package term

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// ErrNoTerminal is returned where a person must answer and there is none: no controlling terminal, or its end.
var ErrNoTerminal = errors.New("no terminal to ask at")

// maxAnswer is in bytes. It is what macOS lets a line of terminal input hold.
const maxAnswer = 1024

var errLongAnswer = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)

// ttyPath is the controlling terminal: stdin and stdout may be the ssh stream.
var ttyPath = "/dev/tty"

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	is := false
	// Not through f.Fd, which would make f blocking.
	err = conn.Control(func(fd uintptr) { is = term.IsTerminal(int(fd)) })
	return err == nil && is
}

// Width returns how many columns the terminal f has: 0 for one that does not say, and for what is none.
func Width(f *os.File) int {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	width := 0
	conn.Control(func(fd uintptr) {
		if columns, _, err := term.GetSize(int(fd)); err == nil {
			width = columns
		}
	})
	return width
}

// Available reports whether there is a controlling terminal to ask at.
func Available() bool {
	fd, err := unix.Open(ttyPath, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// Passphrase shows prompt on the controlling terminal and returns the line that is typed there unseen, without its
// end; it may be empty. The caller wipes it. Without a terminal, or at its end, the error wraps ErrNoTerminal. When
// ctx ends it wraps the cause, and after a signal (interrupt, hang-up or terminate, which then does not end the
// program) context.Canceled. The terminal is as before in every case, and half an answer is discarded.
func Passphrase(ctx context.Context, prompt string) ([]byte, error) {
	return ask(ctx, prompt, false)
}

// Line shows prompt on the controlling terminal and returns the line that is typed there, without its end and the blanks
// around. Its errors are those of Passphrase.
func Line(ctx context.Context, prompt string) (string, error) {
	answer, err := ask(ctx, prompt, true)
	return strings.TrimSpace(string(answer)), err
}

// Confirm shows question on the controlling terminal and reports whether the answer is "y" or "yes", in any case.
// Every other line is no. Its errors are those of Passphrase.
func Confirm(ctx context.Context, question string) (bool, error) {
	answer, err := ask(ctx, question+" [y/N] ", true)
	if err != nil {
		return false, err
	}
	yes := strings.ToLower(strings.TrimSpace(string(answer)))
	return yes == "y" || yes == "yes", nil
}

func ask(ctx context.Context, prompt string, echo bool) (answer []byte, err error) {
	// Signals are caught before echo goes off, so that there is no moment in which one leaves the terminal mute.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	fd, err := unix.Open(ttyPath, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoTerminal, ttyPath, err)
	}
	defer unix.Close(fd)
	t := tty(fd)
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoTerminal, ttyPath, err)
	}
	during := *before
	during.Iflag |= unix.ICRNL
	during.Lflag |= unix.ICANON | unix.ISIG | unix.ECHO
	if !echo {
		during.Lflag &^= unix.ECHO
	}
	if err := unix.IoctlSetTermios(fd, setTermios, &during); err != nil {
		return nil, fmt.Errorf("set up the terminal: %w", err)
	}
	defer func() {
		restore := uint(setTermios)
		if err != nil {
			// Half an answer must not reach the shell, which would show it and run it.
			clear(answer)
			answer, restore = nil, flushTermios
		}
		if e := unix.IoctlSetTermios(fd, restore, before); e != nil && err == nil {
			clear(answer)
			answer, err = nil, fmt.Errorf("restore the terminal: %w", e)
		}
	}()
	if err := t.write(safeLines(prompt)); err != nil {
		return nil, err
	}
	answer, err = t.readLine(ctx)
	if !echo || err != nil {
		// The Enter was not echoed. This is for looks; the answer stands whether it works or not.
		_ = t.write("\n")
	}
	return answer, err
}

// safeLines is Safe for text whose line breaks are meant.
func safeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = Safe(l)
	}
	return strings.Join(lines, "\n")
}

// tty is the descriptor of an open terminal. It is no os.File because macOS gives deadlines to no terminal.
type tty int

func (t tty) write(s string) error {
	for b := []byte(s); len(b) > 0; {
		n, err := unix.Write(int(t), b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write to the terminal: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// readLine returns the next line without its end. The result shares its memory with nothing. The bytes read before
// an error come back too, to be wiped.
func (t tty) readLine(ctx context.Context) ([]byte, error) {
	wake, err := newWaker(ctx)
	if err != nil {
		return nil, err
	}
	defer wake.close()
	buf := make([]byte, maxAnswer+1)
	n := 0
	for {
		if err := wake.readable(int(t)); err != nil {
			return buf[:n], err
		}
		got, err := unix.Read(int(t), buf[n:])
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err == unix.EIO || err == nil && got == 0:
			return buf[:n], ErrNoTerminal
		case err != nil:
			return buf[:n], fmt.Errorf("read from the terminal: %w", err)
		}
		n += got
		// In canonical mode a read ends with the line.
		if buf[n-1] == '\n' {
			return buf[:n-1], nil
		}
		if n == len(buf) {
			return buf[:n], errLongAnswer
		}
	}
}

// waker waits for input on a descriptor until a context ends. It uses select, since neither kqueue nor poll works
// for /dev/tty on macOS.
type waker struct {
	ctx  context.Context
	r, w *os.File // a pipe that becomes readable when ctx ends, because w is closed
	stop func() bool
}

func newWaker(ctx context.Context) (*waker, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &waker{ctx: ctx, r: r, w: w, stop: context.AfterFunc(ctx, func() { w.Close() })}, nil
}

func (w *waker) close() {
	w.stop()
	w.w.Close()
	w.r.Close()
}

// readable returns when fd has input, or with the context's cause when that ended.
func (w *waker) readable(fd int) error {
	wake := int(w.r.Fd())
	if max(fd, wake) >= unix.FD_SETSIZE {
		return errors.New("too many open files to wait for the terminal")
	}
	for {
		var set unix.FdSet
		set.Set(fd)
		set.Set(wake)
		_, err := unix.Select(max(fd, wake)+1, &set, nil, nil, nil)
		switch {
		case w.ctx.Err() != nil:
			return fmt.Errorf("no answer: %w", context.Cause(w.ctx))
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait for the terminal: %w", err)
		case set.IsSet(fd):
			return nil
		}
	}
}
