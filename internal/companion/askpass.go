package companion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// promptTimeout bounds the wait for a person.
const promptTimeout = time.Minute

// maxAnswer bounds what an askpass program says, in bytes.
const maxAnswer = 1 << 10

// afterExit is how long the answer of a program that has ended is waited for: another that it started may hold the
// pipe open.
const afterExit = time.Second

// usualPlaces are where distributions put an askpass program.
var usualPlaces = []string{
	"/usr/bin/ssh-askpass",
	"/usr/lib/ssh/ssh-askpass",
	"/usr/libexec/openssh/ssh-askpass",
	"/usr/libexec/openssh/gnome-ssh-askpass",
	"/usr/lib/openssh/gnome-ssh-askpass",
	"/usr/lib/ssh/gnome-ssh-askpass3",
	"/usr/bin/ksshaskpass",
	"/usr/bin/lxqt-openssh-askpass",
	"/usr/lib/ssh/x11-ssh-askpass",
	"/usr/local/bin/ssh-askpass",
	"/opt/homebrew/bin/ssh-askpass",
	"/opt/X11/bin/ssh-askpass",
}

// AskpassError reports an askpass program that could not ask.
type AskpassError struct {
	Program string // empty if there is none
	Err     error
}

func (e *AskpassError) Error() string {
	if e.Program == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("askpass program %q: %v", e.Program, e.Err)
}

func (e *AskpassError) Unwrap() error { return e.Err }

// Hint returns what to set.
func (e *AskpassError) Hint() string {
	return `askpass = "/path/of/an/askpass/program"   (in config.toml; on Debian: apt install ssh-askpass-gnome)`
}

// ErrDeclined is returned by Ask when the askpass program ended with a status that is not 0.
var ErrDeclined = errors.New("the askpass program was told no, or could not ask")

// Ask runs the askpass program with the given absolute path to ask for a secret and returns what it says, without one
// line break at its end. The caller wipes it. If program is empty, SSH_ASKPASS is used, and without it the first
// program in one of the usual places. A person who cancels is ErrDeclined, a program that cannot be used an
// *AskpassError. It waits for as long as ctx allows, at most a minute.
func Ask(ctx context.Context, program, prompt string) ([]byte, error) {
	return ask(ctx, program, strings.TrimLeft(plain(prompt), "-\n"), nil, nil)
}

// confirm asks for consent. Everything but a program that ended by itself with status 0 is none, and so is everything
// that it says but "yes" and nothing, as in OpenSSH's ssh-agent.
func confirm(ctx context.Context, prompt string, stderr *os.File) (bool, error) {
	answer, err := ask(ctx, "", prompt, []string{"SSH_ASKPASS_PROMPT=confirm"}, stderr)
	if errors.Is(err, ErrDeclined) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return len(answer) == 0 || strings.EqualFold(string(answer), "yes"), nil
}

// ask runs the askpass program in a process group of its own, which is killed when ctx ends, and returns the answer
// that it gave when it exited with status 0.
func ask(ctx context.Context, program, prompt string, env []string, stderr *os.File) ([]byte, error) {
	program, err := find(program)
	if err != nil {
		return nil, &AskpassError{Err: err}
	}
	path, err := trusted(program)
	if err != nil {
		return nil, &AskpassError{Program: program, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, promptTimeout)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()

	cmd := exec.CommandContext(ctx, path, prompt)
	cmd.Args[0] = program
	cmd.Dir = "/"
	cmd.Env = append(environment(os.Environ()), env...)
	cmd.Stdout = w
	if stderr != nil {
		cmd.Stderr = stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &AskpassError{Program: program, Err: err}
	}
	w.Close()
	said := make(chan []byte, 1)
	go func() {
		// One byte over the limit is enough to know. It is read without buffers that keep a copy.
		buf := make([]byte, maxAnswer+1)
		n, _ := io.ReadFull(r, buf)
		if n > maxAnswer {
			cancel()
		}
		said <- buf[:n]
	}()
	err = cmd.Wait()
	exit := (*exec.ExitError)(nil)
	r.SetReadDeadline(time.Now().Add(afterExit))
	answer := <-said
	switch {
	case len(answer) > maxAnswer:
		err = &AskpassError{Program: program, Err: fmt.Errorf("it said more than %d bytes", maxAnswer)}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = errors.New("nobody answered the question in time")
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.As(err, &exit) && exit.Exited():
		err = fmt.Errorf("%w (%v)", ErrDeclined, exit)
	case err != nil:
		err = &AskpassError{Program: program, Err: err}
	}
	if err != nil {
		clear(answer)
		return nil, err
	}
	return bytes.TrimSuffix(answer, []byte("\n")), nil
}

var errNoAskpass = errors.New("there is no askpass program to ask with")

// find returns the askpass program to run. One that was chosen and is not there is not replaced by another.
func find(program string) (string, error) {
	if program != "" {
		return program, nil
	}
	if program = os.Getenv("SSH_ASKPASS"); program != "" {
		return program, nil
	}
	for _, path := range usualPlaces {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errNoAskpass
}

// trusted returns the file that path leads to, if nobody but root and this user can have a hand in it.
func trusted(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", errors.New("it is not an absolute path")
	}
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is not a file")
	}
	if !ours(info) || info.Mode()&0o022 != 0 {
		return "", errors.New("it belongs to another user, or others may write to it")
	}
	// The links on the way are in directories as well. A group may write to those: /usr/local is so on many systems.
	for _, p := range []string{filepath.Clean(path), file} {
		for p != "/" {
			p = filepath.Dir(p)
			info, err := os.Stat(p)
			if err != nil {
				return "", err
			}
			if !ours(info) || info.Mode()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
				return "", fmt.Errorf("directory %q belongs to another user, or others may write to it", p)
			}
		}
	}
	return file, nil
}

func ours(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
}
