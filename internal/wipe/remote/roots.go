//go:build linux

package remote

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// root is a place that a rule names: a path in which no component is a link.
type root struct {
	rule int
	path string
	tree bool
	// link says that this is a link by which the place is reached. It goes, and is not followed.
	link bool
}

// maxRoots bounds the matches of all rules. What is beyond is told to remain.
const maxRoots = 100_000

var errTooMany = errors.New("too many places are named")

// system are directories that no link may make the root of a tree.
var system = []string{
	"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin",
	"/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/log",
}

// companions are files that SQLite keeps beside a database, see https://www.sqlite.org/tempfiles.html.
var companions = []string{"-wal", "-shm", "-journal"}

// expand finds the places that the rules name now. owner is the first rule of each path, so that a file that two rules
// name belongs to the first. The items are links that lead to where no rule may go.
func (f *far) expand() {
	f.roots, f.trees, f.owner, f.entered = nil, nil, make(map[string]int), make(map[string]bool)
	f.login = make(map[string]bool)
	for i, r := range f.req.Rules {
		if r.Glob == "" {
			continue
		}
		for _, match := range f.matches(r) {
			f.addMatch(i, r, match)
			if r.Login {
				f.addWay(i, match)
			}
			if !r.Tree {
				for _, suffix := range companions {
					f.addMatch(i, r, match+suffix)
				}
			}
		}
	}
	f.entrance = f.entranceFiles()
}

// matches returns what a pattern matches now, as filepath.Glob does, and unlike that tells of directories that cannot be read.
func (f *far) matches(r protocol.Rule) (found []string) {
	f.eachMatch(r, "/", strings.Split(strings.TrimPrefix(r.Glob, "/"), "/"), func(at string) { found = append(found, at) })
	slices.Sort(found)
	return found
}

// eachMatch calls fn for what matches the components of a pattern below dir. A component may match very many names of which the next
// takes few: so they are not put together.
func (f *far) eachMatch(r protocol.Rule, dir string, parts []string, fn func(at string)) {
	if len(parts) == 0 {
		fn(dir)
		return
	}
	err := eachLike(dir, parts[0], func(name string) { f.eachMatch(r, path.Join(dir, name), parts[1:], fn) })
	if err != nil {
		f.missed(r, dir, err)
	}
}

// maxName is NAME_MAX. A longer name is none.
const maxName = 255

// eachLike calls fn for the names in a directory that match one component of a pattern.
func eachLike(dir, part string, fn func(name string)) error {
	if !strings.ContainsAny(part, `*?[\`) {
		var st unix.Stat_t
		if len(part) > maxName {
			return nil
		}
		if err := unix.Lstat(path.Join(dir, part), &st); err != nil {
			return err
		}
		fn(part)
		return nil
	}
	file, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return eachName(file, func(name string) error {
		if match, err := path.Match(part, name); err == nil && match {
			fn(name)
		}
		return nil
	})
}

func (f *far) addMatch(i int, r protocol.Rule, match string) {
	if len(path.Base(match)) > maxName {
		return
	}
	parent, err := filepath.EvalSymlinks(path.Dir(match))
	if err != nil {
		f.missed(r, match, err)
		return
	}
	at := path.Join(parent, path.Base(match))
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err != nil {
		f.missed(r, at, err)
		return
	}
	switch dir := st.Mode&unix.S_IFMT == unix.S_IFDIR; {
	case dir && !r.Tree:
		return // the rule is for a file of the name; what is in here belongs to whatever rule takes it
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		f.addRoot(root{rule: i, path: at, tree: dir})
		return
	}
	f.addRoot(root{rule: i, path: at, link: true})
	target, err := filepath.EvalSymlinks(at)
	if err == nil {
		err = unix.Lstat(target, &st)
	}
	if err != nil {
		f.missed(r, at, err) // unless it leads nowhere
		return
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.addRoot(root{rule: i, path: target})
	case unix.S_IFDIR:
		if r.Tree && !slices.Contains(system, target) && !(r.Secret && f.holdsMore(target)) && f.mounts.of(target).class != pseudo {
			f.addRoot(root{rule: i, path: target, tree: true})
			return
		}
		if r.Login == (f.req.Op == protocol.OpFinish) || f.req.Op == protocol.OpPlan {
			f.notes.item(item(protocol.Link, r.Group, at, nil))
			f.secretLeft(root{rule: i, path: target})
		}
	}
}

// holdsMore reports whether a directory holds more than the secrets that a link to it is named for: all work, or the home of a user.
func (f *far) holdsMore(dir string) bool {
	return slices.ContainsFunc(append(slices.Collect(maps.Keys(f.homes)), "/workspace", "/data"), func(whole string) bool {
		return below(whole, dir)
	})
}

// addWay adds the links that lead to what a login needs, as where .ssh is one: they go when that goes.
func (f *far) addWay(i int, match string) {
	for _, at := range keepPaths([]string{match}) {
		var st unix.Stat_t
		if unix.Lstat(at, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			f.addRoot(root{rule: i, path: at, link: true})
		}
	}
}

func (f *far) addRoot(r root) {
	if _, known := f.owner[r.path]; known || f.ownedBefore(r) {
		return
	}
	if len(f.roots) == maxRoots {
		f.notes.item(item(protocol.Failed, f.req.Rules[r.rule].Group, r.path, errTooMany))
		return
	}
	f.owner[r.path] = r.rule
	f.roots = append(f.roots, r)
	if r.tree {
		f.trees = append(f.trees, r)
	}
	if f.req.Rules[r.rule].Login {
		f.login[r.path] = true
	}
}

// ownedBefore reports whether r lies in a tree of a rule that is not later than its own.
func (f *far) ownedBefore(r root) bool {
	return slices.ContainsFunc(f.trees, func(other root) bool {
		return other.rule <= r.rule && r.path != other.path && below(r.path, other.path)
	})
}

// foreign reports whether a path that rule i meets in a walk is of an earlier rule, or a root of its own of this one, as where two
// links lead to a tree and into it.
func (f *far) foreign(i int, name string) bool {
	owner, ok := f.owner[name]
	return ok && owner <= i
}

// kept reports whether --keep names a path.
func (f *far) kept(name string) bool {
	return slices.ContainsFunc(f.keep, func(k string) bool { return below(name, k) })
}

// maxLinks is how many links Linux itself follows in a path, see path_resolution(7).
const maxLinks = 40

// keepPaths returns what --keep names without links in the way, and the links, too: without them a later run would not
// find it any more.
func keepPaths(list []string) []string {
	var keep []string
	for _, name := range list {
		reached, rest, links := "/", strings.Split(name, "/"), 0
		for len(rest) > 0 {
			part := rest[0]
			rest = rest[1:]
			next := path.Join(reached, part) // nothing in reached is a link
			target, err := os.Readlink(next)
			if err != nil || part == "" || part == "." || part == ".." || links == maxLinks {
				reached = next
				continue
			}
			links++
			keep = append(keep, next)
			if path.IsAbs(target) {
				reached = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		}
		keep = append(keep, reached)
	}
	return keep
}

// keptInodes finds the files with several names of which one is kept. If that cannot be found out nothing may be wiped.
func (f *far) keptInodes() (map[id]bool, error) {
	kept := make(map[id]bool)
	for _, name := range f.keep {
		err := walkPath(name, func(at string, st *unix.Stat_t, err error) error {
			if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && (st.Nlink > 1 || at == name) {
				kept[idOf(st)] = true
			}
			if err != nil && isGone(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look at what is to be kept: %w", err)
		}
	}
	return kept, nil
}

// changedRoots are where a rule for everything that was changed begins: the container's own file system, and those in memory
// that can be written to.
func (m mounts) changedRoots() []string {
	var list []string
	for name, mount := range m {
		if mount.class == layer || mount.class == memory && !mount.readOnly {
			list = append(list, name)
		}
	}
	slices.SortFunc(list, strings.Compare)
	return list
}
