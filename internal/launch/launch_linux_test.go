package launch

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
)

// A socket behind which another user listens is neither talked to nor replaced.
func TestEnsureOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root")
	}
	a, dir := newAgent(t, "serves")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: a.ControlSocket}); err != nil {
		t.Fatal(err)
	}
	listened := make(chan error)
	go func() {
		// The kernel keeps the credentials of the thread that calls listen. The thread ends with this goroutine, as
		// it is not unlocked, and takes its other user along.
		runtime.LockOSThread()
		const nobody, keep = 65534, ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, nobody, keep); errno != 0 {
			listened <- errno
			return
		}
		listened <- unix.Listen(fd, 16)
	}()
	if err := <-listened; err != nil {
		t.Fatal(err)
	}
	if err := Ensure(t.Context(), a); err == nil || !strings.Contains(err.Error(), "belongs to another user (uid 65534)") {
		t.Errorf("got %v", err)
	}
	checkStarts(t, dir, 0)
	if _, err := os.Lstat(a.ControlSocket); err != nil {
		t.Errorf("the socket was touched: %v", err)
	}
}
