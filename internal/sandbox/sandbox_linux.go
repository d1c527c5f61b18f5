package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Restrict puts the rules in force for all threads of the process: files with Landlock, as far as the kernel knows it, and
// with a seccomp filter that the process starts no program and makes no sockets but Unix ones. From Linux 6.3 on no memory
// becomes executable either (PR_SET_MDWE of prctl(2)). Paths must be there. It returns, for people, what is in force. An
// error leaves the process as it was, or more restricted.
func Restrict(r Rules) (string, error) {
	files, err := restrictFiles(r)
	if err != nil {
		return "", fmt.Errorf("set up the sandbox: %w", err)
	}
	calls, err := filterCalls()
	if err != nil {
		return "", fmt.Errorf("set up the sandbox: %w", err)
	}
	level := files + "; " + calls
	if unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == nil {
		level += "; no new code"
	}
	return level, nil
}
