package unixsock

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/testenv"
)

// newDir is a directory whose path leaves room for a socket's name, which sockaddr_un bounds to about 100 bytes.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "us")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func listen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestListenAndDial(t *testing.T) {
	path := filepath.Join(newDir(t), "new", "dirs", "s")
	l := listen(t, path)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o600 {
		t.Errorf("mode %v", got)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v", info.Mode(), err)
	}

	near, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	for name, peer := range map[string]Peer{"Dial": near.Peer, "Accept": far.Peer} {
		if peer.PID != os.Getpid() || peer.UID != os.Geteuid() {
			t.Errorf("%s: peer %+v", name, peer)
		}
	}
	if _, err := near.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// TestListenRefusesTheDirectory meets directories that others could have a hand in.
func TestListenRefusesTheDirectory(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"group may enter":   func(dir string) error { return os.Chmod(dir, 0o710) },
		"others may read":   func(dir string) error { return os.Chmod(dir, 0o704) },
		"everybody":         func(dir string) error { return os.Chmod(dir, 0o777) },
		"a symbolic link":   func(dir string) error { return errors.Join(os.Rename(dir, dir+".real"), os.Symlink(dir+".real", dir)) },
		"a file":            func(dir string) error { return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) },
		"another user owns": chownAway(t),
	} {
		t.Run(name, func(t *testing.T) {
			if prepare == nil {
				testenv.Missing(t, "root, to give a directory away")
			}
			dir := filepath.Join(newDir(t), "d")
			if err := errors.Join(os.Mkdir(dir, 0o700), prepare(dir)); err != nil {
				t.Fatal(err)
			}
			l, err := Listen(filepath.Join(dir, "s"))
			if err == nil {
				l.Close()
				t.Fatal("the directory was accepted")
			}
			if de := (*atomicfile.DirError)(nil); !errors.As(err, &de) && !errors.Is(err, syscall.ENOTDIR) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func chownAway(t *testing.T) func(dir string) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	return func(dir string) error { return os.Chown(dir, otherUID, otherUID) }
}

// TestListenLeavesWhatIsInTheWay puts files there that are not dead sockets.
func TestListenLeavesWhatIsInTheWay(t *testing.T) {
	for name, place := range map[string]func(t *testing.T, path string){
		"a file": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a directory": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a link to nothing": func(t *testing.T, path string) {
			if err := os.Symlink(path+".gone", path); err != nil {
				t.Fatal(err)
			}
		},
		"a link to a dead socket": func(t *testing.T, path string) {
			deadSocket(t, path+".dead")
			if err := os.Symlink(path+".dead", path); err != nil {
				t.Fatal(err)
			}
		},
		"a pipe": func(t *testing.T, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(newDir(t), "s")
			place(t, path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			l, err := Listen(path)
			if err == nil {
				l.Close()
				t.Fatal("it was replaced")
			}
			if !strings.Contains(err.Error(), "in the way") {
				t.Errorf("error %v", err)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("it is not there any more: %v", err)
			}
		})
	}
}

// deadSocket leaves a socket file that nobody listens on.
func deadSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestListenReplacesADeadSocket(t *testing.T) {
	path := filepath.Join(newDir(t), "s")
	deadSocket(t, path)
	l := listen(t, path)
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if far, err := l.Accept(); err != nil {
		t.Error(err)
	} else {
		far.Close()
	}
}

func TestListenRefusesALiveSocket(t *testing.T) {
	path := filepath.Join(newDir(t), "s")
	first := listen(t, path)
	if l, err := Listen(path); !errors.Is(err, ErrInUse) {
		if err == nil {
			l.Close()
		}
		t.Fatalf("got %v, want ErrInUse", err)
	}
	if c, err := Dial(t.Context(), path); err != nil {
		t.Errorf("the first does not listen any more: %v", err)
	} else {
		c.Close()
	}
	first.Close()
	listen(t, path)
}

// TestCloseRemovesOnlyItsOwnFile puts another file in the place of the socket.
func TestCloseRemovesOnlyItsOwnFile(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, path string){
		"another socket": func(t *testing.T, path string) { listen(t, path) },
		"a file": func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a link to the socket": func(t *testing.T, path string) {
			if err := os.Symlink(path+".moved", path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(newDir(t), "s")
			l := listen(t, path)
			if err := os.Rename(path, path+".moved"); err != nil {
				t.Fatal(err)
			}
			replace(t, path)
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("Close removed what it had not made: %v", err)
			}
		})
	}
	t.Run("its own", func(t *testing.T) {
		path := filepath.Join(newDir(t), "s")
		l := listen(t, path)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Close left its file: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
	})
}

func TestDialWithoutASocket(t *testing.T) {
	path := filepath.Join(newDir(t), "s")
	if _, err := Dial(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	deadSocket(t, path)
	if _, err := Dial(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dead socket: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

// TestServeLimit dials more often than there is room for. Whoever waits is served when another has gone.
func TestServeLimit(t *testing.T) {
	const limit, clients = 2, 8
	path := filepath.Join(newDir(t), "s")
	l := listen(t, path)
	var running, most atomic.Int32
	started := make(chan struct{}, clients)
	served := make(chan error, 1)
	go func() {
		served <- Serve(t.Context(), l, limit, func(_ context.Context, c *Conn) {
			defer c.Close()
			now := running.Add(1)
			defer running.Add(-1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			started <- struct{}{}
			io.Copy(io.Discard, c)
		})
	}()
	var conns [clients]*Conn
	for i := range conns {
		c, err := Dial(t.Context(), path) // the kernel takes it, also without room
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	for range limit {
		<-started
	}
	for i := range clients - limit {
		if len(started) > 0 {
			t.Error("one more was served without room")
		}
		conns[i].Close()
		<-started
	}
	if got := most.Load(); got != limit {
		t.Errorf("%d were served at once, want %d", got, limit)
	}
	l.Close()
	for _, c := range conns {
		c.Close()
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestServeReturnsAfterItsHandlers closes the listener while a connection is served.
func TestServeReturnsAfterItsHandlers(t *testing.T) {
	path := filepath.Join(newDir(t), "s")
	l := listen(t, path)
	started := make(chan struct{})
	var finished atomic.Bool
	served := make(chan error, 1)
	go func() {
		served <- Serve(t.Context(), l, 2, func(_ context.Context, c *Conn) {
			defer c.Close()
			close(started)
			io.Copy(io.Discard, c)
			finished.Store(true)
		})
	}()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	<-started
	l.Close()
	if _, err := Dial(t.Context(), path); err == nil {
		t.Error("it takes connections after Close")
	}
	if len(served) > 0 {
		t.Error("Serve returned while a connection was served")
	}
	c.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if !finished.Load() {
		t.Error("Serve returned before its handler")
	}
}

// TestServeEndsWithItsContextWhenAcceptFails lets the time of every accept be over.
func TestServeEndsWithItsContextWhenAcceptFails(t *testing.T) {
	l := listen(t, filepath.Join(newDir(t), "s"))
	if err := l.l.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Serve(ctx, l, 1, func(context.Context, *Conn) { t.Error("a connection was served") })
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// otherUID is a user that is not the one of the tests: nobody on most systems.
const otherUID = 65534

// inRole runs the test binary once more in the role of that name, with the path as its argument.
func inRole(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	// The race detector would have each of them linger for a second.
	cmd.Env = append(os.Environ(), "UNIXSOCK_TEST_ROLE="+role, "UNIXSOCK_TEST_PATH="+path, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// asOther is inRole as another user. The child changes its user itself, since that user may not be able to run the binary.
func asOther(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root, to be another user")
	}
	cmd := inRole(t, role, path)
	cmd.Env = append(cmd.Env, "UNIXSOCK_TEST_UID="+strconv.Itoa(otherUID))
	return cmd
}

// begin starts a program and returns when it has said that it is ready. It ends with the test, by the end of its stdin.
func begin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	if ready, err := io.ReadAll(stdout); string(ready) != "ready" {
		t.Fatalf("the other process said %q, %v", ready, err)
	}
}

// TestMain plays another process where the environment says so, and another user.
func TestMain(m *testing.M) {
	role := os.Getenv("UNIXSOCK_TEST_ROLE")
	if role == "" {
		os.Exit(m.Run())
	}
	path := os.Getenv("UNIXSOCK_TEST_PATH")
	if uid, err := strconv.Atoi(os.Getenv("UNIXSOCK_TEST_UID")); err == nil {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
			panic(err)
		}
	}
	ready := func() {
		os.Stdout.WriteString("ready")
		os.Stdout.Close()
		io.Copy(io.Discard, os.Stdin) // until the test ends
	}
	switch role {
	case "connect":
		// Prints how the connection ended: every byte that arrived, and the error after them.
		c, err := net.Dial("unix", path)
		if err != nil {
			panic(err)
		}
		c.Write([]byte("hello"))
		answer, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			panic(err)
		}
		os.Stdout.WriteString("got " + strconv.Quote(string(answer)))
	case "knock":
		if _, err := net.Dial("unix", path); err != nil {
			panic(err)
		}
	case "hold":
		c, err := net.Dial("unix", path)
		if err != nil {
			panic(err)
		}
		ready()
		c.Close()
	case "listen":
		l, err := net.Listen("unix", path)
		if err != nil {
			panic(err)
		}
		ready()
		l.Close()
	case "serve":
		if _, err := Listen(path); err != nil {
			panic(err)
		}
		ready()
	case "inherit":
		inheritAndTell(strings.Split(path, ":"))
	}
	os.Exit(0)
}

// reachable opens dir to other users, and ends a test whose temporary directory they cannot reach.
func reachable(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm()&0o001 == 0 {
			testenv.Missing(t, "a temporary directory that other users can reach")
		}
	}
}

// TestOtherUserIsTurnedAway opens the directory and the socket to everybody, so that only the look at the peer is left.
func TestOtherUserIsTurnedAway(t *testing.T) {
	dir := newDir(t)
	path := filepath.Join(dir, "s")
	cmd := asOther(t, "connect", path)
	l := listen(t, path)
	reachable(t, dir)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	peers := make(chan Peer, 8)
	go func() {
		served <- Serve(t.Context(), l, 4, func(_ context.Context, c *Conn) {
			peers <- c.Peer
			c.Write([]byte("the answer"))
			c.Close()
		})
	}()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != `got ""` {
		t.Errorf("another user %s", out)
	}
	// Our own user is served after that.
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); string(answer) != "the answer" {
		t.Errorf("our own user got %q, %v", answer, err)
	}
	c.Close()
	l.Close()
	<-served
	close(peers)
	for p := range peers {
		if p.UID != os.Geteuid() {
			t.Errorf("a connection of uid %d was served", p.UID)
		}
	}
}

// TestDialRefusesTheSocketOfAnother connects to a socket that another user has put there.
func TestDialRefusesTheSocketOfAnother(t *testing.T) {
	dir := newDir(t)
	path := filepath.Join(dir, "s")
	cmd := asOther(t, "listen", path)
	reachable(t, dir)
	if err := os.Chown(dir, otherUID, otherUID); err != nil {
		t.Fatal(err)
	}
	begin(t, cmd)
	c, err := Dial(t.Context(), path)
	if err == nil {
		c.Close()
		t.Fatal("the socket of another user was accepted")
	}
	if !strings.Contains(err.Error(), strconv.Itoa(otherUID)) {
		t.Errorf("error %v", err)
	}
}
