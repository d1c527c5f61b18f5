package vast

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errTooLate says that a wait would outlast the deadline.
var errTooLate = errors.New("the deadline is too near to wait for the API's least interval between calls")

// pacer spaces the calls of each endpoint. The zero pacer is ready.
type pacer struct {
	mu   sync.Mutex
	next map[string]time.Time // by endpoint: when the next call may start
}

// wait blocks until a call of the named endpoint may start, and books that call. When the deadline of ctx comes
// first it returns errTooLate at once.
func (p *pacer) wait(ctx context.Context, name string, interval time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := time.Now()
	p.mu.Lock()
	at := p.next[name]
	if at.Before(now) {
		at = now
	}
	if deadline, ok := ctx.Deadline(); ok && at.After(deadline) {
		p.mu.Unlock()
		return errTooLate
	}
	p.set(name, at.Add(interval))
	p.mu.Unlock()

	if at.Equal(now) {
		return nil
	}
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hold lets no call of the named endpoint start for d from now.
func (p *pacer) hold(name string, d time.Duration) {
	at := time.Now().Add(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.After(p.next[name]) {
		p.set(name, at)
	}
}

// set needs p.mu.
func (p *pacer) set(name string, at time.Time) {
	if p.next == nil {
		p.next = make(map[string]time.Time)
	}
	p.next[name] = at
}
