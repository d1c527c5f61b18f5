package agent

import (
	"errors"

	"golang.org/x/crypto/ssh"
)

const extSessionBind = "session-bind@openssh.com"

// binding is what a client says of its session, checked: OpenSSH PROTOCOL.agent section 1.
type binding struct {
	hostKey   ssh.PublicKey
	blob      []byte // hostKey on the wire
	sessionID []byte
	signature *ssh.Signature // of hostKey over sessionID, verified
}

// parseBinding parses and verifies the body of a session-bind extension. The host key comes back, also with an error,
// as soon as it is known. forwarded is true for every value of is_forwarding but 0.
func parseBinding(body []byte) (b binding, forwarded bool, err error) {
	var msg struct {
		HostKey      []byte
		SessionID    []byte
		Signature    []byte
		IsForwarding byte
	}
	if err := ssh.Unmarshal(body, &msg); err != nil {
		return binding{}, false, errors.New("binding does not parse")
	}
	b = binding{blob: msg.HostKey, sessionID: msg.SessionID}
	if b.hostKey, err = parseHostKey(msg.HostKey); err != nil {
		return b, false, err
	}
	if err := checkSessionID(msg.SessionID); err != nil {
		return b, false, err
	}
	sig, err := parseSignature(b.hostKey, msg.Signature)
	if err != nil {
		return b, false, err
	}
	if err := b.hostKey.Verify(msg.SessionID, sig); err != nil {
		return b, false, errors.New("the host key did not sign the session id")
	}
	b.signature = sig
	return b, msg.IsForwarding != 0, nil
}

// bind moves a connection on by one binding: from fresh to bound, or over forwarded to bound along a way that the policy
// names. Whatever else it meets poisons the connection: a client that is not sure of its session gets no signature.
func (c *conn) bind(body []byte) bool {
	if c.state == poisoned {
		c.refuse(refusal{Reason: Poisoned})
		return false
	}
	b, forwarding, err := parseBinding(body)
	var r *refusal
	switch {
	case err != nil:
		r = &refusal{Reason: BadBinding, detail: err.Error()}
	case c.used || c.state != fresh && c.state != forwarded:
		r = &refusal{Reason: SecondBinding}
	case c.state == fresh && !forwarding:
		c.state, c.bound = bound, b
	case c.state == fresh:
		r = c.forward(b)
	case forwarding:
		r = &refusal{Reason: Forwarded, detail: "over more than one instance"}
	default:
		r = c.hop(b)
	}
	if r != nil {
		r.hostKey = b.hostKey
		c.poison(*r)
	}
	return r == nil
}

// hopStart is the login through which a connection came, and where it may go on to.
type hopStart struct {
	binding
	instance uint64
	to       []uint64
}

// forward takes the first binding of a connection that comes through agent forwarding. It must be that of a login that
// this agent has signed: nobody but its two ends knows such a session id, so that nobody but the instance that the user
// forwards the agent to can go on from there. A binding alone would not show that: whoever connects to the instance
// gets its signature over a session id of his own.
func (c *conn) forward(b binding) *refusal {
	policy, r := c.agent.settled()
	if r != nil {
		return r
	}
	from := c.agent.witnesses.signedFor(b.sessionID)
	to := policy.hopsFrom(from)
	if from == 0 || len(to) == 0 || c.agent.pins.Check(from, b.hostKey) != nil {
		return &refusal{Reason: Forwarded, Instance: from}
	}
	c.state, c.via = forwarded, &hopStart{b, from, to}
	return nil
}

// hop takes the binding of the session with which such a connection goes on.
func (c *conn) hop(b binding) *refusal {
	for _, to := range c.via.to {
		if c.agent.pins.Check(to, b.hostKey) == nil {
			c.state, c.bound = bound, b
			return nil
		}
	}
	return &refusal{Reason: OtherHop, From: c.via.instance}
}
