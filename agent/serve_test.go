package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/unixsock"
)

// TestListByState asks for the keys in each state of a connection.
func TestListByState(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		reach func(*env, *client)
		want  int
	}{
		{"fresh", func(*env, *client) {}, 1},
		{"fresh, after a refused request", func(e *env, c *client) {
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(e.session())))
		}, 1},
		{"bound, pinned", func(e *env, c *client) { c.want(msgSuccess, bindRequest(e.session(), 0)) }, 1},
		{"bound, not pinned", func(e *env, c *client) {
			c.want(msgSuccess, bindRequest(newSession(e, newKey(e, ssh.KeyAlgoED25519), 32), 0))
		}, 0},
		{"bound, the pin is gone", func(e *env, c *client) {
			c.want(msgSuccess, bindRequest(e.session(), 0))
			e.pins.set(func(p *fakePins) { p.pins = nil })
		}, 0},
		{"signed", func(e *env, c *client) {
			s := e.witnessed()
			c.want(msgSuccess, bindRequest(s, 0))
			c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s, hostBound(s))))
		}, 1},
		{"poisoned by forwarding", func(e *env, c *client) {
			c.want(msgExtensionFailure, bindRequest(e.session(), 1))
		}, 0},
		{"poisoned by a request", func(e *env, c *client) {
			c.want(msgSuccess, bindRequest(e.session(), 0))
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(e.witnessed())))
		}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := newEnv(t)
			c := e.connect()
			test.reach(e, c)
			for range 2 {
				if got := c.listed(); got != test.want {
					t.Errorf("%d keys, want %d", got, test.want)
				}
			}
		})
	}
}

// TestListedKey reads the whole answer.
func TestListedKey(t *testing.T) {
	e := newEnv(t)
	var answer struct {
		Count   uint32 `sshtype:"12"`
		Blob    []byte
		Comment string
	}
	if err := ssh.Unmarshal(e.connect().ask([]byte{msgRequestIdentities}), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Count != 1 || !bytes.Equal(answer.Blob, e.keyBlob()) || answer.Comment != "vast-ssh" {
		t.Errorf("got %+v", answer)
	}
}

// TestSignature checks the signature itself, for a client that describes its session and for one that does not, and in both
// forms of the request.
func TestSignature(t *testing.T) {
	for _, algo := range []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA} {
		for _, bind := range []bool{false, true} {
			for _, named := range []bool{false, true} {
				e := newEnv(t)
				e.host = newKey(t, algo)
				e.pins.add(instance, e.host.PublicKey())
				s := e.witnessed()
				data := e.login(s)
				if named {
					data = e.login(s, hostBound(s))
				}
				c := e.connect()
				if bind {
					c.want(msgSuccess, bindRequest(s, 0))
				}
				var answer struct {
					Signature []byte `sshtype:"14"`
				}
				var sig ssh.Signature
				if err := ssh.Unmarshal(c.ask(signRequest(e.keyBlob(), data)), &answer); err != nil {
					t.Fatal(err)
				}
				if err := ssh.Unmarshal(answer.Signature, &sig); err != nil || len(sig.Rest) > 0 {
					t.Fatalf("signature %x: %v", answer.Signature, err)
				}
				if err := e.keys.key.PublicKey().Verify(data, &sig); err != nil {
					t.Errorf("%s, bind %v, host-bound %v: %v", algo, bind, named, err)
				}
				e.wantSignatures(1)
				if st := e.agent.Status(t.Context()); st.Signatures != 1 || st.Witnesses != 0 || st.Refused != 0 {
					t.Errorf("status %+v", st)
				}
			}
		}
	}
}

// TestTwoSessionsOnOneConnection is what a client does that keeps its connection and describes nothing.
func TestTwoSessionsOnOneConnection(t *testing.T) {
	e := newEnv(t)
	c := e.connect()
	for range 3 {
		c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(e.witnessed())))
	}
	e.wantSignatures(3)
}

// TestPoisonedForGood shows that nothing brings a poisoned connection back, and that others are not affected.
func TestPoisonedForGood(t *testing.T) {
	e := newEnv(t)
	s := e.witnessed()
	c := e.connect()
	c.want(msgExtensionFailure, bindRequest(s, 1))
	for range 3 {
		c.want(msgExtensionFailure, bindRequest(s, 0))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		if n := c.listed(); n != 0 {
			t.Errorf("%d keys were listed", n)
		}
	}
	e.wantSignatures(0)
	e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
}

// TestUnservedMessages sends every other message with a body that nobody may parse.
func TestUnservedMessages(t *testing.T) {
	var clock atomic.Int64
	e := newEnv(t, func(c *Config) {
		c.Now = func() time.Time { return time.Unix(clock.Add(1), 0) } // so that patience never ends
	})
	c := e.connect()
	garbage := bytes.Repeat([]byte{0xff}, 100)
	for n := range 256 {
		switch n {
		case msgRequestIdentities, msgSignRequest, msgExtension:
			continue
		}
		for _, body := range [][]byte{nil, garbage} {
			_, before := e.agent.refusals.last()
			if answer := c.ask(append([]byte{byte(n)}, body...)); !bytes.Equal(answer, []byte{msgFailure}) {
				t.Errorf("message %d was answered with %x", n, answer)
			}
			if _, after := e.agent.refusals.last(); after != before+1 || e.lastRefusal().Reason != string(Unsupported) {
				t.Errorf("message %d was recorded as %q", n, e.lastRefusal().Reason)
			}
		}
	}
	for _, name := range []string{"query", "session-bind@openssh.org", "session-bind@openssh.com\x00", "restrict-destination-v00@openssh.com", ""} {
		msg := ssh.Marshal(struct {
			Name string `sshtype:"27"`
			Rest []byte `ssh:"rest"`
		}{name, garbage})
		if answer := c.ask(msg); !bytes.Equal(answer, []byte{msgFailure}) {
			t.Errorf("extension %q was answered with %x", name, answer)
		}
	}
	// None of it changed the state.
	c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(e.witnessed())))
}

func TestBadLengths(t *testing.T) {
	for _, n := range []uint32{0, MaxMessage + 1, 1 << 31, 1<<32 - 1} {
		e := newEnv(t)
		c := e.connect()
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, n)); err != nil {
			t.Fatal(err)
		}
		if answer, err := readAnswer(c); err == nil {
			t.Errorf("length %d was answered with %x", n, answer)
		}
		<-c.done
		if got := e.lastRefusal().Reason; got != string(BadRequest) {
			t.Errorf("length %d was recorded as %q", n, got)
		}
	}
}

// TestLargestMessage sends as much as is allowed.
func TestLargestMessage(t *testing.T) {
	e := newEnv(t)
	c := e.connect()
	msg := make([]byte, MaxMessage)
	msg[0] = msgSignRequest
	c.want(msgFailure, msg)
	c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(e.witnessed())))
}

// TestAnnouncedLengthCostsNothing opens many connections that announce the largest message and send none of it.
func TestAnnouncedLengthCostsNothing(t *testing.T) {
	const conns = 200
	e := newEnv(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range conns {
		c := e.connect()
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, MaxMessage)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte{msgSignRequest}); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if spent := (after.TotalAlloc - before.TotalAlloc) / conns; spent > 64<<10 {
		t.Errorf("%d bytes for a connection that has sent 5", spent)
	}
}

// TestPartialMessageTimesOut starts a message and does not end it, at once or byte by byte.
func TestPartialMessageTimesOut(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		for _, start := range [][]byte{{0}, {0, 0, 0}, {0, 0, 0, 5}, {0, 0, 0, 5, msgSignRequest, 0}} {
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t)
				c := e.connect()
				for range 2 { // between messages a connection may be silent for a while
					time.Sleep(idleTimeout - time.Second)
					c.want(msgIdentitiesAnswer, []byte{msgRequestIdentities})
				}
				time.Sleep(idleTimeout - time.Second)
				began := time.Now()
				c.Write(start)
				<-c.done
				if took := time.Since(began); took != frameTimeout {
					t.Errorf("%d bytes of a message were waited on for %v", len(start), took)
				}
			})
		}
	})
	t.Run("idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := newEnv(t)
			c := e.connect()
			c.want(msgIdentitiesAnswer, []byte{msgRequestIdentities})
			began := time.Now()
			<-c.done
			if took := time.Since(began); took != idleTimeout {
				t.Errorf("a connection was left idle for %v", took)
			}
		})
	})
	t.Run("drip", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := newEnv(t)
			c := e.connect()
			began := time.Now()
			for {
				if _, err := c.Write([]byte{0}); err != nil {
					break
				}
				time.Sleep(3 * time.Second)
			}
			<-c.done
			if took := time.Since(began); took > frameTimeout+3*time.Second {
				t.Errorf("a dripping message was waited on for %v", took)
			}
		})
	})
	t.Run("a second message in the buffer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := newEnv(t)
			c := e.connect()
			began := time.Now()
			c.Write(append(frame([]byte{msgRequestIdentities}), 0, 0))
			if _, err := readAnswer(c); err != nil {
				t.Fatal(err)
			}
			<-c.done
			if took := time.Since(began); took != frameTimeout {
				t.Errorf("the half message behind a whole one was waited on for %v", took)
			}
		})
	})
}

// TestUnreadAnswerTimesOut asks and does not read.
func TestUnreadAnswerTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		c := e.connect()
		began := time.Now()
		c.Write(frame([]byte{msgRequestIdentities}))
		<-c.done
		if took := time.Since(began); took != frameTimeout {
			t.Errorf("an answer that nobody read was held for %v", took)
		}
	})
}

func TestServeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		near, far := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); e.agent.Serve(ctx, far, testPeer) }()
		synctest.Wait()
		cancel()
		<-done
		if _, err := near.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection is %v, want it closed", err)
		}
	})
}

// TestFaultEndsOneConnection lets the pins panic with what could be a part of a message.
func TestFaultEndsOneConnection(t *testing.T) {
	e := newEnv(t)
	s := e.witnessed()
	other := e.connect()
	other.want(msgIdentitiesAnswer, []byte{msgRequestIdentities})
	e.pins.set(func(p *fakePins) { p.boom = errors.New("the canary") })
	c := e.connect()
	if answer, err := c.try(signRequest(e.keyBlob(), e.login(s))); err == nil {
		t.Errorf("answered with %x", answer)
	}
	<-c.done
	last := e.lastRefusal()
	if last.Reason != string(Internal) || strings.Contains(last.Sentence, "canary") || last.PID != testPeer.PID {
		t.Errorf("recorded as %+v", last)
	}
	e.wantSignatures(0)
	e.pins.set(func(p *fakePins) { p.boom = nil })
	other.want(msgSignResponse, signRequest(e.keyBlob(), e.login(e.witnessed())))
	// The request that ended so is not in flight any more.
	if err := e.agent.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRefusalNamesThePeer reads what is told of the process that asked.
func TestRefusalNamesThePeer(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 999, time.FixedZone("", 3600))
	e := newEnv(t, func(c *Config) { c.Now = func() time.Time { return at } })
	e.connect().want(msgFailure, signRequest(e.keyBlob(), e.login(e.session())))
	got := e.lastRefusal()
	want := ipc.Refusal{
		At: at.UTC().Truncate(time.Second), Reason: string(NoWitness), Sentence: sentences[NoWitness],
		Count: 1, PID: testPeer.PID,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestRefusalsAreBounded keeps the last ones, and counts all.
func TestRefusalsAreBounded(t *testing.T) {
	e := newEnv(t)
	for i := range keepRefusals + 10 {
		e.agent.refusals.add(refusal{Reason: NoWitness, Instance: uint64(i)}, time.Now())
	}
	kept, total := e.agent.refusals.last()
	if len(kept) != keepRefusals || total != keepRefusals+10 {
		t.Fatalf("%d kept of %d", len(kept), total)
	}
	for i, r := range kept {
		if r.Instance != uint64(i+10) {
			t.Errorf("place %d holds refusal %d", i, r.Instance)
		}
	}
}

// TestFullStatusFits fills the status with texts that JSON makes as long as it can, and reads it over the control socket:
// whoever can have requests refused must not be able to hide them.
func TestFullStatusFits(t *testing.T) {
	for _, char := range []string{"<", "\x01", "\xff", "\u2028", "\"", "ä"} {
		e := newEnv(t)
		long := strings.Repeat(char, 5000)
		e.keys.publicErr = errors.New(long)
		for i := range uint64(keepRefusals) {
			e.agent.refusals.add(refusal{
				Reason: KeyUnavailable, Instance: 1<<64 - 1 - i, hostKey: e.host.PublicKey(), detail: long, next: long,
				peer: unixsock.Peer{PID: 1<<31 - 1},
			}, time.Now())
		}
		st := e.overControlSocket()
		if len(st.Refusals) != keepRefusals {
			t.Errorf("%q: %d refusals arrived", char, len(st.Refusals))
		}
	}
}

// overControlSocket reads the status as vast-agent status does.
func (e *env) overControlSocket() ipc.Status {
	e.Helper()
	path := filepath.Join(shortDir(e), "c")
	l, err := unixsock.Listen(path)
	if err != nil {
		e.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		unixsock.Serve(ctx, l, 4, func(ctx context.Context, c *unixsock.Conn) { ipc.Serve(ctx, c, control{e.agent}) })
	}()
	defer func() { l.Close(); cancel(); <-done }()
	c, err := ipc.Dial(ctx, path)
	if err != nil {
		e.Fatal(err)
	}
	defer c.Close()
	st, err := c.Status(ctx)
	if err != nil {
		e.Fatal(err)
	}
	return st
}

// control is the agent behind a control socket.
type control struct{ *Agent }

func (control) Lock() {}

func (control) Unlock(context.Context, []byte) error { return nil }

func (control) Stop() {}

func TestStatus(t *testing.T) {
	e := newEnv(t)
	e.witnessed()
	e.connect().want(msgFailure, []byte{17})
	st := e.overControlSocket()
	if st.Key != ssh.FingerprintSHA256(e.keys.key.PublicKey()) || st.KeyError != "" {
		t.Errorf("key %q, error %q", st.Key, st.KeyError)
	}
	if st.Witnesses != 1 || st.Signatures != 0 || st.Refused != 1 || len(st.Refusals) != 1 {
		t.Errorf("status %+v", st)
	}
	e.keys.publicErr = errors.New("no such file")
	if st = e.agent.Status(t.Context()); st.Key != "" || st.KeyError != "no such file" {
		t.Errorf("key %q, error %q", st.Key, st.KeyError)
	}
}

func TestNewChecksItsConfig(t *testing.T) {
	keys, pins, log := &fakeKeys{}, &fakePins{}, &fakeLog{}
	for name, cfg := range map[string]Config{
		"Keys": {Pins: pins, Log: log},
		"Pins": {Keys: keys, Log: log},
		"Log":  {Keys: keys, Pins: pins},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := New(Config{Keys: keys, Pins: pins, Log: log}); err != nil {
		t.Fatal(err)
	}
}

// TestZeroPolicy is what holds where nothing is settled.
func TestZeroPolicy(t *testing.T) {
	var p Policy
	if !p.allowsUser(1, "root") || p.allowsUser(1, "ubuntu") || p.allowsUser(1, "") {
		t.Error("somebody else than root is let in")
	}
	if p.witnessLife() != DefaultWitnessLife || p.accepts() != ByWitness || p.hopsFrom(0) != nil {
		t.Errorf("%+v", p)
	}
}
