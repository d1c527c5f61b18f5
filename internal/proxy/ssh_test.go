package proxy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"vast-ssh/agent"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/unixsock"
	"vast-ssh/known"
)

// roleEnv makes the test program a ProxyCommand; it holds a role.
const roleEnv = "VAST_SSH_TEST_PROXY"

type role struct {
	Instance  uint64
	Pins      string
	Control   string // socket
	Agent     string // socket, for Through
	User      string
	Endpoints []resolve.Endpoint
	Through   *role // or nil
}

func proxyCommand(text string) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGHUP, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGPIPE)
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		var c *Conn
		if c, err = r.open(ctx); err == nil {
			err = Relay(ctx, c, os.Stdin, os.Stdout)
		}
	}
	switch {
	case ctx.Err() != nil: // whoever sent the signal knows
		return 1
	case err != nil:
		fmt.Fprintln(os.Stderr, "proxy:", err)
		return 1
	}
	return 0
}

func (r *role) open(ctx context.Context) (*Conn, error) {
	cfg := testConfig(known.Open(r.Pins), r.Endpoints...)
	cfg.Instance = r.Instance
	cfg.User = r.User
	cfg.Witness = witnessAt(r.Control)
	if r.Through != nil {
		c, err := r.Through.open(ctx)
		if err != nil {
			return nil, err
		}
		if cfg.Through, err = OpenJump(ctx, c, r.Agent); err != nil {
			return nil, err
		}
	}
	c, err := Open(ctx, cfg)
	if err != nil && cfg.Through != nil {
		cfg.Through.Close()
	}
	return c, err
}

func witnessAt(socket string) func(context.Context, ipc.Witness) error {
	return func(ctx context.Context, w ipc.Witness) error {
		c, err := ipc.Dial(ctx, socket)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Witness(ctx, w)
	}
}

// agentFor is the real agent in this process, on sockets of its own.
type agentFor struct {
	*agent.Agent
	socket, control string
	authorized      string // line of authorized_keys
	stop            func()
}

type agentKeys struct{ signer ssh.Signer }

func (k agentKeys) PublicKey(context.Context) (ssh.PublicKey, error) {
	return k.signer.PublicKey(), nil
}
func (k agentKeys) Signer(context.Context) (ssh.Signer, error) { return k.signer, nil }
func (agentKeys) Locked() bool                                 { return false }

type agentPins struct{ *known.File }

func (p agentPins) Instances(key ssh.PublicKey) ([]uint64, error) {
	pins, err := p.Pins()
	var ids []uint64
	for _, pin := range pins {
		if bytes.Equal(pin.Key.Marshal(), key.Marshal()) {
			ids = append(ids, pin.Instance)
		}
	}
	return ids, err
}

type noLog struct{}

func (noLog) Record(agent.Decision) error { return nil }

// control is the agent's control socket with nothing behind it but witnesses.
type control struct{ *agent.Agent }

func (control) Stop()                                {}
func (control) Lock()                                {}
func (control) Unlock(context.Context, []byte) error { return nil }

func startAgent(t *testing.T, pins *known.File) *agentFor {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Config{
		Keys: agentKeys{signer},
		Pins: agentPins{pins},
		Log:  noLog{},
		// The test's sshd lets in whoever runs the test.
		Policy: func() (agent.Policy, error) {
			return agent.Policy{Users: func(uint64, string) bool { return true }}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	// The path of a socket is short, that of a test's directory may not be.
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &agentFor{
		Agent:      a,
		socket:     filepath.Join(dir, "agent.sock"),
		control:    filepath.Join(dir, "control.sock"),
		authorized: string(ssh.MarshalAuthorizedKey(signer.PublicKey())),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var servers sync.WaitGroup
	var listeners []*unixsock.Listener
	for path, handle := range map[string]func(context.Context, *unixsock.Conn){
		f.socket:  func(ctx context.Context, c *unixsock.Conn) { a.Serve(ctx, c, c.Peer) },
		f.control: func(ctx context.Context, c *unixsock.Conn) { ipc.Serve(ctx, c, control{a}) },
	} {
		l, err := unixsock.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		servers.Go(func() { unixsock.Serve(ctx, l, 16, handle) })
	}
	f.stop = sync.OnceFunc(func() {
		for _, l := range listeners {
			l.Close()
		}
		cancel()
		servers.Wait()
	})
	t.Cleanup(f.stop)
	return f
}

// rig is a pinned sshd, an agent with the key it lets in, and a configuration that reaches both.
type rig struct {
	sshd    *sshd.Server
	agent   *agentFor
	pins    string // path
	cfg     Config
	through *role // or nil
}

// newRig pins the server's own keys, or those that are given.
func newRig(t *testing.T, c sshd.Config, keys ...ssh.PublicKey) *rig {
	t.Helper()
	checkLeaks(t)
	s := sshd.Start(t, c)
	if len(keys) == 0 {
		keys = s.HostKeys()
	}
	pins, path := noPins(t)
	if err := pins.Replace(t.Context(), testInstance, makePins(testInstance, testMachine, known.Tofu, keys)); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, pins)
	s.AddAuthorizedKey(a.authorized)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, s.Addr()))
	cfg.User = s.User()
	cfg.Witness = witnessAt(a.control)
	return &rig{s, a, path, cfg, nil}
}

func (r *rig) role() *role {
	return &role{
		Instance:  r.cfg.Instance,
		Pins:      r.pins,
		Control:   r.agent.control,
		Agent:     r.agent.socket,
		User:      r.cfg.User,
		Endpoints: r.cfg.Endpoints,
		Through:   r.through,
	}
}

// ssh is OpenSSH's client, as one that checks no host key itself, with the test program for its ProxyCommand. Of
// two values of an option it takes the first.
func (r *rig) ssh(t *testing.T, command string, options ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r.role())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, testenv.NeedProgram(t, "ssh"), slices.Concat([]string{"-F", "none"}, options, []string{
		"-o", "ProxyCommand='" + self + "'",
		"-o", "IdentityAgent=" + r.agent.socket,
		"-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null",
		"-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR",
		"-o", "BatchMode=yes",
		"-l", r.cfg.User,
		"vast-1234567", command,
	})...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "SHELL=/bin/sh", roleEnv + "=" + string(text), coverDir()}
	// Whatever an ended ssh leaves behind must not hold up the test: see WaitDelay.
	cmd.WaitDelay = patience
	return cmd
}

func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("ssh: %v\n%s", err, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// OpenSSH logs in through the relay by every kind of key exchange and host key, and stderr stays empty.
func TestSSH(t *testing.T) {
	r := newRig(t, sshd.Config{HostKeys: []string{"ed25519", "ecdsa", "rsa"}})
	options := [][]string{nil}
	for _, kex := range []string{
		"curve25519-sha256", "ecdh-sha2-nistp384", "diffie-hellman-group14-sha256", "diffie-hellman-group-exchange-sha256",
		"sntrup761x25519-sha512@openssh.com",
	} {
		options = append(options, []string{"-o", "KexAlgorithms=" + kex})
	}
	for _, key := range []string{"ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"} {
		options = append(options, []string{"-o", "HostKeyAlgorithms=" + key})
	}
	for i, o := range options {
		t.Run(strings.Join(append(o, "."), " "), func(t *testing.T) {
			out, errs, code := run(t, r.ssh(t, "echo hello; exit 7", o...))
			if out != "hello\n" || errs != "" || code != 7 {
				t.Errorf("got %q, %q, %d", out, errs, code)
			}
			if st := r.agent.Status(t.Context()); st.Signatures != uint64(i+1) || st.Refused != 0 || st.Witnesses != 0 {
				t.Errorf("the agent's state after %d logins: %+v", i+1, st)
			}
		})
	}
}

// A client that would take any key does not even get to see it.
func TestSSHWrongPin(t *testing.T) {
	for _, kex := range []string{"curve25519-sha256", "diffie-hellman-group-exchange-sha256"} {
		t.Run(kex, func(t *testing.T) {
			other := newKey(t)
			r := newRig(t, sshd.Config{}, other)
			out, errs, code := run(t, r.ssh(t, "echo hello", "-o", "KexAlgorithms="+kex, "-o", "LogLevel=DEBUG3"))
			if out != "" || code != 255 {
				t.Errorf("got %q, %d", out, code)
			}
			checkNoReply(t, errs)
			want := []string{
				"proxy: the host key on direct " + r.sshd.Addr() + " is refused",
				ssh.FingerprintSHA256(other), ssh.FingerprintSHA256(r.sshd.HostKeys()[0]),
			}
			for _, w := range want {
				if !strings.Contains(errs, w) {
					t.Errorf("%q is not on stderr:\n%s", w, errs)
				}
			}
			if st := r.agent.Status(t.Context()); st.Signatures != 0 || st.Witnesses != 0 {
				t.Errorf("the agent's state: %+v", st)
			}
		})
	}
}

// coverDir passes on where go test -cover wants the ProxyCommand's part: without it, it complains on stderr.
func coverDir() string { return "GOCOVERDIR=" + os.Getenv("GOCOVERDIR") }

// checkNoReply looks at what ssh tells at LogLevel=DEBUG3: it has waited for the reply, and never got it.
func checkNoReply(t *testing.T, told string) {
	t.Helper()
	if strings.Contains(told, "Server host key") || !strings.Contains(told, "expecting SSH2_MSG_KEX_") {
		t.Errorf("ssh got too far, or not far enough:\n%s", told)
	}
}

func TestSSHAgentGone(t *testing.T) {
	r := newRig(t, sshd.Config{})
	r.agent.stop()
	out, errs, code := run(t, r.ssh(t, "echo hello", "-o", "LogLevel=DEBUG3"))
	if out != "" || code != 255 || !strings.Contains(errs, "proxy: the agent did not take the witness") {
		t.Errorf("got %q, %d and\n%s", out, code, errs)
	}
	if strings.Contains(errs, "SSH2_MSG_SERVICE_ACCEPT received") {
		t.Errorf("the server has heard what was in cipher:\n%s", errs)
	}
}

// Megabytes through ssh both ways, with the client's end of file in the middle of it.
func TestSSHVolume(t *testing.T) {
	r := newRig(t, sshd.Config{})
	const volume = 16 << 20
	cmd := r.ssh(t, "cat")
	cmd.Stdin = noise(5, volume)
	out, errs, code := run(t, cmd)
	if code != 0 || errs != "" || sum(t, strings.NewReader(out)) != sum(t, noise(5, volume)) {
		t.Errorf("%d bytes came back, %q, %d", len(out), errs, code)
	}
}

// An ssh that is killed takes its ProxyCommand with it: both hold stderr, which ends when both have.
func TestSSHKilled(t *testing.T) {
	r := newRig(t, sshd.Config{})
	stderr, w := pipe(t)
	defer stderr.Close()
	cmd := r.ssh(t, "echo here; exec sleep 300")
	cmd.Stderr = w
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := io.ReadFull(stdout, make([]byte, len("here\n"))); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	within(t, "the end of the ProxyCommand", func() {
		if b, err := io.ReadAll(stderr); err != nil || len(b) > 0 {
			t.Errorf("stderr: %q, %v", b, err)
		}
	})
}

// The server loses power in a session. ssh's stdin stays open, and both processes end all the same.
func TestSSHServerDies(t *testing.T) {
	r := newRig(t, sshd.Config{})
	cmd := r.ssh(t, "echo here; exec sleep 300")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("here\n"))); err != nil {
		t.Fatal(err)
	}
	r.sshd.Stop()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	await(t, "the end of ssh", ended)
	if code := cmd.ProcessState.ExitCode(); code != 255 {
		t.Errorf("ssh ended with %d", code)
	}
}

// The ProxyCommand by itself: what it does with closed pipes and signals is between it and the kernel.
func TestProxyCommandEnds(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for name, tc := range map[string]struct {
		end  func(*exec.Cmd, io.Closer, io.Closer)
		fine bool
	}{
		"stdin closed":  {func(_ *exec.Cmd, in, _ io.Closer) { in.Close() }, true},
		"stdout closed": {func(_ *exec.Cmd, _, out io.Closer) { out.Close() }, true},
		"SIGHUP":        {func(c *exec.Cmd, _, _ io.Closer) { c.Process.Signal(syscall.SIGHUP) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			chatty := make(chan struct{})
			s := serve(t, replay(h, nil, func(c *net.TCPConn) {
				go drain(c)
				<-chatty
				for {
					if _, err := c.Write(make([]byte, 1<<16)); err != nil {
						return
					}
				}
			}))
			pins, path := noPins(t)
			if err := pins.Replace(t.Context(), testInstance, makePins(testInstance, 0, known.Tofu, []ssh.PublicKey{h.key})); err != nil {
				t.Fatal(err)
			}
			ctl := startControl(t)
			text, err := json.Marshal(role{
				Instance: testInstance, Pins: path, Control: ctl, User: "root",
				Endpoints: []resolve.Endpoint{endpoint(t, resolve.Direct, s.addr())},
			})
			if err != nil {
				t.Fatal(err)
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, self)
			cmd.Env = []string{roleEnv + "=" + string(text), coverDir()}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write(h.FromClient[:h.newKeys]); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(out, make([]byte, len(h.FromServer))); err != nil {
				t.Error(err)
			}
			if _, err := in.Write(h.FromClient[h.newKeys:]); err != nil {
				t.Error(err)
			}
			tc.end(cmd, in, out)
			close(chatty)
			// Wait closes out, so it shall come after the end.
			state, err := cmd.Process.Wait()
			cmd.Wait()
			if err != nil {
				t.Fatal(err)
			}
			if ws := state.Sys().(syscall.WaitStatus); !ws.Exited() || state.Success() != tc.fine || stderr.Len() > 0 {
				t.Errorf("it ended with %v and %q", state, stderr.String())
			}
		})
	}
}

// startControl is a control socket that takes every witness.
func startControl(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := unixsock.Listen(filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		unixsock.Serve(ctx, l, 16, func(ctx context.Context, c *unixsock.Conn) { ipc.Serve(ctx, c, gullible{}) })
	}()
	t.Cleanup(func() {
		l.Close()
		cancel()
		<-done
	})
	return filepath.Join(dir, "control.sock")
}

type gullible struct{}

func (gullible) Witness(context.Context, ipc.Witness) error { return nil }
func (gullible) Withdraw(ipc.Witness) *ipc.Refusal          { return nil }
func (gullible) Lock()                                      {}
func (gullible) Unlock(context.Context, []byte) error       { return nil }
func (gullible) Status(context.Context) ipc.Status          { return ipc.Status{} }
func (gullible) Stop()                                      {}

func TestLogin(t *testing.T) {
	for _, hostKeys := range [][]string{{"ed25519"}, {"ecdsa"}, {"rsa"}, {"rsa", "ecdsa", "ed25519"}} {
		t.Run(strings.Join(hostKeys, " "), func(t *testing.T) {
			r := newRig(t, sshd.Config{HostKeys: hostKeys})
			for range 2 {
				if got := r.login(t); got != "hello\n" {
					t.Errorf("got %q", got)
				}
			}
			if st := r.agent.Status(t.Context()); st.Signatures != 2 || st.Refused != 0 || st.Witnesses != 0 {
				t.Errorf("the agent's state: %+v", st)
			}
		})
	}
}

func (r *rig) login(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	client, err := Login(ctx, open(t, r.cfg), r.agent.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	cancel() // it bounds the login only
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.Output("echo hello")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Of the keys that the machine has, the client asks for one that is pinned.
func TestLoginAsksForThePinnedType(t *testing.T) {
	for i := range 3 {
		checkLeaks(t)
		s := sshd.Start(t, sshd.Config{HostKeys: []string{"ed25519", "ecdsa", "rsa"}})
		pins := pinned(t, s.HostKeys()[i])
		a := startAgent(t, pins)
		s.AddAuthorizedKey(a.authorized)
		cfg := testConfig(pins, endpoint(t, resolve.Direct, s.Addr()))
		cfg.User, cfg.Witness = s.User(), witnessAt(a.control)
		r := &rig{sshd: s, agent: a, cfg: cfg}
		if got := r.login(t); got != "hello\n" {
			t.Errorf("with %s: got %q", s.HostKeys()[i].Type(), got)
		}
	}
}

// The reason of a refusal comes back, and not the end of file that the library sees.
func TestLoginRefused(t *testing.T) {
	t.Run("wrong pin", func(t *testing.T) {
		r := newRig(t, sshd.Config{}, newKey(t))
		_, err := Login(t.Context(), open(t, r.cfg), r.agent.socket)
		e, ok := err.(*HostKeyError)
		if !ok {
			t.Fatalf("got %v (%T)", err, err)
		}
		m := wantAs[*known.MismatchError](t, err)
		if e.Instance != testInstance || e.Endpoint != r.cfg.Endpoints[0] || m.Instance != testInstance {
			t.Errorf("got %+v, %+v", e, m)
		}
	})
	t.Run("witness refused", func(t *testing.T) {
		r := newRig(t, sshd.Config{})
		r.cfg.Witness = func(context.Context, ipc.Witness) error { return &ipc.RefusedError{Reason: "r", Sentence: "no"} }
		_, err := Login(t.Context(), open(t, r.cfg), r.agent.socket)
		wantAs[*WitnessError](t, err)
		wantAs[*ipc.RefusedError](t, err)
	})
	t.Run("agent has other pins", func(t *testing.T) {
		r := newRig(t, sshd.Config{})
		other := startAgent(t, pinned(t, newKey(t)))
		r.cfg.Witness = witnessAt(other.control)
		_, err := Login(t.Context(), open(t, r.cfg), other.socket)
		wantAs[*WitnessError](t, err)
		if e := wantAs[*ipc.RefusedError](t, err); e.Reason != string(agent.NotPinned) {
			t.Errorf("reason %q", e.Reason)
		}
	})
	t.Run("no agent", func(t *testing.T) {
		r := newRig(t, sshd.Config{})
		c := open(t, r.cfg)
		r.agent.stop()
		_, err := Login(t.Context(), c, r.agent.socket)
		wantText(t, err, "reach the agent")
		_, err = io.ReadAll(c)
		wantIs(t, err, net.ErrClosed)
	})
	t.Run("no witness", func(t *testing.T) {
		r := newRig(t, sshd.Config{})
		r.cfg.Witness = func(context.Context, ipc.Witness) error { return nil }
		_, err := Login(t.Context(), open(t, r.cfg), r.agent.socket)
		wantText(t, err, "failed to sign")
		if st := r.agent.Status(t.Context()); st.Signatures != 0 {
			t.Errorf("it signed: %+v", st)
		}
	})
	t.Run("unknown key", func(t *testing.T) {
		r := newRig(t, sshd.Config{})
		r.sshd.SetAuthorizedKeys()
		_, err := Login(t.Context(), open(t, r.cfg), r.agent.socket)
		wantText(t, err, "unable to authenticate")
	})
	t.Run("pin removed meanwhile", func(t *testing.T) {
		// Between the watch and the library's own look at the key.
		r := newRig(t, sshd.Config{})
		r.cfg.Trace = func(step string, _ time.Duration) {
			if strings.Contains(step, "matches its pin") {
				if _, err := r.cfg.Pins.Remove(t.Context(), testInstance); err != nil {
					t.Error(err)
				}
			}
		}
		_, err := Login(t.Context(), open(t, r.cfg), r.agent.socket)
		wantAs[*known.UnknownError](t, err)
		if st := r.agent.Status(t.Context()); st.Signatures != 0 || st.Witnesses != 0 {
			t.Errorf("the agent's state: %+v", st)
		}
	})
}

// A machine signs something else with its pinned key than the client's session, such as the session id of a connection of
// its own with another machine of the user. The client finds out, and the agent must not have a witness of it.
func TestLoginBadSignature(t *testing.T) {
	checkLeaks(t)
	key := newSigner(t, "ed25519")
	s := machineWith(t, elsewhere{key})
	pins := pinned(t, key.PublicKey())
	a := startAgent(t, pins)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, s.addr()))
	cfg.Witness = func(context.Context, ipc.Witness) error { t.Error("a witness was given"); return nil }
	if _, err := Login(t.Context(), open(t, cfg), a.socket); err == nil {
		t.Error("logged in")
	}
}

// elsewhere signs another session id than it is asked to.
type elsewhere struct{ ssh.Signer }

func (e elsewhere) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return e.Signer.Sign(rand, bytes.Repeat([]byte{7}, len(data)))
}

// The server goes silent in the login, before and after the watched part of it.
func TestLoginCancel(t *testing.T) {
	h := handshakeNamed(t, "x-crypto-curve25519-sha256")
	for name, n := range map[string]int{"after ident": bytes.IndexByte(h.FromServer, '\n') + 1, "after KEXINIT": h.reply} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			pins := pinned(t, h.key)
			a := startAgent(t, pins)
			gone := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			s := serve(t, func(c *net.TCPConn) {
				c.Write(h.FromServer[:n])
				c.Read(make([]byte, 1))
				cancel()
				silent(gone)(c)
			})
			_, err := Login(ctx, open(t, testConfig(pins, endpoint(t, resolve.Direct, s.addr()))), a.socket)
			wantIs(t, err, context.Canceled)
			checkGone(t, gone)
		})
	}
	t.Run("after the key exchange", func(t *testing.T) {
		checkLeaks(t)
		key := newSigner(t, "ed25519")
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		s := serve(t, func(c *net.TCPConn) {
			cfg := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
				cancel()
				<-over
				return nil, errors.New("no")
			}}
			cfg.AddHostKey(key)
			ssh.NewServerConn(c, cfg)
		})
		pins := pinned(t, key.PublicKey())
		a := startAgent(t, pins)
		_, err := Login(ctx, open(t, testConfig(pins, endpoint(t, resolve.Direct, s.addr()))), a.socket)
		close(over)
		wantIs(t, err, context.Canceled)
	})
	t.Run("before", func(t *testing.T) {
		checkLeaks(t)
		pins := pinned(t, h.key)
		a := startAgent(t, pins)
		s := serve(t, replay(h, nil, drain))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := Login(ctx, open(t, testConfig(pins, endpoint(t, resolve.Direct, s.addr()))), a.socket)
		wantIs(t, err, context.Canceled)
	})
}

// Several at a time, each with its own witness.
func TestLoginConcurrent(t *testing.T) {
	r := newRig(t, sshd.Config{})
	var all sync.WaitGroup
	results := make([]string, 8)
	for i := range results {
		all.Go(func() { results[i] = r.login(t) })
	}
	all.Wait()
	if slices.ContainsFunc(results, func(s string) bool { return s != "hello\n" }) {
		t.Errorf("got %q", results)
	}
	if st := r.agent.Status(t.Context()); st.Signatures != uint64(len(results)) || st.Refused != 0 {
		t.Errorf("the agent's state: %+v", st)
	}
}

// signers are the agent's, for a client of the test's own.
func (f *agentFor) signers(t *testing.T) func() ([]ssh.Signer, error) {
	t.Helper()
	sock, err := unixsock.Dial(t.Context(), f.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sock.Close() })
	return sshagent.NewClient(sock).Signers
}
