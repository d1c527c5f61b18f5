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

// codeText says what an item's code means, of one and of several.
var codeText = map[protocol.Code][2]string{
	protocol.Failed:    {"thing that could not be overwritten or removed", "things that could not be overwritten or removed"},
	protocol.Immutable: {"immutable file", "immutable files"},
	protocol.ReadOnly:  {"file on a read-only file system", "files on read-only file systems"},
	protocol.Again:     {"file that came back after it was removed", "files that came back after they were removed"},
	protocol.Running:   {"process that could not be ended", "processes that could not be ended"},
	protocol.Special:   {"FIFO, socket or device, which holds no data", "FIFOs, sockets and devices, which hold no data"},
	protocol.Kept:      {"place that is kept as asked", "places that are kept as asked"},
	protocol.InUse:     {"file in use by what goes on", "files in use by what goes on"},
	protocol.Login:     {"system file that a login needs", "system files that a login needs"},
	protocol.Package:   {"file installed from a package and not changed since", "files installed from packages and not changed since"},
	protocol.Image:     {"file of the image", "files of the image"},
	protocol.Volume:    {"place on a volume or of the machine", "places on volumes or of the machine"},
	protocol.Link:      {"link that leads to where nothing may be removed", "links that lead to where nothing may be removed"},
	protocol.Vanished:  {"file that went by itself", "files that went by themselves"},
	protocol.Unseen:    {"process whose open files nobody could see", "processes whose open files nobody could see"},
	protocol.Memory: {
		"piece of shared memory or message queue, which ends with the container or is the machine's",
		"pieces of shared memory and message queues, which end with the container or are the machine's",
	},
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
	if len(plans) == 1 {
		printPlanNotes(w, plans[0])
		printList(w, "cannot be reached", plans[0].Unreachable)
		return nil
	}
	common := commonTo(plans)
	for _, p := range plans {
		if p.Done == nil {
			fmt.Fprintf(w, "\ninstance %s\n", named(p.Instance, p.Label))
		}
		printPlanNotes(w, p)
		printList(w, "cannot be reached", slices.DeleteFunc(slices.Clone(p.Unreachable), func(text string) bool {
			return slices.Contains(common, text)
		}))
	}
	if len(common) > 0 {
		fmt.Fprintln(w, "\nall of them")
		printList(w, "cannot be reached", common)
	}
	return nil
}

// commonTo returns what cannot be reached in any of the instances that are to be wiped.
func commonTo(plans []wipe.Plan) []string {
	var common []string
	first := true
	for _, p := range plans {
		if p.Done != nil {
			continue
		}
		if first {
			common, first = slices.Clone(p.Unreachable), false
		}
		common = slices.DeleteFunc(common, func(text string) bool { return !slices.Contains(p.Unreachable, text) })
	}
	return common
}

func printPlanNotes(w io.Writer, p wipe.Plan) {
	if p.Done != nil {
		return
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
		if protocol.Served(v.Type) {
			fmt.Fprintln(w, "  a program serves it: unmount it first, or what that has not sent yet may be spoilt")
		}
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
		fmt.Fprintf(w, "%s: %d %s\n", what, counts[code], textOf(code, counts[code]))
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

// textOf says what n items of a code are.
func textOf(code protocol.Code, n int64) string {
	text, ok := codeText[code]
	switch {
	case !ok:
		return term.SafeN(string(code), 40)
	case n == 1:
		return text[0]
	}
	return text[1]
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
