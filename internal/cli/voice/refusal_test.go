package voice

import (
	"testing"
	"time"

	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/ipc"
)

var at = time.Date(2026, 7, 31, 12, 0, 0, 0, time.Local)

func TestDecision(t *testing.T) {
	chain := []chainlog.Process{{PID: 3, Program: "/usr/bin/ssh"}, {PID: 2}, {PID: 2, Program: "zsh"}, {PID: 1}}
	long := append(chain[:3:3], chain...)
	for _, tt := range []struct {
		record chainlog.Record
		want   string
	}{
		{chainlog.Record{Verdict: chainlog.Started}, "started"},
		{chainlog.Record{Verdict: chainlog.Key, Sentence: "the key was made"}, "key       the key was made"},
		{chainlog.Record{Verdict: chainlog.Locked, Reason: "idle"}, "locked    idle"},
		{chainlog.Record{Verdict: chainlog.Signed, Instance: 5, Label: "box", User: "root", Route: "direct", Chain: chain},
			"signed    5 (box)  root  direct  ssh ← ? ← zsh"},
		{chainlog.Record{Verdict: chainlog.Signed, Chain: long}, "signed    ssh ← ? ← zsh ← ssh ← ? ← zsh ← …"},
		{chainlog.Record{Verdict: chainlog.Signed, Instance: 5, From: 4, User: "root"}, "signed    5  through 4  root"},
		{chainlog.Record{Verdict: chainlog.Refused, Reason: "no-witness", Sentence: "no login", Program: "/usr/bin/ssh",
			PID: 3, Count: 7},
			"refused   /usr/bin/ssh  no-witness: no login  7 times"},
		{chainlog.Record{Verdict: chainlog.Refused, Instance: 5, Label: "a\x1b[31m\u202e", User: "\n",
			Chain: []chainlog.Process{{Program: "/a\x1bb"}}},
			`refused   5 (a\x1b[31m\u202e)  \x0a  a\x1bb`},
	} {
		tt.record.At = at
		if got := Decision(tt.record); got != "2026-07-31 12:00:00  "+tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestRefusal(t *testing.T) {
	for _, tt := range []struct {
		got, want string
	}{
		{Refusal(ipc.Refusal{At: at, Reason: "unused", Sentence: "the login ended", Instance: 5, Count: 1}),
			"unused: the login ended; instance 5"},
		{Refusal(ipc.Refusal{At: at, Reason: "not-pinned", Sentence: "no\x1b", HostKey: "SHA256:x", PID: 3,
			Program: "/usr/bin/ssh", Count: 2}),
			`not-pinned: no\x1b; host key SHA256:x; asked by process 3 (/usr/bin/ssh); 2 times`},
		{Refused(chainlog.Record{At: at, Reason: "r", Sentence: "s", Instance: 5, Label: "box", PID: 3, Program: "/usr/bin/ssh",
			Chain: []chainlog.Process{{PID: 3, Program: "/usr/bin/ssh"}, {PID: 2, Program: "/bin/sh"}}}),
			"r: s; instance 5 (box); asked by process 3 (ssh ← sh)"},
	} {
		if want := "2026-07-31 12:00:00  " + tt.want; tt.got != want {
			t.Errorf("%q, want %q", tt.got, want)
		}
	}
}
