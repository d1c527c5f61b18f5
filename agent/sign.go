package agent

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// consentTimeout bounds the wait for a person.
const consentTimeout = 60 * time.Second

// sign answers a signature request.
func (c *conn) sign(ctx context.Context, msg []byte) []byte {
	c.used = true
	sig, r := c.decide(ctx, msg)
	if r != nil {
		// A bound connection is for one session: what was refused there will not get better.
		if c.state != fresh {
			c.state = poisoned
		}
		c.refuse(*r)
		return []byte{msgFailure}
	}
	if c.state == bound {
		c.state = signed
	}
	c.agent.signed.Add(1)
	return ssh.Marshal(struct {
		Signature []byte `sshtype:"14"`
	}{ssh.Marshal(sig)})
}

// decide is the policy. Every path to a signature passes every check of it.
func (c *conn) decide(ctx context.Context, msg []byte) (*ssh.Signature, *refusal) {
	policy, r := c.agent.settled()
	if r != nil {
		return nil, r
	}
	key, auth, data, r := c.request(ctx, msg)
	if r != nil {
		return nil, r
	}
	p, r := c.prove(&policy, auth)
	if r != nil {
		return nil, r
	}
	// From here on the session's one request is spent, whatever the outcome.
	if r := c.permit(&policy, p); r != nil {
		return nil, p.blame(r)
	}
	if policy.Confirm != ConfirmNever {
		if r := c.consent(ctx, policy.Confirm, p); r != nil {
			return nil, p.blame(r)
		}
		// A person takes a while, in which the instance may have been wiped, or the user has settled something else.
		if policy, r = c.agent.settled(); r != nil {
			return nil, p.blame(r)
		}
		if r := c.permit(&policy, p); r != nil {
			return nil, p.blame(r)
		}
	}
	sig, r := c.signature(ctx, key, data)
	if r != nil {
		return nil, p.blame(r)
	}
	if err := c.agent.log.Record(p.decision(c, Signed)); err != nil {
		return nil, p.blame(&refusal{Reason: Unrecorded, detail: err.Error()})
	}
	// A way that was gone once does not go on: it was named as it is.
	c.agent.witnesses.gave(auth.sessionID, p.witness, p.proof != ByHop)
	return sig, nil
}

// request parses a signature request and returns what it is about: a login of RFC 4252 section 7 with our key.
func (c *conn) request(ctx context.Context, msg []byte) (ssh.PublicKey, *userauth, []byte, *refusal) {
	var req struct {
		Key   []byte `sshtype:"13"`
		Data  []byte
		Flags uint32 // for RSA only, RFC 9987 section 6.6.1
	}
	if err := ssh.Unmarshal(msg, &req); err != nil {
		return nil, nil, nil, &refusal{Reason: BadRequest, detail: "signature request does not parse"}
	}
	switch c.state {
	case poisoned:
		return nil, nil, nil, &refusal{Reason: Poisoned}
	case signed:
		return nil, nil, nil, &refusal{Reason: AlreadySigned}
	case forwarded:
		return nil, nil, nil, &refusal{Reason: Forwarded, Instance: c.via.instance, detail: "with no way on"}
	}
	if c.agent.keys.Locked() {
		return nil, nil, nil, &refusal{Reason: Locked}
	}
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	key, err := c.agent.keys.PublicKey(ctx)
	if err != nil {
		return nil, nil, nil, keyRefusal(err)
	}
	blob := key.Marshal()
	if !bytes.Equal(req.Key, blob) {
		return nil, nil, nil, &refusal{Reason: OtherKey}
	}
	auth, err := parseUserauth(req.Data, blob)
	if err != nil {
		r := &refusal{Reason: NotUserauth}
		if !errors.Is(err, errNotUserauth) { // whose text the reason has already
			r.detail = err.Error()
		}
		return nil, nil, nil, r
	}
	return key, auth, req.Data, nil
}

// proved is a login whose session was proved to end at an instance.
type proved struct {
	*witness
	auth  *userauth
	proof Proof
}

// prove spends the proof of where the session of auth ends.
func (c *conn) prove(policy *Policy, auth *userauth) (*proved, *refusal) {
	claim := claim{sessionID: auth.sessionID, client: c.peer.PID}
	p := &proved{auth: auth, proof: ByWitness}
	if c.state == bound {
		if subtle.ConstantTimeCompare(c.bound.sessionID, auth.sessionID) != 1 {
			return nil, &refusal{Reason: OtherSession}
		}
		claim.bound = &c.bound
		switch {
		case c.via != nil:
			claim.instead, p.proof = c.byHop(policy), ByHop
			if claim.instead == nil {
				return nil, &refusal{Reason: OtherHop, From: c.via.instance}
			}
		case policy.AcceptBind:
			claim.instead = c.byBind(policy, auth.user)
		}
	}
	w, already := c.agent.witnesses.take(claim)
	switch {
	case already:
		return nil, &refusal{Reason: AlreadySigned}
	case w == nil:
		return nil, &refusal{Reason: NoWitness}
	case w == claim.instead && p.proof != ByHop:
		p.proof = ByBind
	case w != claim.instead && p.proof == ByHop:
		// The session is one of ours that goes straight to its instance: nobody else can know of it.
		return nil, &refusal{Reason: OtherSession, Instance: w.instance}
	}
	p.witness = w
	return p, nil
}

// byHop is the proof by the way along which the connection is bound, if the policy still names it.
func (c *conn) byHop(policy *Policy) *witness {
	for _, to := range policy.hopsFrom(c.via.instance) {
		if c.agent.pins.Check(to, c.bound.hostKey) == nil {
			return c.byBinding(to, fmt.Sprintf("from instance %d", c.via.instance))
		}
	}
	return nil
}

// byBind is the proof by the connection's binding alone, for an instance that the host key is pinned for and that lets
// the user in by the policy. Without one it is nil, which a pin cannot make up for.
func (c *conn) byBind(policy *Policy, user string) *witness {
	instances, err := c.agent.pins.Instances(c.bound.hostKey)
	if err != nil || len(instances) == 0 {
		return nil
	}
	for _, id := range instances {
		if policy.allowsUser(id, user) {
			return c.byBinding(id, "not through vast-ssh")
		}
	}
	return c.byBinding(instances[0], "not through vast-ssh")
}

func (c *conn) byBinding(instance uint64, route string) *witness {
	return &witness{instance: instance, hostKey: c.bound.hostKey, blob: c.bound.blob, route: route}
}

// permit checks what is left when the session is proved: that all descriptions of it agree, and that policy and pins
// allow it now.
func (c *conn) permit(policy *Policy, p *proved) *refusal {
	switch {
	case c.state == bound && !p.agrees(c.bound.blob), p.auth.hostKey != nil && !p.agrees(p.auth.hostKey):
		return &refusal{Reason: OtherHostKey}
	case p.proof == ByBind && !policy.AcceptBind:
		return &refusal{Reason: NoWitness}
	case p.proof == ByHop && !slices.Contains(policy.hopsFrom(c.via.instance), p.instance):
		return &refusal{Reason: OtherHop, From: c.via.instance}
	case p.proof != ByWitness && p.auth.hostKey == nil:
		// A binding shows that its host key has signed the session id, and not that it did so in a key exchange: the owner of
		// a pinned machine can sign the id of a session with another. A login that names the host key is of no use there,
		// since the server checks that it is meant: OpenSSH PROTOCOL section 3.1.
		return &refusal{Reason: NotHostBound}
	case !policy.allowsUser(p.instance, p.auth.user):
		return &refusal{Reason: OtherUser, detail: fmt.Sprintf("%.64q", p.auth.user)}
	}
	if err := c.agent.pins.Check(p.instance, p.hostKey); err != nil {
		return &refusal{Reason: NotPinned, detail: err.Error()}
	}
	if c.via != nil {
		if c.agent.witnesses.signedFor(c.via.sessionID) != c.via.instance {
			return &refusal{Reason: Forwarded}
		}
		if err := c.agent.pins.Check(c.via.instance, c.via.hostKey); err != nil {
			return &refusal{Reason: NotPinned, detail: err.Error()}
		}
	}
	return nil
}

// consent asks a person. The connection is watched meanwhile, so that a question ends with the client that it is about.
func (c *conn) consent(ctx context.Context, when Confirm, p *proved) *refusal {
	ctx, cancel := context.WithTimeout(ctx, consentTimeout)
	defer cancel()
	defer context.AfterFunc(c.agent.draining, cancel)()
	ctx, stop := c.attend(ctx)
	defer stop()
	if err := c.agent.consents.ask(ctx, when, p.decision(c, Signed)); err != nil {
		return &refusal{Reason: Declined, detail: err.Error()}
	}
	return nil
}

func (c *conn) signature(ctx context.Context, key ssh.PublicKey, data []byte) (*ssh.Signature, *refusal) {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	signer, err := c.agent.keys.Signer(ctx)
	if err != nil {
		return nil, keyRefusal(err)
	}
	if !bytes.Equal(signer.PublicKey().Marshal(), key.Marshal()) {
		return nil, keyRefusal(errNoPair)
	}
	sig, err := signer.Sign(nil, data)
	if err != nil {
		if c.agent.keys.Locked() { // in between
			return nil, &refusal{Reason: Locked}
		}
		return nil, keyRefusal(errors.New("signing failed"))
	}
	return sig, nil
}

// blame completes a refusal with what is known of the login.
func (p *proved) blame(r *refusal) *refusal {
	r.Instance, r.hostKey = p.instance, p.hostKey
	r.user, r.route, r.label, r.proof = p.auth.user, p.route, p.label, p.proof
	return r
}

func (p *proved) decision(c *conn, v Verdict) Decision {
	d := Decision{
		At: c.agent.now(), Verdict: v, Instance: p.instance, Label: p.label, User: p.auth.user,
		HostKey: p.hostKey, Route: p.route, Proof: p.proof, Peer: c.peer,
	}
	if c.via != nil {
		d.From = c.via.instance
	}
	return d
}
