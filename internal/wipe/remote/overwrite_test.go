//go:build linux

package remote

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStreamIsTheSameFromAnywhere(t *testing.T) {
	key := newKey()
	s, err := newStream(key)
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]byte, 1<<20)
	s.fill(whole, 7, 0)
	for range 100 {
		from := rand.IntN(len(whole)/16) * 16
		n := rand.IntN(len(whole) - from)
		part := bytes.Repeat([]byte{0xaa}, n)
		s.fill(part, 7, int64(from))
		if !bytes.Equal(part, whole[from:from+n]) {
			t.Fatalf("%d bytes from %d differ", n, from)
		}
	}
	other := make([]byte, 64)
	s.fill(other, 8, 0)
	if bytes.Equal(other, whole[:64]) {
		t.Error("two files have one stream")
	}
	s.fill(other, 7, 16<<40) // beyond any file, and another counter
	if bytes.Equal(other, whole[:64]) {
		t.Error("the stream repeats")
	}
}

func TestExtentsLeaveHolesOut(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 64 << 20
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{1 << 20, 32<<20 + 5, size - 10} {
		if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 10), at); err != nil {
			t.Fatal(err)
		}
	}
	parts, err := extents(int(f.Fd()), size)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, p := range parts {
		if p.from%page != 0 || p.to > size || p.from >= p.to {
			t.Errorf("a part of %v", p)
		}
		sum += p.to - p.from
	}
	if len(parts) != 3 || sum > 3*page {
		t.Errorf("three written pages are %v", parts)
	}
	if none, err := extents(int(f.Fd()), 0); err != nil || len(none) != 0 {
		t.Errorf("an empty file has %v, %v", none, err)
	}
}

// TestOverwriteInPlace writes over files of its own only.
func TestOverwriteInPlace(t *testing.T) {
	s, err := newStream(newKey())
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorker(s)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for _, size := range []int64{1, 15, 4095, 4096, 4097, directFrom - 1, directFrom, directFrom + 1, chunkSize, chunkSize + 1, 3*chunkSize + 12345} {
		name := filepath.Join(t.TempDir(), "f")
		old := bytes.Repeat([]byte("canary--"), int(size/8)+1)[:size]
		if err := os.WriteFile(name, old, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		var wrote int64
		j := &job{fd: int(f.Fd()), size: size, from: checkpoint{Nonce: 1}, wrote: func(n int64) { wrote += n }, reached: func(checkpoint) {}}
		if j.parts, err = extents(j.fd, size); err != nil {
			t.Fatal(err)
		}
		if err := w.overwrite(t.Context(), j); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if err := w.verify(j); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size)
		s.fill(want, 1, 0)
		if !bytes.Equal(got, want) || wrote != size {
			t.Errorf("%d bytes: %d written, the content is the stream: %v", size, wrote, bytes.Equal(got, want))
		}
		// What was not written shows: one byte anywhere that is read back.
		if _, err := f.WriteAt([]byte{got[size-1] ^ 1}, size-1); err != nil {
			t.Fatal(err)
		}
		if err := w.verify(j); err == nil {
			t.Errorf("%d bytes: a wrong last byte is not seen", size)
		}
		f.Close()
	}
}

func TestOverwriteGoesOnFromACheckpoint(t *testing.T) {
	s, _ := newStream(newKey())
	w, err := newWorker(s)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	const size = 5 * chunkSize
	name := filepath.Join(t.TempDir(), "f")
	want := make([]byte, size)
	s.fill(want, 9, 0)
	half := append(append([]byte(nil), want[:2*chunkSize]...), make([]byte, 3*chunkSize)...)
	for i := range half[2*chunkSize:] {
		half[2*chunkSize+i] = 0xcc
	}
	if err := os.WriteFile(name, half, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var wrote int64
	j := &job{fd: int(f.Fd()), size: size, from: checkpoint{Nonce: 9, Offset: 2 * chunkSize}, parts: []extent{{0, size}},
		wrote: func(n int64) { wrote += n }, reached: func(checkpoint) {}}
	if err := w.overwrite(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	if err := w.verify(j); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(name)
	if wrote != 3*chunkSize || !bytes.Equal(got, want) {
		t.Errorf("%d bytes written, the whole is the stream: %v", wrote, bytes.Equal(got, want))
	}
}

// emptyRun has a journal of its own and no rules.
func emptyRun(t *testing.T) (*run, *worker) {
	t.Helper()
	j, _, err := openJournal(filepath.Join(t.TempDir(), "j"), 1, "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRun(&far{}, j)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorker(r.stream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return r, w
}

// fileOf is a new file with a content, open to be read and written.
func fileOf(t *testing.T, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// TestAFileThatWasWrittenToSinceACheckpoint has a page of somebody's where a sample need not be.
func TestAFileThatWasWrittenToSinceACheckpoint(t *testing.T) {
	r, w := emptyRun(t)
	const size, from = 64 * chunkSize, 60 * chunkSize
	content := make([]byte, size)
	r.stream.fill(content, 1, 0)
	copy(content[31*chunkSize+5*page:], "secret")
	file := fileOf(t, content)
	f := target{}
	if err := unix.Fstat(int(file.Fd()), &f.st); err != nil {
		t.Fatal(err)
	}
	r.journal.add(entry{Open: &openEntry{idOf(&f.st).String(), checkpoint{Nonce: 1, Offset: from}}})
	if err := r.scrub(t.Context(), w, f, int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file.Name()); err != nil || bytes.Contains(data, []byte("secret")) {
		t.Errorf("it is left: %v", err)
	}
}

// TestAFileThatNobodyWroteToIsNotReadAgain, however large: a line that breaks often would never see the end of it. That it is not
// read shows in a page that is wrong without a change of the file's time.
func TestAFileThatNobodyWroteToIsNotReadAgain(t *testing.T) {
	r, w := emptyRun(t)
	const size, from = 4 * chunkSize, 2 * chunkSize
	content := make([]byte, size)
	r.stream.fill(content, 1, 0)
	copy(content[chunkSize+5*page:], "wrong")
	file := fileOf(t, content)
	fd := int(file.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	newJob := func(changed int64) (j *job, wrote *int64) {
		wrote = new(int64)
		return &job{fd: fd, from: checkpoint{1, from, changed}, wrote: func(n int64) { *wrote += n }, reached: func(checkpoint) {}}, wrote
	}
	for _, changed := range []int64{0, st.Ctim.Nano() - 1} {
		if j, _ := newJob(changed); !errors.Is(r.work(t.Context(), w, j), errReadBack) {
			t.Errorf("changed at %d, said to be at %d: what is wrong is not seen", st.Ctim.Nano(), changed)
		}
	}
	j, wrote := newJob(st.Ctim.Nano())
	j.parts = []extent{{0, chunkSize}, {chunkSize, 3 * chunkSize}, {3 * chunkSize, size}}
	if n := j.before(); n != from {
		t.Errorf("%d bytes were there before instead of %d", n, from)
	}
	// Samples are taken of it: those of the first two chunks may meet the wrong page.
	if err := r.work(t.Context(), w, j); err != nil && !errors.Is(err, errReadBack) || *wrote != size {
		t.Errorf("%v, %d bytes", err, *wrote)
	}
}

// TestAStoppedFileGoesOnWhereItWas has the time of its last change, where the file system can be trusted with that.
func TestAStoppedFileGoesOnWhereItWas(t *testing.T) {
	r, w := emptyRun(t)
	const size = 8 * chunkSize
	file := fileOf(t, bytes.Repeat([]byte("canary--"), size/8))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var at []checkpoint
	j := &job{
		fd: int(file.Fd()), size: size, from: checkpoint{Nonce: 7}, parts: []extent{{0, size}},
		wrote: func(int64) { stop() }, reached: func(c checkpoint) { at = append(at, c) },
	}
	if err := w.overwrite(ctx, j); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	want := checkpoint{7, chunkSize, lastChange(j.fd)}
	if len(at) != 1 || at[0] != want {
		t.Fatalf("stopped at %+v instead of %+v", at, want)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(j.fd, &fs); err != nil {
		t.Fatal(err)
	}
	if known := slices.Contains(timed, int64(fs.Type)); known != (want.Changed != 0) {
		t.Errorf("of file system %#x the last change is %d", fs.Type, want.Changed)
	}
	// The very next write shows.
	if _, err := file.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if later := lastChange(j.fd); want.Changed != 0 && later <= want.Changed {
		t.Errorf("written to after %d, and changed at %d", want.Changed, later)
	}
	got := make([]byte, 2*chunkSize)
	r.stream.fill(got[:chunkSize], 7, 0)
	got[0] = 'x'
	copy(got[chunkSize:], bytes.Repeat([]byte("canary--"), chunkSize/8))
	if data, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(data[:2*chunkSize], got) {
		t.Errorf("more or less than one chunk was written: %v", err)
	}
}

// TestAnotherFileOfTheNumber is behind a checkpoint of the journal, and overwritten from its start.
func TestAnotherFileOfTheNumber(t *testing.T) {
	r, w := emptyRun(t)
	content := bytes.Repeat([]byte("secret "), 100_000)
	file := fileOf(t, content)
	f := target{}
	if err := unix.Fstat(int(file.Fd()), &f.st); err != nil {
		t.Fatal(err)
	}
	r.journal.add(entry{Open: &openEntry{idOf(&f.st).String(), checkpoint{Nonce: 1, Offset: 500_000}}})
	if err := r.scrub(t.Context(), w, f, int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file.Name()); err != nil || bytes.Contains(data, []byte("secret")) || len(data) != len(content) {
		t.Errorf("%d bytes, and not all are overwritten: %v", len(data), err)
	}
	if r.written.Load() != 0 {
		t.Errorf("%d bytes are said to be in work", r.written.Load())
	}
}

func TestPlacesStayInside(t *testing.T) {
	for range 1000 {
		from := rand.Int64N(1000) * page
		part := extent{from, from + 1 + rand.Int64N(8<<20)}
		for _, at := range places(part, samples) {
			if at < part.from || at >= part.to || at%page != 0 {
				t.Fatalf("a sample of %v at %d", part, at)
			}
		}
	}
}
