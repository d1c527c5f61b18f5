package companion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain plays the companion where a test has started it, and the agent that starts one.
func TestMain(m *testing.M) {
	// No test speaks to the desktop of whoever runs it.
	nowhere := filepath.Join(os.TempDir(), "vast-ssh-companion-test", "nowhere")
	// A busy machine must not be taken for a companion that is broken.
	for _, limit := range []*time.Duration{&startLimit, &chainLimit, &exitLimit, &writeLimit} {
		*limit = 2 * time.Minute
	}
	if len(os.Args) != 2 {
		os.Setenv("SSH_ASKPASS", nowhere)
		os.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+nowhere)
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "companion":
		conn, err := Inherited()
		if err == nil {
			err = Serve(context.Background(), conn, os.Stderr)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		syscall.Exit(0) // the race detector would make os.Exit wait for a second
	case "agent":
		exe, _ := os.Executable()
		c, err := Start(context.Background(), exe, Options{Stderr: os.Stderr})
		if err == nil {
			_, err = c.Confirm(context.Background(), Question{Title: "?"})
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// launch starts a companion whose askpass program is the given one.
func launch(t *testing.T, askpass string) *Client {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	c, err := Start(t.Context(), exe, Options{Askpass: askpass, Stderr: stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if said, err := os.ReadFile(stderr.Name()); err != nil || strings.Contains(string(said), "DATA RACE") {
			t.Errorf("the companion says: %s, %v", said, err)
		}
		select {
		case <-c.exited:
		default:
			t.Error("the companion is still there")
		}
	})
	return c
}

// script writes a program for sh and returns its path. $DIR is its directory.
func script(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "askpass")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nDIR='"+dir+"'\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually waits for a condition that no event announces.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// lines returns the lines that the script has written to the file name beside it, when there are n.
func lines(t *testing.T, script, name string, n int) []string {
	t.Helper()
	var got []string
	eventually(t, fmt.Sprintf("%d lines in %s", n, name), func() bool {
		b, _ := os.ReadFile(filepath.Join(filepath.Dir(script), name))
		got = strings.Split(string(b), "\n")
		return len(got) > n
	})
	return got[:n]
}

// waiting is a script that tells its pid, the one of its child, and the companion's, and then waits.
const waiting = `sleep 1000 & echo "$$ $! $PPID" >>"$DIR/pids"; wait`

// pids returns what n runs of the script waiting have told, three numbers each.
func pids(t *testing.T, script string, n int) []int {
	t.Helper()
	var all []int
	for _, line := range lines(t, script, "pids", n) {
		for _, f := range strings.Fields(line) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, pid)
		}
	}
	return all
}

// ended waits until the process is no more, or a zombie that nobody has taken note of.
func ended(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the end of process %d", pid), func() bool {
		out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
		return err != nil || strings.HasPrefix(string(out), "Z")
	})
}

// TestChainWhilePromptsWait opens as many questions as there can be. They delay nobody, one more is refused at once, and
// room for another is made by a client that goes away.
func TestChainWhilePromptsWait(t *testing.T) {
	askpass := script(t, waiting)
	c := launch(t, askpass)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, leave := context.WithCancel(ctx)
	results := make(chan error, maxPrompts+1)
	ask := func(ctx context.Context) {
		yes, err := c.Confirm(ctx, Question{Title: "?"})
		if yes {
			err = errors.New("yes")
		}
		results <- err
	}
	go ask(first)
	for range maxPrompts - 1 {
		go ask(ctx)
	}
	before := pids(t, askpass, maxPrompts)
	if yes, err := c.Confirm(ctx, Question{Title: "?"}); yes || err != ErrBusy {
		t.Errorf("one more: %v, %v", yes, err)
	}

	var calls sync.WaitGroup
	for range 300 {
		calls.Go(func() {
			chain, err := c.Chain(t.Context(), os.Getpid())
			if err != nil || len(chain) == 0 || chain[0].PID != os.Getpid() {
				t.Errorf("%v, %v", chain, err)
			}
		})
	}
	calls.Wait()
	if len(results) > 0 {
		t.Errorf("a question ended: %v", <-results)
	}

	leave()
	if err := <-results; err != context.Canceled {
		t.Errorf("the client that went away: %v", err)
	}
	eventually(t, "room for a question", func() bool {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := c.Confirm(short, Question{Title: "?"})
		return err != ErrBusy
	})
	cancel()
	for range maxPrompts - 1 {
		if err := <-results; err != context.Canceled {
			t.Errorf("got %v", err)
		}
	}
	for _, pid := range before {
		if pid != before[2] { // the companion itself
			ended(t, pid)
		}
	}
}

// TestCompanionIsKilled ends the companion while questions wait.
func TestCompanionIsKilled(t *testing.T) {
	askpass := script(t, waiting)
	c := launch(t, askpass)
	results := make(chan error, 2)
	for range cap(results) {
		go func() {
			yes, err := c.Confirm(t.Context(), Question{Title: "?"})
			if yes {
				err = errors.New("yes")
			}
			results <- err
		}()
	}
	p := pids(t, askpass, cap(results))
	for _, pid := range []int{p[0], p[3]} {
		defer syscall.Kill(-pid, syscall.SIGKILL) // nobody else does it now
	}
	syscall.Kill(p[2], syscall.SIGKILL)
	for range cap(results) {
		if err := <-results; err != ErrGone {
			t.Errorf("a waiting call: %v", err)
		}
	}
	if yes, err := c.Confirm(t.Context(), Question{Title: "?"}); yes || err != ErrGone {
		t.Errorf("a later question: %v, %v", yes, err)
	}
	if _, err := c.Chain(t.Context(), 1); err != ErrGone {
		t.Errorf("a later chain: %v", err)
	}
	if err := c.Notify(t.Context(), Notification{}); err != ErrGone {
		t.Errorf("a later notification: %v", err)
	}
}

// TestCompanionStands has the companion stopped for a while.
func TestCompanionStands(t *testing.T) {
	askpass := script(t, `echo "$PPID" >"$DIR/pids"`)
	c := launch(t, askpass)
	if yes, err := c.Confirm(t.Context(), Question{Title: "?"}); !yes {
		t.Fatal(err)
	}
	pid := pids(t, askpass, 1)[0]
	if sid, err := unix.Getsid(pid); sid != pid {
		t.Errorf("its session is %d, %v", sid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if yes, err := c.Confirm(ctx, Question{Title: "?"}); yes || err != context.DeadlineExceeded {
		t.Errorf("got %v, %v", yes, err)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Chain(t.Context(), pid); err != nil {
		t.Error(err)
	}
}

// TestCompanionEndsWithTheAgent kills an agent whose companion asks a question. The pipe ends when the agent, the
// companion and the askpass program have all ended.
func TestCompanionEndsWithTheAgent(t *testing.T) {
	askpass := script(t, "echo complaint >&2; "+waiting)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	agent := exec.Command(exe, "agent")
	agent.Env = append(os.Environ(), "SSH_ASKPASS="+askpass)
	agent.Stderr = w
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := pids(t, askpass, 1)
	agent.Process.Kill()
	agent.Wait()
	r.SetReadDeadline(time.Now().Add(2 * time.Minute))
	said, err := io.ReadAll(r)
	if err != nil || string(said) != "complaint\n" {
		t.Errorf("%q, %v", said, err)
	}
	for _, pid := range p {
		ended(t, pid)
	}
}

// TestCompanionEndsWithItsContext is what a signal to the companion does.
func TestCompanionEndsWithItsContext(t *testing.T) {
	askpass := script(t, waiting)
	t.Setenv("SSH_ASKPASS", askpass)
	near, far := connected(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, far, nil) }()
	c := newClient(near)
	asked := make(chan error, 1)
	go func() {
		_, err := c.Confirm(t.Context(), Question{Title: "?"})
		asked <- err
	}()
	p := pids(t, askpass, 1)
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := <-asked; err == nil {
		t.Error("a question without an answer has no error")
	}
	ended(t, p[0])
	ended(t, p[1])
}

func TestStartFails(t *testing.T) {
	for name, program := range map[string]string{
		"missing": filepath.Join(t.TempDir(), "none"),
		"ends":    script(t, "exit 3"),
		"babbles": script(t, "echo hello >&3"),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Start(t.Context(), program, Options{})
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, ErrGone) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		program := script(t, `echo "$$" >"$DIR/pids"; exec sleep 1000`)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		failed := make(chan error, 1)
		go func() {
			_, err := Start(ctx, program, Options{})
			failed <- err
		}()
		pid := pids(t, program, 1)[0]
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		ended(t, pid)
	})
}

// TestInheritedByHand is a person who types the verb.
func TestInheritedByHand(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, extra := range map[string][]*os.File{"nothing": nil, "a file": {os.NewFile(uintptr(mustOpen(t)), "null")}} {
		cmd := exec.Command(exe, "companion")
		cmd.ExtraFiles = extra
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "not started by the agent") {
			t.Errorf("%s: %v, %q", name, err, out)
		}
	}
}

func mustOpen(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Open(os.DevNull, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestNothingIsInherited looks at what the askpass program gets: the standard files, and no connection to the agent.
func TestNothingIsInherited(t *testing.T) {
	t.Setenv("VAST_API_KEY", "canary")
	t.Setenv("SSH_AUTH_SOCK", "canary")
	t.Setenv("DISPLAY", ":77")
	t.Setenv("LC_ALL", "C")
	askpass := script(t, `env >"$DIR/env"; cat /proc/$PPID/environ >>"$DIR/env"; for fd in 3 4 5 6 7 8 9; do
		if { true <&$fd; } 2>/dev/null; then echo "$fd"; fi; done >"$DIR/fds"`)
	c := launch(t, askpass)
	if yes, err := c.Confirm(t.Context(), Question{Title: "?"}); !yes {
		t.Fatal(err)
	}
	if fds, err := os.ReadFile(filepath.Join(filepath.Dir(askpass), "fds")); err != nil || len(fds) > 0 {
		t.Errorf("open: %q, %v", fds, err)
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(askpass), "env"))
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Split(string(b), "\n")
	for _, want := range []string{"DISPLAY=:77", "LC_ALL=C", "SSH_ASKPASS_PROMPT=confirm", "SSH_ASKPASS=" + askpass, "PATH=" + os.Getenv("PATH")} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(string(b), "canary") {
		t.Errorf("it got what it has no use for:\n%s", b)
	}
}

// connected returns the two ends of a socketpair.
func connected(t *testing.T) (near, far net.Conn) {
	t.Helper()
	a, b, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	for f, c := range map[*os.File]*net.Conn{a: &near, b: &far} {
		if *c, err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*c).Close() })
	}
	return near, far
}
