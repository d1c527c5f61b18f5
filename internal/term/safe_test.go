package term

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSafe(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"train box #1 (ü, 日本, 🚀)", "train box #1 (ü, 日本, 🚀)"},
		{"a\nb\tc\rd\x00\x7f", `a\x0ab\x09c\x0dd\x00\x7f`},
		{"\x1b[31mred\x1b]0;title\a", `\x1b[31mred\x1b]0;title\x07`},
		{"\u009b31m", `\u009b31m`},
		{"\x9b31m\xff\xc3", `\x9b31m\xff\xc3`},
		{"\xed\xa0\x80", `\xed\xa0\x80`},
		{"\ufffd", "\ufffd"},
		{"a\u202eb\u2066c\u200fd\u061c", `a\u202eb\u2066c\u200fd\u061c`},
		{"a\u200bb\u200dc\ufeffd\u2060\u00ade", `a\u200bb\u200dc\ufeffd\u2060\u00ade`},
		{"a\u2028b\u2029c\u0085d\u00a0e\u3000f", `a\u2028b\u2029c\u0085d\u00a0e\u3000f`},
		{"\u3164\u115f\u2800\ufe0f\u034f", `\u3164\u115f\u2800\ufe0f\u034f`},
		{"\ue000\U000e0041\U0010ffff", `\ue000\U000e0041\U0010ffff`},
		{"e\u0301", "e\u0301"},
		{"\u0301e", `\u0301e`},
		{"\n\u0301", `\x0a\u0301`},
		{"e\u0301\u0301\u0301\u0301\u0301f\u0301", "e\u0301\u0301\u0301\u0301\\u0301f\u0301"},
		{`back\slash`, `back\slash`},
	} {
		if got := Safe(tt.in); got != tt.want {
			t.Errorf("Safe(%+q) = %+q, want %+q", tt.in, got, tt.want)
		}
	}
}

func TestSafeN(t *testing.T) {
	for _, tt := range []struct {
		in   string
		max  int
		want string
	}{
		{"", 0, ""},
		{"abc", 0, ""},
		{"abc", -1, ""},
		{"abc", 1, "…"},
		{"abc", 2, "a…"},
		{"abc", 3, "abc"},
		{"abc", 4, "abc"},
		{"日本語x", 3, "日本…"},
		{"a\x1bb", 4, "a…"},
		{"a\x1bb", 5, "a…"},
		{"a\x1bb", 6, `a\x1bb`},
		{"a\x1bbc", 6, `a\x1b…`},
		{strings.Repeat("x", 1<<20), 5, "xxxx…"},
	} {
		if got := SafeN(tt.in, tt.max); got != tt.want {
			t.Errorf("SafeN(%.20q, %d) = %q, want %q", tt.in, tt.max, got, tt.want)
		}
	}
}

func FuzzSafe(f *testing.F) {
	f.Add("a\x1b[2Jb", 4)
	f.Add("\u202e\ufeff\xff日本", 7)
	f.Add("e\u0301\u0301\u0301\u0301\u0301", 3)
	f.Fuzz(func(t *testing.T, s string, max int) {
		safe := Safe(s)
		if Safe(safe) != safe {
			t.Errorf("Safe(%q) = %q is not stable", s, safe)
		}
		short := SafeN(s, max)
		if n := utf8.RuneCountInString(short); n > 0 && n > max {
			t.Errorf("SafeN(%q, %d) has %d characters", s, max, n)
		}
		if cut, ok := strings.CutSuffix(short, "…"); short != safe && max > 0 &&
			(!ok || !strings.HasPrefix(safe, cut)) {
			t.Errorf("SafeN(%q, %d) = %q is no beginning of %q", s, max, short, safe)
		}
		for _, r := range safe + short {
			if !unicode.IsPrint(r) ||
				unicode.In(r, unicode.Cc, unicode.Cf, unicode.Bidi_Control, unicode.Join_Control) {
				t.Errorf("%q holds %U", safe, r)
			}
		}
		plain := !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
		if plain && safe != s {
			t.Errorf("Safe changed plain text %q to %q", s, safe)
		}
	})
}

func TestSafeJSON(t *testing.T) {
	text := "a\x1b[2J\u009b2J\x7f\u202e\u200b\U000e0041\n\"\\ ü漢\U0001f600"
	data, err := json.MarshalIndent(map[string]string{"k": text}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	safe := SafeJSON(data)
	for line := range strings.Lines(string(safe)) {
		if line = strings.TrimSuffix(line, "\n"); Safe(line) != line {
			t.Errorf("%q", line)
		}
	}
	var got map[string]string
	if err := json.Unmarshal(safe, &got); err != nil || got["k"] != text || !strings.Contains(string(safe), "ü漢\U0001f600") {
		t.Errorf("%v: %q of %s", err, got, safe)
	}
}
