package custody

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
)

// slots is a store seen from one of its slots. A slot is named by what follows the name of the current key.
type slots interface {
	Store
	at(slot string) slots
	where() string
	lockPath() string

	// The lock is held while these are called, on the current slot the first two.

	// keep makes the current key the previous one too, where there is none.
	keep(ctx context.Context) error
	// replace makes the next key the current one, in one step.
	replace(ctx context.Context) error
	// remove deletes the key in this slot, if there is one.
	remove(ctx context.Context) error
}

const (
	current  = ""
	next     = ".next"
	previous = ".previous"

	// lockName is the lock of all slots. Whoever changes one holds it.
	lockName = ".key.lock"
)

// lockSlots takes the lock at path, and makes its directory before if there is none.
func lockSlots(ctx context.Context, path string) (unlock func(), err error) {
	if err := atomicfile.EnsureDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return atomicfile.Lock(ctx, path)
}

// promote is Promote of s, the current slot. It looks where each key is, and so begins at the step that is due.
func promote(ctx context.Context, s slots, public ssh.PublicKey) error {
	unlock, err := lockSlots(ctx, s.lockPath())
	if err != nil {
		return err
	}
	defer unlock()
	now, err := keyIn(ctx, s)
	if err != nil {
		return err
	}
	if !same(now, public) {
		coming, err := s.Next().Public(ctx)
		if err != nil {
			return err
		}
		if !same(coming, public) {
			return &KeyError{Where: s.at(next).where(), Reason: "is not the one that is to become the current key"}
		}
		if err := keepKey(ctx, s, now); err != nil {
			return err
		}
		if err := s.replace(ctx); err != nil {
			return err
		}
	}
	// A key that was copied to become the current one is still in its old slot.
	left, err := keyIn(ctx, s.Next())
	if err != nil || !same(left, public) {
		return err
	}
	return s.at(next).remove(ctx)
}

// keepKey returns when now, the current key, is the previous one too. now may be nil: then there is nothing to keep.
func keepKey(ctx context.Context, s slots, now ssh.PublicKey) error {
	before, err := keyIn(ctx, s.Previous())
	switch {
	case err != nil || now == nil || same(before, now):
		return err
	case before != nil:
		return &ExistsError{s.at(previous).where()}
	}
	return s.keep(ctx)
}

// keyIn returns the public half of the key in s, or nil if there is none.
func keyIn(ctx context.Context, s Store) (ssh.PublicKey, error) {
	public, err := s.Public(ctx)
	var missing *MissingError
	if errors.As(err, &missing) {
		return nil, nil
	}
	return public, err
}

// same compares a, which may be nil, with b.
func same(a, b ssh.PublicKey) bool { return a != nil && bytes.Equal(a.Marshal(), b.Marshal()) }

// remove is Remove of s, in the slot slot.
func remove(ctx context.Context, s slots, slot string) error {
	if slot == current {
		return &KeyError{Where: s.where(), Reason: "is the current one, which is not removed"}
	}
	unlock, err := lockSlots(ctx, s.lockPath())
	if err != nil {
		return err
	}
	defer unlock()
	return s.remove(ctx)
}

// missing is the error for an empty slot. Only that there is no current key calls for one.
func missing(where, slot string) error {
	if slot == current {
		return &MissingError{Where: where, hint: "vast-ssh key init"}
	}
	return &MissingError{Where: where}
}
