//go:build linux

package remote

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// target is a name that a rule reaches. Its directory is held for whoever gets it.
type target struct {
	rule  int
	group int
	dir   *dir
	name  string
	st    unix.Stat_t
}

func (t *target) path() string { return t.dir.at(t.name) }

func (t *target) kind() uint32 { return t.st.Mode & unix.S_IFMT }

// bytes is how much of the medium the file has.
func (t *target) bytes() int64 { return min(t.st.Size, t.st.Blocks*512) }

// maxDepth bounds the open directories of a walk.
const maxDepth = 2000

// visitor gets what a walk finds. Its functions may be called for names that are gone by then.
type visitor struct {
	// file gets regular files and links to remove, and releases their directory.
	file func(target)
	// closing, if set, is called for every directory below a root when nothing in it is in use any more.
	closing func(*dir)
}

// walk goes through what rule i names, which must have been expanded.
func (f *far) walk(ctx context.Context, i int, v visitor) error {
	r := f.req.Rules[i]
	if f.req.Op == protocol.OpFinish && !r.Login {
		return nil // which the run has gone through
	}
	if r.Changed {
		for _, name := range f.mounts.changedRoots() {
			if f.entered[name] {
				continue // by the rule of a tree
			}
			if err := f.walkChanged(ctx, i, name, v); err != nil {
				return err
			}
		}
		return nil
	}
	for _, at := range f.roots {
		if at.rule != i {
			continue
		}
		if err := f.walkRoot(ctx, at, v); err != nil {
			return err
		}
	}
	return nil
}

func (f *far) walkChanged(ctx context.Context, i int, name string, v visitor) error {
	d, err := openDir(name, f.mounts)
	if err != nil {
		f.missed(f.req.Rules[i], name, err)
		return nil
	}
	d.closing = v.closing
	defer d.release()
	return f.walkDir(ctx, i, d, 0, v)
}

func (f *far) walkRoot(ctx context.Context, at root, v visitor) error {
	if at.path == "/" {
		return nil
	}
	if m := f.mounts.of(at.path); m.class == volume && !f.mayWipe(m.path) {
		f.notes.item(item(protocol.Volume, f.req.Rules[at.rule].Group, at.path, nil))
		f.secretLeft(at)
		return nil
	}
	if f.kept(at.path) {
		f.secretLeft(at)
	}
	parent, err := openDir(path.Dir(at.path), f.mounts)
	if err != nil {
		f.missed(f.req.Rules[at.rule], at.path, err)
		return nil
	}
	defer parent.release()
	// The directory around a place is not the rule's.
	parent.closing = v.closing
	parent.remove = false
	return f.walkName(ctx, at.rule, parent, path.Base(at.path), at.tree, 0, v)
}

// secretLeft names a place of secrets that nobody goes into: they are to be rotated all the same.
func (f *far) secretLeft(at root) {
	var st unix.Stat_t
	if !f.req.Rules[at.rule].Secret || unix.Lstat(at.path, &st) != nil {
		return
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR || kind == unix.S_IFREG && st.Size > 0 {
		f.notes.secret(protocol.Secret{Rule: at.rule, Path: bounded(at.path, protocol.MaxPath)})
	}
}

func (f *far) walkDir(ctx context.Context, i int, d *dir, depth int, v visitor) error {
	if depth > maxDepth {
		f.notes.item(item(protocol.Failed, f.req.Rules[i].Group, d.path, errors.New("the directories are nested too deeply")))
		return nil
	}
	err := d.list(func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.foreign(i, d.at(name)) {
			return nil
		}
		return f.walkName(ctx, i, d, name, true, depth, v)
	})
	if err != nil && ctx.Err() == nil {
		f.missed(f.req.Rules[i], d.path, err)
		return nil
	}
	return err
}

// missed tells of what could not be looked at, unless it is gone, or another far side or a later request looks at it.
func (f *far) missed(r protocol.Rule, at string, err error) {
	if !isGone(err) && (r.Login == (f.req.Op == protocol.OpFinish) || f.req.Op == protocol.OpPlan) {
		f.notes.item(item(protocol.Failed, r.Group, at, err))
	}
}

// isGone reports whether an error says that there is no such thing, or something else by now: a link where a directory was is
// ELOOP, and a file system whose server has ended ENOTCONN. What is no error of the system is one of a path, as of links that lead
// in a circle.
func isGone(err error) bool {
	var system unix.Errno
	return !errors.As(err, &system) || slices.Contains([]unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENOTCONN}, system)
}

// walkName looks at one name in d, and goes into it if it is a directory and tree is set.
func (f *far) walkName(ctx context.Context, i int, d *dir, name string, tree bool, depth int, v visitor) error {
	r := f.req.Rules[i]
	at := d.at(name)
	if below(at, f.req.Dir) {
		return nil
	}
	m, mounted := f.mounts[at]
	st, err := d.stat(name)
	if mounted && errors.Is(err, unix.ENOTCONN) { // its server has ended
		st, err = unix.Stat_t{Mode: unix.S_IFDIR}, nil
	}
	if err != nil {
		f.missed(r, at, err)
		return nil
	}
	t := target{rule: i, group: r.Group, dir: d, name: name, st: st}
	if t.kind() == unix.S_IFDIR {
		if !tree || !f.enters(t) {
			return nil
		}
		// What is mounted here and unknown is nobody's to enter.
		c, err := d.enter(name, mounted)
		if mounted && m.class == volume && errors.Is(err, unix.ENOTCONN) { // it was to be wiped
			f.notes.item(item(protocol.Failed, r.Group, at, err))
			return nil
		}
		if err != nil {
			f.missed(r, at, err)
			return nil
		}
		c.remove, c.group = v.closing != nil && f.removable(t), r.Group
		defer c.release()
		return f.walkDir(ctx, i, c, depth+1, v)
	}
	switch code, ok := f.judge(t); {
	case !ok:
	case code != "":
		f.notes.item(item(code, r.Group, at, nil))
		switch code {
		case protocol.Image, protocol.InUse, protocol.ReadOnly, protocol.Kept, protocol.Volume:
			f.secretLeft(root{rule: i, path: at})
		}
	default:
		d.hold()
		v.file(t)
	}
	return nil
}

// enters tells whether a walk goes into a directory.
func (f *far) enters(t target) bool {
	at := t.path()
	if m, ok := f.mounts[at]; ok {
		switch {
		case f.req.Rules[t.rule].Changed:
			return false // memory is a root of its own
		case f.kept(at):
			f.notes.item(item(protocol.Kept, t.group, at, nil))
			f.secretLeft(root{rule: t.rule, path: at})
			return false
		case m.class == memory && !m.readOnly, m.class == volume && f.mayWipe(at):
			f.entered[at] = true
			return true
		case m.class == volume || m.readOnly:
			f.notes.item(item(protocol.Volume, t.group, at, nil))
			f.secretLeft(root{rule: t.rule, path: at})
			return false
		}
		return false
	}
	if f.kept(at) {
		f.notes.item(item(protocol.Kept, t.group, at, nil))
		f.secretLeft(root{rule: t.rule, path: at})
		return false
	}
	return true
}

// mayWipe reports whether a mount point is that of a volume that was named for wiping.
func (f *far) mayWipe(at string) bool {
	for _, v := range f.req.Volumes {
		if v == at {
			return true
		}
	}
	return false
}

// judge says what becomes of a name that is no directory: nothing (not ok), an item of the code, or, without a code, it is
// to be overwritten and removed.
func (f *far) judge(t target) (code protocol.Code, ok bool) {
	at := t.path()
	r := f.req.Rules[t.rule]
	mount := f.mounts.of(at)
	switch {
	case mount.class == pseudo:
		return "", false
	case r.Login != (f.req.Op == protocol.OpFinish) && f.req.Op != protocol.OpPlan:
		return "", false
	case !r.Login && f.login[at]:
		return "", false
	case f.kept(at):
		return protocol.Kept, true
	case mount.class == volume && !f.mayWipe(mount.path):
		return protocol.Volume, true
	case mount.class == bound: // what a login needs of it every container of Docker's has
		return protocol.Volume, !r.Changed && (r.Login || !needed(at))
	}
	changed := mount.class != layer || !changedAt(&t.st).Before(f.since)
	switch t.kind() {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return "", changed && !needed(at) && !(r.Changed && ofSystem(at)) && !f.leadsToUsed(at)
	default:
		// A device is what the container was given, and under /dev that is how it should be.
		return protocol.Special, changed && !below(at, "/dev")
	}
	switch {
	case !changed && r.Changed:
		return "", false
	case !changed:
		return protocol.Image, true
	case f.used[idOf(&t.st)]:
		return protocol.InUse, true
	case f.keptIDs[idOf(&t.st)]:
		return protocol.Kept, true
	case !r.Login && needed(at):
		return protocol.Login, true
	case mount.readOnly:
		return protocol.ReadOnly, true
	case r.Changed && !f.req.Packages && f.packages.owns(t.dir, t.name):
		return protocol.Package, true
	}
	return "", true
}

// leadsToUsed reports whether a link is a name of a program that the connection runs on.
func (f *far) leadsToUsed(at string) bool {
	var st unix.Stat_t
	return unix.Stat(at, &st) == nil && f.used[idOf(&st)]
}

// ofSystem reports whether a link where programs are leads to what is the system's, too, as those of packages do. The text of any
// other is the user's.
func ofSystem(at string) bool {
	if !programs(at) {
		return false
	}
	text, err := os.Readlink(at)
	if err == nil && slices.Contains(deviceLinks, text) {
		return true
	}
	target, err := filepath.EvalSymlinks(at)
	return err == nil && (programs(target) || below(target, "/etc") || below(target, "/var/lib"))
}

// deviceLinks are what the links of /dev lead to that every container has. Where they lead depends on who asks.
var deviceLinks = []string{"/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/proc/kcore"}

// programs reports whether a path is where programs and libraries are.
func programs(at string) bool {
	return slices.ContainsFunc([]string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/dev", "/etc/alternatives"}, func(dir string) bool {
		return below(at, dir)
	}) && !below(at, "/dev/shm")
}

func changedAt(st *unix.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }

// removable tells whether a directory goes when it is empty: where everything in it goes anyway, except those that programs
// take for granted.
func (f *far) removable(t target) bool {
	at := t.path()
	if _, mounted := f.mounts[at]; mounted || stays(at) || needed(at) || f.homes[at] {
		return false
	}
	return f.mounts.of(at).class != layer || !changedAt(&t.st).Before(f.since)
}
