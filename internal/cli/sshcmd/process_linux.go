package sshcmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxProcFile bounds a file of /proc, in bytes.
const maxProcFile = 64 << 10

// process returns the parent and the arguments of a process.
func process(pid int) (parent int, args []string, err error) {
	status, err := readProc(pid, "status")
	if err != nil {
		return 0, nil, err
	}
	_, after, _ := strings.Cut(string(status), "\nPPid:")
	line, _, _ := strings.Cut(after, "\n")
	if parent, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		return 0, nil, err
	}
	cmdline, err := readProc(pid, "cmdline")
	if err != nil {
		return 0, nil, err
	}
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0}) {
		args = append(args, string(arg))
	}
	return parent, args, nil
}

func readProc(pid int, name string) ([]byte, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProcFile+1))
	if err == nil && len(b) > maxProcFile {
		err = errors.New("too long")
	}
	return b, err
}

// stdio opens the pipes that a process has for its standard input and output.
func stdio(pid int) (in, out *os.File, err error) {
	if in, err = openPipe(fmt.Sprintf("/proc/%d/fd/0", pid), unix.O_RDONLY); err != nil {
		return nil, nil, err
	}
	if out, err = openPipe(fmt.Sprintf("/proc/%d/fd/1", pid), unix.O_WRONLY); err != nil {
		in.Close()
		return nil, nil, err
	}
	return in, out, nil
}

func openPipe(path string, mode int) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeNamedPipe == 0 {
		return nil, errors.New("it has no pipes")
	}
	return os.OpenFile(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}
