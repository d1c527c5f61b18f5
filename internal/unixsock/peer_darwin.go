package unixsock

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf asks the kernel for the peer's credentials: LOCAL_PEERCRED and LOCAL_PEERPID of unix(4).
func peerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var peer Peer
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		var cred *unix.Xucred
		if cred, credErr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED); credErr != nil {
			return
		}
		peer.UID = int(cred.Uid)
		peer.PID, credErr = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	}); err != nil {
		return Peer{}, err
	}
	return peer, credErr
}

// startOf returns when the process pid was started in microseconds since 1970, or 0: sysctl(3). Nothing tells whether the
// pid has changed hands since the connection was made.
func startOf(_ *net.UnixConn, pid int) uint64 {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(k.Proc.P_pid) != pid {
		return 0
	}
	start := k.Proc.P_starttime
	return uint64(start.Sec)*1e6 + uint64(start.Usec)
}
