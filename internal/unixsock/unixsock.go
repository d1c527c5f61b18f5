// Package unixsock makes and reaches the Unix sockets of the agent: in a directory of ours, for our own user only.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
)

// ErrInUse is returned by Listen when a live process answers on the socket.
var ErrInUse = errors.New("another process is listening on the socket")

// Peer is the process at the other end of a connection as the kernel knew it when the connection was made. The
// uid is a fact to decide on; the pid and the start are for people to read and for keeping processes apart, since a
// connection can be handed on.
type Peer struct {
	PID int
	UID int
	// Start is when it was started, in the platform's own units: it tells the process from a later one with its pid. It
	// is 0 where it is not known, and where the connection comes from Dial.
	Start uint64
}

// Conn is an accepted connection whose peer has our own uid.
type Conn struct {
	*net.UnixConn
	Peer Peer
}

// Listener listens on a socket file of ours.
type Listener struct {
	// PerPeer is how many connections of one process Serve serves at a time, while more of them wait. Zero is any number.
	PerPeer int

	l         *net.UnixListener
	path      string
	dev       uint64
	ino       uint64
	inherited bool // the file is kept by the service manager, which listens on
}

// probeTimeout bounds the look whether a socket file that is already there is alive.
const probeTimeout = 2 * time.Second

// Listen makes the socket at path, mode 0600, in a directory that atomicfile.EnsureDir accepts. A dead socket file of ours
// is replaced; a live one is ErrInUse; any other file there is an error and stays. Between the look and the making nothing
// else may listen there: callers hold a lock of their own.
func Listen(path string) (*Listener, error) {
	if err := atomicfile.EnsureDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	// The directory is closed to everybody else, so nobody can reach the socket before its mode is set.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	dev, ino, err := identity(path)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &Listener{l: l, path: path, dev: dev, ino: ino}, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return &fs.PathError{Op: "listen", Path: path, Err: errors.New("a file that is not a socket is in the way")}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return &fs.PathError{Op: "listen", Path: path, Err: errors.New("a socket of another user is in the way")}
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		conn.Close()
		return ErrInUse
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

func identity(path string) (dev, ino uint64, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeSocket == 0 {
		return 0, 0, &fs.PathError{Op: "listen", Path: path, Err: errors.New("not the socket that was made")}
	}
	return uint64(st.Dev), st.Ino, nil
}

// Accept returns the next connection from our own uid. Connections from other users are closed.
func (l *Listener) Accept() (*Conn, error) {
	for {
		c, err := l.l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, err := peerOf(c)
		if err != nil || peer.UID != os.Geteuid() {
			c.Close()
			continue
		}
		peer.Start = startOf(c, peer.PID)
		return &Conn{UnixConn: c, Peer: peer}, nil
	}
}

// Lost reports that the socket file is no longer the one that Listen made or Inherited met, so that nobody can find it.
func (l *Listener) Lost() bool {
	dev, ino, err := identity(l.path)
	return err != nil || dev != l.dev || ino != l.ino
}

// Close stops listening and removes the socket file if it is still the one that Listen made. An inherited one stays.
func (l *Listener) Close() error {
	if !l.inherited && !l.Lost() {
		os.Remove(l.path)
	}
	return l.l.Close()
}

// Dial connects to the socket at path and makes sure that the process behind it has our own uid, so that a socket
// put there by someone else is not talked to.
func Dial(ctx context.Context, path string) (*Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	uc := c.(*net.UnixConn)
	peer, err := peerOf(uc)
	if err != nil {
		uc.Close()
		return nil, err
	}
	if peer.UID != os.Geteuid() {
		uc.Close()
		return nil, fmt.Errorf("the process behind %q belongs to another user (uid %d)", path, peer.UID)
	}
	return &Conn{UnixConn: uc, Peer: peer}, nil
}
