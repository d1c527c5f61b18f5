package wipe_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/proxy"
	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/vast"
	"vast-ssh/internal/wipe"
	"vast-ssh/internal/wipe/deploy"
)

// world is an account with an instance in it, which this process logs in to by a line that can be cut.
type world struct {
	*overlay.Instance
	t       *testing.T
	account *sim.Account
	api     *vast.Client
	id      uint64
	signer  ssh.Signer
	canary  string
	line    *line
	dir     string
}

func newWorld(t *testing.T, c overlay.Config) *world {
	t.Helper()
	if !deploy.Built() {
		testenv.Missing(t, "the helper programs: go generate vast-ssh/internal/wipe/deploy")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, account: sim.NewAccount(sim.Options{}), dir: t.TempDir() + "/reports"}
	if w.signer, err = ssh.NewSignerFromKey(key); err != nil {
		t.Fatal(err)
	}
	if err := w.account.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.account.Close)
	w.api, err = vast.New(vast.Config{URL: w.account.URL(), Key: w.account.Key(), Pace: func(string) time.Duration { return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	w.id = w.account.Add(sim.Instance{Label: "box"})
	c.ID = w.id
	c.AuthorizedKeys = []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(w.signer.PublicKey())))}
	w.Instance = overlay.Start(t, c)
	w.line = newLine(t, w.Addr())
	var b [12]byte
	rand.Read(b[:])
	w.canary = "canary-" + hex.EncodeToString(b[:])
	return w
}

func (w *world) connect(ctx context.Context) (*ssh.Client, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", w.line.addr)
	if err != nil {
		return nil, err
	}
	return w.over(ctx, conn)
}

// over logs in over a connection.
func (w *world) over(ctx context.Context, conn net.Conn) (*ssh.Client, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, chans, reqs, err := ssh.NewClientConn(conn, "box", &ssh.ClientConfig{
		User: w.User(), Auth: []ssh.AuthMethod{ssh.PublicKeys(w.signer)}, HostKeyCallback: ssh.FixedHostKey(w.HostKeys()[0]),
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

func (w *world) config(o wipe.Options) wipe.Config {
	w.t.Helper()
	in, err := w.api.Instance(w.t.Context(), w.id)
	if err != nil {
		w.t.Fatal(err)
	}
	if o.Scope == "" {
		o.Scope = wipe.Workspace
	}
	if o.Destroy == "" {
		o.Destroy = wipe.IfClean
	}
	return wipe.Config{
		Instance: in, API: w.api, Connect: w.connect, Refused: proxy.LoginRefused, Closed: closed, Options: o, Dir: w.dir,
		Pause: 10 * time.Millisecond, Patience: 3 * time.Minute,
		Retry: func(err error) bool { return !proxy.LoginRefused(err) },
	}
}

func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (w *world) prepare(o wipe.Options) *wipe.Wipe {
	w.t.Helper()
	p, err := wipe.Prepare(w.t.Context(), w.config(o))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	return p
}

// plant runs a script in which $C is the canary.
func (w *world) plant(script string) {
	w.t.Helper()
	w.Sh("C=" + w.canary + "\n" + script)
}

// found are the places of the canary, as "content /path".
func (w *world) found() []string {
	w.t.Helper()
	var list []string
	for _, hit := range w.Scan([][]byte{[]byte(w.canary)}) {
		list = append(list, hit.In+" "+hit.Path)
	}
	slices.Sort(list)
	return list
}

// line passes connections on to an address. Each may be cut after a number of bytes in both directions together.
type line struct {
	addr string
	to   string

	mu   sync.Mutex // protects the following
	cuts []int64    // for the connections to come, in this order; those after them are not cut
	made int        // cuts
	open []net.Conn
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := &line{addr: l.Addr().String(), to: to}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go ln.serve(c)
		}
	}()
	return ln
}

func (l *line) cutAfter(bytes ...int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cuts = bytes
}

// count is how many cuts were made.
func (l *line) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made
}

// cutNow cuts the connections that there are, and reports whether there was one.
func (l *line) cutNow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) == 0 {
		return false
	}
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
	l.made++
	return true
}

// cut cuts one connection, if nobody has yet.
func (l *line) cut(ends ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Contains(l.open, ends[0]) {
		l.made++
	}
	l.forgetLocked(ends)
}

func (l *line) forget(ends ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(ends)
}

func (l *line) forgetLocked(ends []net.Conn) {
	l.open = slices.DeleteFunc(l.open, func(c net.Conn) bool { return slices.Contains(ends, c) })
}

func (l *line) serve(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer far.Close()
	limit := int64(-1)
	l.mu.Lock()
	l.open = append(l.open, near, far)
	defer l.forget(near, far)
	if len(l.cuts) > 0 {
		limit, l.cuts = l.cuts[0], l.cuts[1:]
	}
	l.mu.Unlock()
	var mu sync.Mutex
	passed := int64(0)
	ended := make(chan struct{}, 2)
	pass := func(to, from net.Conn) {
		defer func() { ended <- struct{}{} }()
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			mu.Lock()
			passed += int64(n)
			over := limit >= 0 && passed >= limit
			mu.Unlock()
			if over {
				l.cut(near, far)
				return
			}
			if _, werr := to.Write(buf[:n]); werr != nil || err == io.EOF || err != nil {
				return
			}
		}
	}
	go pass(far, near)
	go pass(near, far)
	<-ended
}
