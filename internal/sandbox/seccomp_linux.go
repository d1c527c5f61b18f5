package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data, seccomp(2). All platforms here are little-endian, so that the low half of an argument is
// the first.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArg0 = 16
)

// x32 is the bit of the calls of the x32 ABI on amd64. No call has it on arm64.
const x32 = 0x40000000

// filter refuses socket(2) for every domain but AF_UNIX, the rings that could make sockets behind the filter's back, and
// every way to start a program. Calls of other ABIs, whose numbers mean something else, are refused as well.
var filter = []unix.SockFilter{
	load(offsetArch),
	onEqual(arch, 0, refused-2),
	load(offsetCall),
	{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: x32, Jt: refused - 4},
	onEqual(unix.SYS_EXECVE, refused-5, 0),
	onEqual(unix.SYS_EXECVEAT, refused-6, 0),
	onEqual(unix.SYS_IO_URING_SETUP, refused-7, 0),
	onEqual(unix.SYS_SOCKET, 0, allowed-8),
	load(offsetArg0),
	onEqual(unix.AF_UNIX, allowed-10, 0),
	refused: give(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)),
	allowed: give(unix.SECCOMP_RET_ALLOW),
}

// Places in filter. A jump counts from the instruction behind it.
const (
	refused = 10
	allowed = 11
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func onEqual(value uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: yes, Jf: no}
}

func give(value uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
}

// filterCalls puts filter in force for all threads. A kernel without seccomp is told of, not an error.
func filterCalls() (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Only this thread needs it: the filter takes it to the others.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "", err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno == unix.ENOSYS || errno == unix.EINVAL:
		return "this kernel has no seccomp", nil
	case errno != 0:
		return "", fmt.Errorf("seccomp: %w", errno)
	case thread != 0:
		return "", fmt.Errorf("seccomp: thread %d has filters of its own", thread)
	}
	return "seccomp (no programs, Unix sockets only)", nil
}
