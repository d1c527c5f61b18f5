package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"vast-ssh/internal/resolve"
	"vast-ssh/internal/testenv"
)

const ident = "SSH-2.0-test\r\n"

// greet identifies itself and reads until the peer is gone, which it tells.
func greet(gone chan<- error) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		io.WriteString(c, ident)
		_, err := io.Copy(io.Discard, c)
		gone <- err
	}
}

// silent accepts and says nothing.
func silent(gone chan<- error) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		gone <- err
	}
}

// checkGone wants the server to have seen the end of a connection, and not its own deadline.
func checkGone(t *testing.T, gone <-chan error) {
	t.Helper()
	if err := await(t, "the end of the connection", gone); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the server saw %v", err)
	}
}

func dialConfig(t *testing.T, direct, gateway string) *Config {
	t.Helper()
	pins, _ := noPins(t)
	cfg := testConfig(pins, endpoint(t, resolve.Direct, direct), endpoint(t, resolve.Gateway, gateway))
	return &cfg
}

func TestDialDirectWins(t *testing.T) {
	checkLeaks(t)
	gone := make(chan error, 2)
	direct, gateway := serve(t, greet(gone)), serve(t, greet(gone))
	l, err := dial(t.Context(), dialConfig(t, direct.addr(), gateway.addr()))
	if err != nil {
		t.Fatal(err)
	}
	if l.endpoint.Route != resolve.Direct || string(l.passed) != ident {
		t.Errorf("got %v and %q", l.endpoint, l.passed)
	}
	if gateway.accepted() != 0 {
		t.Error("the gateway was asked too")
	}
	l.conn.Close()
	checkGone(t, gone)
}

// A failed endpoint hands over at once: the delay here outlives the test.
func TestDialGoesOnAtOnce(t *testing.T) {
	for name, say := range map[string]func(*net.TCPConn){
		"refused":              nil,
		"closes":               func(*net.TCPConn) {},
		"resets":               func(c *net.TCPConn) { c.SetLinger(0) },
		"half an ident":        func(c *net.TCPConn) { io.WriteString(c, "SSH-2.0-tes") },
		"web server":           func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"old protocol":         func(c *net.TCPConn) { io.WriteString(c, "SSH-1.5-old\r\n"); drain(c) },
		"control characters":   func(c *net.TCPConn) { io.WriteString(c, "SSH-2.0-\x1b[2J\r\n"); drain(c) },
		"binary":               func(c *net.TCPConn) { c.Write(make([]byte, 64)); io.WriteString(c, "\n"); drain(c) },
		"line without an end":  func(c *net.TCPConn) { writeForever(c, strings.Repeat("x", 1000)) },
		"lines without an end": func(c *net.TCPConn) { writeForever(c, strings.Repeat("x", 1000)+"\r\n") },
		"short lines":          func(c *net.TCPConn) { writeForever(c, strings.Repeat("\n", 1000)) },
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			bad := testenv.RefusedAddr(t)
			if say != nil {
				bad = serve(t, say).addr()
			}
			gone := make(chan error, 1)
			l, err := dial(t.Context(), dialConfig(t, bad, serve(t, greet(gone)).addr()))
			if err != nil {
				t.Fatal(err)
			}
			if l.endpoint.Route != resolve.Gateway {
				t.Errorf("%v won", l.endpoint)
			}
			l.conn.Close()
			checkGone(t, gone)

			// Both bad: each is named with its own reason, and nothing waits for a timeout.
			_, err = dial(t.Context(), dialConfig(t, bad, testenv.RefusedAddr(t)))
			unreachable := wantAs[*UnreachableError](t, err)
			if len(unreachable.Attempts) != 2 || unreachable.Attempts[0].Endpoint.Route != resolve.Direct ||
				unreachable.Attempts[1].Endpoint.Route != resolve.Gateway {
				t.Errorf("attempts %+v", unreachable.Attempts)
			}
			wantText(t, err, "direct "+bad, "gateway ", "connection refused")
			wantIs(t, unreachable.Attempts[1].Err, syscall.ECONNREFUSED)
			wantIs(t, err, syscall.ECONNREFUSED)
			if name == "closes" || name == "half an ident" { // a wipe tells by it what has become of a machine
				wantIs(t, err, io.EOF)
			}
			if strings.ContainsAny(err.Error(), "\x00\x1b\r\n") {
				t.Errorf("the peer's text is not quoted: %q", err)
			}
		})
	}
}

func writeForever(c net.Conn, s string) {
	for {
		if _, err := io.WriteString(c, s); err != nil {
			return
		}
	}
}

func TestDialSilentDirect(t *testing.T) {
	for name, say := range map[string]string{
		"nothing":      "",
		"text":         "welcome to the router\r\n",
		"part of it":   "SSH-2.0-",
		"one CR short": "SSH-2.0-test\r",
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			lost, won := make(chan error, 1), make(chan error, 1)
			direct := serve(t, func(c *net.TCPConn) {
				io.WriteString(c, say)
				silent(lost)(c)
			})
			cfg := dialConfig(t, direct.addr(), serve(t, greet(won)).addr())
			cfg.Delay = time.Millisecond
			l, err := dial(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer l.conn.Close()
			if l.endpoint.Route != resolve.Gateway {
				t.Fatalf("%v won", l.endpoint)
			}
			checkGone(t, lost)
			select {
			case err := <-won:
				t.Fatalf("the winner was closed: %v", err)
			default:
			}
		})
	}
}

// Both answer at the same moment: whoever loses is closed, and the winner is not.
func TestDialBothAtOnce(t *testing.T) {
	checkLeaks(t)
	gone := make(chan error, 200)
	echo := func(c *net.TCPConn) {
		io.WriteString(c, ident)
		_, err := io.Copy(c, c)
		gone <- err
	}
	direct, gateway := serve(t, echo), serve(t, echo)
	cfg := dialConfig(t, direct.addr(), gateway.addr())
	cfg.Delay = 0
	for range cap(gone) / 2 {
		l, err := dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		l.conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(l.conn, "alive")
		if _, err := io.ReadFull(l.conn, make([]byte, 5)); err != nil {
			t.Fatalf("the winner does not work: %v", err)
		}
		l.conn.Close()
	}
	for n := 0; n < direct.accepted()+gateway.accepted(); n++ {
		checkGone(t, gone)
	}
}

// A server that identifies itself after the race is over finds its connection closed.
func TestDialLateLoser(t *testing.T) {
	checkLeaks(t)
	over, lost, won := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	direct := serve(t, func(c *net.TCPConn) {
		<-over
		greet(lost)(c)
	})
	cfg := dialConfig(t, direct.addr(), serve(t, greet(won)).addr())
	cfg.Delay = time.Millisecond
	l, err := dial(t.Context(), cfg)
	close(over)
	if err != nil {
		t.Fatal(err)
	}
	defer l.conn.Close()
	if l.endpoint.Route != resolve.Gateway {
		t.Fatalf("%v won", l.endpoint)
	}
	checkGone(t, lost)
}

func TestDialCancel(t *testing.T) {
	checkLeaks(t)
	gone, there := make(chan error, 1), make(chan struct{})
	direct := serve(t, func(c *net.TCPConn) {
		there <- struct{}{}
		silent(gone)(c)
	})
	// The end of the context shows up in the attempts too: it must not be taken for their failure.
	for i := range 100 {
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("enough")
		go func() {
			<-there
			cancel(reason)
		}()
		cfg := dialConfig(t, direct.addr(), testenv.RefusedAddr(t))
		if i%2 == 1 {
			cfg.Endpoints = cfg.Endpoints[:1]
		}
		if _, err := dial(ctx, cfg); !errors.Is(err, reason) {
			t.Fatalf("got %v (%T) in round %d", err, err, i)
		}
		checkGone(t, gone)
	}
}

func TestDialDeadline(t *testing.T) {
	checkLeaks(t)
	timeout := 200 * time.Millisecond
	for rounds := 0; rounds < 5; rounds++ {
		gone := make(chan error, 1)
		s := serve(t, silent(gone))
		cfg := dialConfig(t, testenv.RefusedAddr(t), s.addr())
		cfg.DialTimeout = timeout
		_, err := dial(t.Context(), cfg)
		unreachable := wantAs[*UnreachableError](t, err)
		if len(unreachable.Attempts) != 2 {
			t.Fatalf("attempts %v", unreachable.Attempts)
		}
		tooLate := "no answer in " + timeout.String()
		if unreachable.Attempts[0].Err.Error() == tooLate && timeout < patience {
			// On a busy machine it was over before the first had refused.
			timeout *= 2
			rounds--
		} else {
			wantIs(t, unreachable.Attempts[0].Err, syscall.ECONNREFUSED)
		}
		wantText(t, unreachable.Attempts[1].Err, tooLate)
		wantText(t, err, "1234567", "direct "+cfg.Endpoints[0].Addr(), "gateway "+cfg.Endpoints[1].Addr())
		wantText(t, errors.New(unreachable.Hint()), "vast-ssh show 1234567")
		for range s.accepted() { // none on a machine that is busy enough
			checkGone(t, gone)
		}
	}
}

func TestDialNothing(t *testing.T) {
	pins, _ := noPins(t)
	cfg := testConfig(pins)
	_, err := dial(t.Context(), &cfg)
	wantAs[*UnreachableError](t, err)
}

// Three endpoints: the last is reached although those before it fail in different ways, and all bad ones are tried once.
func TestDialOrder(t *testing.T) {
	checkLeaks(t)
	gone := make(chan error, 3)
	closes := serve(t, func(*net.TCPConn) {})
	pins, _ := noPins(t)
	cfg := testConfig(pins,
		endpoint(t, resolve.Direct, testenv.RefusedAddr(t)),
		endpoint(t, resolve.Direct, closes.addr()),
		endpoint(t, resolve.Gateway, serve(t, greet(gone)).addr()))
	l, err := dial(t.Context(), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.conn.Close()
	if l.endpoint != cfg.Endpoints[2] || closes.accepted() != 1 {
		t.Errorf("%v won, the second was asked %d times", l.endpoint, closes.accepted())
	}
}
