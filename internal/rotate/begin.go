package rotate

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/custody"
	"vast-ssh/internal/vast"
)

// begin makes sure that a rotation can be done, makes the new key and opens the journal.
func (e *Engine) begin(ctx context.Context, opts Options) (*run, error) {
	if len(opts.Forget) > 0 {
		return nil, &NoRotationError{}
	}
	old, err := e.cfg.Store.Public(ctx)
	if err != nil {
		return nil, err
	}
	public, err := custody.ReadPublic(e.cfg.PublicKey)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = e.files.writePublic(e.cfg.PublicKey, old, custody.DefaultComment)
	case err == nil && !same(public, old):
		err = &PairError{Path: e.cfg.PublicKey}
	}
	if err != nil {
		return nil, err
	}
	// An API that does not answer, or an API key that may not read these lists, is better met before the first change.
	list, err := e.cfg.API.Instances(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := e.cfg.API.AccountKeys(ctx); err != nil {
		return nil, err
	}
	if err := checkDecisions(list, nil, opts); err != nil {
		return nil, err
	}
	next, err := e.makeKey(ctx)
	if err != nil {
		return nil, err
	}
	r := e.newRun(newJournal(Attaching, old, next, e.cfg.Now()))
	r.progress(StepMade, 0)
	for _, id := range opts.Leave {
		r.j.entry(id).Left = true
	}
	return r, r.save()
}

// makeKey puts a new key into custody's next slot, with the passphrase of the current one if that has one.
func (e *Engine) makeKey(ctx context.Context) (ssh.PublicKey, error) {
	var passphrase []byte
	defer func() { clear(passphrase) }()
	var ask func() ([]byte, error)
	if e.cfg.Passphrase != nil {
		ask = func() ([]byte, error) {
			typed, err := e.cfg.Passphrase()
			passphrase = bytes.Clone(typed)
			return typed, err
		}
	}
	// Loaded to see that the passphrase is the right one, and whether there is one.
	current, err := e.cfg.Store.Load(ctx, ask)
	if err != nil {
		return nil, err
	}
	current.Destroy()
	key := custody.Generate()
	defer clear(key)
	if err := e.cfg.Store.Next().Save(ctx, key, custody.DefaultComment, passphrase); err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(key.Public())
}

// resume returns the rotation that an earlier run began, or nil.
func (e *Engine) resume(ctx context.Context) (*run, error) {
	j, err := e.loadJournal()
	if errors.Is(err, fs.ErrNotExist) {
		j, err = e.recover(ctx)
	}
	if err != nil || j == nil {
		return nil, err
	}
	if j.Phase == Swapping {
		current, err := public(ctx, e.cfg.Store)
		if err != nil {
			return nil, err
		}
		if same(current, j.oldKey) {
			j.Phase = Attaching // what has let the new key in then may do so no longer
		}
	}
	return e.newRun(j), nil
}

// recover makes the journal of a rotation of which only the slots tell: it ended before its first line was written, or the
// file was lost.
func (e *Engine) recover(ctx context.Context) (*journal, error) {
	next, err := public(ctx, e.cfg.Store.Next())
	if err != nil {
		return nil, err
	}
	previous, err := public(ctx, e.cfg.Store.Previous())
	if err != nil || next == nil && previous == nil {
		return nil, err
	}
	current, err := e.cfg.Store.Public(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case next == nil && same(previous, current):
		return nil, nil // a copy of no use, and in nobody's way
	case next != nil && !same(next, current) && (previous == nil || same(previous, current)):
		// Nothing was promoted, or the old key was copied and no more. What was attached is found out again.
		return newJournal(Attaching, current, next, e.cfg.Now()), nil
	case previous != nil && !same(previous, current) && (next == nil || same(next, current)):
		return newJournal(Swapping, previous, current, e.cfg.Now()), nil
	}
	return nil, &StrayError{}
}

// public returns the public half of the key in a slot, or nil.
func public(ctx context.Context, slot custody.Store) (ssh.PublicKey, error) {
	key, err := slot.Public(ctx)
	var missing *custody.MissingError
	if errors.As(err, &missing) {
		return nil, nil
	}
	return key, err
}

// decide takes a person's decisions into the journal of a rotation under way.
func (r *run) decide(ctx context.Context, opts Options) error {
	if r.j.Phase == Left {
		for i := range r.j.Instances {
			r.j.Instances[i].Left = r.j.Instances[i].Forgotten
		}
		r.j.Phase, r.j.Ended = Detaching, time.Time{}
	}
	if len(opts.Leave)+len(opts.Forget) > 0 {
		list, err := r.cfg.API.Instances(ctx)
		if err != nil {
			return err
		}
		if err := checkDecisions(list, r.j, opts); err != nil {
			return err
		}
	}
	for _, id := range opts.Leave {
		r.j.entry(id).Left = true
	}
	for _, id := range opts.Forget {
		en := r.j.entry(id)
		en.Left, en.Forgotten = true, true
	}
	return r.save()
}

// checkDecisions makes sure that a decision is about an instance that there is.
func checkDecisions(list []vast.Instance, j *journal, opts Options) error {
	ids := make(map[uint64]bool)
	for _, in := range list {
		ids[in.ID] = true
	}
	if j != nil {
		for _, en := range j.Instances {
			ids[en.ID] = true
		}
	}
	for _, id := range append(opts.Leave[:len(opts.Leave):len(opts.Leave)], opts.Forget...) {
		if !ids[id] {
			return &vast.NotFoundError{ID: id}
		}
	}
	return nil
}
