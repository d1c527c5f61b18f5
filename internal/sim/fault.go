package sim

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Fault is one thing to go wrong. It meets a request that agrees with all of Method, Path and Endpoint that are set.
//
// What happens, in this order: a Delay; the request's effect, if Late; then Hang, Drop, Garbage, or an answer of
// Status and Body. A fault with a Delay alone lets the request pass.
//
// Go's HTTP client by itself repeats an idempotent request whose reused connection was dropped, which meets the
// next fault.
type Fault struct {
	Method string
	// Path is the start of the path.
	Path     string
	Endpoint Endpoint
	// Skip is how many requests it lets pass before the first that it meets.
	Skip int
	// Times is how many requests it meets: once if 0, all if negative.
	Times int

	Delay time.Duration
	// Late carries the request out and loses its answer.
	Late bool
	// Hang answers nothing until the client or the server goes away.
	Hang bool
	// Halt makes all later requests hang too, until Resume.
	Halt bool
	// Drop closes the connection.
	Drop bool
	// Garbage answers with status 200 and bytes that are no JSON.
	Garbage bool
	Status  int
	Body    string
}

func (f *Fault) matches(r *http.Request, e Endpoint) bool {
	return (f.Method == "" || f.Method == r.Method) && strings.HasPrefix(r.URL.Path, f.Path) &&
		(f.Endpoint == "" || f.Endpoint == e)
}

// passes reports whether the request is answered as usual after the delay.
func (f *Fault) passes() bool {
	return !f.Hang && !f.Drop && !f.Garbage && f.Status == 0
}

// Fault appends a fault to the script. Each request meets the first fault that matches it, has skipped its share and is
// not used up.
func (a *Account) Fault(f Fault) {
	if f.Times == 0 {
		f.Times = 1
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = append(a.faults, &f)
}

// Resume ends what a fault with Halt began, for the requests from now on.
func (a *Account) Resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.halted = false
}

// PendingFaults returns the faults that have not met all their requests, with the Times that are left. A fault for
// all requests is never pending.
func (a *Account) PendingFaults() []Fault {
	a.mu.Lock()
	defer a.mu.Unlock()
	var left []Fault
	for _, f := range a.faults {
		if f.Times > 0 {
			left = append(left, *f)
		}
	}
	return left
}

// takeFault returns the fault that the request meets, or nil.
func (a *Account) takeFault(r *http.Request, e Endpoint) *Fault {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.halted {
		return &Fault{Hang: true}
	}
	for i, f := range a.faults {
		if !f.matches(r, e) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		met := *f
		a.halted = f.Halt
		if f.Times > 0 {
			f.Times--
		}
		if f.Times == 0 {
			a.faults = slices.Delete(a.faults, i, i+1)
		}
		return &met
	}
	return nil
}

// wait waits for d, or for ever if d is negative, and reports whether nobody went away meanwhile.
func (a *Account) wait(ctx context.Context, d time.Duration) bool {
	var fired <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		fired = timer.C
	}
	select {
	case <-fired:
		return true
	case <-ctx.Done():
	case <-a.closing:
	}
	return false
}
