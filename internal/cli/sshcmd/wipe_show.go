package sshcmd

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"vast-ssh/internal/cli/meter"
	"vast-ssh/internal/term"
	"vast-ssh/internal/wipe"
	"vast-ssh/internal/wipe/protocol"
)

// maxShown is how many of a kind are shown on a terminal. JSON and the report have all.
const maxShown = 20

// codeText says what an item's code means.
var codeText = map[protocol.Code]string{
	protocol.Failed:    "could not be overwritten or removed",
	protocol.Immutable: "immutable",
	protocol.ReadOnly:  "on a read-only file system",
	protocol.Again:     "came back after they were removed",
	protocol.Running:   "processes that could not be ended",
	protocol.Special:   "FIFOs, sockets and devices, which hold no data",
	protocol.Kept:      "kept as asked",
	protocol.InUse:     "in use by the connection itself",
	protocol.Login:     "system files that a login needs",
	protocol.Package:   "installed from packages and not changed since",
	protocol.Image:     "part of the image",
	protocol.Volume:    "on volumes",
	protocol.Link:      "links that lead to where nothing may be removed",
	protocol.Vanished:  "gone by themselves",
	protocol.Unseen:    "processes whose open files nobody could see",
	protocol.Memory:    "shared memory and message queues, which end with the container or are the machine's",
}

// printPlans shows what would be done: one table, and for each instance what is special about it.
func printPlans(w io.Writer, plans []wipe.Plan) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range plans {
		fmt.Fprintf(t, "instance %s\tscope %s\tdestroy %s\n", named(p.Instance, p.Label), p.Scope, p.Destroy)
		if p.Done != nil {
			fmt.Fprintf(t, "  \twiped on %s, the login included\tonly the destruction is left\n", p.Done.Local().Format(time.DateTime))
			continue
		}
		for _, g := range groupsByKind(p.Groups) {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", g.Kind, term.SafeN(g.Name, 60), counted(g.Files, g.Bytes))
		}
		if p.Deleted.Files > 0 {
			fmt.Fprintf(t, "  deleted\tfiles that a process keeps open\t%s\n", counted(p.Deleted.Files, p.Deleted.Bytes))
		}
		fmt.Fprintf(t, "  total\t\t%s\n", counted(p.Total.Files, p.Total.Bytes))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range plans {
		printPlanNotes(w, p, len(plans) > 1)
	}
	return nil
}

func printPlanNotes(w io.Writer, p wipe.Plan, several bool) {
	if p.Done != nil {
		return
	}
	if several {
		fmt.Fprintf(w, "\ninstance %s\n", named(p.Instance, p.Label))
	}
	printProcesses(w, "ends the processes", p.Processes)
	if p.IPC > 0 {
		fmt.Fprintf(w, "removes from memory: segments and message queues, %d\n", p.IPC)
	}
	for _, v := range p.Volumes {
		what := "left alone (--volumes wipes it, if nobody else uses it)"
		if v.Wiped {
			what = "wiped"
		}
		fmt.Fprintf(w, "volume %s: %s\n", term.SafeN(v.Path, 100), what)
	}
	for _, j := range p.Jobs {
		what := "goes on at the provider (--drop-jobs deletes it)"
		switch {
		case j.Other != 0:
			what = fmt.Sprintf("was made for instance %d, and is left alone", j.Other)
		case p.DropJobs:
			what = "is deleted"
		}
		fmt.Fprintf(w, "scheduled job %d %s: %s\n", j.ID, what, term.SafeN(j.What, 100))
	}
	for _, l := range p.Left {
		if l.Code == protocol.Absent {
			fmt.Fprintf(w, "nothing is at %s\n", term.SafeN(l.Path, 200))
		}
	}
	printCounts(w, "stays", p.Counts, p.Left)
	printList(w, "cannot be reached", p.Unreachable)
	if p.Reason != "" {
		fmt.Fprintf(w, "works by shell commands, more slowly: %s\n", term.SafeN(p.Reason, 200))
	}
}

// counted writes a number of files and their bytes.
func counted(files, bytes int64) string {
	if files == 1 {
		return "1 file, " + meter.Size(bytes)
	}
	return fmt.Sprintf("%d files, %s", files, meter.Size(bytes))
}

// groupsByKind adds up the groups of the catalogue by subject, so that one tool is one line.
func groupsByKind(groups []wipe.Count) []wipe.Count {
	var out []wipe.Count
	for _, g := range groups {
		i := slices.IndexFunc(out, func(o wipe.Count) bool { return o.Group == g.Group })
		if i < 0 {
			out = append(out, g)
			continue
		}
		out[i].Files, out[i].Bytes = out[i].Files+g.Files, out[i].Bytes+g.Bytes
	}
	return out
}

func printProcesses(w io.Writer, what string, list []protocol.Process) {
	if len(list) == 0 {
		return
	}
	var names []string
	for _, p := range list[:min(len(list), maxShown)] {
		name := fmt.Sprintf("%s (%d)", term.SafeN(p.Name, 40), p.PID)
		if p.GPU {
			name += " on the GPU"
		}
		if p.Held {
			name += " (ended last)"
		}
		names = append(names, name)
	}
	if more := len(list) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	fmt.Fprintf(w, "%s: %s\n", what, strings.Join(names, ", "))
}

// printCounts shows what stays, by reason; what should not have stayed is named.
func printCounts(w io.Writer, what string, counts map[protocol.Code]int64, items []wipe.Left) {
	codes := make([]protocol.Code, 0, len(counts))
	for code := range counts {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	for _, code := range codes {
		if code == protocol.Absent {
			continue // it is not there to stay
		}
		text := codeText[code]
		if text == "" {
			text = term.SafeN(string(code), 40)
		}
		fmt.Fprintf(w, "%s: %d %s\n", what, counts[code], text)
		shown := 0
		for _, it := range items {
			if it.Code != code || shown == maxShown || !code.Remains() && code != protocol.Volume && code != protocol.Link && code != protocol.Kept {
				continue
			}
			shown++
			line := "  " + term.SafeN(it.Path, 200)
			if it.Text != "" {
				line += ": " + term.SafeN(it.Text, 200)
			}
			fmt.Fprintln(w, line)
		}
	}
}

func printList(w io.Writer, what string, list []string) {
	for _, text := range list {
		fmt.Fprintf(w, "%s: %s\n", what, term.SafeN(text, 300))
	}
}

// printReport shows what was done.
func printReport(w io.Writer, r *wipe.Report) {
	fmt.Fprintf(w, "instance %s\n", named(r.Instance, r.Label))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, g := range groupsByKind(r.Groups) {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", g.Kind, term.SafeN(g.Name, 60), counted(g.Files, g.Bytes))
	}
	t.Flush()
	names := "names"
	if r.Names == 1 {
		names = "name"
	}
	fmt.Fprintf(w, "overwritten once with random data, read back and removed: %s; and %d %s without data\n",
		counted(r.Total.Files, r.Total.Bytes), r.Names, names)
	if r.Deleted.Files > 0 {
		fmt.Fprintf(w, "overwritten though already deleted: %s that processes kept open\n", counted(r.Deleted.Files, r.Deleted.Bytes))
	}
	printProcesses(w, "ended", r.Processes)
	printCounts(w, "left", r.Counts, r.Left)
	if r.LoginUnconfirmed {
		fmt.Fprintln(w, "login: the machine's last word was lost; it lets your key in no longer")
	}
	printList(w, "cannot be reached", r.Unreachable)
	for i, s := range r.Rotate {
		if i == 0 {
			fmt.Fprintln(w, "rotate these, since they were on a stranger's machine:")
		}
		if i == 3*maxShown {
			fmt.Fprintf(w, "  and %d more, in the report\n", len(r.Rotate)-i)
			break
		}
		fmt.Fprintf(w, "  %s, %s: %s\n", term.SafeN(s.Tool, 60), term.SafeN(s.What, 80), term.SafeN(s.Path, 200))
	}
	for _, j := range r.JobsLeft {
		fmt.Fprintf(w, "scheduled job %d is still there: %s\n", j.ID, term.SafeN(j.What, 100))
	}
	fmt.Fprintf(w, "data: %s%s\n", r.Data, because(r.Problem))
	fmt.Fprintf(w, "instance: %s%s\n", r.Destroyed, because(r.DestroyProblem))
	printList(w, "removed here", r.TracesRemoved)
	printList(w, "still here", r.TracesRemaining)
	if r.Path() != "" {
		fmt.Fprintf(w, "report: %s\n", term.Safe(r.Path()))
	}
}

func because(problem string) string {
	if problem == "" {
		return ""
	}
	return ": " + term.SafeN(problem, 300)
}
