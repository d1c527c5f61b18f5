package chainlog

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		in   string
		max  int
		want string
	}{
		{"", 3, ""},
		{"abc", 3, "abc"},
		{"abcd", 3, "…"},
		{"abcd", 4, "abcd"},
		{"abcde", 4, "a…"},
		{"日本語", 9, "日本語"},
		{"日本語", 8, "日…"},
		{"日本語x", 9, "日本…"},
		{`"""`, 6, `"""`},
		{`""""`, 6, `"…`},
		{"\x1b\x1b", 12, "\x1b\x1b"},
		{"\x1b\x1b", 11, "\x1b…"},
		{"a\xffb\xc3", 99, "a\ufffdb\ufffd"},
		{"\U000e0001\U000e0001", 23, "\U000e0001…"},
		{strings.Repeat("x", 1<<20), 10, "xxxxxxx…"},
	} {
		if got := fit(tt.in, tt.max); got != tt.want {
			t.Errorf("fit(%.20q, %d) = %q, want %q", tt.in, tt.max, got, tt.want)
		}
	}
}

// big is a record whose every text is s many times over.
func big(s string) Record {
	s = strings.Repeat(s, 1<<12)
	r := Record{
		Verdict: s, Reason: s, Sentence: s, Via: s, Label: s, User: s, HostKey: s, Route: s, Program: s,
		Instance: 1<<64 - 1, PID: 1<<63 - 1, UID: 1<<63 - 1, Count: 1<<63 - 1, At: time.Now(),
	}
	for range 40 {
		r.Chain = append(r.Chain, Process{1<<63 - 1, s})
	}
	return r
}

// A line has a bound, whatever is in the record.
func TestLongRecord(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, fileSize, keepFiles)
	all := []string{"x", "é", "日", "\x1b", "\x7f", "\"", "x\xff", "\u202e", "\u2028", "🚀", "\U000e0001", "x\U000e0001\""}
	for _, s := range all {
		if err := l.Append(big(s)); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	sound(t, dir, l, len(all))
	for _, r := range records(t, dir) {
		if !strings.HasSuffix(r.Sentence, mark) || !strings.HasSuffix(r.Program, mark) {
			t.Errorf("cut without a mark: %q, %q", r.Sentence, r.Program)
		}
		if len(r.Chain) != maxChain+1 || r.Chain[maxChain] != (Process{Program: mark}) {
			t.Errorf("the chain is %v", r.Chain)
		}
	}
	longest := 0
	for _, line := range lines(read(t, dir, currentName)) {
		longest = max(longest, len(line))
	}
	if longest > MaxLine || longest < MaxLine*3/4 {
		t.Errorf("the longest line has %d bytes; the bound is %d", longest, MaxLine)
	}
}

// A record comes back as it was given, but for what Append sets.
func TestRecordRoundTrip(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, fileSize, keepFiles)
	at := time.Date(2026, 7, 31, 12, 0, 0, 123456789, time.FixedZone("", 7200))
	in := login(1)
	in.At, in.Count, in.Reason, in.Sentence = at, 7, "locked", "a <b> & \"c\"\n\u202ed\u009b31m"
	in.Seq, in.Prev, in.Hash = 99, "no", "no"
	before := in
	if err := l.Append(in); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, before) {
		t.Errorf("Append changed its argument: %+v", in)
	}
	out := records(t, dir)[0]
	_, hash := l.Head()
	in.Seq, in.Prev, in.Hash, in.At = 1, Genesis, hash, time.Date(2026, 7, 31, 10, 0, 0, 123e6, time.UTC)
	if !reflect.DeepEqual(out, in) {
		t.Errorf("got  %+v\nwant %+v", out, in)
	}
	line := string(read(t, dir, currentName))
	for _, want := range []string{
		`{"seq":1,"at":"2026-07-31T10:00:00.123Z","verdict":"signed"`, `a <b> & \"c\"\n\u202ed\u009b31m`, `","hash":"`,
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	line, _, err := Record{Verdict: Signed, Prev: Genesis}.line()
	if err != nil {
		t.Fatal(err)
	}
	good := string(bytes.TrimSuffix(line, []byte("\n")))
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "{}", "null", good[1:], good[:len(good)-1], good + " ", strings.Replace(good, `,"hash"`, `, "hash"`, 1),
		strings.Replace(good, `"verdict":"signed"`, `"verdict":1`, 1), strings.Replace(good, `{"seq"`, `{seq`, 1),
	} {
		if r, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q is %+v", bad, r)
		}
	}
}

// FuzzRecord: whatever is in a record, its line is bounded, harmless, and says the same as the record that was cut to
// fit.
func FuzzRecord(f *testing.F) {
	f.Add("no-witness", "a sentence", "box", "/usr/bin/ssh", 7, uint64(1))
	f.Add("\xff", "\u202e\x1b[2J", strings.Repeat("\U000e0001", 999), "\"\\", -1, uint64(0))
	f.Fuzz(func(t *testing.T, reason, sentence, label, program string, n int, instance uint64) {
		r := Record{
			Verdict: Refused, Reason: reason, Sentence: sentence, Label: label, User: sentence, Route: label, Via: reason,
			HostKey: label, Program: program, PID: n, Count: n, Instance: instance, Seq: 1, Prev: Genesis,
		}
		for i := range uint(n) % 40 {
			r.Chain = append(r.Chain, Process{int(i), program})
		}
		r = r.fitted()
		line, hash, err := r.line()
		if err != nil {
			t.Fatal(err)
		}
		if len(line) > MaxLine || !utf8.Valid(line) || !json.Valid(line) {
			t.Errorf("%q", line)
		}
		text := bytes.TrimSuffix(line, []byte("\n"))
		for _, c := range string(text) {
			if !unicode.IsPrint(c) {
				t.Errorf("%U in %q", c, line)
			}
		}
		back, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		r.Hash = hash
		if !reflect.DeepEqual(back, r) {
			t.Errorf("got  %+v\nwant %+v", back, r)
		}
		if again := back.fitted(); !reflect.DeepEqual(again.Sentence, back.Sentence) || again.Label != back.Label {
			t.Errorf("%+v is cut again to %+v", back, again)
		}
		if l, err := parseLink(text); err != nil || !l.whole || l.Seq != 1 || l.hash != hash {
			t.Errorf("%+v, %v", l, err)
		}
	})
}
