package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestBindBySomebodyElse is accept = "bind" against the owner of a pinned machine who holds the agent's socket. He opens a
// session with another machine and has his own host key sign its id, which makes a binding that verifies. The text
// that is signed must be of no use on the other machine.
func TestBindBySomebodyElse(t *testing.T) {
	e := newEnv(t)
	e.settle(Policy{AcceptBind: true})
	elsewhere := make([]byte, 32) // the id of a session with a machine that need not even be pinned
	rand.Read(elsewhere)
	posed := &session{host: e.host, id: elsewhere, sig: hostSignature(t, e.host, elsewhere)}
	c := e.connect()
	c.want(msgSuccess, bindRequest(posed, 0))
	c.want(msgFailure, signRequest(e.keyBlob(), e.login(posed)))
	if got := e.lastRefusal().Reason; got != string(NotHostBound) {
		t.Errorf("refused as %q", got)
	}
	e.wantSignatures(0)
}

// TestHopFromALoginThatWasRefused goes on from a login that never got its signature: the session was proved, and then
// refused for another reason. The client may have got in by a password.
func TestHopFromALoginThatWasRefused(t *testing.T) {
	hop := Policy{Hops: []Hop{{instance, secondID}}}
	for name, spoil := range map[string]func(h *hops, s *session) []byte{
		"another user": func(h *hops, s *session) []byte {
			return h.login(s, func(l *login) { l.User = "admin" })
		},
		"declined": func(h *hops, s *session) []byte {
			p := hop
			p.Confirm = ConfirmAlways
			h.settle(p)
			h.asks(func(context.Context, Decision) error { return errors.New("no") })
			return h.login(s)
		},
		"unrecorded": func(h *hops, s *session) []byte {
			h.log.fail(errors.New("disk full"))
			return h.login(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHops(newEnv(t))
			s := h.witnessed()
			h.connect().want(msgFailure, signRequest(h.keyBlob(), spoil(h, s)))
			h.settle(hop)
			h.log.fail(nil)
			h.connect().want(msgExtensionFailure, bindRequest(s, 1))
			if got := h.lastRefusal().Reason; got != string(Forwarded) {
				t.Errorf("refused as %q", got)
			}
		})
	}
}

// TestHopsDoNotAddUp has the first instance go on to the third by way of the session that it opened to the second: it
// knows the id of that. Each way is allowed, the two behind one another are not.
func TestHopsDoNotAddUp(t *testing.T) {
	h := newHops(newEnv(t))
	h.settle(Policy{Hops: []Hop{{instance, secondID}, {secondID, thirdID}}})
	c := h.forwarded(h.first)
	s := newSession(t, h.second, 32)
	c.want(msgSuccess, bindRequest(s, 0))
	if h.signFor(c, s) != msgSignResponse {
		t.Fatal("the first way is refused")
	}
	h.connect().want(msgExtensionFailure, bindRequest(s, 1))
	if got := h.lastRefusal().Reason; got != string(Forwarded) {
		t.Errorf("refused as %q", got)
	}
}

// TestPolicyChangesDuringTheQuestion: what a person is asked about must be allowed when they have answered.
func TestPolicyChangesDuringTheQuestion(t *testing.T) {
	for _, test := range []struct {
		name   string
		before Policy
		change func(e *env)
		login  func(h *hops) (*client, []byte)
		reason Reason
	}{
		{"the user", Policy{}, func(e *env) { e.settle(Policy{Users: func(uint64, string) bool { return false }}) },
			func(h *hops) (*client, []byte) { return h.connect(), h.login(h.witnessed()) }, OtherUser},
		{"the file breaks", Policy{}, func(e *env) { e.mu.Lock(); e.badly = errors.New("line 7"); e.mu.Unlock() },
			func(h *hops) (*client, []byte) { return h.connect(), h.login(h.witnessed()) }, BadPolicy},
		{"bindings alone", Policy{AcceptBind: true}, func(e *env) { e.settle(Policy{}) },
			func(h *hops) (*client, []byte) {
				s, c := h.session(), h.connect()
				c.want(msgSuccess, bindRequest(s, 0))
				return c, h.login(s, hostBound(s))
			}, NoWitness},
		{"the way", Policy{Hops: []Hop{{instance, secondID}}}, func(e *env) { e.settle(Policy{}) },
			func(h *hops) (*client, []byte) {
				s, c := newSession(t, h.second, 32), h.forwarded(h.first)
				c.want(msgSuccess, bindRequest(s, 0))
				return c, h.login(s, hostBound(s))
			}, OtherHop},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHops(newEnv(t))
			test.before.Confirm = ConfirmAlways
			h.settle(test.before)
			h.asks(func(context.Context, Decision) error { test.change(h.env); return nil })
			c, text := test.login(h)
			c.want(msgFailure, signRequest(h.keyBlob(), text))
			if got := h.lastRefusal().Reason; got != string(test.reason) {
				t.Errorf("refused as %q", got)
			}
			h.wantSignatures(1)
		})
	}
}

// TestConsentIsForTheProofToo: whoever agreed to a login of vast-ssh has not agreed to one of whoever holds the socket.
func TestConsentIsForTheProofToo(t *testing.T) {
	e := newEnv(t)
	e.settle(Policy{Confirm: ConfirmFirst, AcceptBind: true})
	var q questions
	e.asks(func(_ context.Context, d Decision) error { q.add(d); return nil })
	e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(e.witnessed())))
	s, c := e.session(), e.connect()
	c.want(msgSuccess, bindRequest(s, 0))
	c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s, hostBound(s))))
	if q.count() != 2 || q.asked[1].Proof != ByBind {
		t.Errorf("asked for %+v", q.asked)
	}
}

// TestQuestionEndsWithATalkativeClient: a client that has said more before it goes is gone all the same, and nothing is
// signed for it.
func TestQuestionEndsWithATalkativeClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.settle(Policy{Confirm: ConfirmAlways})
		left := make(chan struct{})
		e.asks(func(ctx context.Context, d Decision) error {
			select {
			case <-ctx.Done():
			case <-left:
			}
			return ctx.Err()
		})
		c := e.connect()
		both := append(frame(signRequest(e.keyBlob(), e.login(e.witnessed()))), frame([]byte{msgRequestIdentities})...)
		if _, err := c.Write(both); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.Close()
		synctest.Wait()
		close(left)
		<-c.done
		e.wantSignatures(0)
	})
}

// TestSignedLoginIsToldNoRefusal ends a login that went well, during which the instance asked for more through the agent
// that the client forwards, and another login to the same instance was refused.
func TestSignedLoginIsToldNoRefusal(t *testing.T) {
	e := newEnv(t)
	s := e.session()
	w := s.witness()
	w.Client = testPeer.PID
	if err := e.agent.Witness(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
	e.connect().want(msgExtensionFailure, bindRequest(s, 1))
	other := e.witnessed()
	refuse(e, e.login(other, func(l *login) { l.User = "admin" }))
	if r := e.agent.Withdraw(w); r != nil {
		t.Errorf("told %+v", r)
	}
	if r := e.agent.Withdraw(other.witness()); r == nil || r.Reason != string(OtherUser) {
		t.Errorf("the other is told %+v", r)
	}
}

// TestQuestionEndsWithAFlood: behind more than the buffer takes the end of the client could not be seen.
func TestQuestionEndsWithAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.settle(Policy{Confirm: ConfirmAlways})
		e.asks(func(ctx context.Context, d Decision) error { <-ctx.Done(); return ctx.Err() })
		c := e.connect()
		go c.Write(append(frame(signRequest(e.keyBlob(), e.login(e.witnessed()))), make([]byte, 64<<10)...))
		start := time.Now()
		if answer, err := readAnswer(c); err != nil || answer[0] != msgFailure || time.Since(start) != 0 {
			t.Errorf("answer %x, %v after %v", answer, err, time.Since(start))
		}
		e.wantSignatures(0)
	})
}
