package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
)

// MaxWitnesses bounds the live witnesses. Each costs a signature verification per request, so it bounds work as well.
const MaxWitnesses = 64

// maxSigned bounds the session ids remembered as signed; the oldest is forgotten. Forgetting is safe: a signature needs a
// proof of its session too, and a second one for the same session serves only the end that has had the first.
const maxSigned = 4096

// maxSpent bounds the spent witnesses whose connection has not ended yet.
const maxSpent = 256

// witness is a checked ipc.Witness: hostKey was pinned for instance when it came in, and signature has an algorithm of hostKey.
type witness struct {
	instance  uint64
	hostKey   ssh.PublicKey
	blob      []byte // hostKey on the wire
	signature *ssh.Signature
	client    int // process that the connection is for, as the proxy believes; 0 if unknown
	route     string
	label     string
	came      time.Time
	expires   time.Time
	given     bool // it has served its signature; witnesses.mu protects it
}

// parseWitness checks what can be checked of w alone.
func parseWitness(w ipc.Witness) (*witness, *refusal) {
	key, err := parseHostKey(w.HostKey)
	if err != nil {
		return nil, &refusal{Reason: BadWitness, detail: err.Error()}
	}
	sig, err := parseSignature(key, w.Signature)
	if err != nil {
		return nil, &refusal{Reason: BadWitness, hostKey: key, detail: err.Error()}
	}
	if w.Instance == 0 {
		return nil, &refusal{Reason: BadWitness, hostKey: key, detail: "no instance"}
	}
	return &witness{
		instance:  w.Instance,
		hostKey:   key,
		blob:      w.HostKey,
		signature: sig,
		client:    w.Client,
		route:     cut(w.Route, maxShort),
		label:     cut(w.Label, maxShort),
	}, nil
}

// agrees reports whether a session described as (hostKey blob) is the one that w saw.
func (w *witness) agrees(hostKeyBlob []byte) bool { return bytes.Equal(w.blob, hostKeyBlob) }

// holds reports whether w is of this host key (on the wire) and this signature.
func (w *witness) holds(hostKeyBlob []byte, sig *ssh.Signature) bool {
	return w.agrees(hostKeyBlob) && w.signature.Format == sig.Format && bytes.Equal(w.signature.Blob, sig.Blob)
}

// witnesses holds the live witnesses and the sessions that have had their signature.
type witnesses struct {
	now func() time.Time

	mu    sync.Mutex // protects the following
	list  []*witness
	spent []*witness    // oldest first
	freed chan struct{} // closed and replaced whenever list gets shorter
	// signed has the sessions whose one request was answered. Of a login that was signed, and that one may go on from, it
	// has the instance, and 0 of the others.
	signed map[[32]byte]uint64
	order  [][32]byte // keys of signed, oldest first
}

func newWitnesses(now func() time.Time) *witnesses {
	return &witnesses{now: now, freed: make(chan struct{}), signed: make(map[[32]byte]uint64)}
}

// expirePoll is how often a waiting add looks for expired witnesses when none is spent.
const expirePoll = 100 * time.Millisecond

func (ws *witnesses) add(ctx context.Context, w *witness, life time.Duration) error {
	for {
		ws.mu.Lock()
		ws.dropExpired()
		if len(ws.list) < MaxWitnesses {
			w.came = ws.now()
			w.expires = w.came.Add(life)
			ws.list = append(ws.list, w)
			ws.mu.Unlock()
			return nil
		}
		freed := ws.freed
		ws.mu.Unlock()
		select {
		case <-freed:
		case <-time.After(expirePoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// claim is a request for the one signature of a session.
type claim struct {
	sessionID []byte
	bound     *binding // the client's own, verified binding to that session, or nil
	client    int      // process id of the client
	// instead, if not nil, is taken where there is no witness: a proof of another kind.
	instead *witness
}

// take finds the live witness whose signature verifies over the session id and spends it: of any number of concurrent
// claims to one session, one gets it. It returns nil if there is no proof, and already if the session has had its
// signature.
func (ws *witnesses) take(c claim) (w *witness, already bool) {
	id := sha256.Sum256(c.sessionID)
	ws.mu.Lock()
	ws.dropExpired()
	if _, already = ws.signed[id]; already {
		ws.mu.Unlock()
		return nil, true
	}
	live := slices.Clone(ws.list)
	ws.mu.Unlock()

	w = c.find(live) // outside the lock: it may take long
	if w == nil && c.instead == nil {
		return nil, false
	}

	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, already = ws.signed[id]; already {
		return nil, true
	}
	switch {
	case w == nil:
		w = c.instead
	case !ws.remove(w) || !ws.now().Before(w.expires):
		return nil, false
	default:
		if ws.spent = append(ws.spent, w); len(ws.spent) > maxSpent {
			ws.spent = slices.Delete(ws.spent, 0, 1)
		}
	}
	ws.signed[id] = 0
	ws.order = append(ws.order, id)
	if len(ws.order) > maxSigned {
		delete(ws.signed, ws.order[0])
		ws.order = ws.order[1:]
	}
	return w, false
}

// find returns the witness of live whose signature verifies over the session id, or nil.
//
// A client that binds its connection shows the very signature that the proxy saw, and parseBinding has verified it over
// this session id, so a witness that holds the same one needs no look at the others. Verifying takes tens of
// microseconds each. Those that came for this client go first and then the newest, since a witness comes just before
// its request; the order decides nothing else.
func (c claim) find(live []*witness) *witness {
	if c.bound != nil && bytes.Equal(c.bound.sessionID, c.sessionID) {
		for _, w := range live {
			if w.holds(c.bound.blob, c.bound.signature) {
				return w
			}
		}
	}
	for _, own := range []bool{true, false} {
		for _, w := range slices.Backward(live) {
			if own == (c.client != 0 && w.client == c.client) && w.hostKey.Verify(c.sessionID, w.signature) == nil {
				return w
			}
		}
	}
	return nil
}

// gave notes that the signature of the session, for which take returned w, is given. onward is whether it is a login that
// one may go on from.
func (ws *witnesses) gave(sessionID []byte, w *witness, onward bool) {
	id := sha256.Sum256(sessionID)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.given = true
	if _, kept := ws.signed[id]; kept && onward {
		ws.signed[id] = w.instance
	}
}

// signedFor returns the instance that the session was signed for, or 0: a login of this user to that instance.
func (ws *witnesses) signedFor(sessionID []byte) uint64 {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.signed[sha256.Sum256(sessionID)]
}

// withdraw forgets a witness like w. It returns when that came, and whether it was live. The time is zero if there was none,
// or if it has served its signature: nothing that was refused since was refused to that login.
func (ws *witnesses) withdraw(w *witness) (came time.Time, live bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.dropExpired()
	like := func(x *witness) bool { return x.instance == w.instance && x.holds(w.blob, w.signature) }
	if i := slices.IndexFunc(ws.list, like); i >= 0 {
		came = ws.list[i].came
		ws.remove(ws.list[i])
		return came, true
	}
	if i := slices.IndexFunc(ws.spent, like); i >= 0 {
		if !ws.spent[i].given {
			came = ws.spent[i].came
		}
		ws.spent = slices.Delete(ws.spent, i, i+1)
	}
	return came, false
}

func (ws *witnesses) live() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.dropExpired()
	return len(ws.list)
}

func (ws *witnesses) remove(w *witness) bool {
	i := slices.Index(ws.list, w)
	if i < 0 {
		return false
	}
	ws.list = slices.Delete(ws.list, i, i+1)
	ws.announce()
	return true
}

func (ws *witnesses) dropExpired() {
	now := ws.now()
	before := len(ws.list)
	ws.list = slices.DeleteFunc(ws.list, func(w *witness) bool { return !now.Before(w.expires) })
	if len(ws.list) < before {
		ws.announce()
	}
}

func (ws *witnesses) announce() {
	close(ws.freed)
	ws.freed = make(chan struct{})
}
