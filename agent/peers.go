package agent

import (
	"sync"
	"time"

	"vast-ssh/internal/unixsock"
)

// A peer that was refused refusalBurst times in a row, or more than refusalRate times a second, is not listened to until
// it has waited. No client of ours comes near: it asks for one signature, and what it was refused stays refused.
const (
	refusalBurst = 32
	refusalRate  = 4
)

// maxPeers bounds the peers that are kept account of. Beyond, those who were refused the longest ago are forgotten.
const maxPeers = 1024

// peers keeps account of refusals by peer process, so that one that is refused all the time costs little work and
// leaves the others' records alone.
type peers struct {
	now func() time.Time

	mu    sync.Mutex // protects the following
	debts map[peerID]debt
}

// peerID tells a process from another with the same pid.
type peerID struct {
	pid   int
	start uint64
}

// debt is the refusals of a peer that have not been worked off at refusalRate.
type debt struct {
	refusals float64
	at       time.Time
}

func newPeers(now func() time.Time) *peers {
	return &peers{now: now, debts: make(map[peerID]debt)}
}

func idOf(p unixsock.Peer) peerID { return peerID{p.PID, p.Start} }

func (d debt) after(now time.Time) float64 {
	return max(0, d.refusals-refusalRate*now.Sub(d.at).Seconds())
}

// refused counts one refusal of p.
func (ps *peers) refused(p unixsock.Peer) {
	now := ps.now()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	d, ok := ps.debts[idOf(p)]
	if !ok && len(ps.debts) >= maxPeers {
		ps.forget(now)
	}
	ps.debts[idOf(p)] = debt{min(refusalBurst, d.after(now)) + 1, now}
}

// forget makes room: those who owe nothing go, or else the one who was refused the longest ago. mu is held.
func (ps *peers) forget(now time.Time) {
	var oldest peerID
	var at time.Time
	for id, d := range ps.debts {
		if d.after(now) == 0 {
			delete(ps.debts, id)
		} else if at.IsZero() || d.at.Before(at) {
			oldest, at = id, d.at
		}
	}
	if len(ps.debts) >= maxPeers {
		delete(ps.debts, oldest)
	}
}

// mayAsk reports whether p is listened to.
func (ps *peers) mayAsk(p unixsock.Peer) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	d, ok := ps.debts[idOf(p)]
	return !ok || d.after(ps.now()) < refusalBurst
}
