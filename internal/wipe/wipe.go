// Package wipe removes what a user left on a rented machine, proves it as far as that can be proved from inside a container,
// and says what nobody in there can reach. Destroying the instance afterwards is package destroy's.
//
// A wipe is a plan, which changes nothing; then a run, which the far side does and this end follows through as many
// connections as it takes; then a finish, in the connection that there is, after which nobody can log in any more. Every
// connection goes through the pin of the instance and asks again whether it is the instance's container.
package wipe

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/vast"
)

// Scope says how much is meant.
type Scope string

const (
	// Secrets are credentials of known tools, and nothing else.
	Secrets Scope = "secrets"
	// Workspace is all that the user has made or changed since the container was created, and the known places of
	// secrets, histories, caches and traces.
	Workspace Scope = "workspace"
	// All is Workspace and what the package manager has installed.
	All Scope = "all"
)

// Policy says when the instance is destroyed.
type Policy string

const (
	IfClean Policy = "if-clean"
	Always  Policy = "always"
	Never   Policy = "never"
)

// Options are what the user wants of one wipe.
type Options struct {
	Scope   Scope
	Destroy Policy
	// Paths are wiped too, and Keep are spared: files, or directories with all that is in them.
	Paths, Keep []string
	// Volumes includes the volumes that no other instance uses.
	Volumes bool
	// DropJobs deletes the scheduled jobs of the instance.
	DropJobs bool
}

// OptionError says which option cannot be followed.
type OptionError struct{ Option, Value, Reason string }

func (e *OptionError) Error() string { return fmt.Sprintf("%s %q %s", e.Option, e.Value, e.Reason) }

// Hint returns the command that shows the options.
func (e *OptionError) Hint() string { return "vast-ssh wipe --help" }

// Check reports what is wrong with the options as an *OptionError.
func (o Options) Check() error {
	switch o.Scope {
	case Secrets, Workspace, All:
	default:
		return &OptionError{"--scope", string(o.Scope), "is none of secrets, workspace, all"}
	}
	if o.Volumes && o.Scope == Secrets {
		return &OptionError{"--scope", string(o.Scope), "names places and no volumes: it does not go with --volumes"}
	}
	switch o.Destroy {
	case IfClean, Always, Never:
	default:
		return &OptionError{"--destroy", string(o.Destroy), "is none of if-clean, always, never"}
	}
	for option, list := range map[string][]string{"--path": o.Paths, "--keep": o.Keep} {
		for _, name := range list {
			switch {
			case !path.IsAbs(name), path.Clean(name) != name:
				return &OptionError{option, name, "is not an absolute path on the machine in its shortest form, with no .. in it and no slash at the end"}
			case strings.ContainsAny(name, "\x00\n\r"):
				return &OptionError{option, name, "holds a line break"}
			case !utf8.ValidString(name): // JSON would name something else
				return &OptionError{option, name, "is not UTF-8, in which paths are named to the machine: name the directory around it"}
			case name == "/" && option == "--keep":
				return &OptionError{option, name, "is everything: nothing would be wiped"}
			case name == "/":
				return &OptionError{option, name, "is everything: use --scope all"}
			}
		}
	}
	return nil
}

// API is what a wipe asks of the Vast.ai API. *vast.Client implements it.
type API interface {
	Instance(ctx context.Context, id uint64) (vast.Instance, error)
	Instances(ctx context.Context) ([]vast.Instance, error)
	Volumes(ctx context.Context) ([]vast.Volume, error)
	ScheduledJobs(ctx context.Context) ([]vast.ScheduledJob, error)
	DropScheduledJob(ctx context.Context, id uint64) error
}

// Event is told while a wipe goes on. One field is set.
type Event struct {
	// Step is a sentence about what begins or has happened.
	Step string
	// Progress is how far the run is.
	Progress *Progress
}

// Progress counts files and bytes. The totals are the plan's, and grow when more is found. They are 0 until the machine has
// counted.
type Progress struct {
	Files, Bytes           int64
	TotalFiles, TotalBytes int64
}

// Config says what to wipe and how to reach it. Now, Notify and the times may be left out.
type Config struct {
	Instance vast.Instance
	API      API
	// Connect logs in to the instance through its pin, again for every connection. Refused tells whether its error is
	// that of a machine that does not let the key in, and Closed whether that of one that was reached and closed the connection
	// before it has shown a host key.
	Connect func(ctx context.Context) (*ssh.Client, error)
	Refused func(error) bool
	Closed  func(error) bool
	// Retry tells whether a failed Connect is worth another.
	Retry func(error) bool
	// LoggedIn, if set, reports whether it is known that somebody has logged in to the instance since a time.
	LoggedIn func(ctx context.Context, since time.Time) bool
	Options  Options
	// Patience is how long a machine may be out of reach before a run is given up, 0 for ten minutes.
	Patience time.Duration
	// Silence is how long a far side may say nothing before its connection counts as broken, 0 for 45 seconds. It speaks four
	// times a second, and a script once.
	Silence time.Duration
	// Pause is the first pause before another connection, 0 for a second. It doubles while nothing gets done.
	Pause time.Duration
	// Dir is where reports are kept.
	Dir    string
	Notify func(Event)
	Now    func() time.Time
}

func (c *Config) notify(format string, args ...any) {
	if c.Notify != nil {
		c.Notify(Event{Step: fmt.Sprintf(format, args...)})
	}
}

// label is the container label that Vast.ai gives to an instance.
func label(id uint64) string { return fmt.Sprintf("C.%d", id) }
