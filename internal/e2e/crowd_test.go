package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
	"vast-ssh/known"
)

const (
	// crowd is how many proxies begin at once.
	crowd = 200
	// atOnce is how many of their clients work at a time: the machine that runs the test is the clients' and the
	// instance's too, and what the agent keeps for a login expires.
	atOnce = 40
)

// crowdTimeout bounds one process of a test here.
const crowdTimeout = 5 * time.Minute

// counted makes a directory with vast-ssh and a vast-agent that writes down the pid of every start.
func (w *World) counted() (vastSSH, vastAgent string, starts func() []string) {
	w.T.Helper()
	dir, ledger := filepath.Join(w.Home, "bin"), filepath.Join(w.Home, "starts")
	if err := os.Mkdir(dir, 0o700); err != nil {
		w.T.Fatal(err)
	}
	vastSSH, vastAgent = filepath.Join(dir, "vast-ssh"), filepath.Join(dir, "control")
	for link, original := range map[string]string{vastSSH: "vast-ssh", vastAgent: "vast-agent"} {
		if err := os.Link(filepath.Join(w.Bin, original), link); err != nil {
			w.T.Fatal(err)
		}
	}
	script := fmt.Sprintf("#!/bin/sh\necho $$ >>'%s'\nexec '%s' \"$@\"\n", ledger, filepath.Join(w.Bin, "vast-agent"))
	writeProgram(w.T, filepath.Join(dir, "vast-agent"), []byte(script))
	return vastSSH, vastAgent, func() []string {
		w.T.Helper()
		data, err := os.ReadFile(ledger)
		if err != nil {
			w.T.Fatal(err)
		}
		return strings.Fields(string(data))
	}
}

// writeProgram writes a file that can be run at once: a process that another test forks while it is open for writing would keep
// it from that.
func writeProgram(t testing.TB, path string, program []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, program, 0o700)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
}

// oneAgent checks that one agent was started, that it is the one that answers, and that none had anything to say.
func (w *World) oneAgent(starts []string) {
	w.T.Helper()
	st := agentStatus(w.T, w)
	if len(starts) != 1 || starts[0] != strconv.Itoa(st.PID) {
		w.T.Errorf("agents %v were started, and %d answers", starts, st.PID)
	}
	if log, err := os.ReadFile(w.Dirs.AgentLog()); err != nil || len(log) > 0 {
		w.T.Errorf("the agent's log: %v, %q", err, log)
	}
}

// proxied is a running vast-ssh proxy with this process as its client: Read and Write are its stdout and stdin.
type proxied struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	stderr bytes.Buffer
}

func (w *World) startProxy(ctx context.Context, vastSSH string, in *Instance) (*proxied, error) {
	p := &proxied{cmd: w.Command(ctx, nil, vastSSH, "proxy", idOf(in))}
	p.cmd.Stderr = &p.stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return p, p.cmd.Start()
}

func (p *proxied) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p *proxied) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p *proxied) Close() error                { return errors.Join(p.in.Close(), p.out.Close()) }

func (p *proxied) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "stdin", Net: "unix"} }
func (p *proxied) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "stdout", Net: "unix"} }
func (p *proxied) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (p *proxied) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (p *proxied) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// ends checks that the proxy ends with the exit code and without a word.
func (p *proxied) ends(code int) error {
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("the proxy: %w", err)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code || p.stderr.Len() > 0 {
		return fmt.Errorf("the proxy ended with %v, want exit %d in silence\n%s", p.cmd.ProcessState, code, &p.stderr)
	}
	return nil
}

// login logs in through conn with a client that checks nothing and with the user's agent.
func (w *World) login(conn net.Conn, user string) (*ssh.Client, error) {
	var agent net.Conn
	defer func() {
		if agent != nil {
			agent.Close()
		}
	}()
	c, channels, requests, err := ssh.NewClientConn(conn, "instance", &ssh.ClientConfig{
		User:            user,
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() (keys []ssh.Signer, err error) {
			if agent, err = net.Dial("unix", w.Dirs.AgentSocket()); err != nil {
				return nil, err
			}
			return sshagent.NewClient(agent).Signers()
		})},
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

// Two hundred logins to an instance that nobody has met yet, from nothing but a key: one asks the API, one meets the
// instance, one starts the agent, and all get in.
func TestCrowdLogsIn(t *testing.T) {
	keygen := testenv.NeedProgram(t, "ssh-keygen")
	w := New(t)
	in := w.AddInstance("", sshd.Config{HostKeys: []string{"ed25519", "ecdsa"}})
	w.Configure(`witness_life = "5m"`)
	w.Ready()
	vastSSH, _, starts := w.counted()
	ctx, cancel := context.WithTimeout(context.Background(), crowdTimeout)
	defer cancel()

	var proxies []*proxied
	for range crowd {
		p, err := w.startProxy(ctx, vastSSH, in)
		if err != nil {
			t.Fatal(err)
		}
		proxies = append(proxies, p)
	}
	var logins sync.WaitGroup
	turns := make(chan struct{}, atOnce)
	for i, p := range proxies {
		logins.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			client, err := w.login(p, in.User())
			if err != nil {
				p.Close()
				t.Errorf("login %d: %v; %v", i, err, p.ends(0))
				return
			}
			// No command: a shell's start costs the machine more than all the rest.
			_, err = client.NewSession()
			client.Close()
			if err := errors.Join(err, p.ends(0)); err != nil {
				t.Errorf("login %d: %v", i, err)
			}
		})
	}
	logins.Wait()

	if n := w.Account.Count(sim.ShowEndpoint); n != 1 || len(w.Account.Ledger()) != 1 {
		t.Errorf("the API was asked for the instance %d times: %+v", n, w.Account.Ledger())
	}
	w.oneAgent(starts())
	if st := agentStatus(t, w); st.Signatures != crowd || st.Refused != 0 || st.Witnesses != 0 {
		t.Errorf("the agent gave %d signatures, refused %d requests and keeps %d witnesses",
			st.Signatures, st.Refused, st.Witnesses)
	}
	if n := strings.Count(in.Log(), "Accepted publickey"); n != crowd {
		t.Errorf("sshd let in %d clients", n)
	}
	// A scan asks for each type of host key by itself, which shows in the log where there is none of it: three of the
	// five types, by two routes.
	if n := strings.Count(in.Log(), "no matching host key type found"); n > 3*2 {
		t.Errorf("the instance was met more than once: %d requests for a host key that it has not", n)
	}
	pins, err := known.Open(w.Dirs.KnownHosts()).Pins()
	if err != nil || len(pins) != len(in.HostKeys()) {
		t.Fatalf("pins %v, %v", pins, err)
	}
	for _, pin := range pins {
		if pin.Instance != in.ID || pin.Via != known.TwoPath {
			t.Errorf("a pin of instance %d by %s", pin.Instance, pin.Via)
		}
	}
	found := w.Must(keygen, "-F", known.Name(in.ID), "-f", w.Dirs.KnownHosts())
	for _, key := range in.HostKeys() {
		if !strings.Contains(found, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))) {
			t.Errorf("ssh-keygen -F lacks %s:\n%s", key.Type(), found)
		}
	}
	for dir, want := range map[string][]string{
		w.Dirs.SSH: {".", ".key.lock", ".known_hosts.lock", "." + known.Name(in.ID) + ".lock", "id_ed25519",
			"id_ed25519.pub", "known_hosts"},
		w.Dirs.Cache: {".", idOf(in) + ".json", idOf(in) + ".lock"},
		w.Dirs.State: {".", "agent.lock", "agent.log", "agent.sock", "control.sock", "decisions", "decisions/lock",
			"decisions/log.jsonl", "start.lock"},
	} {
		if got := tree(t, dir); !slices.Equal(got, want) {
			t.Errorf("%s holds %q, want %q", dir, got, want)
		}
	}
}

// Twenty starts of the agent at once leave one.
func TestCrowdStartsAgent(t *testing.T) {
	w := New(t)
	w.Ready()
	_, vastAgent, starts := w.counted()
	var running sync.WaitGroup
	for range 20 {
		running.Go(func() {
			if r := w.Run(vastAgent, "start"); r.Code != 0 || r.Stdout+r.Stderr != "" {
				t.Errorf("vast-agent start: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
			}
		})
	}
	running.Wait()
	w.oneAgent(starts())
}

// cutOff is a client that goes away in the middle of a message.
type cutOff struct {
	*proxied
	whole int // messages left to send before that
}

func (c *cutOff) Write(p []byte) (int, error) {
	if c.whole--; c.whole >= 0 {
		return c.proxied.Write(p)
	}
	n, err := c.proxied.Write(p[:len(p)/2])
	return n, errors.Join(err, c.Close(), net.ErrClosed)
}

// A side that goes away takes the proxy with it, at once and without a word.
func TestCrowdLeaves(t *testing.T) {
	w := New(t)
	in := w.AddInstance("", sshd.Config{})
	w.Ready()
	w.Must("vast-ssh", idOf(in), "true")
	vastSSH := filepath.Join(w.Bin, "vast-ssh")
	ctx, cancel := context.WithTimeout(context.Background(), crowdTimeout)
	defer cancel()
	start := func(t *testing.T) *proxied {
		t.Helper()
		p, err := w.startProxy(ctx, vastSSH, in)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	// busy is a session in which the server talks without end. It has begun.
	busy := func(t *testing.T) (*proxied, *ssh.Client) {
		t.Helper()
		p := start(t)
		client, err := w.login(p, in.User())
		if err != nil {
			t.Fatal(err)
		}
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start("yes"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, out)
		return p, client
	}
	over := func(t *testing.T, p *proxied, client *ssh.Client, code int) {
		t.Helper()
		client.Wait()
		client.Close()
		if err := p.ends(code); err != nil {
			t.Error(err)
		}
	}

	t.Run("after the banner", func(t *testing.T) {
		p := start(t)
		if _, err := io.ReadFull(p, make([]byte, len("SSH-2.0-"))); err != nil {
			t.Fatal(err)
		}
		p.Close()
		if err := p.ends(0); err != nil {
			t.Error(err)
		}
	})
	for n, message := range []string{"identification", "KEXINIT", "half of the key exchange", "NEWKEYS", "first request"} {
		t.Run("in its "+message, func(t *testing.T) {
			p := start(t)
			if _, err := w.login(&cutOff{p, n}, in.User()); err == nil {
				t.Fatal("logged in")
			}
			p.Close()
			if err := p.ends(0); err != nil {
				t.Error(err)
			}
		})
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT} {
		t.Run(fmt.Sprintf("by the signal %v", sig), func(t *testing.T) {
			p, client := busy(t)
			if err := p.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			over(t, p, client, 1)
		})
	}
	t.Run("in a session", func(t *testing.T) {
		p, client := busy(t)
		p.Close()
		over(t, p, client, 0)
	})
	t.Run("with a broken pipe", func(t *testing.T) {
		p, client := busy(t)
		p.out.Close()
		over(t, p, client, 0)
	})
	t.Run("with the server", func(t *testing.T) {
		p, client := busy(t)
		in.Stop()
		over(t, p, client, 0)
		in.Restart()
	})
	for _, victim := range []string{"proxy", "ssh"} {
		t.Run("with a real ssh, by the end of the "+victim, func(t *testing.T) { w.killMidway(t, in, victim) })
	}
}

// killMidway has ssh log in, and ends it or its proxy as ssh's own end would. Both must be gone then.
func (w *World) killMidway(t *testing.T, in *Instance, victim string) {
	pidFile := filepath.Join(w.Home, "pid")
	argv := openssh()(testenv.NeedProgram(t, "ssh"), errand{
		user: in.User(), host: "vast", port: "22", socket: w.Dirs.AgentSocket(), command: "echo in; cat",
		proxy: fmt.Sprintf("sh -c 'echo $$ >%s; exec %s proxy %d'", pidFile, filepath.Join(w.Bin, "vast-ssh"), in.ID),
	})
	ctx, cancel := context.WithTimeout(context.Background(), crowdTimeout)
	defer cancel()
	cmd := w.Command(ctx, nil, argv[0], argv[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Whoever lives holds the other end.
	alive, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	cmd.Stderr = stderr
	err = cmd.Start()
	stderr.Close()
	if err != nil {
		t.Fatal(err)
	}
	var word string
	if _, err := fmt.Fscanln(stdout, &word); err != nil || word != "in" {
		said, _ := io.ReadAll(alive)
		t.Fatalf("the session: %q, %v\n%s", word, err, said)
	}
	pid := cmd.Process.Pid
	sig := syscall.SIGKILL
	if victim == "proxy" {
		data, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		if pid, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
			t.Fatal(err)
		}
		sig = syscall.SIGHUP
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
	alive.SetReadDeadline(time.Now().Add(crowdTimeout))
	said, err := io.ReadAll(alive)
	if err != nil {
		t.Errorf("somebody lives on: %v", err)
	}
	if strings.Contains(string(said), "vast-ssh") || strings.Contains(string(said), "error:") {
		t.Errorf("the proxy said something:\n%s", said)
	}
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok ||
		victim == "proxy" && status.ExitStatus() != 255 || victim == "ssh" && status.Signal() != syscall.SIGKILL {
		t.Errorf("ssh: %v", err)
	}
}
