package voice

import (
	"fmt"
	"strings"
	"time"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/term"
)

// Refusal tells one refusal of the agent in a line.
func Refusal(r ipc.Refusal) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s: %s", r.At.Local().Format(time.DateTime), term.Safe(r.Reason), term.Safe(r.Sentence))
	if r.Instance != 0 {
		fmt.Fprintf(&b, "; instance %d", r.Instance)
	}
	if r.HostKey != "" {
		fmt.Fprintf(&b, "; host key %s", term.Safe(r.HostKey))
	}
	if r.PID != 0 {
		fmt.Fprintf(&b, "; asked by process %d", r.PID)
		if r.Program != "" {
			fmt.Fprintf(&b, " (%s)", term.Safe(r.Program))
		}
	}
	return b.String()
}
