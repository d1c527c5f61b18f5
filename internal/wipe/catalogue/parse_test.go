package catalogue

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParseRefuses(t *testing.T) {
	line := func(places string) string { return "secret | t | w | " + places + " | s" }
	for name, text := range map[string]string{
		"unknown kind":       "secrets | t | w | /a/b | s",
		"kind in capitals":   "Secret | t | w | /a/b | s",
		"four fields":        "secret | t | w | /a/b",
		"six fields":         "secret | t | w | /a/b | s | x",
		"no tool":            "secret | | w | /a/b | s",
		"no source":          "secret | t | w | /a/b | ",
		"no places":          line(""),
		"a tab":              "secret | t\tt | w | /a/b | s",
		"carriage return":    line("/a/b") + "\r",
		"not UTF-8":          "secret | t\xff | w | /a/b | s",
		"too long":           line("/a/" + strings.Repeat("b", maxLine)),
		"twice in a line":    line("/a/b /a/b"),
		"relative":           line("a/b"),
		"root":               line("/"),
		"home":               line("~"),
		"whole home":         line("~/"),
		"all of a home":      line("~/*"),
		"all of a home, ??*": line("~/??*/"),
		"another's home":     line("~user/x"),
		"dot dot":            line("~/../x"),
		"dot":                line("/a/./b"),
		"double slash":       line("/a//b"),
		"double slash, end":  line("/a/b//"),
		"quote":              line(`/a/"b`),
		"backslash":          line(`/a/\*`),
		"unclosed class":     line("/a/[b"),
		"negated class":      line("/a/[!b]"),
		"negated class, ^":   line("/a/[^b]"),
		"etc":                line("/etc/"),
		"all of etc":         line("/etc/*"),
		"usr":                line("/usr/"),
		"in usr":             line("/usr/lib/"),
		"lib":                line("/lib*/"),
		"glob over usr":      line("/u*r/x"),
		"glob over lib64":    line("/??*4"),
		"any directory":      line("/*/"),
		"roots":              line("/[r]oot/"),
		"workspace":          line("/workspace/"),
		"all of workspace":   line("${WORKSPACE:-/workspace}/*"),
		"variable alone":     line("$HOME/x"),
		"no default":         line("${HOME}/x"),
		"empty default":      line("${HOME:-}/x"),
		"relative default":   line("${HOME:-x}/y"),
		"default is root":    line("${X:-/}"),
		"default is etc":     line("${X:-/etc}/"),
		"default is a home":  line("${X:-~}/x"),
		"default is a tree":  line("${X:-/a/b/}"),
		"unclosed":           line("${X:-/a/b"),
		"text at brace":      line("${X:-/a/b}c"),
		"variable inside":    line("/a/${X:-/b}"),
		"nested thrice":      line("${X:-${Y:-${Z:-/a/b}}}"),
		"bad name":           line("${1X:-/a/b}"),
		"path as a variable": "environment | t | w | /a/b | s",
		"bad variable":       "environment | t | w | A-B | s",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte("# a comment\n\n" + text + "\n"))
			var parse *ParseError
			if !errors.As(err, &parse) || parse.Line != 3 {
				t.Errorf("error %v", err)
			}
		})
	}
	_, err := Parse([]byte("secret | a | w | /a/b | s\ntrace | b | w | /a/c /a/b | s\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2") || !strings.Contains(err.Error(), "in line 1 already") {
		t.Errorf("a place of two entries: %v", err)
	}
	if _, err := Parse(make([]byte, maxFile+1)); err == nil {
		t.Error("a file over the limit was read")
	}
}

func TestParse(t *testing.T) {
	got, err := Parse([]byte("\n # x\n  trace |a b|  c d |/a/b/  ~/c*   ${X:-${Y:-~/d}/e}/f/| f \n" +
		"environment | a | b | A_1 _b | c"))
	want := []Entry{
		{Trace, "a b", "c d", []string{"/a/b/", "~/c*", "${X:-${Y:-~/d}/e}/f/"}, "f"},
		{Environment, "a", "b", []string{"A_1", "_b"}, "c"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, e := range Entries() {
		f.Add([]byte(e.String()))
	}
	f.Add([]byte("trace | a | b | ${X:-${Y:-~/d}/e}/f/ /[a-c]x?* | c"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := Parse(text)
		if err != nil {
			if errors.As(err, new(*ParseError)) {
				return
			}
			t.Fatalf("%T", err)
		}
		again, err := Parse([]byte(render(list)))
		if err != nil || !reflect.DeepEqual(list, again) {
			t.Fatalf("%v\nbecame %v, %v", list, again, err)
		}
	})
}

func render(list []Entry) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString(e.String() + "\n")
	}
	return b.String()
}
