package agent

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Instances of the tests of hops, besides instance.
const (
	secondID = instance + 1
	thirdID  = instance + 2
)

// hops is an account of three instances with one way, from instance to secondID, and a login at instance.
type hops struct {
	*env
	second, third ssh.Signer
	first         *session // the login at instance, signed for
}

func newHops(e *env) *hops {
	e.Helper()
	h := &hops{env: e, second: newKey(e, ssh.KeyAlgoED25519), third: newKey(e, ssh.KeyAlgoED25519)}
	e.pins.add(secondID, h.second.PublicKey())
	e.pins.add(thirdID, h.third.PublicKey())
	e.settle(Policy{Hops: []Hop{{instance, secondID}}})
	h.first = e.witnessed()
	e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(h.first)))
	return h
}

// forwarded is a connection that comes through the login s by agent forwarding.
func (h *hops) forwarded(s *session) *client {
	h.Helper()
	c := h.connect()
	c.want(msgSuccess, bindRequest(s, 1))
	return c
}

// signFor logs in through c to the end of s, naming its host key.
func (h *hops) signFor(c *client, s *session) byte {
	h.Helper()
	return c.ask(signRequest(h.keyBlob(), h.login(s, hostBound(s))))[0]
}

// witnessAt has the proxy tell about a session with another instance than instance.
func (h *hops) witnessAt(id uint64, s *session) {
	h.Helper()
	w := s.witness()
	w.Instance = id
	if err := h.agent.Witness(context.Background(), w); err != nil {
		h.Fatal(err)
	}
}

// TestHop goes the way that is allowed, and takes it down.
func TestHop(t *testing.T) {
	h := newHops(newEnv(t))
	c := h.forwarded(h.first)
	if n := c.listed(); n != 0 {
		t.Errorf("the instance on the way is shown %d keys", n)
	}
	s := newSession(t, h.second, 64)
	c.want(msgSuccess, bindRequest(s, 0))
	if n := c.listed(); n != 1 {
		t.Errorf("%d keys are listed at the end of the way", n)
	}
	if got := h.signFor(c, s); got != msgSignResponse {
		t.Fatalf("answered with %d, %+v", got, h.lastRefusal())
	}
	kept := h.log.decisions(Signed)
	d := kept[len(kept)-1]
	if d.Instance != secondID || d.From != instance || d.Proof != ByHop || d.User != user {
		t.Errorf("recorded as %+v", d)
	}
	if got := h.signFor(c, s); got != msgFailure {
		t.Error("a second signature on the connection")
	}
	h.wantSignatures(2)
}

// TestHopRefused changes one thing at a time.
func TestHopRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		reason Reason
		try    func(t *testing.T, h *hops) // the last answer it gets is a refusal
	}{
		{"no hops", Forwarded, func(t *testing.T, h *hops) {
			h.settle(Policy{})
			h.connect().want(msgExtensionFailure, bindRequest(h.first, 1))
		}},
		{"no hops, but bindings alone", Forwarded, func(t *testing.T, h *hops) {
			h.settle(Policy{AcceptBind: true})
			h.connect().want(msgExtensionFailure, bindRequest(h.first, 1))
		}},
		{"from an instance that no way begins at", Forwarded, func(t *testing.T, h *hops) {
			s := newSession(t, h.second, 32)
			h.witnessAt(secondID, s)
			h.connect().want(msgSignResponse, signRequest(h.keyBlob(), h.login(s)))
			h.connect().want(msgExtensionFailure, bindRequest(s, 1))
		}},
		// What another machine can make: it connects to the first instance and gets its signature over a session id.
		{"through a session of somebody else with the first instance", Forwarded, func(t *testing.T, h *hops) {
			h.connect().want(msgExtensionFailure, bindRequest(newSession(t, h.host, 32), 1))
		}},
		{"through a login that was not signed", Forwarded, func(t *testing.T, h *hops) {
			h.connect().want(msgExtensionFailure, bindRequest(h.witnessed(), 1))
		}},
		// The second instance is asked to pose as the first with the session id of its own login.
		{"through a login at another instance", Forwarded, func(t *testing.T, h *hops) {
			s := newSession(t, h.second, 32)
			h.witnessAt(secondID, s)
			h.connect().want(msgSignResponse, signRequest(h.keyBlob(), h.login(s)))
			h.pins.add(instance, h.second.PublicKey())
			h.connect().want(msgExtensionFailure, bindRequest(s, 1))
		}},
		{"when the first instance has no pin any more", Forwarded, func(t *testing.T, h *hops) {
			h.pins.set(func(p *fakePins) { delete(p.pins, instance) })
			h.connect().want(msgExtensionFailure, bindRequest(h.first, 1))
		}},
		{"two forwardings", Forwarded, func(t *testing.T, h *hops) {
			h.forwarded(h.first).want(msgExtensionFailure, bindRequest(newSession(t, h.second, 32), 1))
		}},
		{"the same forwarding twice", Forwarded, func(t *testing.T, h *hops) {
			h.forwarded(h.first).want(msgExtensionFailure, bindRequest(h.first, 1))
		}},
		{"a third binding", SecondBinding, func(t *testing.T, h *hops) {
			c := h.forwarded(h.first)
			c.want(msgSuccess, bindRequest(newSession(t, h.second, 32), 0))
			c.want(msgExtensionFailure, bindRequest(newSession(t, h.second, 32), 0))
		}},
		{"forwarding behind the end", SecondBinding, func(t *testing.T, h *hops) {
			c := h.forwarded(h.first)
			s := newSession(t, h.second, 32)
			c.want(msgSuccess, bindRequest(s, 0))
			c.want(msgExtensionFailure, bindRequest(s, 1))
		}},
		{"a login on the forwarding hop", Forwarded, func(t *testing.T, h *hops) {
			h.forwarded(h.first).want(msgFailure, signRequest(h.keyBlob(), h.login(h.witnessed())))
		}},
		{"another session than the one that was bound", OtherSession, func(t *testing.T, h *hops) {
			c := h.forwarded(h.first)
			c.want(msgSuccess, bindRequest(newSession(t, h.second, 32), 0))
			s := newSession(t, h.second, 32)
			if h.signFor(c, s) != msgFailure {
				t.Error("signed")
			}
		}},
		{"another host key in the request", OtherHostKey, func(t *testing.T, h *hops) {
			c := h.forwarded(h.first)
			s := newSession(t, h.second, 32)
			c.want(msgSuccess, bindRequest(s, 0))
			c.want(msgFailure, signRequest(h.keyBlob(), h.login(s, hostBound(h.first))))
		}},
		{"another user", OtherUser, func(t *testing.T, h *hops) {
			c := h.forwarded(h.first)
			s := newSession(t, h.second, 32)
			c.want(msgSuccess, bindRequest(s, 0))
			c.want(msgFailure, signRequest(h.keyBlob(), h.login(s, hostBound(s), func(l *login) { l.User = "admin" })))
		}},
		{"the session of a login of ours", OtherSession, func(t *testing.T, h *hops) {
			s := newSession(t, h.second, 32)
			h.witnessAt(secondID, s)
			c := h.forwarded(h.first)
			c.want(msgSuccess, bindRequest(s, 0))
			if h.signFor(c, s) != msgFailure {
				t.Error("signed")
			}
		}},
		{"a session that has its signature", AlreadySigned, func(t *testing.T, h *hops) {
			s := newSession(t, h.second, 32)
			for _, want := range []byte{msgSignResponse, msgFailure} {
				c := h.forwarded(h.first)
				c.want(msgSuccess, bindRequest(s, 0))
				if got := h.signFor(c, s); got != want {
					t.Errorf("answered with %d", got)
				}
			}
		}},
		{"the first pin went in between", NotPinned, func(t *testing.T, h *hops) {
			c := h.forwarded(h.first)
			s := newSession(t, h.second, 32)
			c.want(msgSuccess, bindRequest(s, 0))
			h.pins.set(func(p *fakePins) { delete(p.pins, instance) })
			if h.signFor(c, s) != msgFailure {
				t.Error("signed")
			}
		}},
		{"the second pin went in between", OtherHop, func(t *testing.T, h *hops) {
			c := h.forwarded(h.first)
			s := newSession(t, h.second, 32)
			c.want(msgSuccess, bindRequest(s, 0))
			h.pins.set(func(p *fakePins) { delete(p.pins, secondID) })
			if h.signFor(c, s) != msgFailure {
				t.Error("signed")
			}
		}},
		{"the configuration broke in between", BadPolicy, func(t *testing.T, h *hops) {
			h.badly = errors.New("line 7")
			h.connect().want(msgExtensionFailure, bindRequest(h.first, 1))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHops(newEnv(t))
			test.try(t, h)
			if got := h.lastRefusal(); got.Reason != string(test.reason) {
				t.Errorf("refused as %q: %s", got.Reason, got.Sentence)
			}
			for _, d := range h.log.decisions(Signed) {
				if d.Proof == ByHop && test.reason != AlreadySigned {
					t.Errorf("signed: %+v", d)
				}
			}
		})
	}
}

// TestForwardedIsNeverDirect never takes a forwarded connection for a direct one, whatever else is accepted.
func TestForwardedIsNeverDirect(t *testing.T) {
	for _, policy := range []Policy{
		{},
		{AcceptBind: true},
		{AcceptBind: true, Hops: []Hop{{instance, secondID}}},
	} {
		h := newHops(newEnv(t))
		h.settle(policy)
		witnessed := h.witnessed()
		for _, first := range []*session{h.first, h.session(), newSession(t, h.third, 32)} {
			c := h.connect()
			c.ask(bindRequest(first, 1))
			c.ask(bindRequest(witnessed, 0))
			if h.signFor(c, witnessed) != msgFailure {
				t.Errorf("%+v: signed after forwarding", policy)
			}
		}
	}
}
