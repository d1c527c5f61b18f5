package sandbox

import "fmt"

// Restrict puts the rules in force for all threads of the process: files with Landlock, as far as the kernel knows it, and
// with a seccomp filter that the process starts no program and makes no sockets but Unix ones. Paths must be there. It
// returns, for people, what is in force. An error leaves the process as it was, or more restricted.
func Restrict(r Rules) (string, error) {
	files, err := restrictFiles(r)
	if err != nil {
		return "", fmt.Errorf("set up the sandbox: %w", err)
	}
	calls, err := filterCalls()
	if err != nil {
		return "", fmt.Errorf("set up the sandbox: %w", err)
	}
	return files + "; " + calls, nil
}
