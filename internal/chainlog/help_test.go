package chainlog

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// openLog opens a log that ends with the test.
func openLog(t testing.TB, dir string, fileSize int64, keep int) *Log {
	t.Helper()
	l, err := open(dir, fileSize, keep)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func newDir(t testing.TB) string { return filepath.Join(t.TempDir(), "decisions") }

// login is what a usual signature looks like.
func login(i int) Record {
	return Record{
		Verdict: Signed, Via: "witness", Instance: 20000000 + uint64(i%7), Label: "trainbox", User: "root",
		HostKey: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", Route: "direct 203.0.113.7:41022",
		PID: 1000 + i, UID: 1000, Program: "/usr/bin/ssh",
		Chain: []Process{
			{1000 + i, "/usr/bin/ssh"}, {900, "/usr/bin/git"}, {800, "/usr/bin/zsh"}, {700, "/usr/bin/tmux"},
		},
	}
}

func refused(reason string, pid int) Record {
	return Record{Verdict: Refused, Reason: reason, Sentence: "a sentence", PID: pid, Program: "/usr/bin/ssh"}
}

func appendAll(t testing.TB, l *Log, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := l.Append(login(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// whole is a closed log of n records in files of at most fileSize bytes.
func whole(t testing.TB, n int, fileSize int64, keep int) (dir string) {
	t.Helper()
	dir = newDir(t)
	l := openLog(t, dir, fileSize, keep)
	appendAll(t, l, 0, n)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func verify(t testing.TB, dir string) Report {
	t.Helper()
	r, err := Verify(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sound checks that the log is whole and ends where l does.
func sound(t testing.TB, dir string, l *Log, records int) {
	t.Helper()
	r := verify(t, dir)
	seq, hash := l.Head()
	if r.Found != 0 || r.Records != records || r.Last != seq || r.Head != hash {
		t.Errorf("%+v, want %d records up to %d %s", r, records, seq, hash)
	}
}

func records(t testing.TB, dir string) []Record {
	t.Helper()
	var all []Record
	if err := Read(t.Context(), dir, func(r Record) error { all = append(all, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// notes are the reasons of the notes in the log.
func notes(t testing.TB, dir string) []string {
	t.Helper()
	var reasons []string
	for _, r := range records(t, dir) {
		if r.Verdict == Note {
			reasons = append(reasons, r.Reason)
		}
	}
	return reasons
}

func read(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	all, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func torn(t testing.TB, dir string) [][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "torn.*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	var all [][]byte
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

// eventually polls until done, for as long as a slow machine may take.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lines are the lines of data, each with its newline.
func lines(data []byte) [][]byte { return slices.Collect(bytes.Lines(data)) }
