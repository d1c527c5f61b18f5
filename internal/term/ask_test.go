package term

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the program of TestInterruptKey.
func TestMain(m *testing.M) {
	if os.Getenv("VAST_SSH_TEST_ASK") == "" {
		os.Exit(m.Run())
	}
	_, err := Passphrase(context.Background(), "prompt: ")
	fmt.Println(errors.Is(err, context.Canceled), err)
}

// screen is the side of a terminal that a person sees and types at.
type screen struct {
	t      *testing.T
	master *os.File
	slave  string
	seen   bytes.Buffer
}

// newScreen makes a terminal and lets it be the controlling one for this test.
func newScreen(t *testing.T) *screen {
	t.Helper()
	s := &screen{t: t}
	s.master, s.slave = openPTY(t)
	t.Cleanup(func() { s.master.Close() })
	if err := s.master.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	useTTY(t, s.slave)
	return s
}

func useTTY(t *testing.T, path string) {
	old := ttyPath
	ttyPath = path
	t.Cleanup(func() { ttyPath = old })
}

// expect waits until text is on the screen.
func (s *screen) expect(text string) {
	s.t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(s.seen.String(), text) {
		n, err := s.master.Read(buf)
		s.seen.Write(buf[:n])
		if err != nil {
			s.t.Fatalf("the screen shows %q, not %q: %v", s.seen.String(), text, err)
		}
	}
}

func (s *screen) write(text string) {
	s.t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// unread fails the test when the terminal still has input from before.
func (s *screen) unread() {
	s.t.Helper()
	f, err := os.OpenFile(s.slave, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	s.write("next\n")
	buf := make([]byte, 4096)
	n, err := f.Read(buf)
	if err != nil || string(buf[:n]) != "next\n" {
		s.t.Errorf("the next reader of the terminal gets %q, %v", buf[:n], err)
	}
}

type result struct {
	answer []byte
	err    error
}

func askPassphrase(ctx context.Context) chan result {
	done := make(chan result, 1)
	go func() {
		answer, err := Passphrase(ctx, "Passphrase: ")
		done <- result{answer, err}
	}()
	return done
}

func TestPassphrase(t *testing.T) {
	for _, tt := range []struct{ typed, want string }{
		{"correct horse\n", "correct horse"},
		{"correct horse\r", "correct horse"},
		{"\n", ""},
		{" \tü \n", " \tü "},
		{"wrongg\x7f\n", "wrong"},
		{strings.Repeat("p", maxAnswer) + "\n", strings.Repeat("p", maxAnswer)},
		{"in two\x04 parts\n", "in two parts"},
	} {
		s := newScreen(t)
		before := attributes(t, s.master)
		done := askPassphrase(t.Context())
		s.expect("Passphrase: ")
		if !mute(t, s.master) {
			t.Error("the terminal echoes")
		}
		s.write(tt.typed)
		got := <-done
		if got.err != nil || string(got.answer) != tt.want {
			t.Errorf("typed %.20q: %.20q, %v; want %.20q", tt.typed, got.answer, got.err, tt.want)
		}
		if attributes(t, s.master) != before {
			t.Error("the terminal is not as before")
		}
		s.expect("\r\n")
		if s.seen.String() != "Passphrase: \r\n" {
			t.Errorf("the screen shows %q", s.seen.String())
		}
		s.unread()
	}
}

func TestPassphraseTooLong(t *testing.T) {
	s := newScreen(t)
	before := attributes(t, s.master)
	done := askPassphrase(t.Context())
	s.expect("Passphrase: ")
	s.write(strings.Repeat("p", maxAnswer+100) + "\n")
	if got := <-done; !errors.Is(got.err, errLongAnswer) || got.answer != nil {
		t.Errorf("%q, %v; want an error", got.answer, got.err)
	}
	if attributes(t, s.master) != before {
		t.Error("the terminal is not as before")
	}
	s.unread()
}

var errEnough = errors.New("enough")

func TestCancel(t *testing.T) {
	for name, how := range map[string]struct {
		cancel func(context.CancelCauseFunc)
		want   error
	}{
		"context":   {func(c context.CancelCauseFunc) { c(errEnough) }, errEnough},
		"interrupt": {func(context.CancelCauseFunc) { syscall.Kill(os.Getpid(), syscall.SIGINT) }, context.Canceled},
		"terminate": {func(context.CancelCauseFunc) { syscall.Kill(os.Getpid(), syscall.SIGTERM) }, context.Canceled},
		"hang up":   {func(context.CancelCauseFunc) { syscall.Kill(os.Getpid(), syscall.SIGHUP) }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScreen(t)
			before := attributes(t, s.master)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			done := askPassphrase(ctx)
			s.expect("Passphrase: ")
			how.cancel(cancel)
			if got := <-done; !errors.Is(got.err, how.want) || got.answer != nil {
				t.Errorf("%q, %v; want %v", got.answer, got.err, how.want)
			}
			if attributes(t, s.master) != before {
				t.Error("the terminal is not as before")
			}
		})
	}
}

func TestHalfAnswerIsDiscarded(t *testing.T) {
	s := newScreen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Confirm(ctx, "sure?")
		done <- err
	}()
	s.expect("sure? [y/N] ")
	s.write("rm -rf")
	// The echo shows that the line discipline holds the text, which a silent passphrase would not.
	s.expect("rm -rf")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	s.unread()
}

func TestAlreadyCancelled(t *testing.T) {
	newScreen(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Passphrase(ctx, "p"); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

// The terminal's own interrupt key, in a session of its own, at the real /dev/tty.
func TestInterruptKey(t *testing.T) {
	s := newScreen(t)
	before := attributes(t, s.master)
	slave, err := os.OpenFile(s.slave, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	var stdout bytes.Buffer
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "VAST_SSH_TEST_ASK=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, &stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.expect("prompt: ")
	s.write("half\x03")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(stdout.String(), "true no answer: interrupt") {
		t.Errorf("the program says %q", stdout.String())
	}
	if attributes(t, s.master) != before {
		t.Error("the terminal is not as before")
	}
}

func TestConfirm(t *testing.T) {
	for typed, want := range map[string]bool{
		"y": true, "yes": true, "Y": true, "YES": true, " yes ": true,
		"": false, "n": false, "no": false, "ye": false, "yess": false, "y y": false, "1": false, "true": false,
	} {
		s := newScreen(t)
		type result struct {
			yes bool
			err error
		}
		done := make(chan result, 1)
		go func() {
			yes, err := Confirm(t.Context(), "Pin \x1b[31mthis\nkey?")
			done <- result{yes, err}
		}()
		s.expect("Pin \\x1b[31mthis\r\nkey? [y/N] ")
		s.write(typed + "\n")
		if got := <-done; got.err != nil || got.yes != want {
			t.Errorf("typed %q: %v, %v; want %v", typed, got.yes, got.err, want)
		}
		s.expect("[y/N] " + typed + "\r\n")
	}
}

func TestEnd(t *testing.T) {
	s := newScreen(t)
	done := askPassphrase(t.Context())
	s.expect("Passphrase: ")
	s.write("\x04")
	if got := <-done; !errors.Is(got.err, ErrNoTerminal) {
		t.Errorf("at the end of input: %v", got.err)
	}
	s = newScreen(t)
	done = askPassphrase(t.Context())
	s.expect("Passphrase: ")
	s.master.Close()
	if got := <-done; !errors.Is(got.err, ErrNoTerminal) {
		t.Errorf("after hang-up: %v", got.err)
	}
}

func TestNoTerminal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("yes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "-absent", os.DevNull} {
		useTTY(t, path)
		if yes, err := Confirm(t.Context(), "sure?"); yes || !errors.Is(err, ErrNoTerminal) {
			t.Errorf("%s: %v, %v", path, yes, err)
		}
	}
}

func TestIsTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	closed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if IsTerminal(null) || IsTerminal(closed) {
		t.Error("what is no terminal is one")
	}
	s := newScreen(t)
	tty, err := os.OpenFile(s.slave, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	if !IsTerminal(tty) {
		t.Error("a terminal is none")
	}
}
