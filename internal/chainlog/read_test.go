package chainlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestLines(t *testing.T) {
	dir := whole(t, 30, 4<<10, 100)
	var all [][]byte
	for _, name := range names(t, dir) {
		for _, line := range lines(read(t, dir, name)) {
			all = append(all, bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	if len(all) != 30 || len(names(t, dir)) < 4 {
		t.Fatalf("%d lines in %v", len(all), names(t, dir))
	}
	last := len(lines(read(t, dir, currentName)))
	for _, n := range []int{-1, 0, 1, last - 1, last, last + 1, 29, 30, 31, 1 << 40} {
		var got [][]byte
		if err := Lines(t.Context(), dir, n, func(line []byte) error {
			got = append(got, bytes.Clone(line))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want := all
		if n >= 0 && n < len(all) {
			want = all[len(all)-n:]
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("the last %d lines are %d", n, len(got))
		}
	}
	enough := errors.New("enough")
	if err := Lines(t.Context(), dir, -1, func([]byte) error { return enough }); err != enough {
		t.Errorf("%v", err)
	}
	if err := Lines(t.Context(), newDir(t), 5, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Read(ctx, dir, func(Record) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// Lines that are no records are left to Verify.
func TestReadSkips(t *testing.T) {
	dir := whole(t, 3, fileSize, keepFiles)
	l := lines(read(t, dir, currentName))
	long := strings.Repeat("x", 1<<20)
	write(t, dir, currentName, slices.Concat(l[0], []byte("hello\n"), l[1], []byte(long+"\n"), l[2], []byte("{")))
	if got := records(t, dir); len(got) != 3 {
		t.Errorf("%d records", len(got))
	}
}

// follower collects what Follow gives.
type follower struct {
	t    *testing.T
	stop func()

	mu    sync.Mutex
	lines []string
}

func follow(t *testing.T, dir string, n int) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &follower{t: t}
	done := make(chan error, 1)
	go func() {
		done <- Follow(ctx, dir, n, func(line []byte) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.lines = append(f.lines, string(line))
			return nil
		})
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Follow: %v", err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// has waits until the records given, and nothing else, have come.
func (f *follower) has(from, to uint64) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("records %d to %d", from, to), func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.lines) >= int(to-from+1)
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, line := range f.lines {
		if r, err := Parse([]byte(line)); err != nil || r.Seq != from+uint64(i) {
			f.t.Fatalf("line %d is %q, %v", i, line, err)
		}
	}
	if len(f.lines) != int(to-from+1) {
		f.t.Errorf("%d lines, want records %d to %d", len(f.lines), from, to)
	}
}

func TestFollow(t *testing.T) {
	dir := newDir(t)
	early := follow(t, dir, -1)
	l := openLog(t, dir, 4<<10, 100)
	appendAll(t, l, 0, 3)
	early.has(1, 3)
	f := follow(t, dir, 2)
	f.has(2, 3)
	appendAll(t, l, 3, 5)
	f.has(2, 5)
	early.has(1, 5)
	// Many rotations between two looks.
	appendAll(t, l, 5, 60)
	f.has(2, 60)
	early.has(1, 60)
	if n := len(names(t, dir)); n < 8 {
		t.Errorf("only %d files", n)
	}
	// A crash, and what it left.
	l.Close()
	write(t, dir, currentName, append(read(t, dir, currentName), `{"seq":61`...))
	l = openLog(t, dir, 4<<10, 100)
	appendAll(t, l, 0, 1)
	f.has(2, 62)
	early.has(1, 62)
	// The directory is removed and made anew.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, 0, 2)
	f.has(2, 65)
}

// Files that are removed while somebody is behind cost what was in them, and nothing more.
func TestFollowBehind(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, 4<<10, 3)
	appendAll(t, l, 0, 1)
	f := follow(t, dir, -1)
	appendAll(t, l, 1, 200)
	written := lines(read(t, dir, currentName))
	want := strings.TrimSuffix(string(written[len(written)-1]), "\n")
	eventually(t, "the last record", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.lines) > 0 && f.lines[len(f.lines)-1] == want
	})
	f.stop()
	last := uint64(0)
	for _, line := range f.lines {
		r, err := Parse([]byte(line))
		if err != nil || r.Seq <= last {
			t.Fatalf("record %d after %d: %v", r.Seq, last, err)
		}
		last = r.Seq
	}
}

func TestListTakesItsOwn(t *testing.T) {
	dir := whole(t, 1, fileSize, keepFiles)
	for _, name := range []string{
		"log.1.jsonl", "log.000000000000.jsonl", "log.00000000000x.jsonl", "log.-00000000001.jsonl",
		"log.+00000000001.jsonl", "log.0000000000001.jsonl", "log.", "other", "torn.1",
	} {
		write(t, dir, name, []byte("x"))
	}
	if got := names(t, dir); !slices.Equal(got, []string{currentName}) {
		t.Errorf("%v", got)
	}
	if first, ok := rotatedFirst(rotatedName(1234567890123)); !ok || first != 1234567890123 {
		t.Errorf("%d, %v", first, ok)
	}
	for i := range maxFiles + 1 {
		write(t, dir, rotatedName(uint64(i+2)), nil)
	}
	if _, err := Verify(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%d files: %v", maxFiles+2, err)
	}
	if _, err := os.Stat(filepath.Join(dir, currentName)); err != nil {
		t.Error(err)
	}
}
