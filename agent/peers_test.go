package agent

import (
	"testing"
	"time"

	"vast-ssh/internal/unixsock"
)

// TestPeers has one process refused again and again while others go on, and lets it wait it off.
func TestPeers(t *testing.T) {
	now := time.Unix(1000, 0)
	ps := newPeers(func() time.Time { return now })
	noisy := unixsock.Peer{PID: 7, Start: 1}
	for i := range 1000 {
		if got, want := ps.mayAsk(noisy), i < refusalBurst; got != want {
			t.Fatalf("after %d refusals: %v", i, got)
		}
		ps.refused(noisy)
	}
	for _, other := range []unixsock.Peer{{PID: 7, Start: 2}, {PID: 8, Start: 1}} {
		if !ps.mayAsk(other) {
			t.Errorf("%+v is not listened to", other)
		}
	}
	now = now.Add(time.Second / refusalRate)
	if ps.mayAsk(noisy) {
		t.Error("it is listened to at once")
	}
	now = now.Add(time.Second)
	if !ps.mayAsk(noisy) {
		t.Error("it is not listened to after it has waited")
	}
}

// TestPeersAreBounded has more processes refused than are kept: the newest are.
func TestPeersAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	ps := newPeers(func() time.Time { return now })
	for pid := range 3 * maxPeers {
		for range refusalBurst + 1 {
			ps.refused(unixsock.Peer{PID: pid})
		}
		now = now.Add(time.Nanosecond)
	}
	if len(ps.debts) != maxPeers {
		t.Errorf("%d peers are kept", len(ps.debts))
	}
	if ps.mayAsk(unixsock.Peer{PID: 3*maxPeers - 1}) || !ps.mayAsk(unixsock.Peer{PID: 0}) {
		t.Error("the newest are forgotten, or the oldest kept")
	}
	now = now.Add(time.Hour)
	ps.refused(unixsock.Peer{PID: -1}) // makes room
	if len(ps.debts) != 1 {
		t.Errorf("%d peers are kept when all but one have waited", len(ps.debts))
	}
}
