package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/unixsock"
)

// The test program plays these parts when it is started by their name.
const (
	agentName   = "vast-agent"
	starterName = "starter"
	finderName  = "finder"
)

const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case agentName:
		os.Exit(fakeAgent(filepath.Dir(os.Args[0])))
	case starterName:
		if err := Ensure(context.Background(), agentIn(filepath.Dir(os.Args[0]))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case finderName:
		path, err := Program(agentName)
		fmt.Printf("%s\n%v\n", path, err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// agentIn is a fake agent that lives in dir. The files there tell how it behaves ("behaviour") and what it did: each start
// is a line with its pid in "starts", and what it found around itself is in "environment", "arguments" and "directory".
func agentIn(dir string) Agent {
	return Agent{
		Program:       filepath.Join(dir, agentName),
		ControlSocket: filepath.Join(dir, "state", "control.sock"),
		StartLock:     filepath.Join(dir, "state", ".start.lock"),
		Log:           filepath.Join(dir, "state", "agent.log"),
	}
}

// fakeAgent reports like a real one, and ends when its directory is gone: when the test is over.
func fakeAgent(dir string) int {
	report := os.NewFile(ReadyFD, "report")
	cwd, _ := os.Getwd()
	for name, lines := range map[string][]string{
		"environment": os.Environ(), "arguments": os.Args[1:], "directory": {cwd},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			return 1
		}
	}
	starts, err := os.OpenFile(filepath.Join(dir, "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 1
	}
	fmt.Fprintln(starts, os.Getpid())
	starts.Close()
	fmt.Fprintln(os.Stderr, "a line for the log")
	behaviour, err := os.ReadFile(filepath.Join(dir, "behaviour"))
	if err != nil {
		return 1
	}
	a := agentIn(dir)
	switch string(behaviour) {
	case "serves":
		l, err := unixsock.Listen(a.ControlSocket)
		if err != nil {
			fmt.Fprintln(report, err)
			return 1
		}
		defer l.Close()
		fmt.Fprint(report, Ready)
		report.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		untilGone(dir)
	case "dies":
		return 1
	case "complains":
		fmt.Fprintln(report, "the key \"x\" cannot be read")
		return 1
	case "floods":
		for {
			if _, err := report.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
				return 1
			}
		}
	case "half":
		fmt.Fprint(report, "rea")
	case "silent":
		untilGone(dir)
	}
	return 0
}

// untilGone returns when dir is removed, which is no event to this process, or when nobody can be waiting any more.
func untilGone(dir string) {
	for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "behaviour")); err != nil {
			return
		}
	}
}

// newAgent makes a directory with a fake agent in it. Its processes have ended when the test has.
func newAgent(t *testing.T, behaviour string) (a Agent, dir string) {
	t.Helper()
	// The path of a socket is short, that of a test's directory may not be.
	dir, err := os.MkdirTemp("", "launch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(filepath.Join(dir, "behaviour"))
		for _, pid := range pids(t, dir) {
			gone(t, pid)
		}
		os.RemoveAll(dir)
	})
	if err := os.WriteFile(filepath.Join(dir, "behaviour"), []byte(behaviour), 0o600); err != nil {
		t.Fatal(err)
	}
	a = agentIn(dir)
	if err := os.Mkdir(filepath.Dir(a.Log), 0o700); err != nil {
		t.Fatal(err)
	}
	play(t, dir, agentName)
	return a, dir
}

// play makes the test program be found in dir under another name.
func play(t *testing.T, dir, name string) (path string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// gone waits for the end of a process, which may be nobody's child here.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("process %d is still there", pid)
			return
		}
	}
}

// pids are those of all starts so far.
func pids(t *testing.T, dir string) []int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "starts"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, line := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pid)
	}
	return all
}

func checkStarts(t *testing.T, dir string, want int) {
	t.Helper()
	if got := pids(t, dir); len(got) != want {
		t.Errorf("%d starts, want %d", len(got), want)
	}
}

func checkAnswers(t *testing.T, a Agent) {
	t.Helper()
	conn, err := unixsock.Dial(t.Context(), a.ControlSocket)
	if err != nil {
		t.Errorf("the agent does not answer: %v", err)
		return
	}
	conn.Close()
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEnsureStarts(t *testing.T) {
	a, dir := newAgent(t, "serves")
	if err := Ensure(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	checkAnswers(t, a)
	// It runs: no second start.
	for range 3 {
		if err := Ensure(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	checkStarts(t, dir, 1)
	if got := read(t, dir, "arguments"); got != "run\n--report" {
		t.Errorf("arguments %q", got)
	}
	if got := read(t, dir, "directory"); got != "/" {
		t.Errorf("it runs in %q and keeps that from being unmounted", got)
	}
	if got := read(t, a.Log); got != "a line for the log\n" {
		t.Errorf("log %q", got)
	}
	if info, err := os.Stat(a.Log); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log is %v, %v", info.Mode(), err)
	}
}

// A dead agent's socket file is in the way of nothing.
func TestEnsureAfterACrash(t *testing.T) {
	a, dir := newAgent(t, "serves")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.ControlSocket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := Ensure(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	checkAnswers(t, a)
	checkStarts(t, dir, 1)
}

// The agent outlives a terminal and its signals: it has a session of its own.
func TestEnsureOwnSession(t *testing.T) {
	a, dir := newAgent(t, "serves")
	if err := Ensure(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	pid := pids(t, dir)[0]
	session, err := unix.Getsid(pid)
	if err != nil || session != pid {
		t.Errorf("process %d is in session %d: %v", pid, session, err)
	}
	if group, err := unix.Getpgid(pid); err != nil || group != pid {
		t.Errorf("process %d is in group %d: %v", pid, group, err)
	}
}

// Whoever reads the agent's environment finds no key of the API, and none of what an attacker's shell may have set.
func TestEnsureEnvironment(t *testing.T) {
	const canary = "canary-0123456789abcdef"
	for _, name := range []string{
		"VAST_API_KEY", "VASTAI_API_KEY", "VAST_URL", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD_", "LD_LIBRARY_PATH",
		"SSH_AUTH_SOCK", "GODEBUG_", "vast_api_key", "XDG", "LC", "HOMER",
	} {
		t.Setenv(name, canary)
	}
	for _, name := range []string{
		"HOME", "PATH", "USER", "LOGNAME", "LANG", "TZ", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY",
		"WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "LC_ALL",
	} {
		t.Setenv(name, "kept="+name)
	}
	a, dir := newAgent(t, "serves")
	if err := Ensure(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	got := read(t, dir, "environment")
	if strings.Contains(got, canary) {
		t.Errorf("the canary is in the environment:\n%s", got)
	}
	for _, want := range []string{"HOME=kept=HOME", "DBUS_SESSION_BUS_ADDRESS=kept=DBUS_SESSION_BUS_ADDRESS",
		"XDG_RUNTIME_DIR=kept=XDG_RUNTIME_DIR", "XDG_STATE_HOME=kept=XDG_STATE_HOME", "LC_ALL=kept=LC_ALL", "PATH=kept=PATH"} {
		if !slices.Contains(strings.Split(got, "\n"), want) {
			t.Errorf("%s is missing from the environment:\n%s", want, got)
		}
	}
}

// However many want it, one agent is started: by goroutines and by processes.
func TestEnsureConcurrent(t *testing.T) {
	a, dir := newAgent(t, "serves")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := Ensure(t.Context(), a); err != nil {
				t.Error(err)
			}
			checkAnswers(t, a)
		})
	}
	all.Wait()
	checkStarts(t, dir, 1)
}

func TestEnsureConcurrentProcesses(t *testing.T) {
	a, dir := newAgent(t, "serves")
	starter := play(t, dir, starterName)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if out, err := exec.Command(starter).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	checkAnswers(t, a)
	checkStarts(t, dir, 1)
}

func TestEnsureStartError(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*testing.T, Agent)
		reason  string
	}{
		"dies":      {nil, "it ended without a word"},
		"complains": {nil, `the key "x" cannot be read`},
		"half":      {nil, "rea"},
		"missing": {func(t *testing.T, a Agent) {
			if err := os.Remove(a.Program); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
		"link for a log": {func(t *testing.T, a Agent) {
			if err := os.Symlink(filepath.Join(filepath.Dir(a.Log), "elsewhere"), a.Log); err != nil {
				t.Fatal(err)
			}
		}, "agent.log"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // some wait for another agent for a while
			a, _ := newAgent(t, name)
			if tc.prepare != nil {
				tc.prepare(t, a)
			}
			checkStartError(t, a, Ensure(t.Context(), a), tc.reason)
		})
	}
}

func checkStartError(t *testing.T, a Agent, err error, reason string) {
	t.Helper()
	var start *StartError
	if !errors.As(err, &start) {
		t.Fatalf("got %v (%T)", err, err)
	}
	if !strings.Contains(start.Reason, reason) || start.Log != a.Log {
		t.Errorf("got %+v, want the reason %q", start, reason)
	}
	if !strings.Contains(err.Error(), "vast-agent did not start: "+start.Reason) || !strings.Contains(start.Hint(), a.Log) {
		t.Errorf("it reads %q and %q", err, start.Hint())
	}
}

// An agent that says nothing costs the caller's patience and no more. The lock is free for the next one.
func TestEnsureSilent(t *testing.T) {
	a, dir := newAgent(t, "silent")
	for n := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			// It runs and says nothing: now the patience may end. There is no event for its start in this process.
			for deadline := time.Now().Add(patience); len(pids(t, dir)) <= n && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		checkStartError(t, a, Ensure(ctx, a), "in time")
		<-over
	}
	if err := os.WriteFile(filepath.Join(dir, "behaviour"), []byte("serves"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(t.Context(), a); err != nil {
		t.Error(err)
	}
}

// A report is bounded, and so is the wait for its end.
func TestEnsureFlood(t *testing.T) {
	t.Parallel()
	a, _ := newAgent(t, "floods")
	var start *StartError
	if err := Ensure(t.Context(), a); !errors.As(err, &start) || start.Reason != strings.Repeat("x", maxReport) {
		t.Errorf("got %v", err)
	}
}

// One who starts an agent by other means at the same moment is welcome.
func TestEnsureOvertaken(t *testing.T) {
	a, dir := newAgent(t, "complains")
	var l *unixsock.Listener
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		// The fake agent's start is the moment; there is no event for it in this process.
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, "starts")); err == nil {
				break
			}
		}
		var err error
		if l, err = unixsock.Listen(a.ControlSocket); err != nil {
			t.Error(err)
		}
	}()
	err := Ensure(t.Context(), a)
	<-listening
	if l != nil {
		defer l.Close()
	}
	if err != nil {
		t.Error(err)
	}
}

func TestEnsureCancelled(t *testing.T) {
	a, dir := newAgent(t, "serves")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Ensure(ctx, a); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	checkStarts(t, dir, 0)
}

// Somebody else holds the lock: the wait has an end.
func TestEnsureLocked(t *testing.T) {
	a, dir := newAgent(t, "serves")
	f, err := os.OpenFile(a.StartLock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Ensure(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	checkStarts(t, dir, 0)
}

// In a directory that others can write to nothing is started, and nothing there is trusted.
func TestEnsureOpenDirectory(t *testing.T) {
	a, dir := newAgent(t, "serves")
	if err := os.Chmod(filepath.Dir(a.StartLock), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(t.Context(), a); err == nil {
		t.Error("started")
	}
	checkStarts(t, dir, 0)
}

// Program looks beside the executable, through links, and not in PATH or the working directory.
func TestProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"installed", "alone", "links", "path"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, self, filepath.Join(base, "installed", finderName))
	copyFile(t, self, filepath.Join(base, "alone", finderName))
	for _, dir := range []string{"installed", "path", "links"} {
		if err := os.WriteFile(filepath.Join(base, dir, agentName), []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(base, "installed", finderName), filepath.Join(base, "links", finderName)); err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(base, "installed", agentName)
	for run, want := range map[string]string{
		filepath.Join("installed", finderName): installed,
		filepath.Join("links", finderName):     installed,
		filepath.Join("alone", finderName):     "",
	} {
		t.Run(run, func(t *testing.T) {
			cmd := exec.Command(filepath.Join(base, run))
			cmd.Dir = filepath.Join(base, "path")
			cmd.Env = []string{"PATH=" + filepath.Join(base, "path") + ":."}
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			path, reason, _ := strings.Cut(string(out), "\n")
			if path != want {
				t.Errorf("found %q, want %q: %s", path, want, reason)
			}
			if want == "" && !strings.Contains(reason, "vast-agent is not installed beside finder") {
				t.Errorf("it says %q", reason)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
