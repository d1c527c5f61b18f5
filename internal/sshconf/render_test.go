package sshconf

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/testenv"
)

func params() Params {
	return Params{
		ProxyProgram: "/usr/local/bin/vast-ssh",
		KnownHosts:   "/home/u/.ssh/vast-ssh/known_hosts",
		AgentSocket:  "/home/u/.local/state/vast-ssh/agent.sock",
		IdentityFile: "/home/u/.ssh/vast-ssh/id_ed25519.pub",
		User:         "root",
	}
}

const body = `  User root
  ProxyCommand "/usr/local/bin/vast-ssh" proxy %h
  UserKnownHostsFile "/home/u/.ssh/vast-ssh/known_hosts"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  VerifyHostKeyDNS no
  UpdateHostKeys no
  CanonicalizeHostname no
  IdentityAgent "/home/u/.local/state/vast-ssh/agent.sock"
  IdentityFile "/home/u/.ssh/vast-ssh/id_ed25519.pub"
  IdentitiesOnly yes
  PreferredAuthentications publickey
  AddKeysToAgent no
  ForwardAgent no
  ForwardX11 no
  ServerAliveInterval 15
  ConnectTimeout 0
`

func TestRenderConfig(t *testing.T) {
	hosts := []Host{{22, "train-box"}, {7, ""}, {1000, "a.b"}, {22, "again"}}
	got, err := RenderConfig(params(), hosts)
	if err != nil {
		t.Fatal(err)
	}
	want := `# written by vast-ssh; do not edit

Host vast-7
  HostName vast-7
  HostKeyAlias vast-7

Host vast-22 vast-train-box
  HostName vast-22
  HostKeyAlias vast-22

Host vast-1000
  HostName vast-1000
  HostKeyAlias vast-1000

Host vast-*
` + body
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if hosts[0].ID != 22 {
		t.Error("the caller's hosts were sorted")
	}
}

func TestRenderLogin(t *testing.T) {
	got, err := RenderLogin(params())
	if err != nil {
		t.Fatal(err)
	}
	if want := "# written by vast-ssh; do not edit\n\nHost *\n" + body; string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestProxyCommand(t *testing.T) {
	p := params()
	for _, tt := range []struct {
		through []string
		want    string // empty for an error
	}{
		{nil, `"/usr/local/bin/vast-ssh" proxy %h`},
		{[]string{"vast-7"}, `"/usr/local/bin/vast-ssh" proxy --jump vast-7 %h`},
		{[]string{"vast-7", "ubuntu@vast-18446744073709551615"},
			`"/usr/local/bin/vast-ssh" proxy --jump vast-7,ubuntu@vast-18446744073709551615 %h`},
		{[]string{"label"}, ""},
		{[]string{"vast-7;x"}, ""},
		{[]string{"vast-7", "$(x)@vast-7"}, ""},
		{[]string{"-x"}, ""},
		{[]string{""}, ""},
	} {
		got, err := ProxyCommand(p, tt.through...)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q: got %q, %v", tt.through, got, err)
		}
	}
	p.ProxyProgram = "/a`b"
	if _, err := ProxyCommand(p); err == nil {
		t.Error("a path that no shell takes as it is was quoted")
	}
}

func TestAliases(t *testing.T) {
	for _, tt := range []struct {
		name   string
		labels []string // of the instances 1, 2, …
		want   []string // their Host lines
	}{
		{"plain", []string{"a", "B_2", "3x-", strings.Repeat("l", 63)},
			[]string{"vast-1 vast-a", "vast-2 vast-B_2", "vast-3 vast-3x-", "vast-4 vast-" + strings.Repeat("l", 63)}},
		{"not unique", []string{"a", "a", "b"}, []string{"vast-1", "vast-2", "vast-3 vast-b"}},
		{"not unique in lower case", []string{"Box", "box"}, []string{"vast-1", "vast-2"}},
		{"looks like an id", []string{"2", "007"}, []string{"vast-1", "vast-2"}},
		{"dots, patterns, blanks", []string{"github.com", "*", "a?", "!a", "a b", "a,b", "a\tb", "-a", "_a",
			"ü", "a#b", "%h"},
			[]string{"vast-1", "vast-2", "vast-3", "vast-4", "vast-5", "vast-6", "vast-7",
				"vast-8", "vast-9", "vast-10", "vast-11", "vast-12"}},
		{"lines", []string{"a\n", "a\nHost *", "a\r", "\n", "a\x00"},
			[]string{"vast-1", "vast-2", "vast-3", "vast-4", "vast-5"}},
		{"long", []string{strings.Repeat("l", 64)}, []string{"vast-1"}},
	} {
		var hosts []Host
		for i, l := range tt.labels {
			hosts = append(hosts, Host{uint64(i + 1), l})
		}
		out, err := RenderConfig(params(), hosts)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			if names, ok := strings.CutPrefix(line, "Host "); ok {
				got = append(got, strings.TrimSuffix(names, "\n"))
			}
		}
		want := append(tt.want, "vast-*")
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

func TestRefusedParams(t *testing.T) {
	set := map[string]func(*Params, string){
		"program":          func(p *Params, s string) { p.ProxyProgram = s },
		"known hosts file": func(p *Params, s string) { p.KnownHosts = s },
		"agent socket":     func(p *Params, s string) { p.AgentSocket = s },
		"identity file":    func(p *Params, s string) { p.IdentityFile = s },
	}
	everywhere := []string{"", "x", "./x", "~/x", "none", `/a"b`, `/a\b`, "/a\nb",
		"/a\rb", "/a\tb", "/a\x00b", "/a\x1bb",
		"/a\u0085b", "/a\u2028b", "/a\u202eb", "/a\xffb", "/a$b", "/${HOME}"}
	bad := map[string][]string{
		"program":          append([]string{"/a`b", "/a!b"}, everywhere...),
		"known hosts file": everywhere,
		"agent socket":     everywhere,
		"identity file":    everywhere,
	}
	for name, values := range bad {
		for _, value := range values {
			p := params()
			set[name](&p, value)
			for what, render := range map[string]func() ([]byte, error){
				"config": func() ([]byte, error) { return RenderConfig(p, nil) },
				"login":  func() ([]byte, error) { return RenderLogin(p) },
			} {
				out, err := render()
				var e *ParamError
				if !errors.As(err, &e) || e.Name != name || e.Value != value || e.Hint() == "" || out != nil {
					t.Errorf("%s, %s %q: err = %v", what, name, value, err)
				}
			}
		}
	}
	for _, user := range []string{"", "Root", "a b", "a\nProxyCommand x", "-l", "a%h", strings.Repeat("a", 33), "root\n"} {
		p := params()
		p.User = user
		var e *ParamError
		if _, err := RenderConfig(p, nil); !errors.As(err, &e) || e.Name != "user" {
			t.Errorf("user %q: err = %v", user, err)
		}
	}
}

// oddDirs are names that a home directory may have.
var oddDirs = []string{"plain", "two  words", "ü 日本", "100%h %d %%", "o'brien", "a#b=c,d;e&f(g)|h", "[a]*?{b}~", "-x"}

// install makes the files of p below a directory with an odd name. The program notes its arguments in the file
// proxied beside it.
func install(t *testing.T, odd string) (p Params, proxied string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), odd)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p = Params{
		ProxyProgram: filepath.Join(dir, "vast-ssh"),
		KnownHosts:   filepath.Join(dir, "known_hosts"),
		AgentSocket:  filepath.Join(dir, "agent.sock"),
		IdentityFile: filepath.Join(dir, "id_ed25519.pub"),
		User:         "root",
	}
	pub, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nfor a; do echo \"[$a]\"; done > \"${0%/*}/proxied\"\n"
	key := string(ssh.MarshalAuthorizedKey(pub))
	for path, data := range map[string]string{p.ProxyProgram: script, p.IdentityFile: key} {
		if err := os.WriteFile(path, []byte(data), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return p, filepath.Join(dir, "proxied")
}

func writeFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// effective returns what ssh makes of the configuration at path for host. IdentityFile may have several values.
func effective(t *testing.T, path string, args ...string) map[string]string {
	t.Helper()
	args = append([]string{"-G", "-F", path}, args...)
	cmd := exec.CommandContext(t.Context(), testenv.NeedProgram(t, "ssh"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ssh -G: %v\n%s", err, stderr.String())
	}
	values := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if old, ok := values[key]; ok {
			value = old + "\n" + value
		}
		values[key] = value
	}
	return values
}

// checkEffective compares what ssh -G printed with what p means. ssh prints IdentityFile and ProxyCommand before it
// expands them, the others after.
func checkEffective(t *testing.T, got map[string]string, p Params, hostname, alias string) {
	t.Helper()
	escaped := func(s string) string { return strings.ReplaceAll(s, "%", "%%") }
	for key, want := range map[string]string{
		"hostname":              hostname,
		"hostkeyalias":          alias,
		"user":                  p.User,
		"port":                  "22",
		"proxycommand":          `"` + escaped(p.ProxyProgram) + `" proxy %h`,
		"userknownhostsfile":    p.KnownHosts,
		"globalknownhostsfile":  "/dev/null",
		"stricthostkeychecking": "true",
		"verifyhostkeydns":      "false",
		"updatehostkeys":        "false",
		"canonicalizehostname":  "false",
		"identityagent":         p.AgentSocket,
		"identityfile":          escaped(p.IdentityFile),
		"identitiesonly":        "yes",
		"addkeystoagent":        "false",
		"forwardagent":          "no",
		"forwardx11":            "no",
		"serveraliveinterval":   "15",
		"connecttimeout":        "0",
		"proxyjump":             "",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
}

func TestEffectiveInSSH(t *testing.T) {
	for _, odd := range oddDirs {
		t.Run(odd, func(t *testing.T) {
			p, _ := install(t, odd)
			out, err := RenderConfig(p, []Host{{7, "Box"}, {22, ""}})
			if err != nil {
				t.Fatal(err)
			}
			path := writeFile(t, out)
			checkEffective(t, effective(t, path, "vast-7"), p, "vast-7", "vast-7")
			checkEffective(t, effective(t, path, "vast-Box"), p, "vast-7", "vast-7")
			checkEffective(t, effective(t, path, "vast-22"), p, "vast-22", "vast-22")
			checkEffective(t, effective(t, path, "vast-999"), p, "vast-999", "")
			if got := effective(t, path, "example.org")["proxycommand"]; got != "" {
				t.Errorf("another host goes through %q", got)
			}

			out, err = RenderLogin(p)
			if err != nil {
				t.Fatal(err)
			}
			got := effective(t, writeFile(t, out), "-o", "HostName=vast-7", "-o", "HostKeyAlias=vast-7", "anything")
			checkEffective(t, got, p, "vast-7", "vast-7")
		})
	}
}

// What the user has set for all hosts comes later and must not win, whatever it is.
func TestUserSettingsDoNotWin(t *testing.T) {
	p, _ := install(t, "home")
	ours, err := RenderConfig(p, []Host{{7, ""}})
	if err != nil {
		t.Fatal(err)
	}
	user := []byte(`Host *
  User me
  ProxyJump bastion
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /etc/ssh/other
  StrictHostKeyChecking no
  VerifyHostKeyDNS yes
  UpdateHostKeys yes
  CanonicalizeHostname yes
  IdentityAgent none
  IdentitiesOnly no
  AddKeysToAgent yes
  ForwardAgent yes
  ForwardX11 yes
  ServerAliveInterval 0
  ConnectTimeout 3
`)
	all, changed := AddInclude(user, IncludeLine(writeFile(t, ours)))
	if !changed {
		t.Fatal("nothing added")
	}
	path := writeFile(t, all)
	checkEffective(t, effective(t, path, "vast-7"), p, "vast-7", "vast-7")
	if got := effective(t, path, "example.org")["user"]; got != "me" {
		t.Errorf("the user of another host is %q", got)
	}
}

// ssh itself runs the proxy and loads the public key, with every path as it is meant.
func TestRunBySSH(t *testing.T) {
	program := testenv.NeedProgram(t, "ssh")
	for _, odd := range oddDirs {
		t.Run(odd, func(t *testing.T) {
			p, proxied := install(t, odd)
			out, err := RenderConfig(p, []Host{{7, "Box"}})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program, "-v", "-F", writeFile(t, out), "vast-Box")
			cmd.Env = append(os.Environ(), "SHELL=/bin/sh")
			stderr, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatal("a login through a proxy that does nothing")
			}
			if got, err := os.ReadFile(proxied); err != nil || string(got) != "[proxy]\n[vast-7]\n" {
				t.Errorf("the proxy got %q, %v\n%s", got, err, stderr)
			}
			loaded := regexp.MustCompile(`(?m)identity file (.*) type [0-9]+\r?$`).FindSubmatch(stderr)
			// ssh escapes what is not ASCII in its log, depending on the locale.
			if loaded == nil || !strings.HasSuffix(string(loaded[1]), "/id_ed25519.pub") {
				t.Errorf("the public key was not loaded:\n%s", stderr)
			}
		})
	}
}

// Clients hand the ProxyCommand to a shell, or split it themselves.
func TestProxyCommandInShell(t *testing.T) {
	for _, odd := range oddDirs {
		t.Run(odd, func(t *testing.T) {
			p, proxied := install(t, odd)
			settings, err := p.settings()
			if err != nil {
				t.Fatal(err)
			}
			command := regexp.MustCompile(`ProxyCommand (.*)`).FindStringSubmatch(settings)[1]
			command = strings.NewReplacer("%%", "%", "%h", "vast-7").Replace(command)
			out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", "exec "+command).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got, err := os.ReadFile(proxied); err != nil || string(got) != "[proxy]\n[vast-7]\n" {
				t.Errorf("the proxy got %q, %v", got, err)
			}
			words := strings.Split(command, `"`)
			if len(words) != 3 || words[1] != p.ProxyProgram || words[2] != " proxy vast-7" {
				t.Errorf("a client without a shell splits it to %q", words)
			}
		})
	}
}

func FuzzRender(f *testing.F) {
	f.Add(uint64(7), "box", "/usr/bin/vast-ssh", "/h/known_hosts", "root")
	f.Add(uint64(0), "a\nHost *", "/a b/%h\"x", "/h\n  ProxyCommand evil", "root\n")
	f.Add(uint64(1<<63), "box ", "/a%", "/ü/'x'", "_a-b")
	f.Add(uint64(8), "8", "/$(x)`y`!", "/a\r\u2028b", "")
	f.Fuzz(func(t *testing.T, id uint64, label, program, path, user string) {
		p := Params{ProxyProgram: program, KnownHosts: path, AgentSocket: path, IdentityFile: path, User: user}
		other := id + 1
		out, err := RenderConfig(p, []Host{{id, label}, {other, ""}})
		if err != nil {
			if out != nil {
				t.Error("output with an error")
			}
			return
		}
		name, otherName := "vast-"+strconv.FormatUint(id, 10), "vast-"+strconv.FormatUint(other, 10)
		names := name
		word := regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_-]*\z`)
		if word.MatchString(label) && strings.Trim(label, "0123456789") != "" && len(label) <= 63 {
			names += " vast-" + label
		}
		stanzas := [][]string{
			{"Host " + names, "  HostName " + name, "  HostKeyAlias " + name},
			{"Host " + otherName, "  HostName " + otherName, "  HostKeyAlias " + otherName},
		}
		if other < id {
			stanzas[0], stanzas[1] = stanzas[1], stanzas[0]
		}
		quoted := func(s string) string { return `"` + strings.ReplaceAll(s, "%", "%%") + `"` }
		want := []string{"# written by vast-ssh; do not edit", ""}
		want = append(append(want, stanzas[0]...), "")
		want = append(append(want, stanzas[1]...), "")
		want = append(want, "Host vast-*", "  User "+user, "  ProxyCommand "+quoted(program)+" proxy %h",
			"  UserKnownHostsFile "+quoted(path), "  GlobalKnownHostsFile /dev/null",
			"  StrictHostKeyChecking yes",
			"  VerifyHostKeyDNS no", "  UpdateHostKeys no", "  CanonicalizeHostname no", "  IdentityAgent "+quoted(path),
			"  IdentityFile "+quoted(path), "  IdentitiesOnly yes", "  PreferredAuthentications publickey", "  AddKeysToAgent no", "  ForwardAgent no",
			"  ForwardX11 no", "  ServerAliveInterval 15", "  ConnectTimeout 0", "")
		got := regexp.MustCompile(`\r\n|[\n\r\f\v\x{85}\x{2028}\x{2029}]`).Split(string(out), -1)
		if strings.Join(got, "\n") != strings.Join(want, "\n") || len(got) != len(want) {
			t.Fatalf("got\n%q\nwant\n%q", got, want)
		}
		for _, value := range []string{program, path, user} {
			if strings.ContainsAny(value, "\"\\$\x00") {
				t.Errorf("%q was written", value)
			}
		}
	})
}
