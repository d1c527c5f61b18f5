package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wire"
)

// attackTimeout bounds what an attack in this process waits for.
const attackTimeout = 3 * time.Minute

// victim is a user with two pinned instances and a running agent, whose socket an attacker can reach.
type victim struct {
	*World
	t             *testing.T
	first, second *Instance
	key           ssh.PublicKey
	authorized    string // the key as a line of authorized_keys
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	testenv.NeedProgram(t, "ssh")
	v := &victim{World: New(t), t: t}
	v.first, v.second = v.AddInstance("", sshd.Config{}), v.AddInstance("", sshd.Config{})
	v.Ready()
	v.login(v.first)
	v.login(v.second)
	line, err := os.ReadFile(v.Dirs.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	v.authorized = string(line)
	if v.key, _, _, _, err = ssh.ParseAuthorizedKey(line); err != nil {
		t.Fatal(err)
	}
	return v
}

func idOf(in *Instance) string { return strconv.FormatUint(in.ID, 10) }

// login is what the user does all day. It must cost the agent one signature and no refusal.
func (v *victim) login(in *Instance) {
	v.t.Helper()
	v.spends(1, nil, func() {
		if out := v.Must("vast-ssh", idOf(in), "echo", "in"); out != "in\n" {
			v.t.Errorf("a login said %q", out)
		}
	})
}

// refuses runs an attack, which must get no signature and leave the reasons behind, in this order and without
// repetitions.
func (v *victim) refuses(attack func(), reasons ...string) {
	v.t.Helper()
	v.spends(0, reasons, attack)
}

func (v *victim) spends(signatures uint64, reasons []string, do func()) {
	v.t.Helper()
	var before ipc.Status
	counts := make(map[refusal]int)
	started := v.running()
	if started {
		before = agentStatus(v.t, v.World)
		_, counts = refusalsOf(before)
	}
	do()
	after := agentStatus(v.t, v.World)
	if got := after.Signatures - before.Signatures; got != signatures {
		v.t.Errorf("the agent gave %d signatures, want %d", got, signatures)
	}
	if started && after.PID != before.PID {
		v.t.Errorf("the agent is another one now: pid %d, then %d", before.PID, after.PID)
	}
	var got []string
	told, now := refusalsOf(after)
	for _, r := range told {
		// A login that did not come to its signature is told when its proxy has ended, which may be later.
		if now[r] > counts[r] && r.Reason != "unused" {
			got = append(got, r.Reason)
		}
	}
	if got = slices.Compact(got); !slices.Equal(got, reasons) {
		v.t.Errorf("the agent tells %q, want %q", got, reasons)
	}
	if len(reasons) > 0 {
		why := v.why()
		for _, r := range reasons {
			if !slices.ContainsFunc(why, func(w refusal) bool { return w.Reason == r }) {
				v.t.Errorf("vast-ssh why says nothing of %q", r)
			}
		}
	}
}

// refusal is what makes one refusal unlike another.
type refusal struct {
	Reason   string `json:"reason"`
	PID      int    `json:"pid"`
	Instance uint64 `json:"instance"`
	HostKey  string `json:"host_key"`
}

// refusalsOf returns what the agent has refused, last refusal last, and how often each.
func refusalsOf(st ipc.Status) (told []refusal, counts map[refusal]int) {
	counts = make(map[refusal]int)
	for _, k := range st.Refusals {
		r := refusal{Reason: k.Reason, PID: k.PID, Instance: k.Instance, HostKey: k.HostKey}
		told = append(told, r)
		counts[r] += k.Count
	}
	return told, counts
}

// why returns what vast-ssh why tells, last refusal last.
func (v *victim) why() (told []refusal) {
	v.t.Helper()
	if err := json.Unmarshal([]byte(v.Must("vast-ssh", "why", "--json")), &told); err != nil {
		v.t.Fatal(err)
	}
	return told
}

func (v *victim) running() bool {
	_, err := os.Stat(v.Dirs.ControlSocket())
	return err == nil
}

// ssh runs the careless ssh to addr, straight and with the agent at socket, and must not get in.
func (v *victim) ssh(socket string, to Machine) {
	v.t.Helper()
	host, port, err := net.SplitHostPort(to.Addr())
	if err != nil {
		v.t.Fatal(err)
	}
	argv := openssh()(testenv.NeedProgram(v.t, "ssh"), errand{
		user: to.User(), host: host, port: port, socket: socket, command: "echo $((6*7)) in",
	})
	accepted := strings.Count(to.Log(), "Accepted publickey")
	r := v.Run(argv[0], argv[1:]...)
	if r.Code != 255 || r.Stdout != "" || !strings.Contains(r.Stderr, "Permission denied") {
		v.t.Errorf("ssh to %s: exit %d\n%s%s", to.Addr(), r.Code, r.Stdout, r.Stderr)
	}
	if n := strings.Count(to.Log(), "Accepted publickey"); n != accepted {
		v.t.Errorf("%s let it in", to.Addr())
	}
}

// sshsig asks the agent at socket to sign a file.
func (v *victim) sshsig(socket string) {
	v.t.Helper()
	file := filepath.Join(v.Home, "file")
	if err := os.WriteFile(file, []byte("text\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
	r := v.RunEnv([]string{"SSH_AUTH_SOCK=" + socket},
		testenv.NeedProgram(v.t, "ssh-keygen"), "-Y", "sign", "-n", "git", "-f", v.publicKey(), file)
	if _, err := os.Stat(file + ".sig"); r.Code == 0 || err == nil {
		v.t.Errorf("ssh-keygen -Y sign: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// publicKey is the path of a copy of the public key, in a directory without the private one.
func (v *victim) publicKey() string {
	v.t.Helper()
	path := filepath.Join(v.Home, "key.pub")
	if err := os.WriteFile(path, []byte(v.authorized), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return path
}

// sshAdd runs ssh-add, to which every passphrase is empty, and returns all it said.
func (v *victim) sshAdd(socket string, args ...string) (code int, said string) {
	v.t.Helper()
	askpass := testenv.NeedProgram(v.t, "true")
	r := v.RunEnv([]string{"SSH_AUTH_SOCK=" + socket, "SSH_ASKPASS=" + askpass, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=none"},
		testenv.NeedProgram(v.t, "ssh-add"), args...)
	return r.Code, r.Stdout + r.Stderr
}

// straight logs in to an instance without the proxy, with a client that trusts it and names no session to the agent.
// seen gets what a proxy would have seen, before the agent is asked for anything.
func (v *victim) straight(in *Instance, seen func(*wire.Reply)) error {
	agent, err := net.Dial("unix", v.Dirs.AgentSocket())
	if err != nil {
		return err
	}
	defer agent.Close()
	agent.SetDeadline(time.Now().Add(attackTimeout))
	return v.straightWith(in, seen, sshagent.NewClient(agent).Signers)
}

// straightWith is straight with other keys than the agent's.
func (v *victim) straightWith(in *Instance, seen func(*wire.Reply), signers func() ([]ssh.Signer, error)) error {
	conn, err := net.DialTimeout("tcp", in.Addr(), attackTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(attackTimeout))
	o := &observer{Conn: conn, exchange: wire.New()}
	_, _, _, err = ssh.NewClientConn(o, in.Addr(), &ssh.ClientConfig{
		User: in.User(),
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(signers)},
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error {
			reply := o.reply()
			if reply == nil {
				return errors.New("the observer missed the key exchange reply")
			}
			seen(reply)
			return nil
		},
	})
	return err
}

// observer is a connection that reads along.
type observer struct {
	net.Conn
	mu       sync.Mutex
	exchange *wire.Exchange
}

func (o *observer) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.exchange.Reply() == nil {
		if _, werr := o.exchange.Server(p[:n]); werr != nil {
			return n, werr
		}
	}
	return n, err
}

func (o *observer) Write(p []byte) (int, error) {
	o.mu.Lock()
	o.exchange.Client(p) // an error shows as a missing reply
	o.mu.Unlock()
	return o.Conn.Write(p)
}

func (o *observer) reply() *wire.Reply {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.exchange.Reply()
}

// witness hands the agent what a proxy would, and returns the reason of a refusal.
func (v *victim) witness(instance uint64, user string, reply *wire.Reply) (reason string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attackTimeout)
	defer cancel()
	c, err := ipc.Dial(ctx, v.Dirs.ControlSocket())
	if err != nil {
		v.t.Error(err)
		return "no connection"
	}
	defer c.Close()
	err = c.Witness(ctx, ipc.Witness{
		Instance: instance, HostKey: reply.HostKey, Signature: reply.Signature, User: user,
	})
	var refused *ipc.RefusedError
	if err != nil && !errors.As(err, &refused) {
		v.t.Error(err)
	}
	if refused != nil {
		return refused.Reason
	}
	return ""
}

// With the socket and any client, an attacker's own machine is not logged in to: it has the key, and a user who checks
// no host key, and there is no pin.
func TestAttackUnpinned(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	evil := v.Impostor([]string{"127.0.0.1:0"}, v.authorized)
	v.refuses(func() { v.ssh(v.Dirs.AgentSocket(), evil) }, "not-pinned")
	v.refuses(func() {
		stranger := &Instance{Machine: evil}
		if err := v.straight(stranger, func(*wire.Reply) {}); err == nil {
			t.Error("logged in with a client that names no session")
		}
	}, "no-witness")
	v.login(v.first)
}

// Nor is a pinned instance, unless it is through the proxy.
func TestAttackWithoutProxy(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	v.refuses(func() { v.ssh(v.Dirs.AgentSocket(), v.first) }, "no-witness")
	v.refuses(func() {
		if err := v.straight(v.second, func(*wire.Reply) {}); err == nil {
			t.Error("logged in with a client that names no session")
		}
	}, "no-witness")
	v.login(v.first)
}

// The key signs neither files nor commits.
func TestAttackSignature(t *testing.T) {
	t.Parallel()
	git := testenv.NeedProgram(t, "git")
	v := newVictim(t)
	v.refuses(func() { v.sshsig(v.Dirs.AgentSocket()) }, "not-userauth")

	repo := filepath.Join(v.Home, "repo")
	v.Must(git, "init", "-q", repo)
	commit := func(args ...string) Result {
		args = append([]string{"-C", repo, "-c", "user.name=u", "-c", "user.email=u@example.com", "-c", "gpg.format=ssh",
			"-c", "user.signingkey=" + v.publicKey(), "commit", "-q", "--allow-empty", "-m", "m"}, args...)
		return v.RunEnv([]string{"SSH_AUTH_SOCK=" + v.Dirs.AgentSocket(), "GIT_CONFIG_NOSYSTEM=1"}, git, args...)
	}
	v.refuses(func() {
		if r := commit("-S"); r.Code == 0 {
			t.Errorf("a signed commit was made\n%s", r.Stderr)
		}
	}, "not-userauth")
	if r := commit(); r.Code != 0 {
		t.Errorf("git makes no commit at all here: exit %d\n%s", r.Code, r.Stderr)
	}
	v.login(v.first)
}

// The agent takes, drops and locks away no key.
func TestAttackManagement(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	socket := v.Dirs.AgentSocket()
	other := filepath.Join(v.Home, "other")
	v.Must(testenv.NeedProgram(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", other)
	list := func() {
		t.Helper()
		code, said := v.sshAdd(socket, "-l")
		if code != 0 || strings.Count(said, "\n") != 1 || !strings.Contains(said, fingerprintOf(v.key)) {
			t.Errorf("ssh-add -l: exit %d, %q", code, said)
		}
	}
	v.refuses(list)
	for _, args := range [][]string{
		{other}, {"-t", "60", other}, {"-d", v.publicKey()}, {"-D"}, {"-x"}, {"-X"}, {"-s", "/lib/none.so"},
	} {
		v.refuses(func() {
			code, said := v.sshAdd(socket, args...)
			if code == 0 {
				t.Errorf("ssh-add %q: exit 0\n%s", args, said)
			}
		}, "unsupported")
		v.refuses(list)
	}
	v.login(v.first)
}

// wiretap stands between a client and the agent, and keeps both what the client said and the connection to the agent.
type wiretap struct {
	socket string
	mu     sync.Mutex
	conns  []*tapped
}

type tapped struct {
	agent  net.Conn
	frames [][]byte // without their length
}

// newWiretap makes one that passes frames on by pass, which is ask or does as that does.
func (v *victim) newWiretap(pass func(agent net.Conn, frame []byte) (answer []byte, err error)) *wiretap {
	w := &wiretap{}
	w.socket = listenUnix(v.t, func(client net.Conn) {
		agent, err := net.Dial("unix", v.Dirs.AgentSocket())
		if err != nil {
			v.t.Error(err)
			return
		}
		c := &tapped{agent: agent}
		w.mu.Lock()
		w.conns = append(w.conns, c)
		w.mu.Unlock()
		for {
			frame, err := readMessage(client)
			if err != nil {
				return
			}
			w.mu.Lock()
			c.frames = append(c.frames, frame)
			w.mu.Unlock()
			answer, err := pass(agent, frame)
			if err != nil {
				return
			}
			if err := writeMessage(client, answer); err != nil {
				return
			}
		}
	})
	v.t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.conns {
			c.agent.Close()
		}
	})
	return w
}

// Message numbers of RFC 9987 section 6.1.
const (
	agentFailure  = 5
	agentSuccess  = 6
	agentList     = 11
	agentSign     = 13
	agentSigned   = 14
	agentExtended = 27
	agentUnbound  = 28 // a failure of the extension
)

func readMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > 256<<10 {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeMessage(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...))
	return err
}

// ask puts one request to an agent.
func ask(agent net.Conn, msg []byte) ([]byte, error) {
	agent.SetDeadline(time.Now().Add(attackTimeout))
	if err := writeMessage(agent, msg); err != nil {
		return nil, err
	}
	return readMessage(agent)
}

// asks puts requests to the agent on one connection, a new one if that is nil, and checks the numbers of the answers.
func (v *victim) asks(agent net.Conn, requests [][]byte, answers ...byte) {
	v.t.Helper()
	if agent == nil {
		var err error
		if agent, err = net.Dial("unix", v.Dirs.AgentSocket()); err != nil {
			v.t.Error(err)
			return
		}
		defer agent.Close()
	}
	for i, r := range requests {
		answer, err := ask(agent, r)
		if err != nil {
			v.t.Error(err)
			return
		}
		if answer[0] != answers[i] {
			v.t.Errorf("request %d (message %d) was answered with message %d, want %d", i, r[0], answer[0], answers[i])
		}
	}
}

// signRequest is a request for a signature, RFC 9987 section 4.5.
type signRequest struct {
	Key   []byte `sshtype:"13"`
	Data  []byte
	Flags uint32
}

// What went over the agent's socket in a real login serves no second time, not even on the connection it came from.
func TestAttackReplay(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	tap := v.newWiretap(ask)
	v.spends(1, nil, func() {
		v.Must("vast-ssh", "-o", "IdentityAgent="+tap.socket, idOf(v.first), "true")
	})
	tap.mu.Lock()
	defer tap.mu.Unlock()
	var login *tapped
	var bind, sign []byte
	for _, c := range tap.conns {
		for _, f := range c.frames {
			switch f[0] {
			case agentExtended:
				bind = f
			case agentSign:
				login, sign = c, f
			}
		}
	}
	if sign == nil {
		t.Fatal("the login asked for no signature")
	}
	if bind == nil {
		testenv.Missing(t, "an ssh that binds its session (8.9 or later)")
	}
	var request signRequest
	if err := ssh.Unmarshal(sign, &request); err != nil {
		t.Fatal(err)
	}
	other := request
	other.Data = bytes.Clone(request.Data)
	other.Data[4] ^= 1 // the first byte of the session id
	otherSign := ssh.Marshal(other)

	v.refuses(func() { v.asks(login.agent, [][]byte{sign}, agentFailure) }, "already-signed")
	v.refuses(func() { v.asks(login.agent, [][]byte{sign, otherSign}, agentFailure, agentFailure) }, "poisoned")
	v.refuses(func() { v.asks(nil, [][]byte{sign}, agentFailure) }, "already-signed")
	v.refuses(func() { v.asks(nil, [][]byte{bind, sign}, agentSuccess, agentFailure) }, "already-signed")
	v.refuses(func() { v.asks(nil, [][]byte{otherSign}, agentFailure) }, "no-witness")
	v.refuses(func() { v.asks(nil, [][]byte{bind, otherSign}, agentSuccess, agentFailure) }, "other-session")
	v.login(v.first)
}

// session holds a login to the instance open, made with options, and returns the value that the variable has there.
func (v *victim) session(in *Instance, variable string, options ...string) string {
	v.t.Helper()
	// It lasts as long as the test.
	ctx, cancel := context.WithCancel(context.Background())
	cmd := v.Command(ctx, nil, "vast-ssh", append(options, idOf(in), `echo "$`+variable+`"; cat >/dev/null`)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			v.t.Errorf("the session: %v\n%s", err, stderr.String())
		}
		cancel()
	})
	var value string
	if _, err := fmt.Fscanln(out, &value); err != nil {
		v.t.Fatalf("the session did not begin: %v\n%s", err, stderr.String())
	}
	return value
}

// On the far side of agent forwarding, which somebody has turned on by hand, the agent is empty and signs nothing.
func TestAttackForwarding(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	socket := v.session(v.first, "SSH_AUTH_SOCK", "-o", "ForwardAgent=yes")
	v.refuses(func() {
		if code, said := v.sshAdd(socket, "-l"); code != 1 || !strings.Contains(said, "no identities") {
			t.Errorf("ssh-add -l: exit %d, %q", code, said)
		}
	}, "forwarded")
	for _, in := range []*Instance{v.second, v.first} {
		// The far ssh describes its own session on top of the near one's.
		v.refuses(func() { v.ssh(socket, in) }, "forwarded", "poisoned")
	}
	v.refuses(func() { v.sshsig(socket) }, "forwarded")
	v.refuses(func() {
		far, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		v.asks(far, [][]byte{v.userauth(v.second.User(), madeUp)}, agentFailure)
	}, "forwarded", "poisoned")
	v.login(v.first)
}

// userauth is a well-formed request for a login as user in the session with the id.
func (v *victim) userauth(user string, id []byte) []byte {
	blob := v.key.Marshal()
	return ssh.Marshal(signRequest{Key: blob, Data: ssh.Marshal(struct {
		Session               []byte
		Number                byte
		User, Service, Method string
		HasSignature          bool
		Algorithm             string
		Key                   []byte
	}{id, 50, user, "ssh-connection", "publickey", true, ssh.KeyAlgoED25519, blob})})
}

// madeUp is the id of no session.
var madeUp = make([]byte, 32)

// A socket that is carried to the far side as any other looks like a client of this machine: without a witness that is
// of no use, though the machine at the far end is a pinned one.
func TestAttackRemoteForward(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	socket := filepath.Join(v.Home, "far.sock")
	v.session(v.first, "HOME", "-o", "ExitOnForwardFailure=yes", "-R", socket+":"+v.Dirs.AgentSocket())
	for _, in := range []*Instance{v.second, v.first} {
		v.refuses(func() { v.ssh(socket, in) }, "no-witness")
	}
	v.refuses(func() { v.sshsig(socket) }, "not-userauth")
	v.refuses(func() {
		far, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		v.asks(far, [][]byte{v.userauth(v.second.User(), madeUp)}, agentFailure)
	}, "no-witness")
	v.login(v.first)
}

// A witness is good for the instance, the user and the session it is about.
func TestAttackWitness(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	user := v.first.User()
	// fails is a login to the first instance whose witness is what bear makes of the truth, and which is refused.
	fails := func(bear func(*wire.Reply), reasons ...string) {
		t.Helper()
		v.refuses(func() {
			if err := v.straight(v.first, bear); err == nil {
				t.Error("logged in")
			}
		}, reasons...)
	}
	bears := func(instance uint64, user, want string) func(*wire.Reply) {
		return func(r *wire.Reply) {
			if got := v.witness(instance, user, r); got != want {
				t.Errorf("the witness was refused with %q, want %q", got, want)
			}
		}
	}
	var kept *wire.Reply
	v.spends(1, nil, func() {
		if err := v.straight(v.first, func(r *wire.Reply) {
			kept = r
			bears(v.first.ID, user, "")(r)
		}); err != nil {
			t.Errorf("the true witness: %v", err)
		}
	})

	fails(bears(v.second.ID, user, "not-pinned"), "not-pinned", "no-witness")
	fails(bears(v.first.ID+1000, user, "not-pinned"), "not-pinned", "no-witness")
	// The witness of another session of the same machine.
	fails(func(*wire.Reply) { bears(v.first.ID, user, "")(kept) }, "no-witness")
	// The same at another machine, and one that is live, which serves its own session still.
	atSecond := func(bear func(*wire.Reply)) {
		if err := v.straight(v.second, bear); err == nil {
			t.Error("logged in to one instance with the witness of another")
		}
	}
	v.refuses(func() { atSecond(func(*wire.Reply) { bears(v.first.ID, user, "")(kept) }) }, "no-witness")
	v.spends(1, []string{"no-witness"}, func() {
		if err := v.straight(v.first, func(r *wire.Reply) {
			bears(v.first.ID, user, "")(r)
			atSecond(func(*wire.Reply) {})
		}); err != nil {
			t.Errorf("the session that was witnessed: %v", err)
		}
	})
	// A signature that is none.
	fails(func(r *wire.Reply) {
		wrong := *r
		wrong.Signature = bytes.Clone(r.Signature)
		wrong.Signature[len(wrong.Signature)-1] ^= 1
		bears(v.first.ID, user, "")(&wrong)
	}, "no-witness")
	// A user that the agent signs for nowhere.
	v.refuses(func() {
		if err := v.inside(v.first, func(r *wire.Reply, id, _ []byte) *ssh.Signature {
			bears(v.first.ID, user, "")(r)
			v.asks(nil, [][]byte{v.userauth(user+"x", id)}, agentFailure)
			return nil
		}); err == nil {
			t.Error("logged in without a signature")
		}
	}, "other-user")
	// The pin goes between the witness and the request.
	fails(func(r *wire.Reply) {
		bears(v.first.ID, user, "")(r)
		v.Must("vast-ssh", "pins", "rm", "--yes", idOf(v.first))
	}, "not-pinned")
	v.login(v.second)
}

// A machine in the middle speaks SSH to both sides, and checks no more of the user than that there is one.
func TestAttackMiddle(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	own := newSigner(t)
	for _, tt := range []struct {
		name   string
		key    ssh.Signer
		stderr string
	}{
		{"with a key of its own", own, fmt.Sprintf("is not instance %d as it was pinned", v.first.ID)},
		// The proxy cannot check a signature over what it cannot compute. The client can, and does.
		{"with the instance's key and no private one", borrowed{own, v.first.HostKeys()[0]}, "incorrect signature"},
	} {
		m := v.newMiddle(tt.key)
		v.Account.Move(v.first.ID, m.addr, "")
		if err := os.RemoveAll(v.Dirs.Cache); err != nil {
			t.Fatal(err)
		}
		v.refuses(func() {
			argv := openssh()(testenv.NeedProgram(t, "ssh"), errand{
				user: v.first.User(), host: "vast", port: "22", socket: v.Dirs.AgentSocket(),
				proxy:   filepath.Join(v.Bin, "vast-ssh") + " proxy " + idOf(v.first),
				command: "echo $((6*7)) in",
			})
			r := v.Run(argv[0], argv[1:]...)
			if r.Code != 255 || r.Stdout != "" || !strings.Contains(r.Stderr, tt.stderr) {
				t.Errorf("%s: exit %d\n%s%s", tt.name, r.Code, r.Stdout, r.Stderr)
			}
		})
		if met, users := m.seen(); met == 0 || users != 0 {
			t.Errorf("%s: of %d connections %d got to the user's authentication", tt.name, met, users)
		}
	}
	v.login(v.second)
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// borrowed shows a public key and signs with another.
type borrowed struct {
	ssh.Signer
	shown ssh.PublicKey
}

func (b borrowed) PublicKey() ssh.PublicKey { return b.shown }

// middle is a machine in the middle.
type middle struct {
	addr string

	mu         sync.Mutex // protects the following
	met, users int
}

func (v *victim) newMiddle(key ssh.Signer) *middle {
	v.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		v.t.Fatal(err)
	}
	m := &middle{addr: l.Addr().String()}
	count := func(n *int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		*n++
	}
	cfg := &ssh.ServerConfig{
		NoClientAuth: true,
		NoClientAuthCallback: func(ssh.ConnMetadata) (*ssh.Permissions, error) {
			count(&m.users)
			return nil, nil
		},
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			count(&m.users)
			return nil, nil
		},
	}
	cfg.AddHostKey(key)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			count(&m.met)
			served.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(attackTimeout))
				if conn, _, _, err := ssh.NewServerConn(c, cfg); err == nil {
					conn.Close()
				}
			})
		}
	})
	v.t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
	return m
}

func (m *middle) seen() (met, users int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.met, m.users
}
