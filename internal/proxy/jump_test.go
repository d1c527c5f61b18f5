package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
	"vast-ssh/known"
)

// farInstance is reached through testInstance.
const farInstance = 7654321

// jumpRig is an instance, and another one beyond it.
type jumpRig struct {
	*rig // of the instance beyond
	near *rig
	told witnesses // of both
}

// newJumpRig pins the servers' own keys.
func newJumpRig(t *testing.T, near, far sshd.Config) *jumpRig {
	t.Helper()
	near.Extra = append([]string{"LogLevel DEBUG1"}, near.Extra...)
	r := &jumpRig{near: newRig(t, near)}
	s := sshd.Start(t, far)
	s.AddAuthorizedKey(r.near.agent.authorized)
	r.rig = &rig{sshd: s, agent: r.near.agent, pins: r.near.pins, cfg: r.near.cfg, through: r.near.role()}
	r.cfg.Instance = farInstance
	r.cfg.Endpoints = []resolve.Endpoint{endpoint(t, resolve.Direct, s.Addr())}
	r.pin(t, farInstance, s.HostKeys()...)
	for _, cfg := range []*Config{&r.cfg, &r.near.cfg} {
		take := cfg.Witness
		cfg.Witness = func(ctx context.Context, w ipc.Witness) error {
			r.told.take(ctx, w)
			return take(ctx, w)
		}
	}
	return r
}

func (r *jumpRig) pin(t *testing.T, instance uint64, keys ...ssh.PublicKey) {
	t.Helper()
	if err := r.cfg.Pins.Replace(t.Context(), instance, makePins(instance, testMachine, known.Tofu, keys)); err != nil {
		t.Fatal(err)
	}
}

func (r *jumpRig) jump(t *testing.T) *Jump {
	t.Helper()
	j, err := OpenJump(t.Context(), open(t, r.near.cfg), r.agent.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func (r *jumpRig) open(t *testing.T) *Conn {
	t.Helper()
	r.cfg.Through = r.jump(t)
	return open(t, r.cfg)
}

// wentThrough reports how many connections the instance in the middle made to addr, by its log.
func (r *jumpRig) wentThrough(t *testing.T, addr string) int {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(r.near.sshd.Log(), "target "+host+" port "+port+"\n")
}

func TestJump(t *testing.T) {
	r := newJumpRig(t, sshd.Config{}, sshd.Config{})
	out, errs, code := run(t, r.ssh(t, "echo hello; exit 7"))
	if out != "hello\n" || errs != "" || code != 7 {
		t.Errorf("got %q, %q, %d", out, errs, code)
	}
	if n := r.wentThrough(t, r.sshd.Addr()); n != 1 {
		t.Errorf("%d connections went through the instance in the middle", n)
	}
	if st := r.agent.Status(t.Context()); st.Signatures != 2 || st.Refused != 0 || st.Witnesses != 0 {
		t.Errorf("the agent's state: %+v", st)
	}
}

// Both logins have a witness of their own, which tells the way.
func TestJumpWitnesses(t *testing.T) {
	r := newJumpRig(t, sshd.Config{}, sshd.Config{})
	r.cfg.Label, r.cfg.Client = "beyond", 4711
	client, err := Login(t.Context(), r.open(t), r.agent.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	all := r.told.all()
	if len(all) != 2 {
		t.Fatalf("got %+v", all)
	}
	if w := all[0]; w.Instance != testInstance || w.Route != "direct" {
		t.Errorf("got %+v", w)
	}
	if w := all[1]; w.Instance != farInstance || w.Route != "direct via vast-1234567" || w.Label != "beyond" || w.Client != 4711 {
		t.Errorf("got %+v", w)
	}
}

// Over a, then b, to c: each login goes through the one before.
func TestJumpChain(t *testing.T) {
	const third = 5
	r := newJumpRig(t, sshd.Config{}, sshd.Config{Extra: []string{"LogLevel DEBUG1"}})
	s := sshd.Start(t, sshd.Config{AuthorizedKeys: []string{r.agent.authorized}})
	r.pin(t, third, s.HostKeys()...)
	middle, err := OpenJump(t.Context(), r.open(t), r.agent.socket)
	if err != nil {
		t.Fatal(err)
	}
	cfg := r.cfg
	cfg.Instance, cfg.Through = third, middle
	cfg.Endpoints = []resolve.Endpoint{endpoint(t, resolve.Gateway, s.Addr())}
	c := open(t, cfg)
	client, err := Login(t.Context(), c, r.agent.socket)
	if err != nil {
		t.Fatal(err)
	}
	if all := r.told.all(); len(all) != 3 || all[2].Route != "gateway via vast-1234567, vast-7654321" {
		t.Errorf("got %+v", all)
	}
	if n := strings.Count(r.sshd.Log(), "target 127.0.0.1 port"); n != 1 {
		t.Errorf("%d connections went through the second instance", n)
	}
	client.Close()
	for _, j := range []*Jump{middle, r.cfg.Through} {
		await(t, "the end of "+j.way, j.ended)
	}
}

// A direct route that the instance in the middle cannot reach leaves the other one.
func TestJumpSecondEndpoint(t *testing.T) {
	r := newJumpRig(t, sshd.Config{}, sshd.Config{})
	gateway := r.cfg.Endpoints[0]
	gateway.Route = resolve.Gateway
	r.cfg.Endpoints = []resolve.Endpoint{endpoint(t, resolve.Direct, testenv.RefusedAddr(t)), gateway}
	if got := r.open(t).Endpoint().Route; got != "gateway via vast-1234567" {
		t.Errorf("reached by %q", got)
	}
	r.cfg.Endpoints = r.cfg.Endpoints[:1]
	_, err := Open(t.Context(), r.cfg)
	e := wantAs[*UnreachableError](t, err)
	if f := wantAs[*ForwardingError](t, err); f.Instance != testInstance || f.Reason != ssh.ConnectionFailed {
		t.Errorf("got %+v", f)
	}
	wantText(t, e, "instance 7654321 does not answer: direct via vast-1234567 127.0.0.1:",
		"vast-1234567 cannot connect there", "refused")
}

func TestJumpWrongPin(t *testing.T) {
	t.Run("beyond", func(t *testing.T) {
		r := newJumpRig(t, sshd.Config{}, sshd.Config{})
		r.pin(t, farInstance, newKey(t))
		out, errs, code := run(t, r.ssh(t, "echo hello", "-o", "LogLevel=DEBUG3"))
		if out != "" || code != 255 {
			t.Errorf("got %q, %d", out, code)
		}
		checkNoReply(t, errs)
		if want := "proxy: the host key on direct via vast-1234567 " + r.sshd.Addr() + " is refused"; !strings.Contains(errs, want) {
			t.Errorf("%q is not on stderr:\n%s", want, errs)
		}
		if st := r.agent.Status(t.Context()); st.Signatures != 1 || st.Witnesses != 0 {
			t.Errorf("the agent's state: %+v", st)
		}
	})
	t.Run("in the middle", func(t *testing.T) {
		r := newJumpRig(t, sshd.Config{}, sshd.Config{})
		r.pin(t, testInstance, newKey(t))
		out, errs, code := run(t, r.ssh(t, "echo hello"))
		want := "proxy: log in at vast-1234567: the host key on direct " + r.near.sshd.Addr() + " is refused"
		if out != "" || code != 255 || !strings.Contains(errs, want) {
			t.Errorf("got %q, %d, %s", out, code, errs)
		}
		if strings.Contains(r.near.sshd.Log(), "Accepted") || strings.Contains(r.sshd.Log(), "Connection from") {
			t.Error("it went on all the same")
		}
		if st := r.agent.Status(t.Context()); st.Signatures != 0 || st.Witnesses != 0 {
			t.Errorf("the agent's state: %+v", st)
		}
	})
}

func TestJumpForwardingForbidden(t *testing.T) {
	for _, line := range []string{"AllowTcpForwarding no", "DisableForwarding yes", "PermitOpen none"} {
		t.Run(line, func(t *testing.T) {
			r := newJumpRig(t, sshd.Config{Extra: []string{line}}, sshd.Config{})
			r.cfg.Through = r.jump(t)
			_, err := Open(t.Context(), r.cfg)
			e := wantAs[*UnreachableError](t, err)
			wantText(t, err, "vast-1234567 does not let connections through")
			if !strings.Contains(e.Hint(), "AllowTcpForwarding yes") {
				t.Errorf("hint: %q", e.Hint())
			}
			if strings.Contains(r.sshd.Log(), "Connection from") {
				t.Error("the other one was reached")
			}
		})
	}
}

// What the agent refused the login in the middle is the error.
func TestJumpRefusedByTheAgent(t *testing.T) {
	r := newJumpRig(t, sshd.Config{}, sshd.Config{})
	refusal := &ipc.Refusal{Reason: "r", Sentence: "it was refused", Instance: testInstance}
	r.near.cfg.Withdraw = func(ipc.Witness) *ipc.Refusal { return refusal }
	r.near.sshd.SetAuthorizedKeys()
	_, err := OpenJump(t.Context(), open(t, r.near.cfg), r.agent.socket)
	wantText(t, err, "log in at vast-1234567: it was refused")
	e := wantAs[*RefusedError](t, err)
	if e.Hint() != "vast-ssh why 1234567" {
		t.Errorf("hint: %q", e.Hint())
	}
	refusal.Hint = "do this"
	if e.Hint() != "do this" {
		t.Errorf("hint: %q", e.Hint())
	}
}

// All that is learnt of an instance comes from the machine in the middle, so it is no more than a first use.
func TestJumpFirstContact(t *testing.T) {
	forget := func(t *testing.T, r *jumpRig) {
		if _, err := r.cfg.Pins.Remove(t.Context(), farInstance); err != nil {
			t.Fatal(err)
		}
		gateway := r.cfg.Endpoints[0]
		gateway.Route = resolve.Gateway
		r.cfg.Endpoints = append(r.cfg.Endpoints, gateway)
	}
	t.Run("tofu", func(t *testing.T) {
		r := newJumpRig(t, sshd.Config{}, sshd.Config{HostKeys: []string{"ed25519", "ecdsa", "rsa"}})
		forget(t, r)
		client, err := Login(t.Context(), r.open(t), r.agent.socket)
		if err != nil {
			t.Fatal(err)
		}
		client.Close()
		pins, err := r.cfg.Pins.Of(farInstance)
		if err != nil || len(pins) != 3 || pins[0].Via != known.Tofu {
			t.Errorf("got %+v, %v", pins, err)
		}
		if got, n := r.wentThrough(t, r.sshd.Addr()), 1+len(scanned); got != n {
			t.Errorf("%d connections went through the instance in the middle, want %d", got, n)
		}
	})
	t.Run("two-path", func(t *testing.T) {
		r := newJumpRig(t, sshd.Config{}, sshd.Config{})
		forget(t, r)
		r.cfg.Least, r.cfg.Through = known.TwoPath, r.jump(t)
		_, err := Open(t.Context(), r.cfg)
		if e := wantAs[*FirstContactError](t, err); e.Reached != known.Tofu {
			t.Errorf("got %+v", e)
		}
		wantText(t, err, "every route goes through vast-1234567")
	})
}

// Megabytes both ways, with the client's end of file in the middle of it.
func TestJumpVolume(t *testing.T) {
	r := newJumpRig(t, sshd.Config{}, sshd.Config{})
	const volume = 16 << 20
	cmd := r.ssh(t, "cat")
	cmd.Stdin = noise(5, volume)
	out, errs, code := run(t, cmd)
	if code != 0 || errs != "" || sum(t, strings.NewReader(out)) != sum(t, noise(5, volume)) {
		t.Errorf("%d bytes came back, %q, %d", len(out), errs, code)
	}
}

// The server beyond says a lot and hangs up: every byte of it arrives.
func TestJumpServerClosesFirst(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	r := newJumpRig(t, sshd.Config{}, sshd.Config{})
	const volume = 4 << 20
	s := serve(t, replay(h, nil, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, len(h.FromClient)))
		io.Copy(c, noise(9, volume))
	}))
	r.pin(t, farInstance, h.key)
	r.cfg.Endpoints = []resolve.Endpoint{endpoint(t, resolve.Direct, s.addr())}
	r.cfg.Witness = func(context.Context, ipc.Witness) error { return nil }
	c := newClient(t, "pipe")
	conn := r.open(t)
	result := c.relay(t.Context(), conn)
	c.write(t, h.FromClient[:h.newKeys])
	if _, err := io.ReadFull(c.fromHere, make([]byte, len(h.FromServer))); err != nil {
		t.Fatal(err)
	}
	c.write(t, h.FromClient[h.newKeys:])
	if got, want := sum(t, io.LimitReader(c.fromHere, volume)), sum(t, noise(9, volume)); got != want {
		t.Error("the client got something else")
	}
	if err := await(t, "the end of the relay", result); err != nil {
		t.Error(err)
	}
	await(t, "the end of the login in the middle", r.cfg.Through.ended)
}

// Whoever goes away takes everybody along.
func TestJumpEnds(t *testing.T) {
	for name, end := range map[string]func(*jumpRig, context.CancelFunc, *client){
		"beyond":         func(r *jumpRig, _ context.CancelFunc, _ *client) { r.sshd.Stop() },
		"in the middle":  func(r *jumpRig, _ context.CancelFunc, _ *client) { r.near.sshd.Stop() },
		"stdin closed":   func(_ *jumpRig, _ context.CancelFunc, c *client) { c.toProxy.Close() },
		"stdout closed":  func(_ *jumpRig, _ context.CancelFunc, c *client) { c.fromHere.Close() },
		"context":        func(_ *jumpRig, cancel context.CancelFunc, _ *client) { cancel() },
		"the jump alone": func(r *jumpRig, _ context.CancelFunc, _ *client) { r.cfg.Through.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newJumpRig(t, sshd.Config{}, sshd.Config{})
			conn := r.open(t)
			c := newClient(t, "pipe")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			result := make(chan error, 1)
			go func() { result <- Relay(ctx, conn, c.in, c.out) }()
			client, channels, requests, err := ssh.NewClientConn(stdio{c}, "", &ssh.ClientConfig{
				User:            r.cfg.User,
				HostKeyCallback: ssh.InsecureIgnoreHostKey(),
				Auth:            []ssh.AuthMethod{ssh.PublicKeysCallback(r.agent.signers(t))},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer ssh.NewClient(client, channels, requests).Close()
			end(r, cancel, c)
			if err := await(t, "the end of the relay", result); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			await(t, "the end of the login in the middle", r.cfg.Through.ended)
		})
	}
}

// stdio is a client's side of a ProxyCommand as a connection.
type stdio struct{ *client }

func (s stdio) Read(p []byte) (int, error)  { return s.fromHere.Read(p) }
func (s stdio) Write(p []byte) (int, error) { return s.toProxy.Write(p) }
func (s stdio) Close() error                { return errors.Join(s.toProxy.Close(), s.fromHere.Close()) }
func (stdio) LocalAddr() net.Addr           { return &net.UnixAddr{} }
func (stdio) RemoteAddr() net.Addr          { return &net.UnixAddr{} }
func (stdio) SetDeadline(time.Time) error   { return os.ErrNoDeadline }
func (stdio) SetReadDeadline(time.Time) error {
	return os.ErrNoDeadline
}
func (stdio) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

func TestJumpCrowd(t *testing.T) {
	r := newJumpRig(t, sshd.Config{}, sshd.Config{})
	const crowd = 20
	outs := make([]string, crowd)
	var all sync.WaitGroup
	for i := range outs {
		cmd := r.ssh(t, "echo hello")
		all.Go(func() {
			out, err := cmd.Output() // on stderr there may be what the user's shell has to say
			outs[i] = string(out)
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	all.Wait()
	for _, out := range outs {
		if out != "hello\n" {
			t.Errorf("got %q", out)
		}
	}
	if st := r.agent.Status(t.Context()); st.Signatures != 2*crowd || st.Refused != 0 || st.Witnesses != 0 {
		t.Errorf("the agent's state: %+v", st)
	}
}

// middle is an instance in the middle that does what it likes with what is opened through it.
func middle(t *testing.T, handle func(ssh.NewChannel), requests func(<-chan *ssh.Request)) *jumpRig {
	t.Helper()
	checkLeaks(t)
	key := newSigner(t, "ed25519")
	s := serve(t, func(c *net.TCPConn) {
		cfg := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, nil
		}}
		cfg.AddHostKey(key)
		_, channels, reqs, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		go requests(reqs)
		for ch := range channels {
			go handle(ch)
		}
	})
	pins := pinned(t, key.PublicKey())
	a := startAgent(t, pins)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, s.addr()))
	cfg.Witness = witnessAt(a.control)
	r := &jumpRig{near: &rig{agent: a, cfg: cfg}}
	r.rig = &rig{agent: a, cfg: cfg}
	r.cfg.Instance = farInstance
	r.pin(t, farInstance, newKey(t))
	return r
}

// The instance in the middle leaves us waiting, each time at another place. Every wait ends by its own limit.
func TestJumpHostileMiddle(t *testing.T) {
	accept := func(say string) func(ssh.NewChannel) {
		return func(n ssh.NewChannel) {
			ch, reqs, err := n.Accept()
			if err != nil {
				return
			}
			go ssh.DiscardRequests(reqs)
			io.WriteString(ch, say) // and it neither reads nor closes
		}
	}
	const soon = 200 * time.Millisecond
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	t.Run("no answer to the channel", func(t *testing.T) {
		r := middle(t, func(ssh.NewChannel) {}, ssh.DiscardRequests)
		r.cfg.Through, r.cfg.DialTimeout = r.jump(t), soon
		_, err := Open(t.Context(), r.cfg)
		wantAs[*UnreachableError](t, err)
		r.cfg.Through.Close()
	})
	t.Run("no identification", func(t *testing.T) {
		r := middle(t, accept(""), ssh.DiscardRequests)
		r.cfg.Through, r.cfg.DialTimeout = r.jump(t), soon
		_, err := Open(t.Context(), r.cfg)
		wantAs[*UnreachableError](t, err)
		r.cfg.Through.Close()
	})
	t.Run("no key exchange", func(t *testing.T) {
		r := middle(t, accept(ident), ssh.DiscardRequests)
		r.cfg.HandshakeTimeout = soon
		c := r.open(t)
		_, err := relayed(t, c, h.FromClient[:h.newKeys], nil, nil)
		wantText(t, wantAs[*HandshakeError](t, err), "it was not finished in 200ms")
	})
	t.Run("a scan that hears nothing", func(t *testing.T) {
		// Only the first channel says something.
		var said atomic.Bool
		r := middle(t, func(n ssh.NewChannel) {
			say := ""
			if said.CompareAndSwap(false, true) {
				say = ident
			}
			accept(say)(n)
		}, ssh.DiscardRequests)
		if _, err := r.cfg.Pins.Remove(t.Context(), farInstance); err != nil {
			t.Fatal(err)
		}
		r.cfg.Through, r.cfg.DialTimeout = r.jump(t), soon
		_, err := Open(t.Context(), r.cfg)
		// On a busy machine the time may be over before the first channel has said it.
		for late := (*UnreachableError)(nil); errors.As(err, &late) && r.cfg.DialTimeout < patience; {
			r.cfg.DialTimeout *= 4
			said.Store(false)
			_, err = Open(t.Context(), r.cfg)
		}
		wantText(t, err, "first contact with instance 7654321")
		r.cfg.Through.Close()
	})
	t.Run("context", func(t *testing.T) {
		r := middle(t, accept(ident), ssh.DiscardRequests)
		r.cfg.Through = r.jump(t)
		ctx, cancel := context.WithCancel(t.Context())
		c, err := Open(ctx, r.cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.ReadFull(c, make([]byte, len(ident)))
		time.AfterFunc(soon, cancel)
		_, err = c.Read(make([]byte, 1))
		wantIs(t, err, context.Canceled)
	})
	t.Run("no answer to a keepalive", func(t *testing.T) {
		asked := make(chan string, 1)
		r := middle(t, accept(ident), func(reqs <-chan *ssh.Request) {
			asked <- (<-reqs).Type
		})
		c := r.open(t)
		io.ReadFull(c, make([]byte, len(ident)))
		go r.cfg.Through.keepAlive(time.Millisecond, soon)
		if got := await(t, "the question", asked); got != "keepalive@openssh.com" {
			t.Errorf("asked %q", got)
		}
		within(t, "the end of the connection beyond", func() {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("it goes on")
			}
		})
	})
}

// The library's own connections through SSH are not fit for what Conn does with them; a tunnel is.
func TestTunnel(t *testing.T) {
	pair := func(t *testing.T) (tun *tunnel, far *net.TCPConn) {
		checkLeaks(t)
		peers := make(chan *net.TCPConn, 1)
		over := make(chan struct{})
		s := serve(t, func(c *net.TCPConn) {
			peers <- c
			<-over
		})
		c, err := net.Dial("tcp", s.addr())
		if err != nil {
			t.Fatal(err)
		}
		if tun, err = newTunnel(c); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			tun.Close()
			close(over)
		})
		return tun, await(t, "the connection", peers)
	}
	t.Run("deadline", func(t *testing.T) {
		tun, far := pair(t)
		tun.SetReadDeadline(time.Unix(1, 0))
		_, err := tun.Read(make([]byte, 1))
		wantIs(t, err, os.ErrDeadlineExceeded)
		tun.SetReadDeadline(time.Time{})
		io.WriteString(far, "x")
		if _, err := tun.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
	t.Run("half close here", func(t *testing.T) {
		tun, far := pair(t)
		io.WriteString(tun, "hello")
		tun.CloseWrite()
		if b, err := io.ReadAll(far); string(b) != "hello" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		io.WriteString(far, "answer")
		far.CloseWrite()
		if b, err := io.ReadAll(tun); string(b) != "answer" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	})
	t.Run("half close there", func(t *testing.T) {
		tun, far := pair(t)
		io.WriteString(far, "hello")
		far.CloseWrite()
		if b, err := io.ReadAll(tun); string(b) != "hello" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		io.WriteString(tun, "answer")
		tun.CloseWrite()
		if b, err := io.ReadAll(far); string(b) != "answer" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	})
	t.Run("close", func(t *testing.T) {
		tun, far := pair(t)
		tun.Close()
		within(t, "the end of the other side", func() {
			for {
				if _, err := far.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})
	})
	t.Run("bytes that came before the end, with others unread", func(t *testing.T) {
		tun, far := pair(t)
		io.WriteString(far, "last words")
		far.SetLinger(-1)
		far.Close()
		for {
			if _, err := tun.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		b, err := io.ReadAll(tun)
		if string(b) != "last words" || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q, %v", b, err)
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		open := func() int {
			all, err := filepath.Glob("/proc/self/fd/*")
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		if open() == 0 {
			testenv.Missing(t, "/proc")
		}
		before := open()
		for range 32 {
			near, end, err := socketPair()
			if err != nil {
				t.Fatal(err)
			}
			near.Close()
			end.Close()
		}
		if after := open(); after > before+4 {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}
