package destroy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/vast"
	"vast-ssh/internal/wipe/destroy"
)

// world is an account with one instance among others.
type world struct {
	account *sim.Account
	api     *vast.Client
	id      uint64
}

// callTimeout bounds a call. Nothing but a fault that hangs is to reach it, on a busy machine too.
const callTimeout = 10 * time.Second

func newWorld(t *testing.T, opts sim.Options) *world {
	t.Helper()
	a := sim.NewAccount(opts)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	api, err := vast.New(vast.Config{
		URL: a.URL(), Key: a.Key(), Pace: func(string) time.Duration { return 0 }, Timeout: callTimeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 30 { // more than a page
		a.Add(sim.Instance{})
	}
	return &world{a, api, a.Add(sim.Instance{})}
}

func (w *world) run(ctx context.Context) error {
	return destroy.Run(ctx, destroy.Config{
		API: w.api, ID: w.id, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
}

// lives reports whether the account still has the instance.
func (w *world) lives() bool {
	_, ok := w.account.Get(w.id)
	return ok
}

// sent counts the requests to destroy.
func (w *world) sent() int { return w.account.Count(sim.DestroyEndpoint) }

func TestDestroyAndConfirm(t *testing.T) {
	for _, opts := range []sim.Options{
		{}, {LingerReads: 1}, {LingerReads: 5}, {Shapes: sim.Shapes{GoneIs404: true}},
		{Shapes: sim.Shapes{GoneIs404: true, DestroyedIsNotFound: true}, LingerReads: 3},
	} {
		w := newWorld(t, opts)
		if err := w.run(t.Context()); err != nil || w.lives() || w.sent() != 1 {
			t.Errorf("%+v: %v, lives %v, sent %d", opts, err, w.lives(), w.sent())
		}
		// Once more: there is nothing to send.
		if err := w.run(t.Context()); err != nil || w.sent() != 1 {
			t.Errorf("%+v, again: %v, sent %d", opts, err, w.sent())
		}
	}
}

func TestALingeringRowIsNotGone(t *testing.T) {
	w := newWorld(t, sim.Options{LingerReads: 1 << 30})
	err := w.run(t.Context())
	var unknown *destroy.UnknownError
	if !errors.As(err, &unknown) || !unknown.Sent || w.sent() != 1 {
		t.Errorf("%v, sent %d", err, w.sent())
	}
	// A second run knows that it was destroyed, and sends nothing.
	if err := w.run(t.Context()); !errors.As(err, &unknown) || w.sent() != 1 {
		t.Errorf("again: %v, sent %d", err, w.sent())
	}
}

// faults are all that an API can do to one call. That of the same kind for all calls to come has its times negative.
func faults() map[string]sim.Fault {
	all := map[string]sim.Fault{
		"dropped": {Drop: true}, "hangs": {Hang: true}, "garbage": {Garbage: true},
		"a page with 200": {Status: 200, Body: "<html>hello</html>"}, "nothing with 200": {Status: 200, Body: ""},
		"an empty object":  {Status: 200, Body: "{}"},
		"404 of a bad key": {Status: 404, Body: `{"success":false,"error":"auth_error","msg":"Invalid user key"}`},
		"404 of a route":   {Status: 404, Body: `{"detail":"Not Found"}`}, "404 page": {Status: 404, Body: "<html>not found</html>"},
		"429": {Status: 429, Body: "API requests too frequent"},
	}
	for _, status := range []int{401, 403, 410, 500, 502, 503, 504} {
		all[fmt.Sprint(status)] = sim.Fault{Status: status, Body: `{"success":false,"error":"x","msg":"y"}`}
	}
	return all
}

// TestAFaultAtEveryCall breaks each call of the conversation, in every way, before it has done anything and after.
func TestAFaultAtEveryCall(t *testing.T) {
	for name, fault := range faults() {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			var hanging sync.WaitGroup
			defer hanging.Wait()
			for _, late := range []bool{false, true} {
				for call := range 6 {
					for _, times := range []int{1, -1} {
						for _, shapes := range []sim.Shapes{{}, {GoneIs404: true}} {
							if fault.Hang && times != 1 || fault.Status == 429 && late {
								continue // the same, more slowly; and what 429 says is that nothing was done
							}
							w := newWorld(t, sim.Options{Shapes: shapes, LingerReads: call % 3})
							f := fault
							f.Late, f.Skip, f.Times = late, call, times
							w.account.Fault(f)
							what := fmt.Sprintf("late %v, from call %d for %d, %+v", late, call, times, shapes)
							run := func() {
								err := w.run(t.Context())
								w.check(t, what, late, err)
								if call == 5 && times == 1 && err != nil {
									t.Errorf("%s: it does not come through: %v", what, err)
								}
							}
							if fault.Hang {
								hanging.Go(run) // all of them wait at once
							} else {
								run()
							}
						}
					}
				}
			}
		})
	}
}

// check makes sure of what holds whatever the API does.
func (w *world) check(t *testing.T, what string, late bool, err error) {
	t.Helper()
	var unknown *destroy.UnknownError
	var refused *destroy.RefusedError
	done := false
	for _, r := range w.account.Ledger() {
		if r.Endpoint == sim.DestroyEndpoint {
			if done {
				t.Errorf("%s: sent again after it was carried out", what)
			}
			done = done || !r.Fault || late
		}
	}
	switch {
	case err == nil && w.lives():
		t.Errorf("%s: gone, and it lives", what)
	case err == nil:
	case errors.As(err, &unknown):
		if !unknown.Sent && !w.lives() {
			t.Errorf("%s: said not to be sent, and it was: %v", what, err)
		}
		if !strings.Contains(err.Error(), "cost money") || !strings.Contains(unknown.Hint(), "vast-ssh wipe") {
			t.Errorf("%s: %v, hint %q", what, err, unknown.Hint())
		}
	case errors.As(err, &refused):
		if !w.lives() && w.account.Count(sim.DestroyEndpoint) > 0 && !lateFault(w) {
			t.Errorf("%s: said to be refused, and it was destroyed: %v", what, err)
		}
	default:
		t.Errorf("%s: an error of another kind: %v", what, err)
	}
}

// lateFault reports whether an answer was replaced after the request had been carried out: no server that says 401 or 403
// does that, and no client could tell.
func lateFault(w *world) bool {
	for _, r := range w.account.Ledger() {
		if r.Endpoint == sim.DestroyEndpoint && r.Fault {
			return true
		}
	}
	return false
}

func TestAnEndedContextIsTold(t *testing.T) {
	w := newWorld(t, sim.Options{LingerReads: 1 << 30})
	ctx, cancel := context.WithCancel(t.Context())
	err := destroy.Run(ctx, destroy.Config{API: w.api, ID: w.id, Sleep: func(ctx context.Context, _ time.Duration) error {
		cancel()
		return ctx.Err()
	}})
	var unknown *destroy.UnknownError
	if !errors.As(err, &unknown) || !unknown.Sent || unknown.Reason != "it was interrupted" {
		t.Errorf("after the request: %v", err)
	}
	other := newWorld(t, sim.Options{})
	if err := other.run(ctx); !errors.As(err, &unknown) || unknown.Sent || !other.lives() {
		t.Errorf("before the request: %v", err)
	}
}

// slow is an API that answers nothing, and takes its time for that.
type slow struct {
	now   time.Time
	calls int
}

func (s *slow) fail() error {
	s.now, s.calls = s.now.Add(20*time.Second), s.calls+1
	return &vast.UnavailableError{Reason: "no answer"}
}

func (s *slow) Instance(context.Context, uint64) (vast.Instance, error) {
	if s.calls == 0 {
		return vast.Instance{ID: 5}, nil
	}
	return vast.Instance{}, s.fail()
}

func (s *slow) Instances(context.Context) ([]vast.Instance, error) { return nil, s.fail() }

func (s *slow) Destroy(context.Context, uint64) error { return s.fail() }

// TestTheDeadlineCountsSlowAnswers, and not the looks alone.
func TestTheDeadlineCountsSlowAnswers(t *testing.T) {
	api := &slow{now: time.Now()}
	began := api.now
	err := destroy.Run(t.Context(), destroy.Config{API: api, ID: 5, Now: func() time.Time { return api.now },
		Sleep: func(_ context.Context, d time.Duration) error {
			api.now = api.now.Add(d)
			return nil
		},
	})
	var unknown *destroy.UnknownError
	if took := api.now.Sub(began); !errors.As(err, &unknown) || !unknown.Sent || took > 3*time.Minute {
		t.Errorf("%v, after %v and %d calls", err, took, api.calls)
	}
}

func TestLooksAreApart(t *testing.T) {
	w := newWorld(t, sim.Options{})
	var waits []time.Duration
	err := destroy.Run(t.Context(), destroy.Config{API: w.api, ID: w.id, Sleep: func(_ context.Context, d time.Duration) error {
		waits = append(waits, d)
		return nil
	}})
	if err != nil || len(waits) != 1 || waits[0] < 2*time.Second {
		t.Errorf("%v, waits %v", err, waits)
	}
	if w.account.Count(sim.ListEndpoint) == 0 || w.account.Count(sim.ShowEndpoint) < 2 {
		t.Error("it was not looked for in both ways")
	}
}

// TestGoneAsksForNothing of an instance that somebody else may have destroyed.
func TestGoneAsksForNothing(t *testing.T) {
	gone := func(w *world) error {
		return destroy.Gone(t.Context(), destroy.Config{
			API: w.api, ID: w.id, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		})
	}
	w := newWorld(t, sim.Options{})
	var unknown *destroy.UnknownError
	if err := gone(w); !errors.As(err, &unknown) || unknown.Sent {
		t.Errorf("one that is there: %v", err)
	}
	w.account.Remove(w.id)
	if err := gone(w); err != nil {
		t.Errorf("one that is not there: %v", err)
	}
	w.account.Fault(sim.Fault{Endpoint: sim.ListEndpoint, Status: 503, Times: -1})
	if err := gone(w); !errors.As(err, &unknown) || unknown.Sent {
		t.Errorf("one of which the list says nothing: %v", err)
	}
	if w.sent() != 0 {
		t.Errorf("it was asked to be destroyed %d times", w.sent())
	}
}
