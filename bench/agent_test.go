package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
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
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/config"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/e2e"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/testenv"
	"vast-ssh/known"
)

// user is the login user of the sessions that are signed for.
const user = "root"

// The messages of RFC 9987 section 6.1 that are used here.
const (
	msgSuccess      = 6
	msgSignRequest  = 13
	msgSignResponse = 14
	msgExtension    = 27
)

// agents are a running vast-agent and a running ssh-agent with the same ed25519 key.
type agents struct {
	dirs   config.Dirs
	pid    int    // of vast-agent
	theirs string // socket of ssh-agent
	key    ssh.PublicKey
	hosts  []ssh.Signer // the host key at i is pinned for instance i+1
}

// newAgents starts both. There are n instances.
func newAgents(b *testing.B, n int) *agents {
	b.Helper()
	sshAgent, sshAdd := testenv.NeedProgram(b, "ssh-agent"), testenv.NeedProgram(b, "ssh-add")
	w := e2e.New(b)
	w.Configure(`custody = "file"`)
	w.Must("vast-ssh", "key", "init")
	a := &agents{dirs: w.Dirs, theirs: filepath.Join(w.Home, "ssh-agent.sock")}
	var err error
	if a.key, err = custody.ReadPublic(w.Dirs.PublicKey()); err != nil {
		b.Fatal(err)
	}
	pins := known.Open(w.Dirs.KnownHosts())
	for i := range n {
		host := newKey(b)
		a.hosts = append(a.hosts, host)
		id := uint64(i + 1)
		pin := known.Pin{Instance: id, Key: host.PublicKey(), Via: known.Manual, At: time.Now()}
		if err := pins.Replace(b.Context(), id, []known.Pin{pin}); err != nil {
			b.Fatal(err)
		}
	}
	awaitSettled(b, w.Dirs.KnownHosts())

	ours := w.Command(b.Context(), nil, "vast-agent", "run")
	stderr, err := ours.StderrPipe()
	start(b, ours, stderr, err, "listening on")
	a.pid = ours.Process.Pid
	theirs := w.Command(b.Context(), nil, sshAgent, "-D", "-a", a.theirs)
	stdout, err := theirs.StdoutPipe()
	start(b, theirs, stdout, err, a.theirs)
	w.Must("env", "SSH_AUTH_SOCK="+a.theirs, sshAdd, "-q", w.Dirs.PrivateKey())
	return a
}

func newKey(b *testing.B) ssh.Signer {
	b.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		b.Fatal(err)
	}
	return signer
}

// settled is how old the pins must be before the agent keeps them in memory, see known.File, and a bit.
const settled = 2100 * time.Millisecond

// awaitSettled waits until the file at path is older than settled. There is no event for that, and ctime cannot be set.
func awaitSettled(b *testing.B, path string) {
	b.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		b.Fatal(err)
	}
	<-time.After(time.Until(time.Unix(st.Ctim.Unix()).Add(settled)))
}

// start runs a program that ends with the benchmark, and returns when a line of its output has the word.
func start(b *testing.B, cmd *exec.Cmd, output io.Reader, err error, word string) {
	b.Helper()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	r := bufio.NewReader(output)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			b.Fatalf("%s: %v, %q", cmd.Path, err, line)
		}
		if strings.Contains(line, word) {
			return
		}
	}
}

// session is one login, as far as an agent sees it: each can be signed for once by vast-agent.
type session struct {
	witness ipc.Witness
	bind    []byte // message
	sign    []byte // message
}

// newSessions makes n sessions with the instance whose host key is at i. Servers do this work, not agents.
func (a *agents) newSessions(b *testing.B, i, n int, hostBound bool) []session {
	b.Helper()
	host := a.hosts[i]
	hostKey := host.PublicKey().Marshal()
	sessions := make([]session, n)
	for j := range sessions {
		id := make([]byte, 32)
		rand.Read(id)
		sig, err := host.Sign(rand.Reader, id)
		if err != nil {
			b.Fatal(err)
		}
		proof := ssh.Marshal(sig)
		sessions[j] = session{
			witness: ipc.Witness{Instance: uint64(i + 1), HostKey: hostKey, Signature: proof, User: user, Route: "direct"},
			bind: ssh.Marshal(struct {
				Name       string `sshtype:"27"`
				HostKey    []byte
				SessionID  []byte
				Signature  []byte
				Forwarding bool
			}{"session-bind@openssh.com", hostKey, id, proof, false}),
			sign: ssh.Marshal(struct {
				Key   []byte `sshtype:"13"`
				Data  []byte
				Flags uint32
			}{a.key.Marshal(), a.loginText(id, hostKey, hostBound), 0}),
		}
	}
	return sessions
}

// loginText is what a client has signed: RFC 4252 section 7, or OpenSSH's variant that ends with the host key.
func (a *agents) loginText(id, hostKey []byte, hostBound bool) []byte {
	method := "publickey"
	if hostBound {
		method = "publickey-hostbound-v00@openssh.com"
	}
	text := ssh.Marshal(struct {
		SessionID             []byte
		Message               byte
		User, Service, Method string
		HasSignature          bool
		Algorithm             string
		Key                   []byte
	}{id, 50, user, "ssh-connection", method, true, ssh.KeyAlgoED25519, a.key.Marshal()})
	if hostBound {
		text = append(text, ssh.Marshal(struct{ HostKey []byte }{hostKey})...)
	}
	return text
}

// link is a connection to an agent.
type link struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialAgent(socket string) (*link, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	return &link{conn, bufio.NewReader(conn)}, nil
}

// ask sends a message, and wants an answer of the type want.
func (l *link) ask(message []byte, want byte) error {
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(message)), uint32(len(message)))
	if _, err := l.conn.Write(append(frame, message...)); err != nil {
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return err
	}
	answer := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(l.r, answer); err != nil {
		return err
	}
	if len(answer) == 0 || answer[0] != want {
		return fmt.Errorf("message %d was answered with %.1x, want %x", message[0], answer, want)
	}
	return nil
}

// client is one of those that ask for signatures at the same time.
type client struct {
	control      *ipc.Client
	ours, theirs *link
}

// dial makes n clients. They are for use at once: vast-agent closes a control connection that is silent for ipc.Timeout.
func (a *agents) dial(b *testing.B, n int) []*client {
	b.Helper()
	clients := make([]*client, n)
	for i := range clients {
		c := new(client)
		var errs [3]error
		c.control, errs[0] = ipc.Dial(b.Context(), a.dirs.ControlSocket())
		c.ours, errs[1] = dialAgent(a.dirs.AgentSocket())
		c.theirs, errs[2] = dialAgent(a.theirs)
		if err := errors.Join(errs[:]...); err != nil {
			b.Fatal(err)
		}
		clients[i] = c
	}
	return clients
}

func hangUp(clients []*client) {
	for _, c := range clients {
		c.control.Close()
		c.ours.conn.Close()
		c.theirs.conn.Close()
	}
}

// seconds has every client do one thing with each of its sessions, all clients at the same time, and returns how long it took.
func seconds(b *testing.B, clients []*client, sessions [][]session, one func(*client, *session) error) float64 {
	b.Helper()
	errs := make([]error, len(clients))
	var all sync.WaitGroup
	start := time.Now()
	for i, c := range clients {
		all.Go(func() {
			for j := range sessions[i] {
				if errs[i] = one(c, &sessions[i][j]); errs[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	return took.Seconds()
}

// What one client does with one session.

func witness(c *client, s *session) error { return c.control.Witness(context.Background(), s.witness) }

func sign(c *client, s *session) error { return c.ours.ask(s.sign, msgSignResponse) }

func witnessAndSign(c *client, s *session) error {
	if err := witness(c, s); err != nil {
		return err
	}
	return sign(c, s)
}

func signTheirs(c *client, s *session) error { return c.theirs.ask(s.sign, msgSignResponse) }

const (
	rounds = 9
	// perRound is how many signatures all clients together get in a round.
	perRound = 1024
	// live is how many witnesses the agent holds at the most, agent.MaxWitnesses.
	live = 64
)

func BenchmarkAgentSign1(b *testing.B) { benchmarkSign(b, 1) }

func BenchmarkAgentSign8(b *testing.B) { benchmarkSign(b, 8) }

// benchmarkSign compares the signatures a second for n clients, each with an instance of its own.
func benchmarkSign(b *testing.B, n int) {
	a := newAgents(b, n)
	compare := func(b *testing.B, hostBound bool, ours func([]*client, [][]session) float64, theirs func(*client, *session) error) {
		side := func(took func([]*client, [][]session) float64) func() float64 {
			return func() float64 {
				sessions := make([][]session, n)
				for i := range sessions {
					sessions[i] = a.newSessions(b, i, perRound/n, hostBound)
				}
				clients := a.dial(b, n)
				defer hangUp(clients)
				return perRound / took(clients, sessions)
			}
		}
		for b.Loop() {
			measure(1, rounds, side(ours), side(func(clients []*client, sessions [][]session) float64 {
				return seconds(b, clients, sessions, theirs)
			})).report(b, "ssh-agent", "sig/s")
		}
	}
	// All that vast-agent has to do for a signature, against a bare signature.
	b.Run("WitnessAndSign", func(b *testing.B) {
		compare(b, false, func(clients []*client, sessions [][]session) float64 {
			return seconds(b, clients, sessions, witnessAndSign)
		}, signTheirs)
	})
	// The same requests, with the witnesses given before the clock runs.
	b.Run("Sign", func(b *testing.B) {
		compare(b, false, func(clients []*client, sessions [][]session) (took float64) {
			for len(sessions[0]) > 0 {
				batch := make([][]session, n)
				for i, s := range sessions {
					batch[i], sessions[i] = s[:live/n], s[live/n:]
				}
				seconds(b, clients, batch, witness)
				took += seconds(b, clients, batch, sign)
			}
			return took
		}, signTheirs)
	})
	// Logins as OpenSSH makes them: each on a connection of its own that is bound to its session.
	b.Run("Login", func(b *testing.B) {
		compare(b, true, func(clients []*client, sessions [][]session) float64 {
			return seconds(b, clients, sessions, func(c *client, s *session) error {
				if err := witness(c, s); err != nil {
					return err
				}
				return login(a.dirs.AgentSocket(), s)
			})
		}, func(_ *client, s *session) error { return login(a.theirs, s) })
	})
}

// login asks the way OpenSSH does: a connection of its own, bound to the session.
func login(socket string, s *session) error {
	l, err := dialAgent(socket)
	if err != nil {
		return err
	}
	defer l.conn.Close()
	if err := l.ask(s.bind, msgSuccess); err != nil {
		return err
	}
	return l.ask(s.sign, msgSignResponse)
}

// BenchmarkAgentLatency compares how long single logins take, one client after the other, by percentiles.
func BenchmarkAgentLatency(b *testing.B) {
	const logins = 2000
	a := newAgents(b, 1)
	for b.Loop() {
		sessions := a.newSessions(b, 0, logins, true)
		control := a.dial(b, 1)
		took := map[string][]float64{}
		timed := func(who string, f func() error) {
			start := time.Now()
			if err := f(); err != nil {
				b.Fatal(err)
			}
			took[who] = append(took[who], time.Since(start).Seconds()*1e6)
		}
		for i := range sessions {
			s := &sessions[i]
			timed("ours", func() error {
				if err := witness(control[0], s); err != nil {
					return err
				}
				return login(a.dirs.AgentSocket(), s)
			})
			timed("ssh-agent", func() error { return login(a.theirs, s) })
		}
		hangUp(control)
		for who, values := range took {
			slices.Sort(values)
			for _, p := range []int{50, 95, 99} {
				b.ReportMetric(values[(len(values)-1)*p/100], fmt.Sprintf("%s-p%d-us", who, p))
			}
		}
		silent(b)
	}
}

// BenchmarkAgentMemory shows what vast-agent and its companion keep in memory: right after the start, and after a tenth and
// all of 100,000 signatures.
func BenchmarkAgentMemory(b *testing.B) {
	const step = 10_000
	a := newAgents(b, 1)
	companion := children(b, a.pid)
	report := func(when string) {
		for _, field := range []string{"VmRSS", "RssAnon"} {
			b.ReportMetric(status(b, a.pid, field)/1024, when+"-"+field+"-MiB")
		}
		for _, pid := range companion {
			b.ReportMetric(status(b, pid, "VmRSS")/1024, when+"-companion-VmRSS-MiB")
		}
	}
	for b.Loop() {
		report("start")
		for i := range 10 {
			clients := a.dial(b, 1)
			seconds(b, clients, [][]session{a.newSessions(b, 0, step, false)}, witnessAndSign)
			hangUp(clients)
			if i == 0 {
				report("10k")
			}
		}
		report("100k")
		silent(b)
	}
}

// BenchmarkAgentFlood shows what vast-agent takes at the most when one process opens as many connections as it can, each with
// a message of the largest size that it never ends, while another asks for what is refused.
func BenchmarkAgentFlood(b *testing.B) {
	const conns, refusals = 400, 20_000
	a := newAgents(b, 1)
	for b.Loop() {
		b.ReportMetric(status(b, a.pid, "VmRSS")/1024, "before-MiB")
		var open []net.Conn
		unfinished := append(binary.BigEndian.AppendUint32(nil, 256<<10), make([]byte, 200<<10)...)
		for range conns {
			c, err := net.Dial("unix", a.dirs.AgentSocket())
			if err != nil {
				b.Fatal(err)
			}
			open = append(open, c)
			go c.Write(unfinished) // as much of it as is read
		}
		noise := exec.Command(os.Args[0], "-test.run=^$")
		noise.Env = append(os.Environ(), floodEnv+"="+a.dirs.AgentSocket(), fmt.Sprintf("%s_N=%d", floodEnv, refusals))
		if out, err := noise.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		b.ReportMetric(status(b, a.pid, "VmHWM")/1024, "peak-MiB")
		for _, c := range open {
			c.Close()
		}
		// It goes on as before.
		clients := a.dial(b, 1)
		seconds(b, clients, [][]session{a.newSessions(b, 0, 1000, false)}, witnessAndSign)
		hangUp(clients)
		b.ReportMetric(status(b, a.pid, "VmRSS")/1024, "after-MiB")
		silent(b)
	}
}

// floodEnv names the socket that this process asks for what is refused, again and again.
const floodEnv = "VAST_SSH_BENCH_FLOOD"

func flood(socket string, n int) error {
	for range n {
		l, err := dialAgent(socket)
		if err != nil {
			return err
		}
		// It is answered, or the connection is closed: both are fine.
		_ = l.ask([]byte{17}, 5)
		l.conn.Close()
	}
	return nil
}

// children returns the processes that the process pid has started.
func children(b *testing.B, pid int) []int {
	b.Helper()
	// Each thread has children of its own, proc_pid_task(5).
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(lists) == 0 {
		b.Skip("this system does not tell the children of a process")
	}
	var pids []int
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has ended
		}
		if err != nil {
			b.Fatal(err)
		}
		for _, field := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				b.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// status returns a field of /proc/PID/status in KiB, see proc_pid_status(5).
func status(b *testing.B, pid int, field string) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		b.Skip("this system has no /proc")
	}
	for line := range bytes.Lines(data) {
		name, value, _ := strings.Cut(string(line), ":")
		if name == field {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib
		}
	}
	b.Fatalf("no %s in the status of process %d: %v", field, pid, err)
	return 0
}
