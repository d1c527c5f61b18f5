package sshcmd

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/cli/voice"
)

func TestParseStops(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []stop // nil for an error
	}{
		{"vast-7", []stop{{"", "vast-7"}}},
		{"7,box", []stop{{"", "7"}, {"", "box"}}},
		{"ubuntu@7", []stop{{"ubuntu", "7"}}},
		{"ssh://ubuntu@7,8", []stop{{"ubuntu", "7"}, {"", "8"}}},
		{"ubuntu@[7],[8]", []stop{{"ubuntu", "7"}, {"", "8"}}},
		{"[]", nil},
		{"", nil},
		{"a,,b", nil},
		{"a,", nil},
		{"me@", nil},
		{"@a", nil},
		{"-l@a", nil},
		{"me@you@a", []stop{{"me", "you@a"}}}, // a label
		{"a:22", nil},
		{"ssh://a:22", nil},
		{"[::1]:22", nil},
		{"ssh://a/", nil},
	} {
		got, err := parseStops(tt.text)
		if !reflect.DeepEqual(got, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("%q: got %v, %v", tt.text, got, err)
		}
		if err != nil && !is[*voice.UsageError](err) {
			t.Errorf("%q: %T", tt.text, err)
		}
	}
}

func TestParseForward(t *testing.T) {
	for _, tt := range []struct {
		args string
		want forward // empty for none
	}{
		{"ssh -W [vast-7]:22 vast-8", forward{"", "vast-7"}},
		{"/usr/bin/ssh -l me -p 22 -J vast-9 -F /c -vvv -W [vast-box]:22 vast-8", forward{"me", "vast-box"}},
		{"ssh -W vast-7:22 vast-8", forward{"", "vast-7"}}, // by hand, in a ProxyCommand of one's own
		{"ssh -W [vast-7]:2222 vast-8", forward{}},
		{"ssh -W [vast-7]:22", forward{}},
		{"ssh -W [db]:22 vast-8", forward{}},
		{"ssh -W [vast-7]:22 vast-8 command", forward{}},
		{"ssh -W [vast-7]:22 vast-8 -v", forward{}},
		{"ssh -W [vast-7]:22 -o X=y vast-8", forward{}},
		{"ssh -l -x -W [vast-7]:22 vast-8", forward{}},
		{"ssh vast-8", forward{}},
		{"ssh -J vast-8 vast-7", forward{}},
		{"ssh -W", forward{}},
		{"-W [vast-7]:22 vast-8", forward{}},
		{"", forward{}},
	} {
		got, ok := parseForward(strings.Fields(tt.args))
		if ok != (tt.want != forward{}) || ok && got != tt.want {
			t.Errorf("%q: got %+v, %v", tt.args, got, ok)
		}
	}
}

func TestRemovals(t *testing.T) {
	for args, want := range map[string][]string{
		"b":              {"b"},
		"-J a b":         {"-J a b", "b"},
		"-Ja b":          {"-Ja b", "b"},
		"-vJ a b":        {"-vJ a b", "-v b"},
		"-vJa b":         {"-vJa b", "-v b"},
		"b -l J -J a ls": {"b -l J -J a ls", "b -l J ls"},
		"-J -J b":        {"-J -J b", "b", "-J"},
		"b -J":           {"b -J"},
		"--J b":          {"--J b"},
		"-iJ -J a b":     {"-iJ -J a b", "-i a b", "-iJ b"},
	} {
		var got []string
		for _, r := range removals(strings.Fields(args)) {
			got = append(got, strings.Join(r, " "))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q", args, got)
		}
	}
}
