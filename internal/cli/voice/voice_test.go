package voice

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

type spoken struct {
	text, hint string
	details    []string
}

func (s *spoken) Error() string     { return s.text }
func (s *spoken) Hint() string      { return s.hint }
func (s *spoken) Details() []string { return s.details }

func TestError(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"plain", errors.New("no way"), "error: no way\n"},
		{"hint", &spoken{text: "no way", hint: "try vast-ssh ls"}, "error: no way\nhint: try vast-ssh ls\n"},
		{"empty hint", &spoken{text: "no way"}, "error: no way\n"},
		{"details", &spoken{"no way", "go", []string{"one", "two"}}, "error: no way\n  one\n  two\nhint: go\n"},
		{"wrapped", fmt.Errorf("on the way: %w", &spoken{text: "no way", hint: "go"}), "error: on the way: no way\nhint: go\n"},
		{"added hint goes first", Hinted(&spoken{text: "no way", hint: "old"}, "new"), "error: no way\nhint: new\n"},
		{"joined", errors.Join(errors.New("one"), errors.New("two")), "error: one; two\n"},
		{"usage", &UsageError{Reason: "what?", Next: "vast-ssh --help"}, "error: what?\nhint: vast-ssh --help\n"},
		{"terminal", &spoken{"a\x1b[31mb", "c\u202ed", []string{"e\rf"}}, "error: a\\x1b[31mb\n  e\\x0df\nhint: c\\u202ed\n"},
	} {
		var out strings.Builder
		Error(&out, tt.err)
		if out.String() != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, out.String(), tt.want)
		}
	}
	if Hinted(nil, "x") != nil {
		t.Error("a hint made an error of nil")
	}
}
