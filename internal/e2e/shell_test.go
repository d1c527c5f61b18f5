package e2e

import "strings"

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// words makes a command line of argv for a shell.
func words(argv []string) string {
	var quoted []string
	for _, a := range argv {
		quoted = append(quoted, quote(a))
	}
	return strings.Join(quoted, " ")
}
