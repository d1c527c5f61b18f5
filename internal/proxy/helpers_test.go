package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
	"vast-ssh/known"
)

const (
	testInstance = 1234567
	testMachine  = 4711
	// never is a delay that a test does not live to see, and patience bounds what has to happen.
	never    = time.Hour
	patience = 2 * time.Minute
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(proxyCommand(role))
	}
	secondRouteTimeout = patience // a busy machine is no second route that is broken
	code := m.Run()
	if left := leaked(patience); left != "" && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines of the package were left behind:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// ours matches a stack with a frame in a file of this package that is no test.
var ours = regexp.MustCompile(`/internal/proxy/(conn|dial|jump|login|meet|proxy|relay|splice_\w+)\.go:`)

// leaked waits until no goroutine runs code of this package any more, and returns the stacks of those that still do.
// The end of a goroutine is no event that could be waited for.
func leaked(limit time.Duration) string {
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		buf := make([]byte, 1<<20)
		var left []string
		// The first stack is the caller's own.
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
			if ours.MatchString(stack) {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return ""
		}
		if time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// checkLeaks has the test fail if it leaves a goroutine of this package behind. Call it first: cleanups run backwards.
func checkLeaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if left := leaked(patience); left != "" {
			t.Errorf("goroutines were left behind:\n%s", left)
		}
	})
}

// within runs f, which has to return without anything else happening.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	await(t, what, done)
}

func await[T any](t testing.TB, what string, event <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-event:
		return v
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s did not happen\n%s", what, buf[:runtime.Stack(buf, true)])
	}
	return v
}

func noPins(t testing.TB) (f *known.File, path string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pins")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "known_hosts")
	return known.Open(path), path
}

func pinned(t testing.TB, keys ...ssh.PublicKey) *known.File {
	t.Helper()
	f, _ := noPins(t)
	if err := f.Replace(t.Context(), testInstance, makePins(testInstance, testMachine, known.Tofu, keys)); err != nil {
		t.Fatal(err)
	}
	return f
}

func isPinned(t testing.TB, f *known.File) bool {
	t.Helper()
	pins, err := f.Of(testInstance)
	if err != nil {
		t.Fatal(err)
	}
	return len(pins) > 0
}

func endpoint(t testing.TB, route resolve.Route, addr string) resolve.Endpoint {
	t.Helper()
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return resolve.Endpoint{Route: route, Host: ap.Addr().String(), Port: ap.Port()}
}

func testConfig(pins *known.File, endpoints ...resolve.Endpoint) Config {
	return Config{
		Instance:         testInstance,
		Machine:          testMachine,
		User:             "root",
		Endpoints:        endpoints,
		Pins:             pins,
		Least:            known.Tofu,
		Witness:          func(context.Context, ipc.Witness) error { return nil },
		Delay:            never,
		DialTimeout:      patience,
		HandshakeTimeout: patience,
	}
}

// server is a scripted peer.
type server struct {
	l     net.Listener
	mu    sync.Mutex // protects count
	count int
}

// serve runs handle for each connection to a listener on 127.0.0.1. The end of the test closes the listener and waits
// for the handlers.
func serve(t testing.TB, handle func(*net.TCPConn)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{l: l}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.count++
			s.mu.Unlock()
			c.SetDeadline(time.Now().Add(2 * patience))
			handlers.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		handlers.Wait()
	})
	return s
}

func (s *server) addr() string { return s.l.Addr().String() }

func (s *server) accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// drain reads until the peer is gone.
func drain(c *net.TCPConn) { io.Copy(io.Discard, c) }

// handshake is a recorded start of a connection between two real programs, see internal/wire.
type handshake struct {
	Method, HostKeyAlgorithm string
	FromClient               []byte // find adds AfterKexInit
	FromServer               []byte
	AfterKexInit             []byte // from the client

	newKeys   int // offset in FromClient of its NEWKEYS, which it sends when it has read the reply
	cipher    int // and of what comes behind it
	reply     int // offset in FromServer of the packet that is the KEX reply
	replyEnd  int
	key       ssh.PublicKey
	keyBlob   []byte
	signature []byte
}

func loadHandshake(t testing.TB, file string) *handshake {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h := new(handshake)
	if err := json.Unmarshal(b, h); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	h.find(t)
	return h
}

func handshakeNamed(t testing.TB, name string) *handshake {
	t.Helper()
	return loadHandshake(t, filepath.Join("..", "wire", "testdata", name+".json"))
}

func handshakes(t testing.TB) map[string]*handshake {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "wire", "testdata", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	all := make(map[string]*handshake)
	for _, file := range files {
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = loadHandshake(t, file)
	}
	return all
}

// find walks the packets up to the reply and to NEWKEYS, in a way of its own: the parser under test shall not judge itself.
func (h *handshake) find(t testing.TB) {
	t.Helper()
	h.newKeys = len(h.FromClient)
	for b := h.AfterKexInit; b[5] != 21; {
		size := 4 + int(binary.BigEndian.Uint32(b))
		h.newKeys += size
		b = b[size:]
	}
	h.FromClient = append(h.FromClient, h.AfterKexInit...)
	h.cipher = h.newKeys + 4 + int(binary.BigEndian.Uint32(h.FromClient[h.newKeys:]))
	b := h.FromServer
	for !bytes.HasPrefix(b, []byte("SSH-")) {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	_, b, _ = bytes.Cut(b, []byte("\n"))
	want := byte(31)
	if strings.HasPrefix(h.Method, "diffie-hellman-group-exchange-") {
		want = 33
	}
	for len(b) > 5 {
		size := 4 + int(binary.BigEndian.Uint32(b))
		if b[5] != want {
			b = b[size:]
			continue
		}
		h.reply = len(h.FromServer) - len(b)
		h.replyEnd = h.reply + size
		var msg struct {
			HostKey []byte
			Public  []byte
			Sig     []byte
		}
		if err := ssh.Unmarshal(b[6:size-int(b[4])], &msg); err != nil {
			t.Fatal(err)
		}
		h.keyBlob, h.signature = msg.HostKey, msg.Sig
		var err error
		if h.key, err = ssh.ParsePublicKey(msg.HostKey); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no reply in the recording")
}

// witnesses records what the agent would be told.
type witnesses struct {
	mu   sync.Mutex
	seen []ipc.Witness
}

func (w *witnesses) take(_ context.Context, one ipc.Witness) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, one)
	return nil
}

func (w *witnesses) all() []ipc.Witness {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

func wantAs[E error](t testing.TB, err error) (target E) {
	t.Helper()
	if !errors.As(err, &target) {
		t.Fatalf("got the error %v (%T), want a %T", err, err, target)
	}
	return target
}

func wantIs(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got the error %v (%T), want %v", err, err, target)
	}
}

func wantText(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in the error: %v", part, err)
		}
	}
}
