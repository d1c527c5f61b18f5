package unixsock

import (
	"bytes"
	"errors"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// peerOf asks the kernel for the credentials taken at connect or listen time: SO_PEERCRED of unix(7).
func peerOf(c *net.UnixConn) (Peer, error) {
	var cred *unix.Ucred
	err := control(c, func(fd int) (err error) {
		cred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	if err != nil {
		return Peer{}, err
	}
	return Peer{PID: int(cred.Pid), UID: int(cred.Uid)}, nil
}

// control runs f on the descriptor of c.
func control(c *net.UnixConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		return err
	}
	return result
}

// startOf returns when the process pid at the other end of c was started, or 0.
func startOf(c *net.UnixConn, pid int) uint64 {
	var pidfd int
	err := control(c, func(fd int) (err error) {
		pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		return err
	})
	if errors.Is(err, unix.ENOPROTOOPT) {
		// A kernel older than 6.5 cannot tell whether the pid has changed hands since the connection was made.
		return readStart(pid)
	}
	if err != nil {
		return 0
	}
	defer unix.Close(pidfd)
	start := readStart(pid)
	if !lives(pidfd) {
		return 0
	}
	// The process has kept its pid while /proc was read.
	return start
}

// lives reports whether the process has not ended: its pidfd becomes readable then, pidfd_open(2).
func lives(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return n == 0 && err == nil
		}
	}
}

// readStart reads field 22 of proc_pid_stat(5), in clock ticks since boot. It is 0 where that cannot be read.
func readStart(pid int) uint64 {
	// The file is short and read once for each connection, which os.ReadFile is slow for.
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var buf [1024]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0
	}
	// The second field is a name that the process has chosen. Behind its last parenthesis comes the third.
	fields := bytes.Fields(buf[:n][bytes.LastIndexByte(buf[:n], ')')+1:])
	const started = 22 - 3
	if len(fields) <= started {
		return 0
	}
	start, err := strconv.ParseUint(string(fields[started]), 10, 64)
	if err != nil {
		return 0
	}
	return start
}
