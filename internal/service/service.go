// Package service renders the files by which a service manager starts the agent: the two user units of systemd and the
// property list of launchd. It reads and writes nothing.
package service

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Agent says how the agent is started and where it listens.
type Agent struct {
	Program       string // absolute path of vast-agent
	AgentSocket   string // absolute paths
	ControlSocket string
	Log           string // launchd writes the agent's stderr there; systemd has the journal

	// Env are variables with their values, "NAME=value", without which the agent would look for its files elsewhere.
	Env []string
}

// mark is in the first line of every file of ours.
const mark = `Made by "vast-agent install", which overwrites it.`

// Ours reports whether text is a file that this package has rendered, in this version or another.
func Ours(text []byte) bool {
	first, _, _ := bytes.Cut(text, []byte("\n"))
	return bytes.Contains(first, []byte(mark))
}

// TextError reports a path or a variable that a file of the service manager cannot hold.
type TextError struct {
	What   string // such as "the path of the program"
	Text   string
	Reason string
	// Fix says how to get another text, or is empty.
	Fix string
}

func (e *TextError) Error() string { return fmt.Sprintf("%s, %q, %s", e.What, e.Text, e.Reason) }

// Hint says how to get another text.
func (e *TextError) Hint() string { return e.Fix }

// plain returns an error for what no file of either manager can hold: text that is not UTF-8, control characters, and
// code points that are no characters.
func plain(what, text string) error {
	if !utf8.ValidString(text) {
		return &TextError{What: what, Text: text, Reason: "is not UTF-8"}
	}
	if strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef
	}) {
		return &TextError{What: what, Text: text, Reason: "has a control character"}
	}
	return nil
}

func absolute(what, path string) error {
	if !strings.HasPrefix(path, "/") {
		return &TextError{What: what, Text: path, Reason: "is not an absolute path"}
	}
	return plain(what, path)
}

// check looks at what is in every file.
func (a Agent) check() error {
	for _, p := range []struct{ what, path string }{
		{"the path of the program", a.Program},
		{"the path of the agent's socket", a.AgentSocket},
		{"the path of the control socket", a.ControlSocket},
		{"the path of the log", a.Log},
	} {
		if err := absolute(p.what, p.path); err != nil {
			return err
		}
	}
	for _, kv := range a.Env {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
			return &TextError{What: "a variable", Text: kv, Reason: "has no proper name"}
		}
		if err := plain("the variable "+name, value); err != nil {
			return err
		}
	}
	return nil
}
