package agentcmd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden closes the ways in which another process of this user could read the key out of memory: core dumps and ptrace. It
// comes before the key is read.
func harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("turn core dumps off: %w", err)
	}
	if err := unix.PtraceDenyAttach(); err != nil {
		return fmt.Errorf("turn ptrace off: %w", err)
	}
	unix.Umask(0o077)
	return nil
}
