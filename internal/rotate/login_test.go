package rotate

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/vast"
	"vast-ssh/known"
)

func mustParse(t testing.TB, line string) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// serve runs an ssh server on loopback until the test ends, and returns the instance that it is.
func serve(t *testing.T, hostKey ssh.Signer, cfg *ssh.ServerConfig) vast.Instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.AddHostKey(hostKey)
	var running sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(3 * time.Minute))
				// That a handshake fails is what some of the tests are about.
				if conn, channels, requests, err := ssh.NewServerConn(c, cfg); err == nil {
					go ssh.DiscardRequests(requests)
					for range channels {
					}
					conn.Close()
				}
			})
		}
	})
	port := l.Addr().(*net.TCPAddr).Port
	return vast.Instance{
		ID: 7, ActualStatus: "running", ImageRuntype: "ssh_direc", PublicIP: "127.0.0.1",
		Ports: map[string][]vast.PortBinding{"22/tcp": {{HostPort: uint16(port)}}},
	}
}

// wire makes logins with pins for instance 7.
func wire(t *testing.T, pinned ...ssh.PublicKey) *Wire {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := known.Open(filepath.Join(dir, "known_hosts"))
	for _, key := range pinned {
		pin := known.Pin{Instance: 7, Key: key, Via: known.Manual, At: time.Now().UTC().Truncate(time.Second)}
		if err := file.Replace(t.Context(), 7, []known.Pin{pin}); err != nil {
			t.Fatal(err)
		}
	}
	return &Wire{
		Config: func(target resolve.Target) (proxy.Config, error) {
			return proxy.Config{
				Instance: target.ID, User: "root", Endpoints: target.Endpoints, Pins: file, Least: known.Tofu,
				DialTimeout: time.Minute, HandshakeTimeout: time.Minute,
			}, nil
		},
		Pins: file,
	}
}

// lets is a server that lets one key in.
func lets(key ssh.PublicKey) *ssh.ServerConfig {
	return &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if !same(k, key) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
}

func TestWire(t *testing.T) {
	host, mine, other := newSigner(t), newSigner(t), newSigner(t)
	in := serve(t, host, lets(mine.PublicKey()))
	w := wire(t, host.PublicKey())

	if err := w.By(t.Context(), in, mine); err != nil {
		t.Errorf("a key that is let in: %v", err)
	}
	var refused *RefusedError
	if err := w.By(t.Context(), in, other); !errors.As(err, &refused) || refused.ID != 7 {
		t.Errorf("a key that is not: %v", err)
	}
	for _, tt := range []struct {
		key  ssh.PublicKey
		want bool
	}{{mine.PublicKey(), true}, {other.PublicKey(), false}} {
		if got, err := w.Accepts(t.Context(), in, tt.key); err != nil || got != tt.want {
			t.Errorf("Accepts: %v, %v, want %v", got, err, tt.want)
		}
	}
	stopped := in
	stopped.ActualStatus = "exited"
	var down *resolve.NotRunningError
	if err := w.Ready(stopped); !errors.As(err, &down) {
		t.Errorf("stopped: %v", err)
	}
}

// A login that failed for any other reason is no refusal of the key: that would start a wait, or let the old key pass for
// gone.
func TestWireOtherFailures(t *testing.T) {
	host, mine := newSigner(t), newSigner(t)
	good := lets(mine.PublicKey())
	w := wire(t, host.PublicKey())
	check := func(name string, w *Wire, in vast.Instance, want func(error) bool) {
		t.Helper()
		var refused *RefusedError
		if err := w.By(t.Context(), in, mine); err == nil || errors.As(err, &refused) || !want(err) {
			t.Errorf("%s: By: %v", name, err)
		}
		if accepted, err := w.Accepts(t.Context(), in, mine.PublicKey()); name != "lets everybody in" &&
			(err == nil || accepted || !want(err)) {
			t.Errorf("%s: Accepts: %v, %v", name, accepted, err)
		}
	}
	check("another host key", wire(t, newSigner(t).PublicKey()), serve(t, host, good), func(err error) bool {
		var mismatch *known.MismatchError
		return errors.As(err, &mismatch)
	})
	check("never met", wire(t), serve(t, host, good), func(err error) bool {
		var unpinned *UnpinnedError
		return errors.As(err, &unpinned) && strings.Contains(err.Error(), "vast-ssh 7")
	})
	check("nobody there", w, vast.Instance{
		ID: 7, ActualStatus: "running", PublicIP: "127.0.0.1", Ports: map[string][]vast.PortBinding{"22/tcp": {{HostPort: 1}}},
	}, func(err error) bool {
		var unreachable *proxy.UnreachableError
		return errors.As(err, &unreachable)
	})
	check("passwords only", w, serve(t, host, &ssh.ServerConfig{
		PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, nil },
	}), func(error) bool { return true })
	check("lets everybody in", w, serve(t, host, &ssh.ServerConfig{NoClientAuth: true}), func(err error) bool {
		return strings.Contains(err.Error(), "everybody")
	})
	everybody := serve(t, host, &ssh.ServerConfig{NoClientAuth: true})
	if accepted, err := w.Accepts(t.Context(), everybody, mine.PublicKey()); !accepted {
		t.Errorf("whoever lets everybody in accepts every key: %v", err)
	}
}

// Should the pins go between the look at them and the connection, nobody is met.
func TestWireMeetsNobody(t *testing.T) {
	host, mine := newSigner(t), newSigner(t)
	in := serve(t, host, lets(mine.PublicKey()))
	w, empty := wire(t, host.PublicKey()), wire(t)
	config := w.Config
	w.Config = func(target resolve.Target) (proxy.Config, error) {
		cfg, err := config(target)
		cfg.Pins = empty.Pins
		return cfg, err
	}
	var first *proxy.FirstContactError
	if err := w.By(t.Context(), in, mine); !errors.As(err, &first) {
		t.Error(err)
	}
	if pins, err := empty.Pins.Of(7); err != nil || len(pins) > 0 {
		t.Errorf("pinned %v, %v", pins, err)
	}
}

func TestRefusal(t *testing.T) {
	for err, want := range map[error]bool{
		errors.New("ssh: unable to authenticate, attempted methods [none publickey]"): true,
		errors.New("ssh: disconnect, reason 2: ssh: unable to authenticate"):          false,
		errors.Join(errors.New("x")): false,
		context.DeadlineExceeded:     false,
		&wrapped{errors.New("ssh: unable to authenticate, attempted methods [none], none that remain")}: true,
	} {
		if got := proxy.LoginRefused(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

type wrapped struct{ err error }

func (w *wrapped) Error() string { return "ssh: handshake failed: " + w.err.Error() }
func (w *wrapped) Unwrap() error { return w.err }
