package companion

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"vast-ssh/internal/term"
)

// maxLines bounds a text for people. More would push the end of it off the screen.
const maxLines = 40

func (q Question) check() error {
	if n := len(q.Title) + len(q.Text); n > maxText {
		return fmt.Errorf("a question of %d bytes is over the limit of %d", n, maxText)
	}
	if n := strings.Count(q.Text, "\n"); n >= maxLines {
		return fmt.Errorf("a question of %d lines is over the limit of %d", n+1, maxLines)
	}
	return nil
}

// prompt is the argument of the askpass program. It begins with no "-", which would make it an option.
func (q Question) prompt() string {
	return strings.TrimLeft(term.Safe(q.Title)+"\n\n"+plain(q.Text), "-\n")
}

// cut returns at most maxText bytes of s.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText - len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// plain makes s harmless and keeps its lines, at most maxLines.
func plain(s string) string {
	lines := strings.Split(cut(s), "\n")
	if len(lines) > maxLines {
		lines = append(lines[:maxLines-1], "…")
	}
	for i, l := range lines {
		lines[i] = term.Safe(l)
	}
	return strings.Join(lines, "\n")
}
