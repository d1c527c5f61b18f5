package catalogue

import (
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxValue is the longest home or value of a variable that is used, in bytes; Linux itself opens no path of more than 4096.
const maxValue = 1024

// Pattern is places on one machine.
type Pattern struct {
	// Glob is absolute and clean, in the syntax of path.Match, where * matches a leading dot too.
	Glob string
	// Tree says that everything below a matching directory is meant as well. A match that is no directory is a file.
	Tree bool
}

// Expand returns the patterns of the entry for the homes and the environment of a machine, sorted, each once. A variable
// adds the places that its value names to those of the default: programs that ran without the variable used the default.
//
// A value is as if unset when it is relative, too short or too long, has control characters or "..", or names a directory
// that is not the user's to give away. Homes of the same kind are passed over, but a home may be anywhere. What homes and
// values make of a path is left out where it would still name such a directory, a whole home or the whole workspace. Paths
// that depend on neither were checked when they were parsed, and nothing the machine says takes them out: the home of a
// service may well be one of them. Environment entries have no patterns.
func (e Entry) Expand(homes []string, env map[string]string) []Pattern {
	if e.Kind == Environment {
		return nil
	}
	homes = usableHomes(homes)
	steps := []struct {
		homes []string
		env   map[string]string
		guard guard
	}{
		{nil, nil, newGuard(nil)},
		{homes, nil, newGuard(homes)},
		{homes, env, newGuard(append(workspaces(env), homes...))},
	}
	var list []Pattern
	for _, text := range e.Paths {
		t, reason := parseTemplate(text)
		if reason != "" {
			continue
		}
		for _, step := range steps {
			for _, p := range t.patterns(step.homes, step.env) {
				if step.guard.allows(p) {
					list = append(list, p)
				}
			}
		}
	}
	slices.SortFunc(list, comparePatterns)
	return slices.Compact(list)
}

// workspaces returns the directories that hold a user's work as such.
func workspaces(env map[string]string) []string {
	list := []string{"/workspace", "/data"}
	if dir, ok := cleanPath(env["WORKSPACE"]); ok {
		list = append(list, dir)
	}
	return list
}

func comparePatterns(a, b Pattern) int {
	if c := strings.Compare(a.Glob, b.Glob); c != 0 || a.Tree == b.Tree {
		return c
	}
	if b.Tree {
		return -1
	}
	return 1
}

func (t template) patterns(homes []string, env map[string]string) []Pattern {
	var list []Pattern
	for _, glob := range t.globs(homes, env) {
		list = append(list, Pattern{Glob: glob, Tree: t.tree})
	}
	return list
}

func (n *node) globs(homes []string, env map[string]string) []string {
	if n.variable == "" {
		rest, ofHome := strings.CutPrefix(n.text, "~/")
		if !ofHome {
			return []string{n.text}
		}
		var list []string
		for _, home := range homes {
			list = append(list, path.Join(escape(home), rest))
		}
		return list
	}
	list := n.fallback.globs(homes, env)
	if value, ok := usableValue(env[n.variable], homes); ok {
		list = append(list, escape(value))
	}
	for i := range list {
		list[i] += n.text
	}
	return list
}

// escape makes a glob that matches the path and nothing else.
func escape(p string) string { return escaper.Replace(p) }

var escaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// system are directories of which nothing is a user's, but for homes that happen to be in them. So is all that begins with
// "/lib".
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot", "/proc", "/sys", "/dev"}

// settled are directories in which the catalogue has places and no value of a variable may point anywhere.
var settled = []string{"/etc", "/home_ssh"}

// shared are directories which a value may point into, but not name.
var shared = []string{
	"/", "/root", "/home", "/var", "/opt", "/run", "/tmp", "/mnt", "/media", "/srv", "/dev/shm", "/run/user",
	"/var/lib", "/var/log", "/var/cache", "/var/spool", "/var/tmp", "/var/run",
}

// usableValue returns the clean path that an environment variable of the machine names.
func usableValue(value string, homes []string) (string, bool) {
	value, ok := cleanPath(value)
	if !ok || slices.Contains(shared, value) {
		return "", false
	}
	if inSystem(escape(value)) || slices.ContainsFunc(settled, func(dir string) bool { return within(value, dir) }) {
		return "", false
	}
	// A value that names the keys which let us in would end the wipe before its time.
	if slices.Contains(strings.Split(value, "/"), ".ssh") {
		return "", false
	}
	for _, home := range homes {
		if within(home, value) {
			return "", false
		}
	}
	return value, true
}

func usableHomes(homes []string) []string {
	var list []string
	for _, home := range homes {
		if home, ok := cleanPath(home); ok || home == "/" {
			list = append(list, home)
		}
	}
	return list
}

// cleanPath returns "/" for the root directory, which is too short to be a value but may be a home.
func cleanPath(p string) (string, bool) {
	if !path.IsAbs(p) || len(p) > maxValue || !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) ||
		slices.Contains(strings.Split(p, "/"), "..") {
		return "", false
	}
	p = path.Clean(p)
	return p, len(p) > 1
}

// inSystem tells whether a glob reaches into a directory of the system.
func inSystem(glob string) bool {
	top, _, _ := strings.Cut(glob[1:], "/")
	return !strings.HasPrefix(glob, "/dev/shm/") &&
		(strings.HasPrefix(top, "lib") || slices.ContainsFunc(system, func(dir string) bool { return match("/"+top, dir) }))
}

// within tells whether p is dir or below it. Both are clean.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

// guard refuses patterns that name directories which nobody may name. dirs are these by their depth: a pattern of another one
// matches none of them, and there may be hundreds of homes.
type guard struct {
	whole []string
	dirs  map[int][]string
}

// newGuard guards the directories of the system, the whole directories that it is given, and all above these. Homes are
// among them.
func newGuard(whole []string) guard {
	all := slices.Concat(system, settled, shared)
	for _, dir := range whole {
		for ; dir != "/"; dir = path.Dir(dir) {
			all = append(all, dir)
		}
	}
	slices.Sort(all)
	g := guard{whole: whole, dirs: make(map[int][]string)}
	for _, dir := range slices.Compact(all) {
		g.dirs[depth(dir)] = append(g.dirs[depth(dir)], dir)
	}
	return g
}

func depth(p string) int { return strings.Count(p, "/") }

// allows refuses a pattern that matches a guarded directory or all that is in one, or that is in the system outside of homes.
func (g guard) allows(p Pattern) bool {
	parent, last := path.Split(p.Glob)
	parent = path.Clean(parent)
	everything := strings.Trim(last, "*?") == ""
	if g.names(p.Glob) || everything && g.names(parent) {
		return false
	}
	inHome := func(home string) bool { return home != "/" && within(p.Glob, escape(home)) }
	return !inSystem(p.Glob) || slices.ContainsFunc(g.whole, inHome)
}

// names tells whether a pattern matches one of the directories, or is none.
func (g guard) names(glob string) bool {
	return match(glob, "") || slices.ContainsFunc(g.dirs[depth(glob)], func(dir string) bool { return match(glob, dir) })
}

// match takes what is no pattern for a match.
func match(glob, p string) bool {
	ok, err := path.Match(glob, p)
	return ok || err != nil
}
