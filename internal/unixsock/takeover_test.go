package unixsock

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
)

// TestListenAfterKill takes the socket of a process over that had no chance to remove it, and not while the process lives,
// even if it does not move.
func TestListenAfterKill(t *testing.T) {
	path := filepath.Join(newDir(t), "s")
	cmd := inRole(t, "serve", path)
	begin(t, cmd)
	before, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(when string) {
		t.Helper()
		if l, err := Listen(path); !errors.Is(err, ErrInUse) {
			if err == nil {
				l.Close()
			}
			t.Fatalf("%s: got %v, want ErrInUse", when, err)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Fatalf("%s: the file of the other is gone: %v", when, err)
		}
	}
	refused("alive")
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	refused("stopped")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	l := listen(t, path)
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Peer.PID != os.Getpid() || l.Lost() {
		t.Errorf("peer %+v, lost: %v", c.Peer, l.Lost())
	}
}

// TestListenLeavesABusySocket meets a live socket whose queue is full.
func TestListenLeavesABusySocket(t *testing.T) {
	path := filepath.Join(newDir(t), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		c, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		defer c.Close()
		if i == 1000 {
			testenv.Missing(t, "a kernel whose queue of connections fills")
		}
	}
	if l, err := Listen(path); err == nil {
		l.Close()
		t.Fatal("the socket was taken over")
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the file of the other is gone: %v", err)
	}
}

// TestListenLeavesTheSocketOfAnother meets a socket file that another user owns, dead or alive.
func TestListenLeavesTheSocketOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root, to give a file away")
	}
	for name, place := range map[string]func(t *testing.T, path string){
		"dead":  deadSocket,
		"alive": func(t *testing.T, path string) { listen(t, path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(newDir(t), "s")
			place(t, path)
			if err := os.Lchown(path, otherUID, otherUID); err != nil {
				t.Fatal(err)
			}
			l, err := Listen(path)
			if err == nil {
				l.Close()
				t.Fatal("the socket was taken over")
			}
			if !strings.Contains(err.Error(), "another user") {
				t.Errorf("error %v", err)
			}
			if info, err := os.Lstat(path); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != otherUID {
				t.Errorf("the file of the other is gone: %v", err)
			}
		})
	}
}

// TestDirectorySwap puts another directory in the place of the socket's. The listener knows that it is lost, and touches
// nothing there.
func TestDirectorySwap(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, dir string){
		"gone":               func(*testing.T, string) {},
		"an empty directory": func(t *testing.T, dir string) { mkdir(t, dir) },
		"with a live socket": func(t *testing.T, dir string) {
			mkdir(t, dir)
			listen(t, filepath.Join(dir, "s"))
		},
		"with a dead socket": func(t *testing.T, dir string) {
			mkdir(t, dir)
			deadSocket(t, filepath.Join(dir, "s"))
		},
		"a link to another": func(t *testing.T, dir string) {
			mkdir(t, dir+".other")
			deadSocket(t, filepath.Join(dir+".other", "s"))
			if err := os.Symlink(dir+".other", dir); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(newDir(t), "d")
			path := filepath.Join(dir, "s")
			l := listen(t, path)
			if l.Lost() {
				t.Fatal("lost from the start")
			}
			if err := os.Rename(dir, dir+".moved"); err != nil {
				t.Fatal(err)
			}
			replace(t, dir)
			before, statErr := os.Lstat(path)
			if !l.Lost() {
				t.Error("not lost")
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if statErr == nil {
				if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
					t.Errorf("the file of the other is gone: %v", err)
				}
			} else if !errors.Is(statErr, fs.ErrNotExist) {
				t.Fatal(statErr)
			}
			if _, err := net.Dial("unix", filepath.Join(dir+".moved", "s")); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("it listens on: %v", err)
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}
