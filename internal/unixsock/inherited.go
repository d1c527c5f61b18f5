package unixsock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
)

// firstInherited is the file descriptor of the first socket that a service manager passes: SD_LISTEN_FDS_START.
const firstInherited = 3

// InheritError reports sockets from the service manager that are not the ones that were wanted.
type InheritError struct {
	Reason string
}

func (e *InheritError) Error() string { return "sockets from the service manager: " + e.Reason }

// Hint returns the command that makes them anew.
func (e *InheritError) Hint() string { return "systemctl --user restart vast-agent.socket" }

// Inherited returns the listeners on paths that the service manager passed to this process by the protocol of
// sd_listen_fds(3), one for each path and in their order, or nil if it passed none. Each must be a listening stream socket
// that only this user can reach, bound to one of paths: any other is an *InheritError or a *atomicfile.DirError.
//
// It takes the protocol's variables out of the environment and closes the descriptors to programs that this one starts, so
// it comes before the first of them and is called once.
func Inherited(paths ...string) ([]*Listener, error) {
	n, err := inheritedCount()
	if err != nil || n == 0 {
		return nil, err
	}
	if n != len(paths) {
		return nil, &InheritError{fmt.Sprintf("%d were passed, %d are wanted", n, len(paths))}
	}
	for i := range n {
		unix.CloseOnExec(firstInherited + i)
	}
	listeners := make([]*Listener, len(paths))
	for i := range n {
		if err := inherit(firstInherited+i, paths, listeners); err != nil {
			for _, l := range listeners {
				if l != nil {
					l.Close()
				}
			}
			return nil, err
		}
	}
	return listeners, nil
}

// inheritedCount returns how many descriptors were passed to this very process, and forgets them.
func inheritedCount() (int, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name)
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	n, err := strconv.ParseUint(count, 10, 16)
	if err != nil {
		return 0, &InheritError{fmt.Sprintf("LISTEN_FDS is %q", count)}
	}
	return int(n), nil
}

// inherit puts the listener of fd into its place among listeners, which are those of paths.
func inherit(fd int, paths []string, listeners []*Listener) error {
	f := os.NewFile(uintptr(fd), "inherited socket")
	defer f.Close() // the listener has a descriptor of its own
	path, err := boundTo(fd)
	if err != nil {
		return &InheritError{fmt.Sprintf("descriptor %d: %v", fd, err)}
	}
	i := slices.Index(paths, path)
	if i < 0 {
		return &InheritError{fmt.Sprintf("%q is not one of ours", path)}
	}
	if listeners[i] != nil {
		return &InheritError{fmt.Sprintf("%q was passed twice", path)}
	}
	if err := atomicfile.CheckDir(filepath.Dir(path)); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return &InheritError{err.Error()}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || info.Mode() != os.ModeSocket|0o600 {
		return &InheritError{fmt.Sprintf("%q is not a socket of ours alone (mode %v)", path, info.Mode())}
	}
	dev, ino, err := identity(path)
	if err != nil {
		return err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	// One from a descriptor does not remove its file when it is closed.
	listeners[i] = &Listener{l: l.(*net.UnixListener), path: path, dev: dev, ino: ino, inherited: true}
	return nil
}

// boundTo returns the path that a listening Unix stream socket is bound to.
func boundTo(fd int) (string, error) {
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	local, ok := addr.(*unix.SockaddrUnix)
	if !ok {
		return "", errors.New("not a Unix socket")
	}
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return "", err
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return "", err
	}
	if typ != unix.SOCK_STREAM || listens == 0 {
		return "", errors.New("not a stream socket that listens")
	}
	return local.Name, nil
}
