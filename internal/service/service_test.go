package service

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vast-ssh/internal/testenv"
)

var plainAgent = Agent{
	Program:       "/home/ann/.local/bin/vast-agent",
	AgentSocket:   "/home/ann/.local/state/vast-ssh/agent.sock",
	ControlSocket: "/home/ann/.local/state/vast-ssh/control.sock",
	Log:           "/home/ann/.local/state/vast-ssh/agent.log",
}

// awkwardAgent has in its paths what may be there and means something to systemd, to a shell or in XML.
var awkwardAgent = Agent{
	Program:       "/home/ann b/100%h $HOME &<é>;#/vast-agent",
	AgentSocket:   "/srv/a b/100%t $X &<>;# /agent.sock",
	ControlSocket: "/srv/a b/100%t $X &<>;# /control.sock",
	Log:           `/srv/a "b" 'c' \d/100%t $X &<é>;# /agent.log`,
	Env:           []string{`XDG_STATE_HOME=/srv/a "b" 'c' \d/100%t $X &<é>;# `, "XDG_CONFIG_HOME=/x=y"},
}

// files renders all three.
func (a Agent) files() (map[string][]byte, error) {
	socket, err1 := a.Socket()
	service, err2 := a.Service()
	plist, err3 := a.Plist()
	return map[string][]byte{SocketUnit: socket, ServiceUnit: service, "vast-agent.plist": plist}, errors.Join(err1, err2, err3)
}

func TestGolden(t *testing.T) {
	for dir, a := range map[string]Agent{"plain": plainAgent, "awkward": awkwardAgent} {
		files, err := a.files()
		if err != nil {
			t.Fatal(err)
		}
		for name, got := range files {
			path := filepath.Join("testdata", dir, name)
			want, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s has another text than\n%s", path, got)
			}
		}
	}
}

func TestOurs(t *testing.T) {
	files, err := plainAgent.files()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if !Ours(text) {
			t.Errorf("%s is not taken for ours", name)
		}
		if later := append([]byte("#\n"), text...); Ours(later) {
			t.Errorf("%s with another first line is taken for ours", name)
		}
	}
	for _, text := range []string{"", "\n", "[Unit]", "# Made by hand"} {
		if Ours([]byte(text)) {
			t.Errorf("%q is taken for ours", text)
		}
	}
}

// TestInexpressible has paths and variables that cannot be written into the files. None of them is cut or changed.
func TestInexpressible(t *testing.T) {
	const socket, service, plist = 1, 2, 4
	const all = socket | service | plist
	tests := []struct {
		name   string
		change func(a *Agent, bad string)
		bad    []string
		fails  int // which of the files
	}{
		{"program", func(a *Agent, bad string) { a.Program = bad },
			[]string{"", "vast-agent", "./x", "~/x", "/a\nb", "/a\rb", "/a\tb", "/\x00", "/\x7f", "/\u0085", "/\xff", "/\uffff", "/\ufdd0"}, all},
		{"program", func(a *Agent, bad string) { a.Program = bad },
			[]string{`/a"b`, `/a'b`, `/a\b`}, service},
		{"agent's socket", func(a *Agent, bad string) { a.AgentSocket = bad },
			[]string{"", "s", "@abstract", "9", "/a\nb", "/\xc3"}, all},
		{"control socket", func(a *Agent, bad string) { a.ControlSocket = bad },
			[]string{"", "s", "/a\nListenStream=/b"}, all},
		{"socket", func(a *Agent, bad string) { a.ControlSocket = bad }, []string{"/a ", `/a\`, `/\a/b`, `/"a/b`, "/'", "/é/b"}, socket},
		{"log", func(a *Agent, bad string) { a.Log = bad }, []string{"", "x", "/\x1b"}, all},
		{"variable", func(a *Agent, bad string) { a.Env = []string{bad} },
			[]string{"", "=", "=x", "X", "A B=x", "a=x", "A\n=x", "X=a\nb", "X=\xff", "X=\x00", "<A>=x"}, all},
	}
	for _, test := range tests {
		for _, bad := range test.bad {
			a := plainAgent
			test.change(&a, bad)
			_, err1 := a.Socket()
			_, err2 := a.Service()
			_, err3 := a.Plist()
			for i, err := range []error{err1, err2, err3} {
				wants := test.fails&(1<<i) != 0
				if textErr := (*TextError)(nil); wants != errors.As(err, &textErr) {
					t.Errorf("%s %q: file %d: %v", test.name, bad, i, err)
				} else if wants && !strings.Contains(err.Error(), test.name) {
					t.Errorf("%s %q: the error does not name it: %v", test.name, bad, err)
				}
			}
		}
	}
}

// FuzzFiles chooses paths and a variable. What is taken for good stays on its line and comes back as it was.
func FuzzFiles(f *testing.F) {
	f.Add("/bin/x", "/a/s", "/v")
	f.Add("/%h\\", "/a \\", "\"\\\\\"")
	f.Add("/a\nb", "]]>&amp;", "\ufffd")
	lines := func(text []byte) int { return strings.Count(string(text), "\n") }
	plain, err := Agent{Program: "/x", AgentSocket: "/x", ControlSocket: "/x", Log: "/x", Env: []string{"X=x"}}.files()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, program, socket, value string) {
		a := Agent{Program: program, AgentSocket: socket, ControlSocket: socket, Log: socket, Env: []string{"X=" + value}}
		for name, render := range map[string]func() ([]byte, error){
			SocketUnit: a.Socket, ServiceUnit: a.Service, "vast-agent.plist": a.Plist,
		} {
			text, err := render()
			if err != nil {
				if text != nil {
					t.Errorf("%s with an error", name)
				}
				continue
			}
			if lines(text) != lines(plain[name]) || !Ours(text) {
				t.Errorf("%s has other lines:\n%s", name, text)
			}
			if name != "vast-agent.plist" {
				continue
			}
			var strs []string
			for dec, in := xml.NewDecoder(strings.NewReader(string(text))), ""; ; {
				token, err := dec.Token()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				switch token := token.(type) {
				case xml.StartElement:
					if in = token.Name.Local; in == "string" {
						strs = append(strs, "")
					}
				case xml.EndElement:
					in = ""
				case xml.CharData:
					if in == "string" {
						strs[len(strs)-1] += string(token)
					}
				}
			}
			want := []string{Label, program, "run", value, socket, "/"}
			if strings.Join(strs, "\n") != strings.Join(want, "\n") {
				t.Errorf("the strings are %q, want %q", strs, want)
			}
		}
	})
}

// TestPlistIsOne has another implementation read the property list.
func TestPlistIsOne(t *testing.T) {
	python := testenv.NeedProgram(t, "python3")
	text, err := awkwardAgent.Plist()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", "import json, plistlib, sys; json.dump(plistlib.loads(sys.stdin.buffer.read()), sys.stdout)")
	cmd.Stdin = strings.NewReader(string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Label                string
		ProgramArguments     []string
		EnvironmentVariables map[string]string
		RunAtLoad            bool
		KeepAlive            map[string]bool
		StandardErrorPath    string
		Umask                int
		SoftResourceLimits   map[string]int
		HardResourceLimits   map[string]int
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	core, hard := got.SoftResourceLimits["Core"], got.HardResourceLimits["Core"]
	again, restarts := got.KeepAlive["SuccessfulExit"]
	if got.Label != Label || !got.RunAtLoad || !restarts || again || got.Umask != 0o077 || core != 0 || hard != 0 {
		t.Errorf("got %+v", got)
	}
	if len(got.ProgramArguments) != 2 || got.ProgramArguments[0] != awkwardAgent.Program || got.ProgramArguments[1] != "run" {
		t.Errorf("arguments %q", got.ProgramArguments)
	}
	if got.StandardErrorPath != awkwardAgent.Log {
		t.Errorf("log %q", got.StandardErrorPath)
	}
	for _, kv := range awkwardAgent.Env {
		name, value, _ := strings.Cut(kv, "=")
		if got.EnvironmentVariables[name] != value {
			t.Errorf("%s is %q", name, got.EnvironmentVariables[name])
		}
	}
}
