package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/resolve"
	"vast-ssh/internal/vast"
)

const (
	// atOnce is how many instances are worked on at a time.
	atOnce = 4
	// maxRounds bounds how often the list of instances is asked for: it ends when a list shows nothing new.
	maxRounds = 50
)

// settle works on the instances of the account until a list shows none that work has not dealt with, and returns a
// *PausedError if some of that list are not settled then. Instances that were left behind are not worked on.
func (r *run) settle(ctx context.Context, work func(context.Context, vast.Instance) error) error {
	results := make(map[uint64]error)
	for range maxRounds {
		list, err := r.list(ctx)
		if err != nil {
			return err
		}
		todo := slices.DeleteFunc(slices.Clone(list), func(in vast.Instance) bool { _, seen := results[in.ID]; return seen })
		if len(todo) == 0 {
			return r.pending(list, results)
		}
		if err := r.each(ctx, todo, results, work); err != nil {
			return err
		}
	}
	return fmt.Errorf("the list of instances is another one each of %d times", maxRounds)
}

// list asks for the instances that the rotation is about: those with an ssh server that are not left behind. Instances that
// are no more are written down as gone.
func (r *run) list(ctx context.Context) ([]vast.Instance, error) {
	all, err := r.cfg.API.Instances(ctx)
	if err != nil {
		return nil, err
	}
	missing, err := r.missing(ctx, &all)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []vast.Instance
	for _, in := range all {
		if noSSH(in) {
			continue
		}
		en := r.j.entry(in.ID)
		en.Label = in.Label
		if en.Stage == Gone {
			en.Stage = Seen
		}
		if !en.Left {
			list = append(list, in)
		}
	}
	for _, id := range missing {
		en := r.j.entry(id)
		en.Stage, en.At, en.Problem = Gone, r.cfg.Now().UTC().Truncate(time.Second), ""
	}
	return list, r.write()
}

// missing returns the instances of the journal that are gone. One that a list has left out, and that is there when asked for
// by its id, is added to it.
func (r *run) missing(ctx context.Context, all *[]vast.Instance) (ids []uint64, err error) {
	there := make(map[uint64]bool)
	for _, in := range *all {
		there[in.ID] = true
	}
	known := 0
	var lost []uint64
	for _, en := range r.report().Instances {
		switch {
		case en.Stage == Gone:
			continue
		case there[en.ID]:
			known++
			continue
		}
		in, err := r.cfg.API.Instance(ctx, en.ID)
		var none *vast.NotFoundError
		switch {
		case errors.As(err, &none):
			ids = append(ids, en.ID)
			if !en.Forgotten {
				lost = append(lost, en.ID)
			}
		case err != nil:
			return nil, err
		default:
			*all = append(*all, in)
			known++
		}
	}
	if known == 0 && len(lost) > 0 {
		return nil, &AccountError{IDs: lost}
	}
	return ids, nil
}

// noSSH reports whether nobody can ever log in to an instance.
func noSSH(in vast.Instance) bool {
	_, err := resolve.Endpoints(in)
	var none *resolve.NoSSHError
	return errors.As(err, &none)
}

// problem is the text of an error as it is kept.
func problem(err error) string {
	text := []rune(err.Error())
	return string(text[:min(len(text), maxProblem)])
}

// each works on the instances of todo, some at a time, and keeps the results. A fatal error ends all.
func (r *run) each(
	ctx context.Context, todo []vast.Instance, results map[uint64]error, work func(context.Context, vast.Instance) error,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	var mu sync.Mutex // protects results and fatal
	var fatal error
	turns := make(chan struct{}, atOnce)
	for _, in := range todo {
		turns <- struct{}{}
		if ctx.Err() != nil {
			<-turns
			break
		}
		workers.Go(func() {
			defer func() { <-turns }()
			err := work(ctx, in)
			mu.Lock()
			defer mu.Unlock()
			results[in.ID] = err
			if isFatal(err) && fatal == nil {
				fatal = err
				cancel(err)
			}
		})
	}
	workers.Wait()
	if fatal != nil {
		return fatal
	}
	return ctx.Err()
}

// pending returns nil if all instances of list are settled.
func (r *run) pending(list []vast.Instance, results map[uint64]error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	paused := &PausedError{Phase: r.j.Phase}
	for _, in := range list {
		if err := results[in.ID]; err != nil {
			r.j.entry(in.ID).Problem = problem(err)
			paused.Pending = append(paused.Pending, Pending{ID: in.ID, Label: in.Label, Err: err})
		}
	}
	if len(paused.Pending) == 0 {
		return nil
	}
	slices.SortFunc(paused.Pending, func(a, b Pending) int { return cmp.Compare(a.ID, b.ID) })
	if err := r.write(); err != nil {
		return err
	}
	return paused
}

const (
	// takeEffect is how long a key may take from the API to an instance, or off it: 20 seconds are usual.
	takeEffect = 90 * time.Second
	// loginTimeout bounds one login, in which the agent may have to ask a person.
	loginTimeout = time.Minute
	// A new sshd counts failed logins of an address, 5 seconds each, and closes its door from 15 seconds on
	// (PerSourcePenalties), so the first pauses between two tries are short and few.
	firstPause = 3 * time.Second
	longPause  = 12 * time.Second
)

// errNotYet says that a change has not reached the instance.
var errNotYet = errors.New("not yet")

// await tries until the instance has followed, which it has not as long as the error is errNotYet or a *RefusedError. Any
// other error ends it.
func (r *run) await(ctx context.Context, try func(context.Context) error) error {
	deadline := r.cfg.Now().Add(takeEffect)
	for wait := firstPause; ; wait = min(2*wait, longPause) {
		attempt, cancel := context.WithTimeout(ctx, loginTimeout)
		err := try(attempt)
		cancel()
		var refused *RefusedError
		if err == nil || !errors.Is(err, errNotYet) && !errors.As(err, &refused) {
			return err
		}
		if !r.cfg.Now().Add(wait).Before(deadline) {
			return err
		}
		if err := r.cfg.Pause(ctx, wait); err != nil {
			return err
		}
	}
}

// blobs returns the keys of a list that are key, whatever their names and comments.
func blobs(list []vast.SSHKey, key ssh.PublicKey) []vast.SSHKey {
	return slices.DeleteFunc(slices.Clone(list), func(k vast.SSHKey) bool {
		listed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.PublicKey))
		return err != nil || !same(listed, key)
	})
}

// errNoID says that the API lists a key without what it takes to remove it.
var errNoID = errors.New("the API lists the key without an id, by which alone it could be removed")

// fromInstance takes key off an instance, which had the keys listed.
func (r *run) fromInstance(ctx context.Context, id uint64, key ssh.PublicKey, listed []vast.SSHKey) error {
	return remove(key, listed,
		func(keyID uint64) error { return r.cfg.API.DetachKey(ctx, id, keyID) },
		func() ([]vast.SSHKey, error) { return r.cfg.API.InstanceKeys(ctx, id) })
}

// fromAccount takes key off the account's list.
func (r *run) fromAccount(ctx context.Context, key ssh.PublicKey) error {
	list := func() ([]vast.SSHKey, error) { return r.cfg.API.AccountKeys(ctx) }
	listed, err := list()
	if err != nil {
		return err
	}
	return remove(key, listed, func(keyID uint64) error { return r.cfg.API.DeleteAccountKey(ctx, keyID) }, list)
}

// remove drops key from a list. What the list says in the end decides, not the answers on the way: a lost answer may have
// been a success. The error is about the key being there still.
func remove(
	key ssh.PublicKey, listed []vast.SSHKey, drop func(keyID uint64) error, list func() ([]vast.SSHKey, error),
) error {
	found := blobs(listed, key)
	if len(found) == 0 {
		return nil
	}
	var problem error
	for _, k := range found {
		err := errNoID
		if k.ID != 0 {
			err = drop(k.ID)
		}
		if isFatal(err) {
			return err
		}
		problem = cmp.Or(problem, err)
	}
	listed, err := list()
	if err != nil {
		return errors.Join(problem, err)
	}
	if len(blobs(listed, key)) == 0 {
		return nil
	}
	return cmp.Or(problem, errors.New("the API has confirmed to remove the key, and lists it still"))
}
