package proxy

import (
	"context"
	"crypto/ed25519"
	"io"
	"os"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
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
	running           chan struct{}
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
		// First the ends that make the relay's last goroutine let go of its own.
		c.toProxy.Close()
		c.fromHere.Close()
		leaked(patience)
		c.in.Close()
		c.out.Close()
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

// relayed runs Relay for a client that says fromClient and then only listens, its stdin open. It returns what the client
// got until the relay ended.
func relayed(t *testing.T, conn *Conn, fromClient []byte) (got []byte, err error) {
	t.Helper()
	c := newClient(t, "pipe")
	result := c.relay(t.Context(), conn)
	go c.toProxy.Write(fromClient)
	listened := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(c.fromHere)
		listened <- b
	}()
	err = await(t, "the end of the relay", result)
	c.toProxy.Close()
	leaked(patience) // nobody writes to out any more
	c.out.Close()
	return await(t, "the end of the client", listened), err
}
