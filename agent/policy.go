package agent

import (
	"context"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/unixsock"
)

// Policy is what the user has settled. The zero value is the default of each.
type Policy struct {
	// Users reports whether logins as user are signed for instance. Nil is root at every instance.
	Users func(instance uint64, user string) bool
	// AcceptBind takes a client's verified session-bind@openssh.com for a proof where there is no witness. It is for
	// connections that do not go through our proxy, and lets whoever holds the agent socket log in to pinned instances.
	AcceptBind bool
	// Hops are the ways on from one instance to another that are signed for through agent forwarding.
	Hops []Hop
	// Confirm says when a person is asked.
	Confirm Confirm
	// WitnessLife is how long a witness waits for its signature request. Zero is DefaultWitnessLife.
	WitnessLife time.Duration
}

// Hop is the way from a login at the instance From to the instance To.
type Hop struct{ From, To uint64 }

// Confirm says when a person is asked before a signature is given.
type Confirm string

const (
	ConfirmNever  Confirm = "" // the default
	ConfirmFirst  Confirm = "first"
	ConfirmAlways Confirm = "always"
)

// DefaultWitnessLife leaves time for a slow client to get from the key exchange to user authentication.
const DefaultWitnessLife = 30 * time.Second

func (p *Policy) allowsUser(instance uint64, user string) bool {
	if p.Users == nil {
		return user == "root"
	}
	return p.Users(instance, user)
}

func (p *Policy) witnessLife() time.Duration {
	if p.WitnessLife == 0 {
		return DefaultWitnessLife
	}
	return p.WitnessLife
}

// accepts is the weakest proof that is taken.
func (p *Policy) accepts() Proof {
	if p.AcceptBind {
		return ByBind
	}
	return ByWitness
}

// hopsFrom returns the instances that a login at the instance from may go on to.
func (p *Policy) hopsFrom(from uint64) []uint64 {
	var to []uint64
	for _, h := range p.Hops {
		if h.From == from {
			to = append(to, h.To)
		}
	}
	return to
}

// Proof is the kind of proof that a session ends where it should.
type Proof string

const (
	ByWitness Proof = "witness" // our proxy saw the key exchange
	ByBind    Proof = "bind"    // the client's own binding, where the policy accepts one alone
	ByHop     Proof = "hop"     // the client's bindings along a way in Hops
)

// Verdict is the outcome of a decision.
type Verdict string

const (
	Signed    Verdict = "signed"
	Refused   Verdict = "refused"
	NotWanted Verdict = "unused" // a witness whose connection ended without a signature request
)

// Decision is one thing that the agent decided, as far as it is known: a refusal can come before anything is.
type Decision struct {
	At       time.Time
	Verdict  Verdict
	Reason   Reason // of a refusal
	Sentence string // why, for people
	Instance uint64
	From     uint64 // the instance that the agent was forwarded to, of a hop
	Label    string // what the user calls the instance; the proxy's word
	User     string
	HostKey  ssh.PublicKey
	Route    string // the proxy's word
	Proof    Proof
	Peer     unixsock.Peer
}

// Log keeps decisions. A signature that cannot be recorded is not given.
type Log interface {
	Record(Decision) error
}

// Approver asks a person.
type Approver interface {
	// Approve returns nil if a person has agreed to d. It is called from many goroutines, and ends with ctx.
	Approve(ctx context.Context, d Decision) error
}
