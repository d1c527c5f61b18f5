// Package voice is how the programs speak to people and to scripts.
//
// The rules: results go to stdout, everything for people to stderr. A failure is one line "error: …", lower case and
// without a full stop, then lines of detail that are indented, then at most one "hint: …" that names the next command
// to run. Text that a peer controls is quoted by whoever made the error; what is left of control characters is made
// harmless here. A secret reaches this package in no form.
package voice

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"vast-ssh/internal/term"
)

// Code is an exit status. The numbers are documented and never change their meaning.
type Code int

const (
	Done        Code = 0 // what was asked for is done
	Failed      Code = 1 // it failed, for a reason that has no code of its own
	Usage       Code = 2 // the command line or the configuration is wrong
	NoKey       Code = 3 // there is no valid API key
	NoInstance  Code = 4 // there is no such instance
	HostKey     Code = 5 // the host key was refused
	Incomplete  Code = 6 // something remains to be done
	Unreachable Code = 7 // the API or the instance does not answer
)

// Hinter is an error that knows the next command to run.
type Hinter interface{ Hint() string }

// Detailer is an error that has more to say than one line.
type Detailer interface{ Details() []string }

// Error prints err as a failure.
func Error(w io.Writer, err error) {
	fmt.Fprintf(w, "error: %s\n", line(err.Error()))
	var d Detailer
	if errors.As(err, &d) {
		for _, detail := range d.Details() {
			fmt.Fprintf(w, "  %s\n", term.Safe(detail))
		}
	}
	var h Hinter
	if errors.As(err, &h) && h.Hint() != "" {
		fmt.Fprintf(w, "hint: %s\n", line(h.Hint()))
	}
}

// Warn prints a warning.
func Warn(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, "warning: %s\n", line(fmt.Sprintf(format, args...)))
}

// line makes one harmless line of s. Joined errors come with line ends.
func line(s string) string { return term.Safe(strings.ReplaceAll(s, "\n", "; ")) }

// UsageError reports a wrong command line.
type UsageError struct {
	Reason string
	Next   string // the command to run instead, or empty
}

func (e *UsageError) Error() string { return e.Reason }

// Hint returns the command to run instead.
func (e *UsageError) Hint() string { return e.Next }

// Hinted adds a hint to an error that has none.
func Hinted(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

func (e *hinted) Hint() string { return e.hint }
