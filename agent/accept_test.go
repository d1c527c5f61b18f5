package agent

import (
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestAcceptBind is a login that does not go through our proxy, where the policy takes the client's binding for it.
func TestAcceptBind(t *testing.T) {
	e := newEnv(t)
	s := e.session()
	c := e.connect()
	c.want(msgSuccess, bindRequest(s, 0))
	e.settle(Policy{AcceptBind: true})
	if n := c.listed(); n != 1 {
		t.Errorf("%d keys are listed", n)
	}
	c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s, hostBound(s))))
	if d := e.log.decisions(Signed); len(d) != 1 || d[0].Proof != ByBind || d[0].Instance != instance || d[0].HostKey == nil {
		t.Errorf("recorded as %+v", d)
	}
	// The same session again, on a connection of its own.
	c = e.connect()
	c.want(msgSuccess, bindRequest(s, 0))
	c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
	if got := e.lastRefusal().Reason; got != string(AlreadySigned) {
		t.Errorf("a second signature is refused as %q", got)
	}
	e.wantSignatures(1)
}

// TestWitnessGoesBeforeBind spends the witness of a session that is bound as well, and holds both to each other.
func TestWitnessGoesBeforeBind(t *testing.T) {
	e := newEnv(t)
	e.settle(Policy{AcceptBind: true})
	s := e.witnessed()
	c := e.connect()
	c.want(msgSuccess, bindRequest(s, 0))
	c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
	if d := e.log.decisions(Signed); len(d) != 1 || d[0].Proof != ByWitness || d[0].Route != "direct" {
		t.Errorf("recorded as %+v", d)
	}
	if live := e.agent.witnesses.live(); live != 0 {
		t.Errorf("%d witnesses live", live)
	}
	e.wantSignatures(1)

	other := newKey(t, ssh.KeyAlgoED25519)
	e.pins.add(instance, other.PublicKey())
	s = e.witnessed()
	c = e.connect()
	c.want(msgSuccess, bindMessage(other.PublicKey().Marshal(), s.id, hostSignature(t, other, s.id), 0))
	c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
	if got := e.lastRefusal().Reason; got != string(OtherHostKey) {
		t.Errorf("a witness and a binding that differ are refused as %q", got)
	}
	e.wantSignatures(1)
}

// TestAcceptBindRefused changes one thing at a time.
func TestAcceptBindRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		reason Reason
		try    func(e *env)
	}{
		{"by default", NoWitness, func(e *env) {
			e.settle(Policy{})
			s := e.session()
			c := e.connect()
			c.want(msgSuccess, bindRequest(s, 0))
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		}},
		{"without a binding", NoWitness, func(e *env) { refuse(e, e.login(e.session())) }},
		{"without a binding, host-bound", NoWitness, func(e *env) {
			s := e.session()
			refuse(e, e.login(s, hostBound(s)))
		}},
		{"to a host without a pin", NoWitness, func(e *env) {
			s := newSession(e, newKey(e, ssh.KeyAlgoED25519), 32)
			c := e.connect()
			c.want(msgSuccess, bindRequest(s, 0))
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		}},
		{"forwarded", Poisoned, func(e *env) {
			s := e.session()
			c := e.connect()
			c.want(msgExtensionFailure, bindRequest(s, 1))
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		}},
		{"another session", OtherSession, func(e *env) {
			c := e.connect()
			c.want(msgSuccess, bindRequest(e.session(), 0))
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(e.session())))
		}},
		{"another user", OtherUser, func(e *env) {
			s := e.session()
			c := e.connect()
			c.want(msgSuccess, bindRequest(s, 0))
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(s, hostBound(s), func(l *login) { l.User = "admin" })))
		}},
		{"a pin that is gone", NoWitness, func(e *env) {
			s := e.session()
			c := e.connect()
			c.want(msgSuccess, bindRequest(s, 0))
			e.pins.set(func(p *fakePins) { p.pins = nil })
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		}},
		{"twice bound", Poisoned, func(e *env) {
			s := e.session()
			c := e.connect()
			c.want(msgSuccess, bindRequest(s, 0))
			c.want(msgExtensionFailure, bindRequest(s, 0))
			c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEnv(t)
			e.settle(Policy{AcceptBind: true})
			test.try(e)
			if got := e.lastRefusal(); got.Reason != string(test.reason) {
				t.Errorf("refused as %q: %s", got.Reason, got.Sentence)
			}
			e.wantSignatures(0)
		})
	}
}

// TestUsersByInstance signs for the users that the policy names at the instance, and for a host key that two instances
// share at the one that lets the user in.
func TestUsersByInstance(t *testing.T) {
	allowed := map[uint64][]string{instance: {"root"}, secondID: {"root", "ubuntu"}}
	users := func(id uint64, user string) bool { return slices.Contains(allowed[id], user) }
	for _, test := range []struct {
		id   uint64
		user string
		want byte
	}{
		{instance, "root", msgSignResponse},
		{instance, "ubuntu", msgFailure},
		{secondID, "root", msgSignResponse},
		{secondID, "ubuntu", msgSignResponse},
		{secondID, "Ubuntu", msgFailure},
		{secondID, "ubuntu ", msgFailure},
	} {
		e := newEnv(t)
		e.settle(Policy{Users: users})
		e.pins.add(secondID, e.host.PublicKey())
		s := e.session()
		w := s.witness()
		w.Instance = test.id
		if err := e.agent.Witness(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		e.connect().want(test.want, signRequest(e.keyBlob(), e.login(s, func(l *login) { l.User = test.user })))
	}
	e := newEnv(t)
	e.pins.add(secondID, e.host.PublicKey())
	e.settle(Policy{Users: users, AcceptBind: true})
	s := e.session()
	c := e.connect()
	c.want(msgSuccess, bindRequest(s, 0))
	c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s, hostBound(s), func(l *login) { l.User = "ubuntu" })))
	if d := e.log.decisions(Signed); len(d) != 1 || d[0].Instance != secondID {
		t.Errorf("recorded as %+v", d)
	}
}

// TestLocked shows nothing and signs nothing while the key is locked, and takes bindings all the same: a connection that
// was bound meanwhile is bound afterwards.
func TestLocked(t *testing.T) {
	e := newEnv(t)
	mine, foreign := e.witnessed(), e.witnessed()
	e.keys.lock(true)
	honest, forwarded, plain := e.connect(), e.connect(), e.connect()
	honest.want(msgSuccess, bindRequest(mine, 0))
	forwarded.want(msgExtensionFailure, bindRequest(foreign, 1))
	for _, c := range []*client{honest, forwarded, plain} {
		if n := c.listed(); n != 0 {
			t.Errorf("%d keys are listed while locked", n)
		}
	}
	plain.want(msgFailure, signRequest(e.keyBlob(), e.login(foreign)))
	if got := e.lastRefusal(); got.Reason != string(Locked) || got.Hint != "vast-agent unlock" {
		t.Errorf("refused as %+v", got)
	}
	e.keys.lock(false)
	if n := forwarded.listed(); n != 0 {
		t.Errorf("%d keys are listed behind forwarding", n)
	}
	forwarded.want(msgFailure, signRequest(e.keyBlob(), e.login(foreign)))
	honest.want(msgFailure, signRequest(e.keyBlob(), e.login(foreign)))
	c := e.connect()
	c.want(msgSuccess, bindRequest(mine, 0))
	c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(mine)))
	e.wantSignatures(1)
}
