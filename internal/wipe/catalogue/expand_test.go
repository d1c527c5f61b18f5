package catalogue

import (
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
)

func TestExpand(t *testing.T) {
	two := []string{"/root", "/home/user"}
	file := func(globs ...string) (list []Pattern) {
		for _, g := range globs {
			list = append(list, Pattern{Glob: g})
		}
		return list
	}
	for name, tc := range map[string]struct {
		place string
		homes []string
		env   map[string]string
		want  []Pattern
	}{
		"a file":               {"/etc/x", two, nil, file("/etc/x")},
		"a tree":               {"/etc/x/", two, nil, []Pattern{{"/etc/x", true}}},
		"every home":           {"~/.x", two, nil, file("/home/user/.x", "/root/.x")},
		"a home twice":         {"~/.x", []string{"/root", "/root/", "//root"}, nil, file("/root/.x")},
		"no homes":             {"~/.x", nil, nil, nil},
		"a home in the system": {"~/.x/", []string{"/usr/share/ollama"}, nil, []Pattern{{"/usr/share/ollama/.x", true}}},
		"the root as a home":   {"~/.x", []string{"/"}, nil, file("/.x")},
		"etc in the root home": {"~/etc/", []string{"/"}, nil, nil},
		"usr in the root home": {"~/usr/x", []string{"/"}, nil, nil},
		"hostile homes":        {"~/.x", []string{"", "root", "/a/../b", "/a\nb", "/a\x00", "/\xff", "/" + strings.Repeat("a", maxValue)}, nil, nil},
		"glob in a home":       {"~/*.x", []string{`/home/a*[b]?\c`}, nil, file(`/home/a\*\[b]\?\\c/*.x`)},
		"a home in a home":     {"~/user/", []string{"/home", "/home/user"}, nil, []Pattern{{"/home/user/user", true}}},

		"unset":              {"${X:-~/d}/f", root, nil, file("/root/d/f")},
		"set adds":           {"${X:-~/d}/f", root, map[string]string{"X": "/a/b"}, file("/a/b/f", "/root/d/f")},
		"set to the default": {"${X:-~/d}/f", root, map[string]string{"X": "/root/d/"}, file("/root/d/f")},
		"set, not cleaned":   {"${X:-/d/e}/f", root, map[string]string{"X": "/a/./b//c/"}, file("/a/b/c/f", "/d/e/f")},
		"glob in a value":    {"${X:-/d/e}/*", root, map[string]string{"X": "/a/*"}, file(`/a/\*/*`, "/d/e/*")},
		"inner":              {"${X:-${Y:-~/d}/e}/f", root, map[string]string{"Y": "/y/y"}, file("/root/d/e/f", "/y/y/e/f")},
		"outer and inner":    {"${X:-${Y:-~/d}/e}/f", root, map[string]string{"X": "/x/x", "Y": "/y/y"}, file("/root/d/e/f", "/x/x/f", "/y/y/e/f")},
		"in shared memory":   {"${X:-/d/e}", root, map[string]string{"X": "/dev/shm/x"}, file("/d/e", "/dev/shm/x")},
		"workspace, below":   {"${WORKSPACE:-/workspace}/.env", root, map[string]string{"WORKSPACE": "/w/w"}, file("/w/w/.env", "/workspace/.env")},
		"workspace, whole": {"${X:-/d/e}/", root, map[string]string{"WORKSPACE": "/w/w", "X": "/w/w"},
			[]Pattern{{"/d/e", true}}},
		"above workspace": {"${X:-/d/e}/", root, map[string]string{"WORKSPACE": "/w/w", "X": "/w"}, []Pattern{{"/d/e", true}}},
		"all of workspace": {"${X:-/d/e}/*", root, map[string]string{"WORKSPACE": "/w/w", "X": "/w/w"},
			file("/d/e/*")},
		"suffix completes a home": {"${X:-/d/e}/user/", two, map[string]string{"X": "/mnt/home"}, []Pattern{{"/d/e/user", true}, {"/mnt/home/user", true}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (Entry{Kind: Trace, Paths: []string{tc.place}}).Expand(tc.homes, tc.env); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
	if got := (Entry{Kind: Environment, Paths: []string{"HF_TOKEN"}}).Expand(root, nil); got != nil {
		t.Errorf("environment: %v", got)
	}
	if got := (Entry{Kind: Trace, Paths: []string{"/", "~/*x[", "relative"}}).Expand(root, nil); got != nil {
		t.Errorf("paths that do not parse: %v", got)
	}
}

// hostile are values of which none may have any effect.
var hostile = []string{
	"", "/", "//", "/.", "x", "~", "~/x", "./x", "-rf", "/a/../b", "/..", "/../etc", "/a\x00b", "/a\nb", "/a\x1b[m", "/\u0085x", "/a\xff",
	"/etc", "/etc/", "//etc//", "/./etc", "/etc/ssh", "/etc/passwd", "/usr", "/usr/lib/x", "/bin", "/bin/sh", "/sbin", "/lib", "/lib64",
	"/lib/x86_64-linux-gnu", "/libfoo", "/boot", "/boot/x", "/proc", "/proc/1", "/sys", "/sys/x", "/dev", "/dev/null", "/dev/shm",
	"/dev/sda", "/var", "/var/lib", "/var/log", "/var/run", "/run", "/run/user", "/opt", "/root", "/home", "/home/user", "/tmp", "/var/tmp",
	"/mnt", "/media", "/srv", "/home_ssh", "/home_ssh/root", "/root/.ssh", "/root/.ssh/authorized_keys", "/home/user/.ssh/x", "$HOME", "/" + strings.Repeat("a", maxValue),
}

func TestHostileValuesHaveNoEffect(t *testing.T) {
	homes := []string{"/root", "/home/user"}
	var plain [][]Pattern
	for _, e := range Entries() {
		plain = append(plain, e.Expand(homes, nil))
	}
	for _, value := range hostile {
		env := map[string]string{}
		for _, name := range Variables() {
			env[name] = value
		}
		for i, e := range Entries() {
			if got := e.Expand(homes, env); !reflect.DeepEqual(got, plain[i]) {
				t.Errorf("%q changes %s, %s to %v", value, e.Tool, e.What, got)
			}
		}
	}
}

// TestNothingNamesAWholeDirectory tries values that are used, in all variables at once.
func TestNothingNamesAWholeDirectory(t *testing.T) {
	homes := []string{"/root", "/home/user", "/", "/srv/data/home", "/usr/sbin", "/bin", "/var/lib/x", "/nonexistent"}
	for _, value := range []string{"/srv/data", "/workspace", "/data", "/workspace/a", "/mnt/x", "/root/.cache", "/var/lib/dpkg", "/*", "/[e]tc"} {
		env := map[string]string{}
		for _, name := range Variables() {
			env[name] = value
		}
		for _, e := range Entries() {
			checkPatterns(t, e, homes, env)
		}
	}
}

// TestMachineCannotSilence: whatever homes and variables a machine reports, the places that depend on neither stay.
func TestMachineCannotSilence(t *testing.T) {
	env := map[string]string{"WORKSPACE": "/etc/environment"}
	homes := []string{"/root", "/var/lib/tor", "/etc/cloudflared", "/home_ssh/root/.ssh/authorized_keys", "/etc/.vast_api_key"}
	for _, e := range Entries() {
		got := e.Expand(homes, env)
		for _, p := range e.Expand(nil, nil) {
			if !slices.Contains(got, p) {
				t.Errorf("%s, %s: %v is gone", e.Tool, e.What, p)
			}
		}
	}
}

// checkPatterns allows only what the catalogue itself names to be somebody's home.
func checkPatterns(t *testing.T, e Entry, homes []string, env map[string]string) {
	t.Helper()
	fixed := e.Expand(nil, nil)
	for _, p := range e.Expand(homes, env) {
		if slices.Contains(fixed, p) {
			checkPattern(t, p, nil)
		} else {
			checkPattern(t, p, homes)
		}
	}
}

// checkPattern says in other words than the code what no pattern may be.
func checkPattern(t *testing.T, p Pattern, homes []string) {
	t.Helper()
	if !path.IsAbs(p.Glob) || path.Clean(p.Glob) != p.Glob || strings.ContainsFunc(p.Glob, unicode.IsControl) {
		t.Errorf("%q is not absolute, clean and printable", p.Glob)
	}
	if _, err := path.Match(p.Glob, ""); err != nil {
		t.Errorf("%q is no pattern", p.Glob)
	}
	forbidden := strings.Fields("/ /etc /usr /bin /sbin /lib /lib64 /lib32 /libx32 /var /dev /proc /sys /boot /run /opt /root /home /tmp " +
		"/var/lib /var/log /dev/shm /workspace /data /mnt")
	for _, home := range homes {
		if !path.IsAbs(home) || strings.Contains(home, "..") {
			continue
		}
		for home = path.Clean(home); home != "/"; home = path.Dir(home) {
			forbidden = append(forbidden, home)
		}
	}
	for _, dir := range forbidden {
		if ok, _ := path.Match(p.Glob, dir); ok {
			t.Errorf("%q names %s", p.Glob, dir)
		}
		// No path of the catalogue has a #, so only what takes everything matches it.
		if ok, _ := path.Match(p.Glob, path.Join(dir, "#######")); ok {
			t.Errorf("%q names all of %s", p.Glob, dir)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("${X:-${Y:-~/d}/e}/f/", "/root", "/home/user", "/x/y", "/workspace")
	f.Add("~/*/.env", "/", "/usr/sbin", "", "/w")
	f.Add("${X:-/a/b}/*/", "/h", "/h/*", "/etc/..", "/w/w")
	for _, value := range hostile {
		f.Add("${X:-/a/b}/", "/root", "/home/user", value, value)
	}
	f.Fuzz(func(t *testing.T, place, home1, home2, x, y string) {
		if checkPath(Trace, place) != "" {
			return
		}
		homes := []string{home1, home2}
		e := Entry{Kind: Trace, Paths: []string{place}}
		env := map[string]string{"X": x, "Y": y, "WORKSPACE": y}
		list := e.Expand(homes, env)
		if !slices.IsSortedFunc(list, comparePatterns) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("not sorted, or some twice: %v", list)
		}
		checkPatterns(t, e, usableHomes(homes), env)
	})
}
