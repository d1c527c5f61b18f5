// Package resolve finds the addresses of an instance by its id or label. It asks the Vast.ai API and keeps the
// answers in a cache that many processes share: a fresh answer costs one file read and needs no API key, and an
// old one costs one API call however many processes want it.
//
// The cache holds addresses and no trust. An address of any age may belong to somebody else by now, so whoever
// connects checks the host key against the pins of the instance, and calls Refresh when it does not match.
package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"vast-ssh/internal/vast"
)

// API is the part of the Vast.ai API that resolving needs. *vast.Client implements it.
type API interface {
	// Instance returns one instance of the account, or a *vast.NotFoundError when the account has no such
	// instance. Any other error means that nothing is known.
	Instance(ctx context.Context, id uint64) (vast.Instance, error)
	// Instances returns all instances of the account.
	Instances(ctx context.Context) ([]vast.Instance, error)
}

// Source tells where a Target comes from.
type Source string

const (
	// Cache is an answer younger than Config.Fresh, or one that another process has just received.
	Cache Source = "cache"
	// Fetched is an answer of the API to this call.
	Fetched Source = "api"
	// StaleCache is an old answer, given because the API could not be asked. Target.Problem says why.
	StaleCache Source = "stale cache"
)

// Target is an instance and where to look for it.
type Target struct {
	ID        uint64
	Label     string // empty for none
	Machine   uint64 // machine_id of the rented machine
	Endpoints []Endpoint
	At        time.Time // when the API was asked for this
	Source    Source
	// Problem is what went wrong without preventing an answer: with StaleCache why the API could not be asked,
	// with Fetched why the answer could not be cached.
	Problem error
}

// Config says how to resolve.
type Config struct {
	// API returns the client. It is called only when the cache does not do.
	API func() (API, error)
	// CacheDir is made when missing, with mode 0700. One that cannot be used makes every call ask the API.
	CacheDir string
	// Now is the clock, nil for time.Now.
	Now func() time.Time
	// Fresh is how long Resolve believes the cache without asking, 0 for five minutes.
	Fresh time.Duration
	// RefreshTimeout bounds the wait for a new answer where an old address could be tried instead, 0 for ten
	// seconds. Without an old address only the context bounds it.
	RefreshTimeout time.Duration
}

// spared is how long after a failed refresh the next calls use the old address without asking again.
const spared = 15 * time.Second

// Resolver finds instances. It holds no state of its own and may be used by many goroutines.
type Resolver struct{ cfg Config }

// New returns a Resolver. It touches neither the disk nor the network.
func New(cfg Config) *Resolver {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Fresh = cmp.Or(cfg.Fresh, 5*time.Minute)
	cfg.RefreshTimeout = cmp.Or(cfg.RefreshTimeout, 10*time.Second)
	return &Resolver{cfg: cfg}
}

// demand says which stored answers serve a call.
type demand struct {
	called time.Time // one asked for after this moment serves, whatever it says
	fresh  time.Time // an address asked for after this moment serves
	spared time.Time // a failure after this moment serves together with the old address
}

// Resolve finds an instance by its name, see ParseName. By id it never lists the account. An address may be as
// old as Config.Fresh, and older when the API cannot be asked (Target.Source). That an instance is gone or not
// running is never taken from an answer older than the call.
//
// The error is a *NameError, *NotFoundError, *AmbiguousError, *NoSSHError, *NotRunningError, *NoAddressError, or
// what Config.API or the API returned.
func (r *Resolver) Resolve(ctx context.Context, name string) (Target, error) {
	id, label, err := ParseName(name)
	if err != nil {
		return Target{}, err
	}
	now := r.cfg.Now()
	d := demand{called: now, fresh: now.Add(-r.cfg.Fresh), spared: now.Add(-spared)}
	if label != "" {
		return r.byLabel(ctx, label, d)
	}
	return r.byID(ctx, id, d)
}

// Refresh finds an instance by an answer that was asked for after the call, by this process or another. It is for
// the caller who has tried the cached address in vain. Errors are those of Resolve, and like Resolve it returns
// the old address when the API cannot be asked.
func (r *Resolver) Refresh(ctx context.Context, id uint64) (Target, error) {
	now := r.cfg.Now()
	return r.byID(ctx, id, demand{called: now, fresh: now, spared: now})
}

func (r *Resolver) byID(ctx context.Context, id uint64, d demand) (Target, error) {
	old, _ := r.read(id)
	if t, done, err := d.serve(old); done {
		return t, err
	}
	ask, cancel := r.bound(ctx, old.usable())
	defer cancel()
	free, problem := r.lock(ask, formatID(id))
	defer free()
	if problem != nil && ask.Err() != nil {
		return fallback(ctx, old, fmt.Errorf("wait for another process that asks for instance %d: %w", id, problem))
	}
	// Whoever had the lock before has asked for the others too.
	old, _ = r.read(id)
	if t, done, err := d.serve(old); done {
		return t, err
	}

	asked := r.cfg.Now().UTC()
	api, err := r.cfg.API()
	if err != nil {
		return fallback(ctx, old, err)
	}
	inst, err := api.Instance(ask, id)
	if err == nil && inst.ID != id {
		err = fmt.Errorf("the API was asked for instance %d and answered with %d", id, inst.ID)
	}
	var gone *vast.NotFoundError
	if err != nil && !errors.As(err, &gone) {
		return r.failedInstance(ctx, id, d, err)
	}
	e := newEntry(inst)
	if gone != nil {
		e = entry{Version: entryVersion, ID: id, Gone: true}
	}
	e.At = asked
	if err := r.write(e); problem == nil {
		problem = err
	}
	if err := e.refusal(); err != nil {
		return Target{}, err
	}
	return e.target(Fetched, problem), nil
}

// failedInstance writes down a failure of the API, so that those who wait for the lock do not repeat it one after
// the other, and falls back on the old address. The file is read once more because a listing may have come
// meanwhile, and what it says must stay.
func (r *Resolver) failedInstance(ctx context.Context, id uint64, d demand, err error) (Target, error) {
	old, _ := r.read(id)
	if t, done, err := d.serve(old); done {
		return t, err
	}
	if old.usable() && !cancelled(ctx) {
		old.failure = failed(r.cfg.Now(), err)
		// Without the note the others ask for themselves.
		_ = r.write(old)
	}
	return fallback(ctx, old, err)
}

// serve answers a call from a stored entry if it will do.
func (d demand) serve(e entry) (t Target, done bool, err error) {
	switch {
	case e.At.After(d.called):
		if err := e.refusal(); err != nil {
			return Target{}, true, err
		}
		return e.target(Cache, nil), true, nil
	case !e.usable():
		return Target{}, false, nil
	case e.At.After(d.fresh):
		return e.target(Cache, nil), true, nil
	case e.FailedAt.After(d.spared):
		return e.target(StaleCache, e.problem()), true, nil
	}
	return Target{}, false, nil
}

// fallback returns the old address, if there is one, to a caller who could not learn anything newer.
func fallback(ctx context.Context, old entry, problem error) (Target, error) {
	if !old.usable() || cancelled(ctx) {
		return Target{}, problem
	}
	return old.target(StaleCache, problem), nil
}

// cancelled reports that the caller has gone. One whose time is up may still want the old address.
func cancelled(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

func (r *Resolver) bound(ctx context.Context, haveOld bool) (context.Context, context.CancelFunc) {
	if haveOld {
		return context.WithTimeout(ctx, r.cfg.RefreshTimeout)
	}
	return context.WithCancel(ctx)
}
