package proxy

import (
	"context"
	"errors"
	"testing"
	"time"

	"vast-ssh/internal/ipc"
)

// TestBusyAgentIsAskedAgain has the agent refuse for want of room, at first or for good.
func TestBusyAgentIsAskedAgain(t *testing.T) {
	busy := &ipc.RefusedError{Reason: ipc.Busy, Sentence: "64 others"}
	for _, tt := range []struct {
		name  string
		times int // that it is busy
		want  error
	}{
		{"not at all", 0, nil},
		{"for a while", 3, nil},
		{"for good", 1 << 30, busy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			c := &Conn{ctx: t.Context(), closed: make(chan struct{})}
			c.cfg.Witness = func(context.Context, ipc.Witness) error {
				if asked++; asked <= tt.times {
					return busy
				}
				return nil
			}
			until := c.opened // long ago: asked once
			if tt.times < 100 {
				until = time.Now().Add(patience)
			}
			if err := c.submit(ipc.Witness{}, until); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if want := min(tt.times%(1<<30)+1, 4); asked != want {
				t.Errorf("asked %d times, want %d", asked, want)
			}
		})
	}

	other := errors.New("not pinned")
	c := &Conn{ctx: t.Context(), closed: make(chan struct{})}
	c.cfg.Witness = func(context.Context, ipc.Witness) error { return other }
	if err := c.submit(ipc.Witness{}, time.Now().Add(patience)); !errors.Is(err, other) {
		t.Errorf("another refusal: %v", err)
	}
}
