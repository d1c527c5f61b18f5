package proxy

import (
	"errors"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// spliceMax is how much one splice(2) may move, in bytes, and the size that pipes are asked to have.
const spliceMax = 1 << 20

// spliceToConn moves everything from the pipe in to the connection without a copy in user space, until a side ends.
// If in is no pipe it does nothing and says so.
func spliceToConn(conn syscall.Conn, in *os.File) (handled bool, err error) {
	return spliceAll(conn, in, unix.POLLIN, syscall.RawConn.Write, func(socket, pipe int) (int64, error) {
		return unix.Splice(pipe, nil, socket, nil, spliceMax, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	})
}

// spliceFromConn is spliceToConn in the other direction.
func spliceFromConn(out *os.File, conn syscall.Conn) (handled bool, err error) {
	return spliceAll(conn, out, unix.POLLOUT, syscall.RawConn.Read, func(socket, pipe int) (int64, error) {
		return unix.Splice(socket, nil, pipe, nil, spliceMax, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	})
}

// spliceAll splices until the end of the input. It waits for the pipe first, without a hold on the socket, since closing
// a socket waits for whoever holds it; with the pipe ready, EAGAIN means the socket, which the runtime's poller waits for.
func spliceAll(
	conn syscall.Conn, f *os.File, events int16,
	wait func(syscall.RawConn, func(fd uintptr) bool) error,
	splice func(socket, pipe int) (int64, error),
) (handled bool, err error) {
	pipe, ok := openPipe(f)
	if !ok {
		return false, nil
	}
	defer runtime.KeepAlive(f) // its finalizer would close pipe
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, nil
	}
	for {
		if err := awaitPipe(pipe, events); err != nil {
			return true, err
		}
		var n int64
		waitErr := wait(raw, func(fd uintptr) bool {
			for {
				n, err = splice(int(fd), pipe)
				if !errors.Is(err, unix.EINTR) {
					return !errors.Is(err, unix.EAGAIN)
				}
			}
		})
		switch {
		case waitErr != nil:
			return true, waitErr
		case err != nil:
			return true, os.NewSyscallError("splice", err)
		case n == 0:
			return true, nil
		}
	}
}

// awaitPipe blocks until the pipe is ready for events or has lost its other end.
func awaitPipe(pipe int, events int16) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pipe), Events: events}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
	}
}

// openPipe returns the descriptor of f if it is a pipe, and makes the pipe larger where that is allowed.
func openPipe(f *os.File) (fd int, ok bool) {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return 0, false
	}
	if fd, ok = descriptor(f); ok {
		unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, spliceMax)
	}
	return fd, ok
}
