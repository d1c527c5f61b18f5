package sshcmd

import (
	"path/filepath"
	"testing"

	"vast-ssh/internal/chainlog"
)

// Refusals that are alike are told once, with how often and the last time; the last kinds are kept.
func TestRefusalsIn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "decisions")
	everything := func(chainlog.Record) bool { return true }
	if got, since, err := refusalsIn(t.Context(), dir, everything); got != nil || !since.IsZero() || err != nil {
		t.Errorf("no log: %v, %v, %v", got, since, err)
	}
	l, err := chainlog.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	add := func(r chainlog.Record) {
		t.Helper()
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	add(chainlog.Record{Verdict: chainlog.Started})
	for range 1000 {
		add(chainlog.Record{Verdict: chainlog.Refused, Reason: "no-witness", PID: 1, Instance: 7, Label: "box"})
	}
	add(chainlog.Record{Verdict: chainlog.Unused, Reason: "unused", Instance: 8, Label: "other"})
	add(chainlog.Record{Verdict: chainlog.Signed, Instance: 7})
	add(chainlog.Record{Verdict: chainlog.Refused, Reason: "locked"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, since, err := refusalsIn(t.Context(), dir, everything)
	if err != nil || len(got) != 3 || since.IsZero() {
		t.Fatalf("%+v, %v, %v", got, since, err)
	}
	// What was counted is written last, when the log is closed.
	if r := got[2]; r.Reason != "no-witness" || r.Count != 1000 {
		t.Errorf("%+v", r)
	}
	want := "let it in, and wait 20 seconds: vast-ssh key attach 8"
	if r := got[0]; r.Reason != "unused" || r.Count != 1 || nextOf(r) != want {
		t.Errorf("%+v: %q", r, nextOf(r))
	}
	got, _, err = refusalsIn(t.Context(), dir, func(r chainlog.Record) bool { return r.Label == "box" })
	if err != nil || len(got) != 1 || got[0].Instance != 7 {
		t.Errorf("of one instance: %+v, %v", got, err)
	}

	if l, err = chainlog.Open(dir); err != nil {
		t.Fatal(err)
	}
	for i := range maxTold + 10 {
		add(chainlog.Record{Verdict: chainlog.Refused, Reason: "no-witness", PID: 100 + i})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, _, err = refusalsIn(t.Context(), dir, everything)
	if err != nil || len(got) != maxTold {
		t.Fatalf("%d refusals, %v", len(got), err)
	}
	// More kinds than the log tells apart at a time are counted by their reason.
	if r := got[maxTold-1]; r.PID != 0 || r.Reason != "no-witness" || r.Count != 10 {
		t.Errorf("%+v", r)
	}
}
