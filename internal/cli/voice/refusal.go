package voice

import (
	"fmt"
	"path"
	"strings"
	"time"

	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/term"
)

// Refusal tells one refusal of the agent in a line.
func Refusal(r ipc.Refusal) string {
	return Refused(chainlog.Record{
		At: r.At, Reason: r.Reason, Sentence: r.Sentence, Instance: r.Instance, HostKey: r.HostKey, PID: r.PID,
		Program: r.Program, Count: r.Count,
	})
}

// Refused tells one refusal in the agent's log in a line.
func Refused(r chainlog.Record) string {
	parts := []string{told(r)}
	if r.Instance != 0 {
		parts = append(parts, "instance "+instance(r))
	}
	if r.HostKey != "" {
		parts = append(parts, "host key "+term.Safe(r.HostKey))
	}
	if r.PID != 0 {
		asked := fmt.Sprintf("asked by process %d", r.PID)
		if who := asker(r); who != "" {
			asked += " (" + who + ")"
		}
		parts = append(parts, asked)
	}
	return r.At.Local().Format(time.DateTime) + "  " + strings.Join(append(parts, often(r)...), "; ")
}

// Decision tells one record of the agent's log in a line.
func Decision(r chainlog.Record) string {
	parts := []string{r.At.Local().Format(time.DateTime), fmt.Sprintf("%-8s", term.Safe(r.Verdict))}
	if r.Instance != 0 {
		parts = append(parts, instance(r))
	}
	if r.From != 0 {
		parts = append(parts, fmt.Sprintf("through %d", r.From))
	}
	if r.User != "" {
		parts = append(parts, term.Safe(r.User))
	}
	if r.Route != "" {
		parts = append(parts, term.Safe(r.Route))
	}
	if who := asker(r); who != "" {
		parts = append(parts, who)
	}
	if r.Reason != "" || r.Sentence != "" {
		parts = append(parts, told(r))
	}
	return strings.TrimSpace(strings.Join(append(parts, often(r)...), "  "))
}

// told is the reason and the sentence, of which one may be missing.
func told(r chainlog.Record) string {
	switch {
	case r.Sentence == "":
		return term.Safe(r.Reason)
	case r.Reason == "":
		return term.Safe(r.Sentence)
	}
	return term.Safe(r.Reason) + ": " + term.Safe(r.Sentence)
}

// maxLabel is how many characters of a label are shown.
const maxLabel = 40

func instance(r chainlog.Record) string {
	if r.Label == "" {
		return fmt.Sprint(r.Instance)
	}
	return fmt.Sprintf("%d (%s)", r.Instance, term.SafeN(r.Label, maxLabel))
}

// maxAskers is how many processes of a chain are shown.
const maxAskers = 6

// asker is who asked and what had started it, such as "ssh ← git ← zsh", or the path of the program where no more is
// known.
func asker(r chainlog.Record) string {
	if len(r.Chain) == 0 {
		return term.Safe(r.Program)
	}
	var names []string
	known := 0
	for i, p := range r.Chain {
		if i == maxAskers {
			names, known = append(names, "…"), i+1
			break
		}
		name := "?"
		if p.Program != "" {
			name, known = term.Safe(path.Base(p.Program)), i+1
		}
		names = append(names, name)
	}
	return strings.Join(names[:known], " ← ")
}

func often(r chainlog.Record) []string {
	if r.Count > 1 {
		return []string{fmt.Sprintf("%d times", r.Count)}
	}
	return nil
}
