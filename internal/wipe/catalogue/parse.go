package catalogue

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxFile  = 1 << 20
	maxLine  = 4096
	maxDepth = 2 // ${A:-${B:-/c}/d}
)

// ParseError says what is wrong with a line of a catalogue.
type ParseError struct {
	Line   int // from 1; 0 for the file as a whole
	Reason string
}

func (e *ParseError) Error() string { return fmt.Sprintf("catalogue line %d: %s", e.Line, e.Reason) }

// Parse reads a catalogue in the format at the head of catalogue.txt. Its error is a *ParseError.
func Parse(data []byte) ([]Entry, error) {
	if len(data) > maxFile {
		return nil, &ParseError{Reason: "too long"}
	}
	var list []Entry
	seen := map[string]int{}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.Trim(line, " ")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		e, reason := parseLine(line)
		if reason != "" {
			return nil, &ParseError{Line: i + 1, Reason: reason}
		}
		for _, p := range e.Paths {
			if first, twice := seen[p]; twice {
				return nil, &ParseError{Line: i + 1, Reason: fmt.Sprintf("%q is in line %d already", p, first)}
			}
			seen[p] = i + 1
		}
		list = append(list, e)
	}
	return list, nil
}

// parseLine returns an entry, or the reason why the line is none.
func parseLine(line string) (Entry, string) {
	switch {
	case len(line) > maxLine:
		return Entry{}, "too long"
	case !printable(line):
		return Entry{}, "not printable text"
	}
	fields := strings.Split(line, "|")
	if len(fields) != 5 {
		return Entry{}, fmt.Sprintf("%d fields, not 5", len(fields))
	}
	for i, f := range fields {
		if fields[i] = strings.Trim(f, " "); fields[i] == "" {
			return Entry{}, fmt.Sprintf("field %d is empty", i+1)
		}
	}
	e := Entry{Kind: Kind(fields[0]), Tool: fields[1], What: fields[2], Source: fields[4]}
	e.Paths = strings.FieldsFunc(fields[3], func(r rune) bool { return r == ' ' })
	if !slices.Contains(kinds, e.Kind) {
		return Entry{}, fmt.Sprintf("no kind %q", e.Kind)
	}
	for _, p := range e.Paths {
		if reason := checkPath(e.Kind, p); reason != "" {
			return Entry{}, fmt.Sprintf("%q: %s", p, reason)
		}
	}
	return e, ""
}

func checkPath(kind Kind, text string) string {
	if kind == Environment {
		if !isName(text) {
			return "not the name of a variable"
		}
		return ""
	}
	t, reason := parseTemplate(text)
	if reason != "" {
		return reason
	}
	// What is dangerous on an ordinary machine is a mistake in the catalogue.
	homes := []string{"/root", "/home/user"}
	guard := newGuard(append(workspaces(nil), homes...))
	for _, p := range t.patterns(homes, nil) {
		if !guard.allows(p) {
			return "would match a directory that no entry may name"
		}
	}
	return ""
}

// template is a parsed path.
type template struct {
	node
	tree bool
}

// node is a literal, or a variable with what stands in for it and the literal after it.
type node struct {
	variable string
	fallback *node
	text     string
}

// parseTemplate returns a path, or the reason why the text is none.
func parseTemplate(text string) (template, string) {
	body, tree := strings.CutSuffix(text, "/")
	n, reason := parseNode(body, maxDepth)
	return template{node: n, tree: tree}, reason
}

func parseNode(text string, depth int) (node, string) {
	rest, isVariable := strings.CutPrefix(text, "${")
	if !isVariable {
		return node{text: text}, checkRooted(text)
	}
	if depth == 0 {
		return node{}, "nested too deep"
	}
	name, rest, ok := strings.Cut(rest, ":-")
	if !ok || !isName(name) {
		return node{}, "not of the form ${NAME:-default}"
	}
	end := strings.LastIndexByte(rest, '}')
	if end < 0 {
		return node{}, "no closing brace"
	}
	fallback, reason := parseNode(rest[:end], depth-1)
	if reason != "" {
		return node{}, reason
	}
	after := rest[end+1:]
	if after != "" {
		if after[0] != '/' {
			return node{}, "only / may follow a closing brace"
		}
		if reason := checkComponents(after[1:]); reason != "" {
			return node{}, reason
		}
	}
	return node{variable: name, fallback: &fallback, text: after}, ""
}

func checkRooted(text string) string {
	rest, ok := strings.CutPrefix(text, "~/")
	if !ok {
		rest, ok = strings.CutPrefix(text, "/")
	}
	if !ok {
		return "begins with neither /, ~/ nor ${"
	}
	return checkComponents(rest)
}

// checkComponents admits only characters that mean the same in path.Match and in every shell's globs.
func checkComponents(text string) string {
	for c := range strings.SplitSeq(text, "/") {
		switch {
		case c == "" || c == "." || c == "..":
			return "not a clean path"
		case strings.Contains(c, "[!") || strings.Contains(c, "[^"):
			return "a class of characters may not be negated"
		case strings.ContainsFunc(c, func(r rune) bool { return !isPathRune(r) }):
			return "a character that paths here do not have"
		}
		if _, err := path.Match(c, ""); err != nil {
			return "not a pattern"
		}
	}
	return ""
}

func isPathRune(r rune) bool {
	return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-+,=@%:~*?[]", r))
}

func isName(s string) bool {
	for i, r := range s {
		if letter := r == '_' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'; !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
