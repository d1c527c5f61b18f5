package companion

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// look reads /proc/PID/stat, proc_pid_stat(5). The start is in clock ticks since boot.
func look(pid int) (process, error) {
	if pid <= 0 {
		return process{}, fmt.Errorf("no process has the id %d", pid)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	p, err := parseStat(b)
	if err != nil {
		return process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return p, nil
}

// program is empty for a process of another user, one that hides itself (PR_SET_DUMPABLE 0), and a kernel thread.
func program(pid int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return path
}

// Where the fields 4 and 22 of proc_pid_stat(5) are behind the name, which is field 2. The page counts from 1.
const (
	fieldParent  = 4 - 3
	fieldStarted = 22 - 3
)

// parseStat reads the text of /proc/PID/stat. The name of the process is chosen by itself: it may hold spaces,
// parentheses and line breaks, and ends at the last parenthesis of the text, since only numbers follow.
func parseStat(b []byte) (process, error) {
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) <= fieldStarted {
		return process{}, fmt.Errorf("/proc has too few fields: %q", b)
	}
	parent, err := strconv.ParseUint(string(fields[fieldParent]), 10, 31)
	if err != nil {
		return process{}, fmt.Errorf("parent in /proc: %w", err)
	}
	started, err := strconv.ParseUint(string(fields[fieldStarted]), 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("start in /proc: %w", err)
	}
	return process{parent: int(parent), started: started}, nil
}
