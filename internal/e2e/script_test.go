package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

func TestMain(m *testing.M) {
	code := m.Run()
	Cleanup()
	os.Exit(code)
}

// TestScripts runs every script below testdata. Each has a World of its own; docs of the extra commands are below.
func TestScripts(t *testing.T) {
	testenv.NeedProgram(t, "sshd")
	for _, program := range []string{"ssh", "dbus-run-session", "gdbus", "gnome-keyring-daemon"} {
		testenv.NeedProgram(t, program)
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			s := &script{t: t, boxes: make(map[string]*Instance), impostors: make(map[string]*sshd.Server)}
			testscript.Run(t, testscript.Params{
				Files:               []string{file},
				Setup:               s.setup,
				RequireExplicitExec: true,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"instance": s.instance,
					"move":     s.move,
					"stop":     s.stop,
					"restart":  s.restart,
					"impostor": s.impostor,
					"row":      s.row,
					"api":      s.api,
					"calls":    s.calls,
					"config":   s.config,
					"age":      s.age,
					"code":     s.code,
				},
			})
		})
	}
}

// script is the state of one script.
type script struct {
	t         *testing.T
	w         *World
	boxes     map[string]*Instance
	impostors map[string]*sshd.Server
}

func (s *script) setup(env *testscript.Env) error {
	s.w = New(s.t)
	for _, kv := range s.w.Env() {
		name, value, _ := strings.Cut(kv, "=")
		env.Setenv(name, value)
	}
	env.Setenv("SSHDIR", s.w.Dirs.SSH)
	env.Setenv("STATE", s.w.Dirs.State)
	env.Setenv("CACHE", s.w.Dirs.Cache)
	env.Setenv("LOGIN_USER", userName())
	return nil
}

func need(ts *testscript.TestScript, neg bool, args []string, n int, usage string) {
	if neg || len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
}

func (s *script) box(ts *testscript.TestScript, name string) *Instance {
	in := s.boxes[name]
	if in == nil {
		ts.Fatalf("no instance %q", name)
	}
	return in
}

func (s *script) export(ts *testscript.TestScript, name string, in *Instance) {
	ts.Setenv(name, fmt.Sprint(in.ID))
	ts.Setenv(name+"_addr", in.Addr())
	for i, k := range in.HostKeys() {
		ts.Setenv(fmt.Sprintf("%s_key%d", name, i), fingerprintOf(k))
	}
}

// instance NAME [LABEL [TYPE...]] makes an instance with host keys of the types, and sets $NAME, $NAME_addr and $NAME_keyN. The
// label "-" is none. A TYPE of "direct-only" leaves the gateway away, and "home" gives it a home directory, $NAME_home.
func (s *script) instance(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "instance NAME [LABEL [TYPE...]]")
	label, cfg := "", sshd.Config{}
	if len(args) > 1 && args[1] != "-" {
		label = args[1]
	}
	for _, typ := range args[min(2, len(args)):] {
		if typ == "direct-only" {
			cfg.Listen = []string{"127.0.0.1:0"}
			continue
		}
		if typ == "home" {
			home := filepath.Join(s.w.Home, args[0]+".home")
			ts.Check(os.Mkdir(home, 0o700))
			cfg.Extra = append(cfg.Extra, "SetEnv HOME="+home)
			ts.Setenv(args[0]+"_home", home)
			continue
		}
		cfg.HostKeys = append(cfg.HostKeys, typ)
	}
	label, err := strconv.Unquote(`"` + label + `"`)
	ts.Check(err)
	in := s.w.AddInstance(label, cfg)
	s.boxes[args[0]] = in
	s.export(ts, args[0], in)
}

// move NAME restarts the machine at other ports and tells the account; "move NAME silently" does not tell it.
func (s *script) move(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "move NAME [silently]")
	in := s.box(ts, args[0])
	listen := []string{"127.0.0.1:0", "127.0.0.2:0"}[:len(in.Addrs())]
	if len(args) > 1 {
		in.Restart(listen...)
	} else {
		s.w.MoveTo(in, listen...)
	}
	s.export(ts, args[0], in)
}

// stop NAME takes the machine's power away, or an impostor's.
func (s *script) stop(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "stop NAME")
	if imp := s.impostors[args[0]]; imp != nil {
		imp.Stop()
		return
	}
	s.box(ts, args[0]).Stop()
}

// restart NAME gives the power back, at the same addresses.
func (s *script) restart(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "restart NAME")
	s.box(ts, args[0]).Restart()
}

// impostor NAME ADDR... puts another machine at the addresses. It lets in whoever has our public key.
func (s *script) impostor(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "impostor NAME ADDR...")
	key, err := os.ReadFile(s.w.Dirs.PublicKey())
	ts.Check(err)
	imp := s.w.Impostor(args[1:], strings.TrimSpace(string(key)))
	s.impostors[args[0]] = imp
	ts.Setenv(args[0]+"_key0", fingerprintOf(imp.HostKeys()[0]))
}

// row NAME FIELD VALUE changes what the account says: status, label, runtype, direct, gateway, gone.
func (s *script) row(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "row NAME FIELD [VALUE]")
	id := s.box(ts, args[0]).ID
	value := ""
	if len(args) > 2 {
		var err error
		value, err = strconv.Unquote(`"` + args[2] + `"`)
		ts.Check(err)
	}
	switch args[1] {
	case "gone":
		s.w.Account.Remove(id)
	default:
		s.w.Account.Update(id, func(in *sim.Instance) {
			switch args[1] {
			case "status":
				in.Status, in.Intended = value, value
			case "label":
				in.Label = value
			case "runtype":
				in.Runtype = value
			case "direct":
				in.Direct = value
			case "gateway":
				in.Gateway = value
			default:
				ts.Fatalf("unknown field %q", args[1])
			}
		})
	}
}

// api down|up|hang|garbage|STATUS [TIMES [BODY]] breaks the API for the next requests, or for all.
func (s *script) api(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "api down|hang|garbage|STATUS [TIMES [BODY]]")
	f := sim.Fault{Times: -1}
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		f.Times = n
	}
	if len(args) > 2 {
		f.Body = args[2]
	}
	switch args[0] {
	case "down":
		f.Drop = true
	case "hang":
		f.Hang = true
	case "garbage":
		f.Garbage = true
	default:
		status, err := strconv.Atoi(args[0])
		ts.Check(err)
		f.Status = status
	}
	s.w.Account.Fault(f)
}

// calls N [ENDPOINT] checks how many requests the API has had.
func (s *script) calls(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "calls N [ENDPOINT]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := len(s.w.Account.Ledger())
	if len(args) > 1 {
		got = s.w.Account.Count(sim.Endpoint(strings.Join(args[1:], " ")))
	}
	if got != want {
		ts.Fatalf("the API had %d calls, want %d: %+v", got, want, s.w.Account.Ledger())
	}
}

// config LINE... writes the configuration file.
func (s *script) config(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 0, "config LINE...")
	s.w.Configure(strings.Join(args, "\n"))
}

// age DURATION makes the cache older.
func (s *script) age(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "age DURATION")
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	ts.Check(ageCache(s.w.Dirs.Cache, d))
}

// code N PROGRAM ARG... runs a program that must exit with N, and keeps its output for stdout and stderr.
func (s *script) code(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "code N PROGRAM ARG...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s exited with %d, want %d", args[1], got, want)
	}
}
