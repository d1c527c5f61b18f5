package config

import "fmt"

// Error reports a configuration that cannot be used. It repeats no value of the file or the environment, since people
// paste secrets into wrong places.
type Error struct {
	// File is the path of the file, or empty when the fault is in the environment.
	File string
	// Line and Column count from 1. Both are 0 when the fault has no place in the file.
	Line, Column int
	// Key is the setting or the environment variable, or empty when the fault is not in one.
	Key string
	// Reason says what is wrong.
	Reason string
	// Nearest is the known key that an unknown one was probably meant to be, or empty.
	Nearest string

	advice string
}

func (e *Error) Error() string {
	switch {
	case e.File == "":
		return fmt.Sprintf("environment variable %s %s", e.Key, e.Reason)
	case e.Line == 0:
		return fmt.Sprintf("%s: %s", e.File, e.Reason)
	default:
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
	}
}

// Hint says what to do next, or is empty.
func (e *Error) Hint() string {
	if e.Nearest != "" {
		return fmt.Sprintf("did you mean %q?", e.Nearest)
	}
	return e.advice
}
