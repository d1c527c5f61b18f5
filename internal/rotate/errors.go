package rotate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"vast-ssh/internal/vast"
)

// fatalError ends the run, also where the other errors are about one instance.
type fatalError struct{ error }

func (e *fatalError) Unwrap() error { return e.error }

func isFatal(err error) bool {
	var fatal *fatalError
	var auth *vast.AuthError
	return errors.As(err, &fatal) || errors.As(err, &auth) || errors.Is(err, context.Canceled)
}

// BusyError says that another process rotates the key.
type BusyError struct{}

func (e *BusyError) Error() string { return "another rotation of the key is under way" }

// Hint names the command that shows it.
func (e *BusyError) Hint() string { return "vast-ssh key rotate --status" }

// NoRotationError says that there is nothing to take back, and nothing that an instance could be forgotten in.
type NoRotationError struct{}

func (e *NoRotationError) Error() string { return "no rotation of the key is under way" }

// InUseError says that the new key is in use already.
type InUseError struct{}

func (e *InUseError) Error() string {
	return "the new key is in use already: the rotation can be completed, but not taken back"
}

// Hint names the command that completes it.
func (e *InUseError) Hint() string { return "vast-ssh key rotate" }

// PairError says that the public key file is not that of the key in custody.
type PairError struct{ Path string }

func (e *PairError) Error() string { return "the public key file does not belong to the private key" }

// Hint names the file.
func (e *PairError) Hint() string {
	return fmt.Sprintf("remove %s and run: vast-ssh key show", e.Path)
}

// LostError says that custody has not the new key any more, before it was in use.
type LostError struct{}

func (e *LostError) Error() string { return "the new private key is not in custody any more" }

// Hint names the command that ends the rotation.
func (e *LostError) Hint() string { return "vast-ssh key rotate --abort" }

// AccountError says that the API knows none of the instances of a rotation.
type AccountError struct{ IDs []uint64 }

func (e *AccountError) Error() string {
	return fmt.Sprintf("the account has none of the instances of this rotation (%d): "+
		"is the API key that of another account?", e.IDs)
}

// Hint names the command for the case that they are gone.
func (e *AccountError) Hint() string {
	gone := "if they are destroyed: vast-ssh key rotate"
	for _, id := range e.IDs {
		gone += fmt.Sprintf(" --forget %d", id)
	}
	return gone
}

// StrayError says that custody holds keys that are not those of the rotation.
type StrayError struct{}

func (e *StrayError) Error() string {
	return "custody holds a next or previous key that is not of this rotation, and nothing was changed"
}

// PausedError says which instances keep a rotation from going on. All others are as far as they can be.
type PausedError struct {
	Phase   Phase
	Pending []Pending // by ascending id
}

// Pending is an instance that the rotation waits for.
type Pending struct {
	ID    uint64
	Label string // of the API
	Err   error
}

func (e *PausedError) Error() string {
	n := "an instance"
	if len(e.Pending) > 1 {
		n = fmt.Sprintf("%d instances", len(e.Pending))
	}
	switch e.Phase {
	case Detaching:
		return "the new key is in use, and the rotation waits for " + n + " to finish"
	case Aborting:
		return "the new key could not be taken off " + n + "; the old one is in use"
	}
	return "the new key cannot be shown to work on " + n + ", so the old one stays in use"
}

// Details implements voice.Detailer.
func (e *PausedError) Details() []string {
	var lines []string
	for _, p := range e.Pending {
		name, text := fmt.Sprintf("instance %d", p.ID), p.Err.Error()
		if strings.HasPrefix(text, name+" ") {
			lines = append(lines, text)
			continue
		}
		if p.Label != "" {
			name += fmt.Sprintf(" (%q)", p.Label)
		}
		lines = append(lines, name+": "+text)
	}
	return lines
}

// Hint names the commands that go on.
func (e *PausedError) Hint() string {
	if e.Phase == Aborting {
		return "vast-ssh key rotate --abort   (again)"
	}
	without := ""
	for _, p := range e.Pending {
		without += fmt.Sprintf(" --leave %d", p.ID)
	}
	return "vast-ssh key rotate   (again, later), or to go on without: vast-ssh key rotate" + without
}
