// Package e2e tests the two programs whole: both built as they ship, against a simulated account and real sshd. It holds
// what those tests and the benchmarks share.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/config"
	// The programs are built by a command into which go test does not see. With what they are made of linked in, no
	// result of before a change is taken from its cache.
	_ "vast-ssh/internal/cli/agentcmd"
	_ "vast-ssh/internal/cli/sshcmd"
	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/sshd"
)

var programs struct {
	once sync.Once
	dir  string
	err  error
}

// Programs builds vast-ssh and vast-agent once for the test binary and returns the directory that holds them. The caller's
// TestMain removes it with Cleanup.
func Programs(t testing.TB) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "vs"); programs.err != nil {
			return
		}
		if out, err := exec.Command("go", "generate", "vast-ssh/internal/wipe/deploy").CombinedOutput(); err != nil {
			programs.err = fmt.Errorf("build the helper: %w\n%s", err, out)
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-o", programs.dir+string(filepath.Separator), "vast-ssh/cmd/...")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			programs.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}

// Cleanup removes what Programs built.
func Cleanup() { os.RemoveAll(programs.dir) }

// World is one user: a HOME, an account, and the instances in it. All ends with the test.
type World struct {
	T       testing.TB
	Bin     string
	Home    string
	Dirs    config.Dirs
	Account *sim.Account

	mu        sync.Mutex // protects the following
	instances map[uint64]*Instance
}

// Instance is an instance in the account with a real sshd behind its addresses.
type Instance struct {
	ID    uint64
	Label string
	Machine
}

// Machine is what stands behind the addresses of an instance: an sshd.Server, or an overlay.Instance.
type Machine interface {
	Addr() string
	Addrs() []string
	HostKeys() []ssh.PublicKey
	User() string
	Log() string
	AddAuthorizedKey(line string)
	RemoveAuthorizedKey(line string)
	SetAuthorizedKeys(lines ...string)
	Stop()
	Restart(listen ...string)
}

// New makes a world with an empty HOME. Its path is short, since sockets live in it.
func New(t testing.TB) *World {
	t.Helper()
	return NewWith(t, sim.Options{})
}

// NewWith is New with an account of the options, whose hooks for keys are the world's. One of opts for a key that arrives runs
// before it is let in.
func NewWith(t testing.TB, opts sim.Options) *World {
	t.Helper()
	home, err := os.MkdirTemp("", "vs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	w := &World{T: t, Bin: Programs(t), Home: home, instances: make(map[uint64]*Instance)}
	if w.Dirs, err = config.LocateDirs(func(name string) string {
		if name == "HOME" {
			return w.Home
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	arrives := opts.OnAttach
	opts.OnAttach = func(id uint64, authorizedKey string) {
		if arrives != nil {
			arrives(id, authorizedKey)
		}
		w.attached(id, authorizedKey)
	}
	opts.OnDetach = w.detached
	w.Account = sim.NewAccount(opts)
	if err := w.Account.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.stopAgent()
		w.Account.Close()
		for _, r := range w.Account.Unexpected() {
			t.Errorf("the API got a request that nobody expected: %s %s: %s", r.Method, r.Path, r.Unexpected)
		}
		for _, f := range w.Account.PendingFaults() {
			t.Errorf("a fault was never met: %+v", f)
		}
	})
	w.Configure("")
	return w
}

// Configure writes the configuration file: the user that the test's sshd lets in, and lines.
func (w *World) Configure(lines string) {
	w.T.Helper()
	if err := os.MkdirAll(w.Dirs.Config, 0o700); err != nil {
		w.T.Fatal(err)
	}
	text := fmt.Sprintf("user = %q\n%s\n", userName(), lines)
	if err := os.WriteFile(w.Dirs.ConfigFile(), []byte(text), 0o600); err != nil {
		w.T.Fatal(err)
	}
}

func userName() string {
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		return "root"
	}
	return strings.TrimSpace(string(out))
}

// Env is the environment of the user's processes: nothing of the machine's own but PATH.
func (w *World) Env() []string {
	return []string{
		"HOME=" + w.Home,
		"PATH=" + w.Bin + string(os.PathListSeparator) + os.Getenv("PATH") + string(os.PathListSeparator) + "/usr/sbin",
		"TMPDIR=" + w.Home,
		"USER=" + userName(),
		"LANG=C.UTF-8",
		"SHELL=/bin/sh",
		"VAST_URL=" + w.Account.URL(),
		"VAST_API_KEY=" + w.Account.Key().Reveal(),
	}
}

// AddInstance puts an instance with the label into the account: a real sshd with a direct route and a gateway.
func (w *World) AddInstance(label string, cfg sshd.Config) *Instance {
	w.T.Helper()
	if len(cfg.Listen) == 0 {
		cfg.Listen = twoRoutes()
	}
	server := sshd.Start(w.T, cfg)
	addrs := append(server.Addrs(), "")
	id := w.Account.Add(sim.Instance{Label: label, Direct: addrs[0], Gateway: addrs[1]})
	return w.enter(&Instance{ID: id, Label: label, Machine: server})
}

// twoRoutes are the addresses of a direct route and of a gateway.
func twoRoutes() []string { return []string{"127.0.0.1:0", "127.0.0.2:0"} }

// enter makes the world know an instance that is in the account.
func (w *World) enter(in *Instance) *Instance {
	w.T.Helper()
	w.mu.Lock()
	w.instances[in.ID] = in
	w.mu.Unlock()
	// The keys that it is created with, and what was attached before attached knew it.
	for _, key := range append(w.Account.AccountKeys(), w.Account.InstanceKeys(in.ID)...) {
		in.AddAuthorizedKey(key.PublicKey)
	}
	return in
}

// attached lets a key into the sshd of an instance, as the host's daemon does.
func (w *World) attached(id uint64, authorizedKey string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if in := w.instances[id]; in != nil {
		in.AddAuthorizedKey(authorizedKey)
	}
}

// detached takes a key off the sshd of an instance.
func (w *World) detached(id uint64, authorizedKey string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if in := w.instances[id]; in != nil {
		in.RemoveAuthorizedKey(authorizedKey)
	}
}

// MoveTo starts the instance's sshd at other addresses and tells the account.
func (w *World) MoveTo(in *Instance, listen ...string) {
	w.T.Helper()
	in.Restart(listen...)
	addrs := append(in.Addrs(), "")
	w.Account.Move(in.ID, addrs[0], addrs[1])
}

// Impostor puts another machine, which lets everybody's keys in, at the addresses given.
func (w *World) Impostor(addrs []string, authorizedKeys ...string) *sshd.Server {
	w.T.Helper()
	return sshd.Start(w.T, sshd.Config{Listen: addrs, AuthorizedKeys: authorizedKeys})
}

// lastWords bounds the wait for the output of what a program leaves: a ProxyCommand says why there is no login when its ssh
// has ended.
const lastWords = 2 * time.Minute

// Result is what a program did.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// runTimeout bounds one program.
const runTimeout = 4 * time.Minute

// Run runs a program as the user and returns when it has ended.
func (w *World) Run(name string, args ...string) Result {
	w.T.Helper()
	return w.RunEnv(nil, name, args...)
}

// RunEnv is Run with more environment.
func (w *World) RunEnv(env []string, name string, args ...string) Result {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := w.Command(ctx, env, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		w.T.Fatalf("%s %q did not end in %v\n%s%s", name, args, runTimeout, stdout.String(), stderr.String())
	}
	if cmd.ProcessState == nil {
		w.T.Fatalf("%s: %v", name, err)
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// Must runs a program that has to succeed, and returns its stdout.
func (w *World) Must(name string, args ...string) string {
	w.T.Helper()
	r := w.Run(name, args...)
	if r.Code != 0 {
		w.T.Fatalf("%s %q: exit %d\n%s%s", name, args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Command prepares a program as the user's.
func (w *World) Command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	if ours := filepath.Join(w.Bin, name); !strings.Contains(name, "/") {
		if _, err := os.Stat(ours); err == nil {
			name = ours
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(w.Env(), env...)
	cmd.Dir = w.Home
	cmd.WaitDelay = lastWords
	return cmd
}

// Ready makes a key and lets it into the instances there are.
func (w *World) Ready() {
	w.T.Helper()
	w.Must("vast-ssh", "key", "init")
	line := strings.TrimSpace(w.Must("vast-ssh", "key", "show"))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range w.instances {
		in.AddAuthorizedKey(line)
	}
}

func (w *World) stopAgent() {
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	if out, err := w.Command(ctx, nil, "vast-agent", "stop").CombinedOutput(); err != nil {
		w.T.Errorf("vast-agent stop: %v\n%s", err, out)
	}
}
