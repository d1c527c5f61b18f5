package unixsock

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// peerOf asks the kernel for the credentials taken at connect or listen time: SO_PEERCRED of unix(7).
func peerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, err
	}
	if credErr != nil {
		return Peer{}, credErr
	}
	// A process that hides itself (PR_SET_DUMPABLE 0) or has gone has no readable link: it stays unnamed.
	program, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", cred.Pid))
	return Peer{PID: int(cred.Pid), UID: int(cred.Uid), Program: program}, nil
}
