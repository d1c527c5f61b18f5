package sshcmd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// process returns the parent and the arguments of a process.
func process(pid int) (parent int, args []string, err error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return 0, nil, err
	}
	// The number of arguments, the path of the program, zeros, and then the arguments: sysctl(3), KERN_PROCARGS2.
	b, err := unix.SysctlRaw("kern.procargs2", pid)
	if err != nil {
		return 0, nil, err
	}
	if len(b) < 4 {
		return 0, nil, errors.New("no arguments")
	}
	n := int(binary.NativeEndian.Uint32(b))
	_, rest, _ := bytes.Cut(b[4:], []byte{0})
	rest = bytes.TrimLeft(rest, "\x00")
	for ; n > 0 && len(rest) > 0; n-- {
		var arg []byte
		arg, rest, _ = bytes.Cut(rest, []byte{0})
		args = append(args, string(arg))
	}
	return int(info.Eproc.Ppid), args, nil
}

// stdio is what Linux offers: the pipes that another process has open.
func stdio(int) (in, out *os.File, err error) {
	return nil, nil, errors.New("this system does not share the pipes of a process")
}
