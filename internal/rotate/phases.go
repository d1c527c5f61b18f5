package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/custody"
	"vast-ssh/internal/vast"
)

// attach brings the new key to all instances and shows that it works, and goes on to the swap.
func (r *run) attach(ctx context.Context) error {
	if there, err := public(ctx, r.cfg.Store.Next()); err != nil || !same(there, r.new) {
		return cmp.Or(err, error(&LostError{}))
	}
	key, err := r.cfg.Store.Next().Load(ctx, r.cfg.Passphrase)
	if err != nil {
		return err
	}
	defer key.Destroy()
	if err := r.accountBoth(ctx); err != nil {
		return err
	}
	err = r.settle(ctx, func(ctx context.Context, in vast.Instance) error {
		return r.admit(ctx, in, func(ctx context.Context) error { return r.cfg.Logins.By(ctx, in, key) })
	})
	if err != nil {
		return err
	}
	return r.enter(Swapping)
}

// admit lets the new key into an instance, until a login shows that it is in.
func (r *run) admit(ctx context.Context, in vast.Instance, login func(context.Context) error) error {
	if err := r.cfg.Logins.Ready(in); err != nil {
		return err
	}
	attach := func() error {
		if _, err := r.cfg.API.AttachKey(ctx, in.ID, r.newLine); err != nil {
			return err
		}
		if order(r.stage(in.ID)) >= order(Attached) {
			return nil
		}
		if err := r.mark(in.ID, Attached); err != nil {
			return err
		}
		r.progress(StepAttached, in.ID)
		return nil
	}
	attached := false
	if r.stage(in.ID) == Seen {
		if err := attach(); err != nil {
			return err
		}
		attached = true
	}
	err := r.await(ctx, func(ctx context.Context) error {
		err := login(ctx)
		var refused *RefusedError
		if errors.As(err, &refused) && !attached {
			// An earlier run attached it, and somebody took it off.
			attached = true
			if err := attach(); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if order(r.stage(in.ID)) < order(Verified) {
		if err := r.mark(in.ID, Verified); err != nil {
			return err
		}
	}
	r.progress(StepVerified, in.ID)
	return nil
}

// accountBoth adds the new key to the account's list if that has the old one: what is rented from here on lets both in.
func (r *run) accountBoth(ctx context.Context) error {
	keys, err := r.cfg.API.AccountKeys(ctx)
	switch {
	case err != nil:
		return err
	case len(blobs(keys, r.old)) == 0 && len(blobs(keys, r.new)) == 0:
		return r.setAccount(AccountNeither)
	case len(blobs(keys, r.old)) == 0:
		return r.setAccount(AccountNew)
	case len(blobs(keys, r.new)) > 0:
		return r.setAccount(AccountBoth)
	}
	if _, err := r.cfg.API.AddAccountKey(ctx, r.newLine); err != nil {
		return err
	}
	r.progress(StepAccountAdded, 0)
	return r.setAccount(AccountBoth)
}

// accountNew takes the old key off the account's list. The new one is made sure of first: by then somebody may have added the
// old one alone.
func (r *run) accountNew(ctx context.Context) error {
	if err := r.accountBoth(ctx); err != nil || r.j.Account != AccountBoth {
		return err
	}
	if err := r.fromAccount(ctx, r.old); err != nil {
		return fmt.Errorf("take the old key off the account: %w", err)
	}
	r.progress(StepAccountFreed, 0)
	return r.setAccount(AccountNew)
}

// detach takes the old key off the account and all instances, and closes the rotation.
func (r *run) detach(ctx context.Context) error {
	if r.cfg.Swapped != nil {
		if err := r.cfg.Swapped(ctx); err != nil {
			return err
		}
	}
	if err := r.accountNew(ctx); err != nil {
		return err
	}
	if err := r.settle(ctx, r.release); err != nil {
		return err
	}
	return r.finish(ctx)
}

// release takes the old key off one instance. On the way there is always a key that gets in: the new one was shown to work
// before the old one goes, and if it does no longer, the old one comes back.
func (r *run) release(ctx context.Context, in vast.Instance) error {
	if r.stage(in.ID) == Rotated {
		return nil
	}
	login := func(ctx context.Context) error { return r.cfg.Logins.ByAgent(ctx, in) }
	if err := r.admit(ctx, in, login); err != nil {
		return r.rescue(ctx, in, err)
	}
	if err := r.drop(ctx, in); err != nil {
		return err
	}
	if r.stage(in.ID) != Detached {
		if err := r.mark(in.ID, Detached); err != nil {
			return err
		}
		r.progress(StepDetached, in.ID)
	}
	err := r.await(ctx, func(ctx context.Context) error {
		accepted, err := r.cfg.Logins.Accepts(ctx, in, r.old)
		if err == nil && accepted {
			return errNotYet
		}
		return err
	})
	if errors.Is(err, errNotYet) {
		// The next run detaches it once more.
		if err := r.mark(in.ID, Verified); err != nil {
			return err
		}
		return errors.New("it lets the old key in still, though the API has it no longer")
	}
	if err != nil {
		return err
	}
	if err := r.await(ctx, login); err != nil {
		return r.rescue(ctx, in, err)
	}
	if err := r.mark(in.ID, Rotated); err != nil {
		return err
	}
	r.progress(StepDone, in.ID)
	return nil
}

// rescue attaches the old key again, which custody still holds, where an instance refuses the new one.
func (r *run) rescue(ctx context.Context, in vast.Instance, problem error) error {
	var refused *RefusedError
	if !errors.As(problem, &refused) {
		return problem
	}
	if _, err := r.cfg.API.AttachKey(ctx, in.ID, r.oldLine); err != nil {
		return fmt.Errorf("%w; and the old key could not be attached again: %w", problem, err)
	}
	if err := r.mark(in.ID, Seen); err != nil {
		return err
	}
	return fmt.Errorf("%w; the old key was attached again", problem)
}

// drop detaches the old key from an instance.
func (r *run) drop(ctx context.Context, in vast.Instance) error {
	keys, err := r.cfg.API.InstanceKeys(ctx, in.ID)
	if err != nil {
		return err
	}
	if len(blobs(keys, r.new)) == 0 {
		// It came with the account, and the API may know it for the account only.
		if _, err := r.cfg.API.AttachKey(ctx, in.ID, r.newLine); err != nil {
			return err
		}
		if keys, err = r.cfg.API.InstanceKeys(ctx, in.ID); err != nil {
			return err
		}
		if len(blobs(keys, r.new)) == 0 {
			return errors.New("the API does not list the new key for it, so the old one stays")
		}
	}
	if len(blobs(keys, r.old)) == 0 && r.stage(in.ID) != Detached {
		attempt, cancel := context.WithTimeout(ctx, loginTimeout)
		defer cancel()
		accepted, err := r.cfg.Logins.Accepts(attempt, in, r.old)
		if err != nil || !accepted {
			return err
		}
		// So did the old one. Only what is attached to the instance itself can be detached from it.
		if _, err := r.cfg.API.AttachKey(ctx, in.ID, r.oldLine); err != nil {
			return err
		}
		if keys, err = r.cfg.API.InstanceKeys(ctx, in.ID); err != nil {
			return err
		}
		if len(blobs(keys, r.old)) == 0 {
			return errors.New("it lets the old key in, and the API does not list that key for it, so it cannot be detached")
		}
	}
	return r.fromInstance(ctx, in.ID, r.old, keys)
}

// abort takes the new key off everything that it was attached to, and removes it.
func (r *run) abort(ctx context.Context) error {
	if err := r.fromAccount(ctx, r.new); err != nil {
		return fmt.Errorf("take the new key off the account: %w", err)
	}
	for i := range r.j.Instances {
		r.j.Instances[i].Left = false
	}
	err := r.settle(ctx, func(ctx context.Context, in vast.Instance) error {
		keys, err := r.cfg.API.InstanceKeys(ctx, in.ID)
		if err != nil {
			return err
		}
		if err := r.fromInstance(ctx, in.ID, r.new, keys); err != nil {
			return err
		}
		if order(r.stage(in.ID)) < order(Attached) {
			return nil
		}
		r.progress(StepTakenBack, in.ID)
		return r.mark(in.ID, Seen)
	})
	if err != nil {
		return err
	}
	// Custody may have been about to promote, and have made its copy of the old key.
	if err := r.removeKey(ctx, r.cfg.Store.Previous(), r.old, StepCopyRemoved); err != nil {
		return err
	}
	if err := r.removeKey(ctx, r.cfg.Store.Next(), r.new, StepNewRemoved); err != nil {
		return err
	}
	return r.close(Aborted)
}

// swap puts the new key into use. Every instance lets both in, so that each state on the way is one in which logins work.
func (r *run) swap(ctx context.Context) error {
	if err := r.cfg.Store.Promote(ctx, r.new); err != nil {
		return err
	}
	if err := r.files.writePublic(r.cfg.PublicKey, r.new, custody.DefaultComment); err != nil {
		return err
	}
	r.j.Swapped = r.cfg.Now().UTC().Truncate(time.Second)
	if err := r.enter(Detaching); err != nil {
		return err
	}
	r.progress(StepSwapped, 0)
	return nil
}

// finish removes the old private key unless an instance needs it, and closes the books.
func (r *run) finish(ctx context.Context) error {
	phase, needed := Done, false
	for _, en := range r.j.Instances {
		if en.Left && !en.Forgotten && en.Stage != Gone {
			phase = Left
			needed = needed || !en.tookNew()
		}
	}
	if !needed {
		if err := r.removeKey(ctx, r.cfg.Store.Previous(), r.old, StepOldRemoved); err != nil {
			return err
		}
	}
	return r.close(phase)
}

// removeKey removes key from a slot. Another key there is none of this rotation's.
func (r *run) removeKey(ctx context.Context, slot custody.Store, key ssh.PublicKey, step Step) error {
	there, err := public(ctx, slot)
	if err != nil || !same(there, key) {
		return err
	}
	if err := slot.Remove(ctx); err != nil {
		return err
	}
	r.progress(step, 0)
	return nil
}

// close writes the record, and then ends the journal if the rotation is over.
func (r *run) close(phase Phase) error {
	r.mu.Lock()
	r.j.Phase = phase
	r.j.Ended = r.cfg.Now().UTC().Truncate(time.Second)
	rep := r.j.Report
	r.mu.Unlock()
	if err := r.appendRecord(rep); err != nil {
		return err
	}
	if phase == Left {
		return r.save()
	}
	return r.removeJournal()
}
