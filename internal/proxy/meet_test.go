package proxy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/resolve"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
	"vast-ssh/known"
)

func newSigner(t testing.TB, kind string) ssh.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(nil)
	case "ecdsa256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ecdsa521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "rsa2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa1024":
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	default:
		t.Fatalf("no kind %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// machine is a server of x/crypto that lets nobody in. pick gives the host keys of the nth connection, from 1.
func machine(t testing.TB, pick func(n int) []ssh.Signer) *server {
	t.Helper()
	var n atomic.Int64
	return serve(t, func(c *net.TCPConn) {
		cfg := &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
			return nil, errors.New("nobody")
		}}
		for _, s := range pick(int(n.Add(1))) {
			cfg.AddHostKey(s)
		}
		ssh.NewServerConn(c, cfg)
	})
}

func machineWith(t testing.TB, keys ...ssh.Signer) *server {
	return machine(t, func(int) []ssh.Signer { return keys })
}

func blobs[K interface{ Marshal() []byte }](keys []K) []string {
	var all []string
	for _, k := range keys {
		all = append(all, string(k.Marshal()))
	}
	slices.Sort(all)
	return all
}

// checkPins wants the file to have exactly keys for the instance.
func checkPins(t *testing.T, f *known.File, via known.Via, keys ...ssh.PublicKey) {
	t.Helper()
	pins, err := f.Of(testInstance)
	if err != nil {
		t.Fatal(err)
	}
	var got []ssh.PublicKey
	for _, p := range pins {
		got = append(got, p.Key)
		if p.Via != via || p.Machine != testMachine || time.Since(p.At) > time.Hour || p.At.Location() != time.UTC {
			t.Errorf("pin %+v, want %s on machine %d", p, via, testMachine)
		}
	}
	if !slices.Equal(blobs(got), blobs(keys)) {
		t.Errorf("pinned %s, want %s", fingerprints(got), fingerprints(keys))
	}
}

// OpenSSH's sshd with all its usual keys: whatever type a client prefers later, it is pinned.
func TestMeetPinsAllKeysOfSSHD(t *testing.T) {
	checkLeaks(t)
	s := sshd.Start(t, sshd.Config{HostKeys: []string{"ed25519", "ecdsa", "rsa"}})
	pins, _ := noPins(t)
	open(t, testConfig(pins, endpoint(t, resolve.Direct, s.Addr())))
	checkPins(t, pins, known.Tofu, s.HostKeys()...)
}

func TestMeetTwoPath(t *testing.T) {
	checkLeaks(t)
	s := sshd.Start(t, sshd.Config{HostKeys: []string{"ed25519", "ecdsa"}, Listen: []string{"127.0.0.1:0", "127.0.0.1:0"}})
	for _, least := range []known.Via{known.Tofu, known.TwoPath} {
		pins, _ := noPins(t)
		cfg := testConfig(pins, endpoint(t, resolve.Direct, s.Addrs()[0]), endpoint(t, resolve.Gateway, s.Addrs()[1]))
		cfg.Least = least
		open(t, cfg)
		checkPins(t, pins, known.TwoPath, s.HostKeys()...)
	}
}

// Two endpoints of one route are one path: an attacker on it shows the same key on both.
func TestMeetOneRouteTwice(t *testing.T) {
	key := newSigner(t, "ed25519")
	a, b := machineWith(t, key), machineWith(t, key)
	pins, _ := noPins(t)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, a.addr()), endpoint(t, resolve.Direct, b.addr()))
	cfg.Least = known.TwoPath
	_, err := Open(t.Context(), cfg)
	e := wantAs[*FirstContactError](t, err)
	if e.Reached != known.Tofu || isPinned(t, pins) {
		t.Errorf("reached %s", e.Reached)
	}
}

// One of the two routes ends at another machine. That of the attacker may show keys of the right one besides its own,
// or fewer of them.
func TestMeetRoutesDiffer(t *testing.T) {
	a, b, c := newSigner(t, "ed25519"), newSigner(t, "ed25519"), newSigner(t, "ecdsa256")
	for name, routes := range map[string][2][]ssh.Signer{
		"another key":    {{a}, {b}},
		"another type":   {{a}, {c}},
		"one more":       {{a}, {a, c}},
		"one less":       {{a, c}, {a}},
		"one of another": {{a, c}, {b, c}},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			direct, gateway := machineWith(t, routes[0]...), machineWith(t, routes[1]...)
			pins, _ := noPins(t)
			cfg := testConfig(pins, endpoint(t, resolve.Direct, direct.addr()), endpoint(t, resolve.Gateway, gateway.addr()))
			cfg.Ask = func(context.Context, []known.Pin) error { t.Error("asked all the same"); return nil }
			_, err := Open(t.Context(), cfg)
			e := wantAs[*RoutesDifferError](t, err)
			if len(e.Shown) != 2 || e.Shown[0].Endpoint != cfg.Endpoints[0] || e.Shown[1].Endpoint != cfg.Endpoints[1] {
				t.Errorf("shown %+v", e.Shown)
			}
			for _, signers := range routes {
				for _, s := range signers {
					wantText(t, err, ssh.FingerprintSHA256(s.PublicKey()))
				}
			}
			wantText(t, err, "1234567", direct.addr(), gateway.addr())
			wantText(t, errors.New(e.Hint()), "vast-ssh pin 1234567 --fingerprint SHA256:")
			if isPinned(t, pins) {
				t.Error("something was pinned")
			}
		})
	}
}

func TestMeetLeast(t *testing.T) {
	key := newSigner(t, "ed25519")
	for name, tc := range map[string]struct {
		least   known.Via
		gateway string // of the second route: "", "down", "up"
		reached known.Via
		reason  string
	}{
		"one route":            {known.TwoPath, "", known.Tofu, "there is no second route"},
		"second route is down": {known.TwoPath, "down", known.Tofu, "connection refused"},
		"manual":               {known.Manual, "up", known.TwoPath, ""},
		"log":                  {known.Log, "up", known.TwoPath, ""},
		"an unknown word":      {"trust-me", "up", known.TwoPath, ""},
		"no word":              {"", "up", known.TwoPath, ""},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			s := machineWith(t, key)
			pins, _ := noPins(t)
			cfg := testConfig(pins, endpoint(t, resolve.Direct, s.addr()))
			switch tc.gateway {
			case "down":
				cfg.Endpoints = append(cfg.Endpoints, endpoint(t, resolve.Gateway, testenv.RefusedAddr(t)))
			case "up":
				cfg.Endpoints = append(cfg.Endpoints, endpoint(t, resolve.Gateway, machineWith(t, key).addr()))
			}
			cfg.Least = tc.least
			cfg.Ask = func(context.Context, []known.Pin) error { t.Error("asked all the same"); return nil }
			_, err := Open(t.Context(), cfg)
			e := wantAs[*FirstContactError](t, err)
			if e.Reached != tc.reached || e.Least != tc.least || e.Instance != testInstance ||
				!slices.Equal(blobs(e.Keys), blobs([]ssh.PublicKey{key.PublicKey()})) {
				t.Errorf("got %+v", e)
			}
			wantText(t, err, tc.reason)
			wantText(t, errors.New(e.Hint()), "vast-ssh pin 1234567")
			if isPinned(t, pins) {
				t.Error("something was pinned")
			}
		})
	}
}

// A second route that is there and broken is no second opinion, and no obstacle to a lower level.
func TestMeetSecondRouteBroken(t *testing.T) {
	checkLeaks(t)
	key := newSigner(t, "ed25519")
	broken := serve(t, func(c *net.TCPConn) { io.WriteString(c, ident) })
	pins, _ := noPins(t)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, machineWith(t, key).addr()), endpoint(t, resolve.Gateway, broken.addr()))
	cfg.Least = known.TwoPath
	_, err := Open(t.Context(), cfg)
	wantAs[*FirstContactError](t, err)
	if isPinned(t, pins) {
		t.Fatal("something was pinned")
	}
	cfg.Least = known.Tofu
	open(t, cfg)
	checkPins(t, pins, known.Tofu, key.PublicKey())
}

func TestMeetAsk(t *testing.T) {
	checkLeaks(t)
	key := newSigner(t, "ed25519")
	s := machineWith(t, key)
	pins, _ := noPins(t)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, s.addr()))
	declined := errors.New("declined")
	var asked []known.Pin
	cfg.Ask = func(_ context.Context, p []known.Pin) error {
		if isPinned(t, pins) {
			t.Error("it was pinned before the answer")
		}
		asked = p
		return declined
	}
	if _, err := Open(t.Context(), cfg); err != declined {
		t.Fatalf("got %v", err)
	}
	if isPinned(t, pins) {
		t.Error("it was pinned all the same")
	}
	if len(asked) != 1 || asked[0].Instance != testInstance || !bytes.Equal(asked[0].Key.Marshal(), key.PublicKey().Marshal()) {
		t.Errorf("asked for %+v", asked)
	}

	cfg.Ask = func(context.Context, []known.Pin) error { return nil }
	open(t, cfg)
	checkPins(t, pins, known.Tofu, key.PublicKey())

	cfg.Ask = func(context.Context, []known.Pin) error { t.Error("asked for a pinned instance"); return nil }
	open(t, cfg)
}

// faulty relays to addr, but breaks the connections that drop names, counted from 1.
func faulty(t *testing.T, addr string, drop func(n int) bool, how func(*net.TCPConn)) *server {
	t.Helper()
	var n atomic.Int64
	return serve(t, func(c *net.TCPConn) {
		if drop(int(n.Add(1))) {
			how(c)
			return
		}
		up, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer up.Close()
		back := make(chan struct{})
		go func() {
			defer close(back)
			io.Copy(c, up)
			c.CloseWrite()
		}()
		io.Copy(up, c)
		up.(*net.TCPConn).CloseWrite()
		<-back
	})
}

// A busy sshd drops connections at random, see MaxStartups in sshd_config(5).
func TestMeetRetriesDropped(t *testing.T) {
	s := sshd.Start(t, sshd.Config{HostKeys: []string{"ed25519", "ecdsa", "rsa"}})
	for name, how := range map[string]func(*net.TCPConn){
		"close":         func(*net.TCPConn) {},
		"reset":         func(c *net.TCPConn) { c.SetLinger(0) },
		"message":       func(c *net.TCPConn) { io.WriteString(c, "Exceeded MaxStartups\r\n") },
		"behind banner": func(c *net.TCPConn) { io.WriteString(c, ident) },
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			// The first connection is the one that stays. Of those of the scan no key can lose all its attempts.
			f := faulty(t, s.Addr(), func(n int) bool { return n == 2 || n == 3 }, how)
			pins, _ := noPins(t)
			open(t, testConfig(pins, endpoint(t, resolve.Direct, f.addr())))
			checkPins(t, pins, known.Tofu, s.HostKeys()...)

			// For ever: an error and no pin, rather than the pins of a part of the keys.
			f = faulty(t, s.Addr(), func(n int) bool { return n > 3 }, how)
			pins, _ = noPins(t)
			_, err := Open(t.Context(), testConfig(pins, endpoint(t, resolve.Direct, f.addr())))
			wantText(t, err, "first contact with instance 1234567", "direct "+f.addr())
			if isPinned(t, pins) {
				t.Error("something was pinned")
			}
			if n := f.accepted(); n > 1+len(scanned)*scanAttempts {
				t.Errorf("%d connections were made", n)
			}
		})
	}
}

// Any number of clients at first contact, in processes of their own as far as the pins can tell, make one survey.
func TestMeetOnce(t *testing.T) {
	checkLeaks(t)
	key := newSigner(t, "ed25519")
	s := machineWith(t, key)
	pins, path := noPins(t)
	var surveys atomic.Int64
	var all sync.WaitGroup
	const clients = 100
	for range clients {
		all.Go(func() {
			cfg := testConfig(known.Open(path), endpoint(t, resolve.Direct, s.addr()))
			cfg.Ask = func(context.Context, []known.Pin) error { surveys.Add(1); return nil }
			c, err := Open(t.Context(), cfg)
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		})
	}
	within(t, "the end of all clients", all.Wait)
	if n := surveys.Load(); n != 1 {
		t.Errorf("%d surveys", n)
	}
	if n := s.accepted(); n != clients+len(scanned) {
		t.Errorf("%d connections, want %d", n, clients+len(scanned))
	}
	checkPins(t, pins, known.Tofu, key.PublicKey())
}

// Without a pin on disk there is no connection.
func TestMeetPinsNotWritable(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string, cfg *Config) error{
		"directory open to others": func(_ *testing.T, path string, _ *Config) error { return os.Chmod(filepath.Dir(path), 0o777) },
		"a directory in the way":   func(_ *testing.T, path string, _ *Config) error { return os.Mkdir(path, 0o700) },
		"a link in the way":        func(_ *testing.T, path string, _ *Config) error { return os.Symlink("elsewhere", path) },
		"damaged file": func(_ *testing.T, path string, _ *Config) error {
			return os.WriteFile(path, []byte("@revoked x\n"), 0o600)
		},
		"changed in the meantime": func(t *testing.T, path string, cfg *Config) error {
			cfg.Ask = func(context.Context, []known.Pin) error { return os.Chmod(filepath.Dir(path), 0o777) }
			return nil
		},
		// Root writes all the same.
		"not writable": func(_ *testing.T, path string, _ *Config) error { return os.Chmod(filepath.Dir(path), 0o500) },
	} {
		if name == "not writable" && os.Geteuid() == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			gone := make(chan error, 1)
			key := newSigner(t, "ed25519")
			m := machineWith(t, key)
			var first sync.Once
			s := faulty(t, m.addr(), func(n int) bool { return n == 1 }, func(c *net.TCPConn) {
				first.Do(func() { greet(gone)(c) })
			})
			pins, path := noPins(t)
			cfg := testConfig(pins, endpoint(t, resolve.Direct, s.addr()))
			if err := prepare(t, path, &cfg); err != nil {
				t.Fatal(err)
			}
			c, err := Open(t.Context(), cfg)
			if c != nil || err == nil {
				t.Fatalf("got %v and %v", c, err)
			}
			if name != "not writable" {
				wantAs[*known.FileError](t, err)
			}
			checkGone(t, gone)
		})
	}
}

// What the scans saw is pinned, and the connection that was open before them is judged by it like any other.
func TestMeetThenAnotherKey(t *testing.T) {
	checkLeaks(t)
	honest, other := newSigner(t, "ed25519"), newSigner(t, "ed25519")
	s := machine(t, func(n int) []ssh.Signer {
		if n == 1 {
			return []ssh.Signer{other}
		}
		return []ssh.Signer{honest}
	})
	pins, _ := noPins(t)
	c := open(t, testConfig(pins, endpoint(t, resolve.Direct, s.addr())))
	checkPins(t, pins, known.Tofu, honest.PublicKey())
	_, _, _, err := ssh.NewClientConn(c, "", &ssh.ClientConfig{HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error {
		t.Error("the client saw the key")
		return nil
	}})
	if err == nil {
		t.Fatal("connected")
	}
	wantAs[*HostKeyError](t, c.failure())
}

// liar shows one key and signs with another: the key of another machine, copied.
type liar struct {
	ssh.Signer
	shown ssh.PublicKey
}

func (l liar) PublicKey() ssh.PublicKey { return l.shown }

// A key counts for a server that has signed with it.
func TestMeetNeedsPossession(t *testing.T) {
	checkLeaks(t)
	real, attacker := newSigner(t, "ed25519"), newSigner(t, "ed25519")
	honest, thief := machineWith(t, real), machineWith(t, liar{attacker, real.PublicKey()})
	pins, _ := noPins(t)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, thief.addr()), endpoint(t, resolve.Gateway, honest.addr()))
	if _, err := Open(t.Context(), cfg); err == nil || isPinned(t, pins) {
		t.Fatalf("first contact with a thief: %v", err)
	}
	// On the second route it gives no second opinion.
	slices.Reverse(cfg.Endpoints)
	cfg.Least = known.TwoPath
	_, err := Open(t.Context(), cfg)
	wantAs[*FirstContactError](t, err)
	if isPinned(t, pins) {
		t.Error("something was pinned")
	}
}

func TestScanKinds(t *testing.T) {
	checkLeaks(t)
	var signers []ssh.Signer
	var want []ssh.PublicKey
	for _, kind := range []string{"ed25519", "rsa2048"} {
		s := newSigner(t, kind)
		signers = append(signers, s)
		want = append(want, s.PublicKey())
	}
	// x/crypto takes one ECDSA key for each curve.
	for _, kind := range []string{"ecdsa256", "ecdsa384", "ecdsa521"} {
		s := newSigner(t, kind)
		signers = append(signers, s)
		want = append(want, s.PublicKey())
	}
	got, err := Scan(t.Context(), endpoint(t, resolve.Direct, machineWith(t, signers...).addr()), patience)
	if err != nil || !slices.Equal(blobs(got), blobs(want)) {
		t.Errorf("got %s and %v", fingerprints(got), err)
	}
}

// A key that cannot be pinned is none.
func TestScanWeakKeys(t *testing.T) {
	checkLeaks(t)
	weak, good := newSigner(t, "rsa1024"), newSigner(t, "ed25519")
	got, err := Scan(t.Context(), endpoint(t, resolve.Direct, machineWith(t, weak, good).addr()), patience)
	if err != nil || !slices.Equal(blobs(got), blobs([]ssh.PublicKey{good.PublicKey()})) {
		t.Errorf("got %s and %v", fingerprints(got), err)
	}
	pins, _ := noPins(t)
	_, err = Open(t.Context(), testConfig(pins, endpoint(t, resolve.Direct, machineWith(t, weak).addr())))
	wantIs(t, err, errNoKeys)
	if isPinned(t, pins) {
		t.Error("something was pinned")
	}
}

func TestScanBounded(t *testing.T) {
	checkLeaks(t)
	gone := make(chan error, 100)
	s := serve(t, silent(gone))
	_, err := Scan(t.Context(), endpoint(t, resolve.Gateway, s.addr()), 10*time.Millisecond)
	wantIs(t, err, context.DeadlineExceeded)
	wantText(t, err, "host keys of gateway "+s.addr())

	ctx, cancel := context.WithCancel(t.Context())
	there := make(chan struct{}, 100)
	s = serve(t, func(c *net.TCPConn) {
		there <- struct{}{}
		silent(gone)(c)
	})
	go func() {
		<-there
		cancel()
	}()
	_, err = Scan(ctx, endpoint(t, resolve.Gateway, s.addr()), never)
	wantIs(t, err, context.Canceled)
}

// The end of the context ends a first contact too, with nothing pinned.
func TestMeetCancel(t *testing.T) {
	checkLeaks(t)
	gone := make(chan error, 100)
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	s := serve(t, func(c *net.TCPConn) {
		if n.Add(1) > 1 {
			cancel()
			silent(gone)(c)
			return
		}
		greet(gone)(c)
	})
	pins, _ := noPins(t)
	_, err := Open(ctx, testConfig(pins, endpoint(t, resolve.Direct, s.addr())))
	wantIs(t, err, context.Canceled)
	if isPinned(t, pins) {
		t.Error("something was pinned")
	}
	for range s.accepted() {
		checkGone(t, gone)
	}
}

// Each step is told with its time, and nothing that a peer said goes unquoted into it.
func TestTrace(t *testing.T) {
	key := newSigner(t, "ed25519")
	s := machineWith(t, key)
	pins, _ := noPins(t)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, s.addr()))
	var mu sync.Mutex // the client's goroutines report too
	var steps []string
	cfg.Trace = func(step string, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		if took < 0 || took > patience {
			t.Errorf("%s took %v", step, took)
		}
		steps = append(steps, step)
	}
	c := open(t, cfg)
	ssh.NewClientConn(c, "", &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(key.PublicKey())})
	mu.Lock()
	all := strings.Join(steps, "\n")
	mu.Unlock()
	for _, want := range []string{
		"direct answered on " + s.addr(),
		"1 pins of vast-1234567, tofu",
		"host key " + ssh.FingerprintSHA256(key.PublicKey()) + " matches",
		"the agent has the witness",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in the trace:\n%s", want, all)
		}
	}
	if c.Name() != fmt.Sprintf("vast-%d", testInstance) || c.Endpoint() != cfg.Endpoints[0] ||
		c.RemoteAddr().String() != s.addr() || c.LocalAddr() == nil {
		t.Errorf("%s at %v, %v to %v", c.Name(), c.Endpoint(), c.LocalAddr(), c.RemoteAddr())
	}
}
