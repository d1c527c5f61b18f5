// Package destroy ends an instance through the API, and makes sure that it is gone.
//
// An API that fails says nothing. Gone is what it says twice, some seconds apart and in two ways: that there is no instance
// of the id, and a whole list of the account's instances without it, with no answer in between that shows it. The request to
// destroy is sent once at most, since after a lost answer nobody knows whether it was carried out, and a look shows it.
package destroy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"vast-ssh/internal/vast"
)

// API is the part of the Vast.ai API that destroying needs. *vast.Client implements it.
type API interface {
	Instance(ctx context.Context, id uint64) (vast.Instance, error)
	Instances(ctx context.Context) ([]vast.Instance, error)
	Destroy(ctx context.Context, id uint64) error
}

// Config says what to destroy. API and ID are required.
type Config struct {
	API API
	ID  uint64
	// Progress, if set, is told each step as a sentence.
	Progress func(step string)
	// Deadline bounds the wait until it is gone, 0 for 90 seconds. Apart is the time between two looks, 0 for three
	// seconds.
	Deadline, Apart time.Duration
	// Sleep waits and Now tells the time, nil for the clock.
	Sleep func(ctx context.Context, d time.Duration) error
	Now   func() time.Time
}

// UnknownError says that an instance is not known to be gone.
type UnknownError struct {
	ID uint64
	// Sent says that the request to destroy it may have been carried out.
	Sent   bool
	Reason string
}

func (e *UnknownError) Error() string {
	what := "was not asked to be destroyed"
	if e.Sent {
		what = "was asked to be destroyed, and is not confirmed to be gone"
	}
	return fmt.Sprintf("instance %d %s: %s; it may still cost money", e.ID, what, e.Reason)
}

// Hint returns the command that tries again.
func (e *UnknownError) Hint() string {
	return fmt.Sprintf("in a moment, run again: vast-ssh wipe %d   (and see: vast-ssh show %d)", e.ID, e.ID)
}

// RefusedError says that the API will not destroy an instance, which lives on.
type RefusedError struct {
	ID  uint64
	Err error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("instance %d was not destroyed, and costs money: %v", e.ID, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// Hint returns the API's advice, or the place where it can be done by hand.
func (e *RefusedError) Hint() string {
	var h interface{ Hint() string }
	if errors.As(e.Err, &h) && h.Hint() != "" {
		return h.Hint()
	}
	return "destroy it by hand: https://cloud.vast.ai/instances/"
}

// Run destroys the instance and returns nil when it is confirmed to be gone. Its errors are *UnknownError and *RefusedError.
func Run(ctx context.Context, cfg Config) error {
	d := newDestruction(cfg)
	if err := d.send(ctx); err != nil {
		return err
	}
	return d.confirm(ctx)
}

// Gone returns nil when an instance is confirmed to be gone that somebody else may have destroyed. It asks for nothing to be
// destroyed, and does not wait for an instance that is there. Its error is an *UnknownError.
func Gone(ctx context.Context, cfg Config) error {
	d := newDestruction(cfg)
	there, err := d.byID(ctx)
	switch {
	case err != nil:
		d.last = err.Error()
		return d.unknown(ctx)
	case there:
		d.last = stillListed
		return d.unknown(ctx)
	}
	return d.confirm(ctx)
}

func newDestruction(cfg Config) *destruction {
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = 90 * time.Second
	}
	if cfg.Apart == 0 {
		cfg.Apart = 3 * time.Second
	}
	if cfg.Sleep == nil {
		cfg.Sleep = sleep
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &destruction{Config: cfg}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// destruction is one Run.
type destruction struct {
	Config
	sent bool
	last string // what was heard last that is no proof of being gone
}

func (d *destruction) unknown(ctx context.Context) error {
	if ctx.Err() != nil {
		d.last = "it was interrupted"
	}
	return &UnknownError{ID: d.ID, Sent: d.sent, Reason: d.last}
}

// unloaded is the contract's state of an instance that was destroyed and is still listed
// (https://docs.vast.ai/cli/reference/show-instance).
const unloaded = "unloaded"

// send asks for the destruction, unless the instance is gone or going.
func (d *destruction) send(ctx context.Context) error {
	in, err := d.API.Instance(ctx, d.ID)
	var gone *vast.NotFoundError
	switch {
	case errors.As(err, &gone):
		return nil
	case err != nil:
		d.last = err.Error()
		return d.unknown(ctx)
	case in.CurState == unloaded:
		d.sent = true
		d.Progress("it is being destroyed already")
		return nil
	}
	d.Progress(fmt.Sprintf("destroying instance %d", d.ID))
	err = d.API.Destroy(ctx, d.ID)
	var unavailable *vast.UnavailableError
	switch {
	case err == nil, errors.As(err, &gone):
		d.sent = true
	case errors.As(err, &unavailable) && unavailable.Status == http.StatusTooManyRequests:
		d.last = err.Error() // which says that nothing was done
		return d.unknown(ctx)
	case errors.As(err, &unavailable):
		d.sent, d.last = true, err.Error()
		d.Progress("the answer was lost: looking whether it goes away")
	default:
		return &RefusedError{ID: d.ID, Err: err}
	}
	return nil
}

const stillListed = "the API still lists it"

// look is one way to see whether the instance is there. An error has seen nothing.
type look func(ctx context.Context) (there bool, err error)

func (d *destruction) byID(ctx context.Context) (bool, error) {
	_, err := d.API.Instance(ctx, d.ID)
	if gone := (*vast.NotFoundError)(nil); errors.As(err, &gone) {
		return false, nil
	}
	return true, err
}

func (d *destruction) byList(ctx context.Context) (bool, error) {
	all, err := d.API.Instances(ctx)
	return slices.ContainsFunc(all, func(in vast.Instance) bool { return in.ID == d.ID }), err
}

// confirm looks by turns in both ways until each has shown that the instance is gone. Each is tried, however long an API that does
// not answer takes.
func (d *destruction) confirm(ctx context.Context) error {
	looks := []look{d.byID, d.byList}
	missed := make([]bool, len(looks))
	began := d.Now()
	for n := range int(d.Deadline/d.Apart) + 1 {
		if n >= len(looks) && d.Now().Sub(began) > d.Deadline {
			break
		}
		if n > 0 {
			if err := d.Sleep(ctx, d.Apart); err != nil {
				d.last = err.Error()
				break
			}
		}
		there, err := looks[n%len(looks)](ctx)
		switch {
		case err != nil:
			d.last = err.Error()
			continue
		case there:
			if d.last != stillListed {
				d.Progress("waiting: " + stillListed)
			}
			d.last = stillListed
			clear(missed)
			continue
		}
		missed[n%len(looks)] = true
		if !slices.Contains(missed, false) {
			d.Progress(fmt.Sprintf("instance %d is gone", d.ID))
			return nil
		}
	}
	return d.unknown(ctx)
}
