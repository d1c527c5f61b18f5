package companion

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// look asks the kernel, sysctl(3). The start is in microseconds since 1970.
func look(pid int) (process, error) {
	k, err := kernelInfo(pid)
	if err != nil {
		return process{}, err
	}
	start := k.Proc.P_starttime
	return process{parent: int(k.Eproc.Ppid), started: uint64(start.Sec)*1e6 + uint64(start.Usec)}, nil
}

// program is the name of at most 16 bytes that the kernel keeps, without its directory.
func program(pid int) string {
	k, err := kernelInfo(pid)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(k.Proc.P_comm[:])
}

func kernelInfo(pid int) (*unix.KinfoProc, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("no process has the id %d", pid)
	}
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return k, nil
}
