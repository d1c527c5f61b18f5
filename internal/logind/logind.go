// Package logind tells when the user's screen locks and when the machine goes to sleep, from systemd-logind.
package logind

import "errors"

// Event is a moment in which the user leaves the machine alone.
type Event int

const (
	ScreenLocked Event = iota + 1
	Sleeping
)

func (e Event) String() string {
	switch e {
	case ScreenLocked:
		return "the screen locks"
	case Sleeping:
		return "the machine goes to sleep"
	}
	return "unknown event"
}

// ErrUnsupported is returned by Watch where there is no logind: not on Linux.
var ErrUnsupported = errors.New("there is no systemd-logind on this platform")

// UnavailableError reports a machine on which logind cannot be reached now: it has no system bus, or no logind on it.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string {
	return "systemd-logind cannot be reached: " + e.Err.Error()
}

func (e *UnavailableError) Unwrap() error { return e.Err }
