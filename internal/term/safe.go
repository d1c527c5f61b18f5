// Package term is the terminal: it makes text of a peer harmless for display, and asks the person who sits there.
package term

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxMarks is how many combining marks may follow one character. More pile up over the lines around.
const maxMarks = 4

// Safe returns s in one line with everything replaced that could act on a terminal, hide, or reorder what is shown:
// control characters, and with them escape sequences, and bytes that are not UTF-8 become \x1b, other invisible
// characters such as direction marks and zero width spaces become \u202e. A space and printable characters stay.
//
// The result is for display, not for reading back: a backslash in s stays single.
func Safe(s string) string {
	var b strings.Builder
	for p := range pieces(s) {
		b.WriteString(p)
	}
	return b.String()
}

// SafeN is Safe for at most max characters of result, of which the last is "…" when s did not fit. It reads no more
// of s than that.
func SafeN(s string, max int) string {
	var b strings.Builder
	n, fits := 0, 0 // characters so far; bytes of b that leave room for "…"
	for p := range pieces(s) {
		n += utf8.RuneCountInString(p)
		if n > max {
			if max <= 0 {
				return ""
			}
			return b.String()[:fits] + "…"
		}
		b.WriteString(p)
		if n < max {
			fits = b.Len()
		}
	}
	return b.String()
}

// SafeJSON returns JSON text that means the same, with every character escaped that Safe would replace: encoding/json leaves all but
// those below the space as they are, of which some act on a terminal. Line breaks between values stay.
func SafeJSON(text []byte) []byte {
	var b []byte
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case visible(r), r == '\n':
			b = append(b, text[:size]...)
		default: // which only a string holds
			for _, unit := range utf16.AppendRune(nil, r) {
				b = fmt.Appendf(b, `\u%04x`, unit)
			}
		}
		text = text[size:]
	}
	return b
}

// pieces yields s character by character, each as itself or as its escape.
func pieces(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		marks := maxMarks // a mark with nothing before it would land on the text before s
		for len(s) > 0 {
			r, size := utf8.DecodeRuneInString(s)
			switch {
			case !visible(r):
				marks = maxMarks
			case unicode.IsMark(r):
				marks++
			default:
				marks = 0
			}
			piece := s[:size]
			switch {
			case r == utf8.RuneError && size == 1:
				piece = fmt.Sprintf(`\x%02x`, s[0])
			case visible(r) && marks <= maxMarks:
			case r < 0x80:
				piece = fmt.Sprintf(`\x%02x`, r)
			case r < 0x10000:
				piece = fmt.Sprintf(`\u%04x`, r)
			default:
				piece = fmt.Sprintf(`\U%08x`, r)
			}
			if !yield(piece) {
				return
			}
			s = s[size:]
		}
	}
}

// visible reports whether r shows as a character of its own or as a mark on one. unicode.IsPrint knows no space but
// " ", no controls, no formatting and nothing unassigned, but counts some characters that no font shows.
func visible(r rune) bool {
	return unicode.IsPrint(r) && r != '\u2800' &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}
