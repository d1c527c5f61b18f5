//go:build linux

package remote

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// far is what a plan and a run know of the machine.
type far struct {
	req     protocol.Request
	environ []string

	mounts   mounts
	since    time.Time
	used     map[id]bool
	keep     []string
	keptIDs  map[id]bool
	homes    map[string]bool
	packages packages

	roots []root
	trees []root // those of roots that are trees
	owner map[string]int
	login map[string]bool
	// entrance are the files with several names that a login needs, each with the name that it needs.
	entrance map[id]string
	// entered are the mount points that a walk has gone into.
	entered map[string]bool

	// notes are for the goroutine that walks.
	notes *notes
}

// look learns what the rules mean now.
func (f *far) look() error {
	var err error
	if f.mounts, err = readMounts(); err != nil {
		return err
	}
	if f.since, err = created(); err != nil {
		return err
	}
	f.mounts.setApart(f.since, birthOf, sharesIPC())
	r, err := rolesNow()
	if err != nil {
		return err
	}
	f.used = inUse(r.spared)
	if f.req.Processes {
		f.useHeld(r)
	}
	keep := slices.Clone(f.req.Keep)
	for _, glob := range f.req.KeepGlobs {
		matches, err := filepath.Glob(glob)
		if err != nil {
			return err
		}
		keep = append(keep, matches...)
	}
	f.keep = keepPaths(keep)
	if f.keptIDs, err = f.keptInodes(); err != nil {
		return err
	}
	f.homes = make(map[string]bool)
	for _, line := range passwd() {
		f.homes[line[5]] = true
	}
	f.packages = packages{}
	if !f.req.Packages {
		f.packages = readPackages()
	}
	f.notes = &notes{}
	f.expand()
	return nil
}

// tellAbsent tells of what a person has named and is not there.
func (f *far) tellAbsent() {
	for _, name := range f.req.Named {
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil && isGone(err) {
			f.notes.item(item(protocol.Absent, 0, name, nil))
		}
	}
}

// useHeld adds the programs of processes that are held: Linux lets nobody write to a program that runs. One that serves a file
// system needs its libraries, too.
func (f *far) useHeld(r roles) {
	add := func(name string) {
		var st unix.Stat_t
		if unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			f.used[idOf(&st)] = true
		}
	}
	for pid := range r.held {
		add(dirOf(pid) + "/exe")
	}
	for pid := range r.serving {
		for _, name := range mapped(pid) {
			add(name)
		}
	}
}

// staysInUse reports whether the machine is to be used further, since nothing takes its login away. What is held goes on then, and
// nothing is done to what only that reaches.
func (f *far) staysInUse() bool {
	return !slices.ContainsFunc(f.req.Rules, func(r protocol.Rule) bool { return r.Login })
}

// giveBack lets what is held go on if the machine stays in use. A run that has left something, or was stopped, has no finish.
func (f *far) giveBack() error {
	if !f.req.Processes || !f.staysInUse() {
		return nil
	}
	r, err := rolesNow()
	for pid := range r.held {
		unix.Kill(pid, unix.SIGCONT)
	}
	return err
}

// count adds up what a run would overwrite, without notes.
func (f *far) count(ctx context.Context) (protocol.Tally, error) {
	g := *f
	g.notes = &notes{}
	var total protocol.Tally
	for i := range g.req.Rules {
		err := g.walk(ctx, i, visitor{file: func(t target) {
			if t.kind() == unix.S_IFREG {
				total.Add(t.bytes())
			}
			t.dir.release()
		}})
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// plan says what a run would do, and changes nothing.
func (f *far) plan(ctx context.Context) (*protocol.Plan, error) {
	if err := f.look(); err != nil {
		return nil, err
	}
	p := &protocol.Plan{Groups: make([]protocol.Tally, f.groups()), Environment: names(f.environ), SwapBytes: swap()}
	f.planIPC(p)
	f.tellAbsent()
	for i, r := range f.req.Rules {
		err := f.walk(ctx, i, visitor{file: func(t target) {
			defer t.dir.release()
			if t.kind() != unix.S_IFREG {
				return
			}
			p.Groups[r.Group].Add(t.bytes())
			p.Total.Add(t.bytes())
			if r.Secret && t.st.Size > 0 {
				f.notes.secret(protocol.Secret{Rule: i, Path: bounded(t.path(), protocol.MaxPath)})
			}
		}})
		if err != nil {
			return nil, err
		}
	}
	for _, m := range f.mounts {
		if m.class == volume {
			p.Volumes = append(p.Volumes, protocol.Mount{Path: m.path, Type: m.fstype, ReadOnly: m.readOnly})
		}
	}
	slices.SortFunc(p.Volumes, func(a, b protocol.Mount) int { return strings.Compare(a.Path, b.Path) })
	if f.req.Processes {
		if err := f.planProcesses(p); err != nil {
			return nil, err
		}
	}
	p.Items, p.Secrets, p.Unlisted, p.Counts = f.notes.items, f.notes.secrets, f.notes.unlisted, f.notes.counts
	return p, nil
}

func (f *far) planProcesses(p *protocol.Plan) error {
	r, err := rolesNow()
	if err != nil {
		return err
	}
	seen := make(map[id]bool)
	for _, pid := range slices.AppendSeq(r.doomed, maps.Keys(r.held)) {
		if len(p.Processes) < protocol.MaxProcesses {
			row := describe(pid)
			row.Held = r.held[pid]
			p.Processes = append(p.Processes, row)
		}
		add := func(st *unix.Stat_t) {
			if !seen[idOf(st)] {
				seen[idOf(st)] = true
				p.Deleted.Add(min(st.Size, st.Blocks*512))
			}
		}
		stays := r.held[pid] && f.staysInUse()
		all := eachDeleted(pid, func(_, _ string, st *unix.Stat_t) {
			if !stays {
				add(st)
			}
		})
		prog, known := f.program(pid)
		if prog != nil {
			if r.held[pid] {
				known = inMemory(fmt.Sprintf("/proc/self/fd/%d", prog.file.Fd()))
			} else {
				add(&prog.st)
			}
			prog.file.Close()
		}
		if !all || !known || f.hidden(pid) {
			f.notes.item(unseen(pid))
		}
	}
	return f.usedDeleted(f.notes.item)
}

// groups is how many groups the rules count in.
func (f *far) groups() int {
	n := 0
	for _, r := range f.req.Rules {
		n = max(n, r.Group+1)
	}
	return n
}

// swap returns the size of the machine's swap in bytes, see proc_meminfo(5).
func swap() int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "SwapTotal:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10
		}
	}
	return 0
}
