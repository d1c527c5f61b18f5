package proxy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/resolve"
)

func newKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// client is the ssh client of a ProxyCommand: the ends of its stdin and stdout, and those that the proxy has.
type client struct {
	in, out           *os.File // of the proxy
	toProxy, fromHere *os.File // of the client
}

// newClient makes a client on "pipe" or "socketpair", as shells and OpenSSH or node give it.
func newClient(t testing.TB, kind string) *client {
	t.Helper()
	c := new(client)
	switch kind {
	case "pipe":
		c.in, c.toProxy = pipe(t)
		c.fromHere, c.out = pipe(t)
	case "socketpair":
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
		// Not blocking, so that a deadline or Close wakes the client's own end.
		unix.SetNonblock(fds[0], true)
		c.fromHere = os.NewFile(uintptr(fds[0]), "client")
		c.toProxy = c.fromHere
		c.in = os.NewFile(uintptr(fds[1]), "proxy")
		c.out = c.in
	default:
		t.Fatalf("no kind %q", kind)
	}
	t.Cleanup(func() {
		// A side of the relay may still wait for in or out and lets go when the client's end is closed. That tells the
		// race detector nothing, so they are left to the garbage collector.
		c.toProxy.Close()
		c.fromHere.Close()
	})
	return c
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

// relay runs Relay for the client and gives its result.
func (c *client) relay(ctx context.Context, conn *Conn) <-chan error {
	result := make(chan error, 1)
	go func() { result <- Relay(ctx, conn, c.in, c.out) }()
	return result
}

func (c *client) write(t testing.TB, b []byte) {
	t.Helper()
	if _, err := c.toProxy.Write(b); err != nil {
		t.Errorf("the client's write: %v", err)
	}
}

// closeIn ends what the client sends; it goes on listening.
func (c *client) closeIn(t testing.TB) {
	t.Helper()
	if c.toProxy != c.fromHere {
		c.toProxy.Close()
		return
	}
	raw, err := c.toProxy.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
}

// relayed runs Relay for a client that says fromClient and then only listens, its stdin open. When it has got all of
// before it says then. The result is what the client got until the relay ended.
func relayed(t *testing.T, conn *Conn, fromClient, before, then []byte) (got []byte, err error) {
	t.Helper()
	c := newClient(t, "pipe")
	result := c.relay(t.Context(), conn)
	go c.toProxy.Write(fromClient)
	listened := make(chan []byte, 1)
	go func() {
		first := make([]byte, len(before))
		n, err := io.ReadFull(c.fromHere, first)
		if err == nil && len(then) > 0 {
			c.toProxy.Write(then)
		}
		b, _ := io.ReadAll(c.fromHere)
		listened <- append(first[:n], b...)
	}()
	err = await(t, "the end of the relay", result)
	c.toProxy.Close()
	leaked(patience) // nobody writes to out any more
	c.fromHere.SetReadDeadline(time.Unix(1, 0))
	return append(await(t, "the end of the client", listened), c.rest(t)...), err
}

// rest is what is in the client's pipe at this moment.
func (c *client) rest(t *testing.T) (b []byte) {
	t.Helper()
	raw, err := c.fromHere.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		buf := make([]byte, 64<<10)
		for {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 {
				if err != nil && !errors.Is(err, unix.EAGAIN) {
					t.Error(err)
				}
				return
			}
			b = append(b, buf[:n]...)
		}
	})
	return b
}

// session is a relay whose handshake is over.
type session struct {
	*client
	peer   *net.TCPConn // the server's side
	result <-chan error
	ctx    context.Context
	cancel context.CancelFunc
}

// newSession relays between a client and a server that both have said their part of a recording, and read the other's.
func newSession(t testing.TB, kind string) *session {
	t.Helper()
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	peers, over := make(chan *net.TCPConn), make(chan struct{})
	s := serve(t, replay(h, nil, func(c *net.TCPConn) {
		if _, err := io.ReadFull(c, make([]byte, len(h.FromClient))); err != nil {
			t.Errorf("the server: %v", err)
		}
		peers <- c
		<-over
	}))
	t.Cleanup(func() { close(over) })
	conn := open(t, testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr())))
	c := newClient(t, kind)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	result := c.relay(ctx, conn)
	c.write(t, h.FromClient[:h.newKeys])
	if _, err := io.ReadFull(c.fromHere, make([]byte, len(h.FromServer))); err != nil {
		t.Fatal(err)
	}
	c.write(t, h.FromClient[h.newKeys:])
	return &session{c, await(t, "the handshake", peers), result, ctx, cancel}
}

var kinds = []string{"pipe", "socketpair"}

func forKinds(t *testing.T, f func(t *testing.T, kind string)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			checkLeaks(t)
			f(t, kind)
		})
	}
}

// noise is n bytes that depend on seed.
func noise(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

func sum(t testing.TB, r io.Reader) (hash [sha256.Size]byte) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Errorf("reading: %v", err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func TestRelayVolume(t *testing.T) {
	const volume = 64 << 20
	forKinds(t, func(t *testing.T, kind string) {
		s := newSession(t, kind)
		send := func(w io.Writer, seed byte) {
			if n, err := io.Copy(struct{ io.Writer }{w}, noise(seed, volume)); err != nil {
				t.Errorf("writing stopped at %d: %v", n, err)
			}
		}
		up := make(chan [sha256.Size]byte, 1)
		go send(s.toProxy, 1)
		go send(s.peer, 2)
		go func() { up <- sum(t, io.LimitReader(s.peer, volume)) }()
		if sum(t, io.LimitReader(s.fromHere, volume)) != sum(t, noise(2, volume)) {
			t.Error("the client got something else than the server sent")
		}
		if await(t, "the end of the upload", up) != sum(t, noise(1, volume)) {
			t.Error("the server got something else than the client sent")
		}
		s.peer.Close()
		if err := await(t, "the end of the relay", s.result); err != nil {
			t.Error(err)
		}
	})
}

// A plain file for stdout, which is neither a pipe nor anything that waits.
func TestRelayFile(t *testing.T) {
	checkLeaks(t)
	const volume = 8 << 20
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	s := serve(t, replay(h, nil, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, h.newKeys))
		io.Copy(struct{ io.Writer }{c}, noise(4, volume))
	}))
	in, toProxy := pipe(t)
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	conn := open(t, testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr())))
	if _, err := toProxy.Write(h.FromClient[:h.newKeys]); err != nil {
		t.Fatal(err)
	}
	if err := Relay(t.Context(), conn, in, out); err != nil {
		t.Fatal(err)
	}
	toProxy.Close()
	leaked(patience)
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if sum(t, out) != sum(t, io.MultiReader(bytes.NewReader(h.FromServer), noise(4, volume))) {
		t.Error("the file has something else than the server sent")
	}
}

// The server's last words arrive, and the relay ends although the client keeps its stdin open, as ssh does.
func TestRelayServerClosesFirst(t *testing.T) {
	forKinds(t, func(t *testing.T, kind string) {
		const last = 3 << 20
		s := newSession(t, kind)
		go func() {
			io.Copy(struct{ io.Writer }{s.peer}, noise(3, last))
			s.peer.CloseWrite()
		}()
		if sum(t, io.LimitReader(s.fromHere, last)) != sum(t, noise(3, last)) {
			t.Error("the client did not get the last words")
		}
		if err := await(t, "the end of the relay", s.result); err != nil {
			t.Error(err)
		}
		s.peer.SetReadDeadline(time.Now().Add(patience))
		if _, err := s.peer.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection is still open: %v", err)
		}
	})
}

func TestRelayServerResets(t *testing.T) {
	forKinds(t, func(t *testing.T, kind string) {
		s := newSession(t, kind)
		s.peer.SetLinger(0)
		s.peer.Close()
		if err := await(t, "the end of the relay", s.result); err != nil {
			t.Error(err)
		}
	})
}

// The client's last words arrive, and the relay ends although the server goes on.
func TestRelayClientClosesIn(t *testing.T) {
	forKinds(t, func(t *testing.T, kind string) {
		s := newSession(t, kind)
		s.write(t, []byte("last words"))
		s.closeIn(t)
		if err := await(t, "the end of the relay", s.result); err != nil {
			t.Error(err)
		}
		if b, err := io.ReadAll(s.peer); err != nil || string(b) != "last words" {
			t.Errorf("the server got %q and %v", b, err)
		}
	})
}

// Nobody reads stdout any more: an end like any other.
func TestRelayStdoutClosed(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			checkLeaks(t)
			s := newSession(t, kind)
			s.fromHere.Close()
			go s.peer.Write(make([]byte, 1<<20))
			if err := await(t, "the end of the relay", s.result); err != nil {
				t.Error(err)
			}
		})
	}
}

// The client is dead, and a server that takes and sends nothing does not keep its connection.
func TestRelayClientDead(t *testing.T) {
	forKinds(t, func(t *testing.T, kind string) {
		s := newSession(t, kind)
		fill(t, s.toProxy)
		s.toProxy.Close()
		s.fromHere.Close()
		if err := await(t, "the end of the relay", s.result); err != nil {
			t.Error(err)
		}
	})
}

// fill writes until whoever should read has taken nothing for a while, so that everything in between is full.
func fill(t *testing.T, w interface {
	io.Writer
	SetWriteDeadline(time.Time) error
}) {
	t.Helper()
	chunk := make([]byte, 1<<20)
	for {
		if err := w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := w.Write(chunk); n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
}

// The end of the context ends the relay wherever it waits.
func TestRelayCancel(t *testing.T) {
	for name, wait := range map[string]func(*testing.T, *session){
		"nobody says anything":  func(*testing.T, *session) {},
		"nobody reads stdout":   func(t *testing.T, s *session) { fill(t, s.peer) },
		"the server is stuck":   func(t *testing.T, s *session) { fill(t, s.toProxy) },
		"nobody reads anything": func(t *testing.T, s *session) { fill(t, s.peer); fill(t, s.toProxy) },
	} {
		t.Run(name, func(t *testing.T) {
			forKinds(t, func(t *testing.T, kind string) {
				s := newSession(t, kind)
				wait(t, s)
				s.cancel()
				wantIs(t, await(t, "the end of the relay", s.result), context.Canceled)
			})
		})
	}
}

func TestRelayCancelledBefore(t *testing.T) {
	checkLeaks(t)
	s := serve(t, func(c *net.TCPConn) {
		io.WriteString(c, ident)
		drain(c)
	})
	conn := open(t, testConfig(pinned(t, newKey(t)), endpoint(t, resolve.Direct, s.addr())))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantIs(t, await(t, "the end of the relay", newClient(t, "pipe").relay(ctx, conn)), context.Canceled)
}
