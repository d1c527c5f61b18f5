// Package agent is the policy agent: an ssh-agent (RFC 9987) that holds one ed25519 key and signs one thing only, the
// user authentication (RFC 4252 section 7) of an SSH session that has been proved to end at a pinned instance.
//
// The proof is the witness. The session id of an SSH connection is the exchange hash H of its first key exchange, and
// the server proves that it owns its host key K_S by signing H (RFC 4253 section 8). The proxy that relays the
// connection sees K_S and the signature; it cannot know H. It hands both to the agent once the client has gone on in
// cipher, and so has verified the signature over its own H, and before the server sees a byte of that.
// The client then asks the agent to sign a blob that starts with H. The agent signs only if the witnessed signature
// verifies over that very H and K_S is pinned for the witnessed instance at that moment. Each witness serves one
// signature. A client that lies about H gets nothing: no other H verifies.
//
// Clients that send session-bind@openssh.com (OpenSSH PROTOCOL.agent section 1) have it checked in full besides; a
// connection with a bad, forwarded or second binding is poisoned for good.
package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
)

// Keys gives the one key that the agent serves.
type Keys interface {
	// PublicKey returns the public key without touching the private one.
	PublicKey(ctx context.Context) (ssh.PublicKey, error)
	// Signer returns the private key behind PublicKey, and an error that is ErrLocked while that is locked.
	Signer(ctx context.Context) (ssh.Signer, error)
	// Locked reports whether the private key is locked.
	Locked() bool
}

// ErrLocked says that somebody has to unlock the key first.
var ErrLocked = errors.New("the key is locked")

// Pins gives the host keys pinned by instance. Each call answers for the moment of the call.
type Pins interface {
	// Check returns nil if key is pinned for instance.
	Check(instance uint64, key ssh.PublicKey) error
	// Instances returns the instances that key is pinned for.
	Instances(key ssh.PublicKey) ([]uint64, error)
}

// Config is what an Agent needs. Keys, Pins and Log are required.
type Config struct {
	Keys    Keys
	Pins    Pins
	Log     Log
	Comment string // shown with the key when it is listed

	// Policy returns what the user has settled, for the moment of the call. Nil is the zero Policy.
	Policy func() (Policy, error)
	// Approver is asked where Policy wants it. Without one the answer is no.
	Approver Approver
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// keyTimeout bounds the work of Keys and Pins for one request: a keyring may take 3 s.
const keyTimeout = 8 * time.Second

// Agent decides on signature requests. Make one with New. Its methods may be called from many goroutines.
type Agent struct {
	keys      Keys
	pins      Pins
	log       Log
	policy    func() (Policy, error)
	comment   string
	now       func() time.Time
	witnesses *witnesses
	consents  *consents
	refusals  *refusals
	peers     *peers
	signed    atomic.Uint64

	draining     context.Context // ends when Drain is called first, and open questions with it
	endQuestions context.CancelFunc

	mu       sync.Mutex // protects the following
	inFlight int        // signature requests being worked on
	stopping bool
	idle     chan struct{} // closed when stopping and inFlight is 0
}

// New returns an Agent.
func New(cfg Config) (*Agent, error) {
	switch {
	case cfg.Keys == nil:
		return nil, errors.New("agent: Config.Keys is missing")
	case cfg.Pins == nil:
		return nil, errors.New("agent: Config.Pins is missing")
	case cfg.Log == nil:
		return nil, errors.New("agent: Config.Log is missing")
	}
	if cfg.Policy == nil {
		cfg.Policy = func() (Policy, error) { return Policy{}, nil }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	draining, endQuestions := context.WithCancel(context.Background())
	return &Agent{
		draining:     draining,
		endQuestions: endQuestions,

		keys:      cfg.Keys,
		pins:      cfg.Pins,
		log:       cfg.Log,
		policy:    cfg.Policy,
		comment:   cfg.Comment,
		now:       cfg.Now,
		witnesses: newWitnesses(cfg.Now),
		consents:  newConsents(cfg.Approver),
		refusals:  &refusals{},
		peers:     newPeers(cfg.Now),
		idle:      make(chan struct{}),
	}, nil
}

// settled returns the policy of this moment.
func (a *Agent) settled() (Policy, *refusal) {
	p, err := a.policy()
	if err != nil {
		return Policy{}, &refusal{Reason: BadPolicy, detail: err.Error(), next: hintOf(err)}
	}
	return p, nil
}

// refuse keeps a refusal for people.
func (a *Agent) refuse(r refusal) {
	now := a.now()
	a.refusals.add(r, now)
	// Nothing is given away by a refusal that cannot be recorded.
	_ = a.log.Record(r.decision(now))
}

// Witness takes in what the proxy saw of a key exchange. It refuses, with an *ipc.RefusedError, a host key that is not
// pinned for the instance now, anything that could never verify, and every login while the private key is out of reach.
// When MaxWitnesses are live it waits until one is spent or expires; if ctx ends before, the reason is ipc.Busy.
func (a *Agent) Witness(ctx context.Context, w ipc.Witness) error {
	parsed, life, refused := a.admit(ctx, w)
	if refused != nil {
		refused.Instance, refused.user = w.Instance, cut(w.User, maxShort)
		refused.route, refused.label = cut(w.Route, maxShort), cut(w.Label, maxShort)
		a.refuse(*refused)
		return &ipc.RefusedError{Reason: string(refused.Reason), Sentence: refused.sentence(), Next: refused.hint()}
	}
	if err := a.witnesses.add(ctx, parsed, life); err != nil {
		return &ipc.RefusedError{Reason: ipc.Busy,
			Sentence: fmt.Sprintf("the agent has %d other logins at hand", MaxWitnesses)}
	}
	return nil
}

// Withdraw forgets a witness whose connection has ended and returns what that login was refused, or nil. A witness that is
// live still has served no signature, which is kept for people: a machine that does not know the key never asks for
// one.
func (a *Agent) Withdraw(w ipc.Witness) *ipc.Refusal {
	parsed, bad := parseWitness(w)
	if bad != nil {
		return nil
	}
	came, live := a.witnesses.withdraw(parsed)
	if came.IsZero() {
		return nil
	}
	refused := a.refusals.since(came, w.Instance, parsed.hostKey, w.Client)
	if live && refused == nil {
		a.refuse(refusal{Reason: Unused, Instance: w.Instance, hostKey: parsed.hostKey, user: cut(w.User, maxShort),
			route: parsed.route, label: parsed.label})
		refused = a.refusals.since(came, w.Instance, parsed.hostKey, 0)
	}
	return refused
}

// ForgetConsent drops what people have agreed to, so that they are asked again.
func (a *Agent) ForgetConsent() { a.consents.forget() }

// admit decides whether w is taken in. The server chose the key and the signature, so a fault in their handling is a
// refusal too.
func (a *Agent) admit(ctx context.Context, w ipc.Witness) (_ *witness, life time.Duration, refused *refusal) {
	defer func() {
		if r := recover(); r != nil {
			refused = &refusal{Reason: Internal, detail: fmt.Sprintf("%T", r)}
		}
	}()
	parsed, refused := parseWitness(w)
	if refused != nil {
		return nil, 0, refused
	}
	policy, refused := a.settled()
	if refused == nil {
		if err := a.pins.Check(w.Instance, parsed.hostKey); err != nil {
			refused = &refusal{Reason: NotPinned, detail: err.Error()}
		} else if err := a.haveKey(ctx); err != nil {
			// A key that is out of reach is told here, where the proxy can say so: an ssh client could only say "refused".
			refused = keyRefusal(err)
		}
	}
	if refused != nil {
		refused.hostKey = parsed.hostKey
		return nil, 0, refused
	}
	return parsed, policy.witnessLife(), nil
}

// haveKey checks that the private key can be used and is the one that is listed.
func (a *Agent) haveKey(ctx context.Context) error {
	public, err := a.keys.PublicKey(ctx)
	if err != nil {
		return err
	}
	signer, err := a.keys.Signer(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(signer.PublicKey().Marshal(), public.Marshal()) {
		return errNoPair
	}
	return nil
}

var errNoPair = errors.New("the private key and the public key file are not a pair")

// keyRefusal is the refusal for want of the key.
func keyRefusal(err error) *refusal {
	if errors.Is(err, ErrLocked) {
		r := &refusal{Reason: Locked, next: hintOf(err)}
		if err.Error() != ErrLocked.Error() { // whose text the reason has already
			r.detail = err.Error()
		}
		return r
	}
	return &refusal{Reason: KeyUnavailable, detail: err.Error(), next: hintOf(err)}
}

func hintOf(err error) string {
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		return hint.Hint()
	}
	return ""
}

// Status describes the agent, without the fields that the running process knows: PID, Version, Started, Custody.
func (a *Agent) Status(ctx context.Context) ipc.Status {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	st := ipc.Status{
		Witnesses:  a.witnesses.live(),
		Signatures: a.signed.Load(),
	}
	st.Refusals, st.Refused = a.refusals.last()
	policy, refused := a.settled()
	switch {
	case refused != nil:
		st.Accept, st.Confirm = "nothing", refused.sentence()
	default:
		st.Accept, st.Confirm = string(policy.accepts()), cmp.Or(string(policy.Confirm), "never")
	}
	if key, err := a.keys.PublicKey(ctx); err != nil {
		st.KeyError = cut(err.Error(), maxSentence)
	} else {
		st.Key = ssh.FingerprintSHA256(key)
	}
	return st
}

// Drain refuses new signature requests and waits until those in flight are answered, or ctx ends. What waits for a person
// is refused.
func (a *Agent) Drain(ctx context.Context) error {
	a.endQuestions()
	a.mu.Lock()
	if !a.stopping {
		a.stopping = true
		if a.inFlight == 0 {
			close(a.idle)
		}
	}
	a.mu.Unlock()
	select {
	case <-a.idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *Agent) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopping {
		return false
	}
	a.inFlight++
	return true
}

func (a *Agent) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inFlight--
	if a.stopping && a.inFlight == 0 {
		close(a.idle)
	}
}
