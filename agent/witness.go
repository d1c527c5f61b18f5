package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// MaxWitnesses bounds the live witnesses. Each costs a signature verification per request, so it bounds work as well.
const MaxWitnesses = 64

// maxSigned bounds the session ids remembered as signed; the oldest is forgotten. Forgetting is safe, since a
// signature needs a live witness too.
const maxSigned = 4096

// witness is a checked ipc.Witness: hostKey was pinned for instance when it came in, and signature has an algorithm of hostKey.
type witness struct {
	instance  uint64
	hostKey   ssh.PublicKey
	blob      []byte // hostKey on the wire
	signature *ssh.Signature
	user      string
	expires   time.Time
}

// witnesses holds the live witnesses and the sessions that have had their signature.
type witnesses struct {
	life time.Duration
	now  func() time.Time

	mu     sync.Mutex // protects the following
	list   []*witness
	freed  chan struct{} // closed and replaced whenever list gets shorter
	signed map[[32]byte]struct{}
	order  [][32]byte // keys of signed, oldest first
}

func newWitnesses(life time.Duration, now func() time.Time) *witnesses {
	return &witnesses{life: life, now: now, freed: make(chan struct{}), signed: make(map[[32]byte]struct{})}
}

// expirePoll is how often a waiting add looks for expired witnesses when none is spent.
const expirePoll = 100 * time.Millisecond

func (ws *witnesses) add(ctx context.Context, w *witness) error {
	for {
		ws.mu.Lock()
		ws.dropExpired()
		if len(ws.list) < MaxWitnesses {
			w.expires = ws.now().Add(ws.life)
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

// take finds the live witness whose signature verifies over sessionID and spends it: of any number of concurrent calls
// for one session, one gets it. It returns nil if there is none, and already if the session has had its signature.
func (ws *witnesses) take(sessionID []byte) (w *witness, already bool) {
	id := sha256.Sum256(sessionID)
	ws.mu.Lock()
	ws.dropExpired()
	if _, already = ws.signed[id]; already {
		ws.mu.Unlock()
		return nil, true
	}
	live := append([]*witness(nil), ws.list...)
	ws.mu.Unlock()

	// Verifying takes tens of microseconds each, so it is done outside the lock and newest first: a witness comes just
	// before its request.
	for i := len(live) - 1; i >= 0; i-- {
		if live[i].hostKey.Verify(sessionID, live[i].signature) == nil {
			w = live[i]
			break
		}
	}
	if w == nil {
		return nil, false
	}

	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, already = ws.signed[id]; already {
		return nil, true
	}
	if !ws.remove(w) || !ws.now().Before(w.expires) {
		return nil, false
	}
	ws.signed[id] = struct{}{}
	ws.order = append(ws.order, id)
	if len(ws.order) > maxSigned {
		delete(ws.signed, ws.order[0])
		ws.order = ws.order[1:]
	}
	return w, false
}

// withdraw forgets a witness like w and tells whether there was a live one.
func (ws *witnesses) withdraw(w *witness) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.dropExpired()
	for _, x := range ws.list {
		if x.instance == w.instance && x.agrees(w.blob) && x.signature.Format == w.signature.Format &&
			bytes.Equal(x.signature.Blob, w.signature.Blob) {
			return ws.remove(x)
		}
	}
	return false
}

func (ws *witnesses) live() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.dropExpired()
	return len(ws.list)
}

func (ws *witnesses) remove(w *witness) bool {
	for i, x := range ws.list {
		if x == w {
			ws.list = append(ws.list[:i:i], ws.list[i+1:]...)
			ws.announce()
			return true
		}
	}
	return false
}

func (ws *witnesses) dropExpired() {
	now := ws.now()
	kept := ws.list[:0:0]
	for _, w := range ws.list {
		if now.Before(w.expires) {
			kept = append(kept, w)
		}
	}
	if len(kept) < len(ws.list) {
		ws.list = kept
		ws.announce()
	}
}

func (ws *witnesses) announce() {
	close(ws.freed)
	ws.freed = make(chan struct{})
}

// agrees reports whether a session described as (hostKey blob) is the one that w saw.
func (w *witness) agrees(hostKeyBlob []byte) bool { return bytes.Equal(w.blob, hostKeyBlob) }
