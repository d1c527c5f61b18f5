package chainlog

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func counts(t *testing.T, dir string) (lines, requests int) {
	t.Helper()
	for _, r := range records(t, dir) {
		lines++
		requests += max(r.Count, 1)
	}
	return lines, requests
}

// The first refusals of a kind are written as they come, the others with their count once a minute and in the end.
func TestFloodOfOneKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDir(t)
		l := openLog(t, dir, fileSize, keepFiles)
		check := func(lines, requests int) {
			t.Helper()
			if l, r := counts(t, dir); l != lines || r != requests {
				t.Fatalf("%d lines tell %d requests, want %d and %d", l, r, lines, requests)
			}
		}
		ask := func(n int) {
			t.Helper()
			for range n {
				if err := l.Append(refused("no-witness", 7)); err != nil {
					t.Fatal(err)
				}
			}
		}
		ask(alike)
		check(alike, alike)
		ask(5000)
		check(alike, alike)
		time.Sleep(window + 2*syncEvery)
		check(alike+1, alike+5000)
		// It goes on, and so does the counting.
		ask(3000)
		check(alike+1, alike+5000)
		time.Sleep(window + 2*syncEvery)
		check(alike+2, alike+8000)
		// After a quiet minute a refusal is written at once.
		time.Sleep(window)
		ask(1)
		check(alike+3, alike+8001)
		ask(alike + 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		check(2*alike+3, 2*alike+8002)
		sound(t, dir, l, 2*alike+3)
	})
}

// Kinds are told apart by what makes them so, and one flood does not hide another refusal.
func TestFloodHidesNoOther(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, fileSize, keepFiles)
	for range 1000 {
		if err := l.Append(refused("no-witness", 7)); err != nil {
			t.Fatal(err)
		}
	}
	others := []Record{
		refused("no-witness", 8), refused("not-userauth", 7),
		{Verdict: Unused, Reason: "no-witness", PID: 7},
		{Verdict: Refused, Reason: "no-witness", PID: 7, Instance: 1},
		{Verdict: Refused, Reason: "no-witness", PID: 7, HostKey: "k"},
	}
	for _, r := range others {
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if lines, _ := counts(t, dir); lines != alike+len(others) {
		t.Errorf("%d lines", lines)
	}
}

// Signatures and whatever else is no refusal are written always, also in a flood.
func TestFloodOfSignatures(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, fileSize, keepFiles)
	verdicts := []string{Signed, Locked, Unlocked, Started, Stopped, Key}
	for i := range 100 * len(verdicts) {
		if err := l.Append(refused("no-witness", i)); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(Record{Verdict: verdicts[i%len(verdicts)], PID: 7}); err != nil {
			t.Fatal(err)
		}
	}
	kept := make(map[string]int)
	for _, r := range records(t, dir) {
		kept[r.Verdict]++
	}
	for _, v := range verdicts {
		if kept[v] != 100 {
			t.Errorf("%d records of %q", kept[v], v)
		}
	}
}

// Somebody who makes up a process and a host key for each request, and uses every reason, does not drive out what was
// before.
func TestFloodOfKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDir(t)
		l := openLog(t, dir, fileSize, keepFiles)
		if err := l.Append(login(1)); err != nil {
			t.Fatal(err)
		}
		const hours, aMinute = 6, 200
		asked := 0
		for range hours * 60 {
			for range aMinute {
				asked++
				r := refused(fmt.Sprintf("reason-%d", asked%19), asked)
				r.HostKey = fmt.Sprint(asked)
				if err := l.Append(r); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(window)
			if n := len(l.flood.kinds); n > maxKinds+19 {
				t.Fatalf("%d kinds are remembered", n)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		lines, requests := counts(t, dir)
		if requests != asked+1 {
			t.Errorf("%d requests are told, of %d", requests, asked+1)
		}
		size := int64(0)
		for _, name := range names(t, dir) {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			size += info.Size()
		}
		t.Logf("%d refusals in %d hours are %d lines, %d KiB", asked, hours, lines, size>>10)
		most := burst + hours*60*int(window/perToken) + maxKinds + 50
		if lines > most || size*24/hours > fileSize*keepFiles/2 {
			t.Errorf("%d lines (bound %d) of %d bytes", lines, most, size)
		}
		if r := records(t, dir)[0]; r.Verdict != Signed {
			t.Errorf("the first record is gone: %+v", r)
		}
	})
}
