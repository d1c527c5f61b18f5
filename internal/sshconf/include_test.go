package sshconf

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const ourLine = "Include ~/.ssh/vast-ssh/config"

func TestAddInclude(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		has          bool
		end          string // of the added line
	}{
		{"empty", "", false, "\n"},
		{"ours", ourLine + "\n", true, ""},
		{"ours without an end", ourLine, true, ""},
		{"ours with CRLF", ourLine + "\r\nHost a\r\n", true, ""},
		{"indented", "\t  include\t~/.ssh/vast-ssh/config  \n", true, ""},
		{"upper case, equals sign", "INCLUDE = ~/.ssh/vast-ssh/config\n", true, ""},
		{"equals sign without blanks", "Include=~/.ssh/vast-ssh/config\n", true, ""},
		{"quoted", "Include \"~/.ssh/vast-ssh/config\"\n", true, ""},
		{"single quotes", "Include '~/.ssh/vast-ssh/config'\n", true, ""},
		{"relative", "Include vast-ssh/config\n", true, ""},
		{"among others", "Include a \"b c\" ~/.ssh/vast-ssh/config d\n", true, ""},
		{"with a comment", "Include ~/.ssh/vast-ssh/config # vast\n", true, ""},
		{"after other settings", "# mine\n\nUser me\n" + ourLine + "\n", true, ""},
		{"after another include", "Include other\n" + ourLine + "\nHost a\n", true, ""},
		{"in a block", "Host a\n  User me\n" + ourLine + "\n", false, "\n"},
		{"after Match all", "match all\n" + ourLine + "\n", false, "\n"},
		{"after Host=", "Host=*\n" + ourLine + "\n", false, "\n"},
		{"commented out", "#" + ourLine + "\n# " + ourLine + "\n", false, "\n"},
		{"only in a comment", "Include other # ~/.ssh/vast-ssh/config\n", false, "\n"},
		{"another file", "Include ~/.ssh/vast-ssh/config2\n", false, "\n"},
		{"longer word", "Include \"~/.ssh/vast-ssh/config\"2\n", false, "\n"},
		{"another keyword", "Includes ~/.ssh/vast-ssh/config\n", false, "\n"},
		{"no argument", "Include\n", false, "\n"},
		{"open quote", "Include \"~/.ssh/vast-ssh/config\n", false, "\n"},
		{"CRLF", "Host a\r\n  User me\r\n", false, "\r\n"},
		{"no end", "User me", false, "\n"},
		{"bytes", "# \xff\xfe\x00\xe9\r\nUser me\n", false, "\r\n"},
	} {
		if got := HasInclude([]byte(tt.config), ourLine); got != tt.has {
			t.Errorf("%s: HasInclude is %v", tt.name, got)
		}
		want := tt.config
		if !tt.has {
			want = ourLine + tt.end + tt.config
		}
		out, changed := AddInclude([]byte(tt.config), ourLine)
		if string(out) != want || changed == tt.has {
			t.Errorf("%s: %q, %v; want %q", tt.name, out, changed, want)
		}
		if again, changed := AddInclude(out, ourLine); changed || !bytes.Equal(again, out) {
			t.Errorf("%s: a second time gives %q", tt.name, again)
		}
	}
}

func TestIncludeLine(t *testing.T) {
	for path, want := range map[string]string{
		"~/.ssh/vast-ssh/config":        "Include ~/.ssh/vast-ssh/config",
		"/home/u v/.ssh/config":         `Include "/home/u v/.ssh/config"`,
		"/home/o'brien/.ssh/x":          `Include "/home/o'brien/.ssh/x"`,
		"/home/a#b/.ssh/vast-ssh/c=d,e": `Include "/home/a#b/.ssh/vast-ssh/c=d,e"`,
		"/home/ü/.ssh/vast-ssh/config":  "Include /home/ü/.ssh/vast-ssh/config",
	} {
		line := IncludeLine(path)
		if line != want {
			t.Errorf("IncludeLine(%q) = %q, want %q", path, line, want)
		}
		if !HasInclude([]byte(line+"\n"), line) {
			t.Errorf("%q is not recognised", line)
		}
	}
}

// Whatever the user's file looks like, ssh reads the included file for every host.
func TestIncludeInSSH(t *testing.T) {
	for _, name := range []string{"plain", "two words", "o'brien", "a#b=c,d", "ü"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		included := filepath.Join(dir, "config")
		if err := os.WriteFile(included, []byte("User included\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		line := IncludeLine(included)
		for _, config := range []string{
			"", "Host a\r\n  User me\r\n", "User me\n", "Host a\n" + line + "\n", "Match all\nUser me\n", "# only this",
			strings.ToUpper(line[:7]) + "=" + line[8:] + " # seen\nUser me\n", "\n\t" + line + "\nHost *\nUser me",
			"Host *\n" + line + "\nUser me\n",
		} {
			out, _ := AddInclude([]byte(config), line)
			if got := effective(t, writeFile(t, out), "b")["user"]; got != "included" {
				t.Errorf("%s, %q: the user is %q", name, out, got)
			}
		}
	}
}

func FuzzAddInclude(f *testing.F) {
	f.Add([]byte("Host a\r\n"))
	f.Add([]byte("include=\"~/.ssh/vast-ssh/config\" 'x'"))
	f.Add([]byte("\xff\n\nMatch all\n" + ourLine))
	f.Fuzz(func(t *testing.T, config []byte) {
		before := bytes.Clone(config)
		out, changed := AddInclude(config, ourLine)
		if !bytes.Equal(config, before) {
			t.Error("the input was changed")
		}
		added, ok := bytes.CutSuffix(out, config)
		if !ok || changed != (len(added) > 0) || changed && strings.TrimRight(string(added), "\r\n") != ourLine {
			t.Errorf("%q, %v", out, changed)
		}
		if !HasInclude(out, ourLine) {
			t.Errorf("%q does not include", out)
		}
		if again, changed := AddInclude(out, ourLine); changed || !bytes.Equal(again, out) {
			t.Errorf("a second time gives %q", again)
		}
	})
}
