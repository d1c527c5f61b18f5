package chainlog

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
)

func TestOpenAgain(t *testing.T) {
	dir := newDir(t)
	for i := range 5 {
		l := openLog(t, dir, 4<<10, 100)
		if seq, _ := l.Head(); seq != uint64(10*i) {
			t.Errorf("opened at record %d, want %d", seq, 10*i)
		}
		appendAll(t, l, 0, 10)
		sound(t, dir, l, 10*(i+1))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(login(0)); !errors.Is(err, errClosed) {
			t.Errorf("append to a closed log: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	}
	if n := notes(t, dir); n != nil || torn(t, dir) != nil {
		t.Errorf("notes %q", n)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Only full files are renamed, none is larger than it may be, and the oldest go.
func TestRotation(t *testing.T) {
	const full, keep = 8 << 10, 4
	dir := newDir(t)
	l := openLog(t, dir, full, keep)
	for i := range 200 {
		if err := l.Append(login(i)); err != nil {
			t.Fatal(err)
		}
		if n := len(names(t, dir)); n > keep {
			t.Fatalf("%d files after %d records", n, i)
		}
	}
	for _, name := range names(t, dir) {
		data := read(t, dir, name)
		if len(data) > full || name != currentName && len(data) < full/2 {
			t.Errorf("%s has %d bytes", name, len(data))
		}
	}
	r := verify(t, dir)
	if seq, hash := l.Head(); r.Found != 0 || r.Files != keep || r.Last != seq || r.Head != hash || seq != 200 {
		t.Errorf("%+v", r)
	}
	// A name that is taken is not written over.
	taken := rotatedName(l.first)
	write(t, dir, taken, []byte("mine"))
	for i := 0; ; i++ {
		err := l.Append(login(i))
		if errors.Is(err, fs.ErrExist) {
			break
		}
		if err != nil || i > 100 {
			t.Fatal(err)
		}
	}
	if string(read(t, dir, taken)) != "mine" {
		t.Error("written over")
	}
	if err := os.Remove(filepath.Join(dir, taken)); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, 0, 10)
	if r := verify(t, dir); r.Found != 0 {
		t.Errorf("%+v", r)
	}
}

func TestOneWriter(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, fileSize, keepFiles)
	appendAll(t, l, 0, 3)
	if _, err := Open(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("a second writer: %v", err)
	}
	sound(t, dir, l, 3)
	l.Close()
	openLog(t, dir, fileSize, keepFiles)
}

// What a crash left behind the last good record is set aside, told, and followed by the next record.
func TestTorn(t *testing.T) {
	source := whole(t, 5, fileSize, keepFiles)
	data := read(t, source, currentName)
	l := lines(data)
	front := func(n int) []byte { return bytes.Join(l[:n], nil) }
	for name, tt := range map[string]struct {
		good    int
		garbage []byte
	}{
		"half a line":             {4, l[4][:100]},
		"all but the end of line": {4, l[4][:len(l[4])-1]},
		"one byte":                {5, []byte("{")},
		"zeros":                   {5, make([]byte, 4096)},
		"zeros and lines":         {5, []byte("\n\x00\n\n")},
		"a changed line":          {4, bytes.Replace(l[4], []byte("root"), []byte("toor"), 1)},
		"a line of before":        {5, l[1]},
		"a long line":             {5, bytes.Repeat([]byte("x"), 1<<20)},
		"nothing good":            {0, []byte("hello\n")},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyOf(t, source)
			write(t, dir, currentName, append(front(tt.good), tt.garbage...))
			l := openLog(t, dir, fileSize, keepFiles)
			if d := l.Damage(); d != nil {
				t.Errorf("damage: %v", d)
			}
			sound(t, dir, l, tt.good+1)
			appendAll(t, l, 0, 2)
			sound(t, dir, l, tt.good+3)
			if got := torn(t, dir); len(got) != 1 || !bytes.Equal(got[0], tt.garbage) {
				t.Errorf("set aside: %.99q", got)
			}
			if n := notes(t, dir); !slices.Equal(n, []string{"torn"}) {
				t.Errorf("notes %q", n)
			}
			if r := records(t, dir)[tt.good]; !strings.Contains(r.Sentence, "torn.") {
				t.Errorf("%q does not name the file", r.Sentence)
			}
		})
	}
}

// A crash at any byte of a record costs that record at most.
func TestCrashAnywhere(t *testing.T) {
	source := whole(t, 2, fileSize, keepFiles)
	data := read(t, source, currentName)
	start := len(lines(data)[0])
	for end := start; end <= len(data); end += 7 {
		dir := copyOf(t, source)
		write(t, dir, currentName, data[:end])
		l := openLog(t, dir, fileSize, keepFiles)
		appendAll(t, l, 0, 1)
		want := 2
		if end > start {
			want++ // the note
		}
		sound(t, dir, l, want)
		l.Close()
	}
}

// A crash in the middle of a rotation leaves no current file.
func TestCrashInRotation(t *testing.T) {
	dir := whole(t, 20, 4<<10, 100)
	current := filepath.Join(dir, currentName)
	first, err := Parse(bytes.TrimSuffix(lines(read(t, dir, currentName))[0], []byte("\n")))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(current, filepath.Join(dir, rotatedName(first.Seq))); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, dir, 4<<10, 100)
	sound(t, dir, l, 20)
	appendAll(t, l, 0, 3)
	sound(t, dir, l, 23)
	// A current file that is empty is no different.
	l.Close()
	if err := os.Truncate(current, 0); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, dir, 4<<10, 100)
	sound(t, dir, l, 20)
	if n := notes(t, dir); n != nil {
		t.Errorf("notes %q", n)
	}
}

// Older damage does not stop the agent. It is reported, noted, and stays where it is.
func TestDamage(t *testing.T) {
	dir := whole(t, 9, fileSize, keepFiles)
	l := lines(read(t, dir, currentName))
	l[2] = bytes.Replace(l[2], []byte("root"), []byte("toor"), 1)
	write(t, dir, currentName, bytes.Join(slices.Delete(l, 5, 6), nil))
	w := openLog(t, dir, fileSize, keepFiles)
	d := w.Damage()
	if len(d) != 2 || d[0].Line != 3 || d[0].Seq != 3 || d[1].Line != 6 || d[1].Seq != 7 {
		t.Errorf("damage: %v", d)
	}
	appendAll(t, w, 0, 2)
	r := verify(t, dir)
	seq, hash := w.Head()
	if seq != 12 || r.Found != 2 || r.Records != 11 || r.Head != hash || !slices.Equal(r.Problems, d) {
		t.Errorf("%+v", r)
	}
	if n := notes(t, dir); !slices.Equal(n, []string{"broken"}) || torn(t, dir) != nil {
		t.Errorf("notes %q", n)
	}
}

// Whatever happens to the files while the log is open, a record is written or refused, and writing goes on
// afterwards.
func TestDisturbed(t *testing.T) {
	for name, tt := range map[string]struct {
		disturb func(t *testing.T, dir string)
		notes   []string
		found   int // what Verify finds afterwards: what has been removed cannot come back
	}{
		"directory removed": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, []string{"lost"}, 0},
		"directory moved away": {func(t *testing.T, dir string) {
			if err := os.Rename(dir, dir+".away"); err != nil {
				t.Fatal(err)
			}
		}, []string{"lost"}, 0},
		"file removed": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, currentName)); err != nil {
				t.Fatal(err)
			}
		}, []string{"lost"}, 1},
		"file replaced by what it was": {func(t *testing.T, dir string) {
			data := read(t, dir, currentName)
			if err := os.Remove(filepath.Join(dir, currentName)); err != nil {
				t.Fatal(err)
			}
			write(t, dir, currentName, data)
		}, nil, 0},
		"end cut off": {func(t *testing.T, dir string) {
			l := lines(read(t, dir, currentName))
			write(t, dir, currentName, bytes.Join(l[:len(l)-1], nil))
		}, []string{"lost"}, 1},
		"end cut off within a line": {func(t *testing.T, dir string) {
			data := read(t, dir, currentName)
			write(t, dir, currentName, data[:len(data)-10])
		}, []string{"torn", "lost"}, 1},
		"something appended": {func(t *testing.T, dir string) {
			write(t, dir, currentName, append(read(t, dir, currentName), "hello"...))
		}, []string{"torn"}, 0},
		"a forged record appended": {func(t *testing.T, dir string) {
			all := records(t, dir)
			last := all[len(all)-1]
			line, _, err := Record{Seq: last.Seq + 1, Prev: last.Hash, Verdict: Started}.line()
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, currentName, append(read(t, dir, currentName), line...))
		}, []string{"lost"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			l := openLog(t, dir, 4<<10, 100)
			appendAll(t, l, 0, 20)
			tt.disturb(t, dir)
			appendAll(t, l, 0, 3)
			r := verify(t, dir)
			seq, hash := l.Head()
			if r.Found != tt.found || r.Last != seq || r.Head != hash || seq != uint64(23+len(tt.notes)) {
				t.Errorf("%+v", r)
			}
			if n := notes(t, dir); !slices.Equal(n, tt.notes) {
				t.Errorf("notes %q", n)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A directory that cannot be made again refuses every record, until it can.
func TestNoDirectory(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, fileSize, keepFiles)
	appendAll(t, l, 0, 1)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Dir(dir), filepath.Base(dir), nil)
	for range 3 {
		if err := l.Append(login(0)); err == nil {
			t.Error("written without a directory")
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, 1, 3)
	if all := records(t, dir); len(all) != 3 || all[0].Reason != "lost" || all[0].Seq != 2 || all[2].Seq != 4 {
		t.Errorf("%+v", all)
	}
}

// limitFiles makes the kernel stop writes at size bytes of a file, in the middle of a line if need be, as a full disk
// does.
func limitFiles(t *testing.T, size uint64) (lift func()) {
	t.Helper()
	signal.Ignore(unix.SIGXFSZ)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	lift = func() {
		once.Do(func() {
			if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(lift)
	return lift
}

func TestDiskFull(t *testing.T) {
	if !testenv.Alone(t) {
		return
	}
	dir := newDir(t)
	l := openLog(t, dir, fileSize, keepFiles)
	appendAll(t, l, 0, 3)
	size := len(read(t, dir, currentName))
	lift := limitFiles(t, uint64(size+100))
	for range 3 {
		if err := l.Append(login(3)); !errors.Is(err, unix.EFBIG) {
			t.Errorf("a full disk: %v", err)
		}
	}
	if err := l.Append(refused("no-witness", 1)); err == nil {
		t.Error("a refusal was written to a full disk")
	}
	if n := len(read(t, dir, currentName)); n != size {
		t.Errorf("%d bytes of a record stay", n-size)
	}
	lift()
	sound(t, dir, l, 3)
	appendAll(t, l, 3, 5)
	sound(t, dir, l, 6)
	if all := records(t, dir); all[3].Reason != "no-witness" || all[4].Verdict != Signed || notes(t, dir) != nil {
		t.Errorf("the refusal of then is not told: %+v", all)
	}
}

// A rotation that cannot begin its new file is finished later.
func TestRotationFails(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, 4<<10, keepFiles)
	appendAll(t, l, 0, 1)
	l.mu.Lock()
	l.dirty, l.full = false, nil
	if err := os.Rename(filepath.Join(dir, currentName), filepath.Join(dir, rotatedName(1))); err != nil {
		t.Fatal(err)
	}
	l.file.Close()
	l.file = nil
	l.mu.Unlock()
	appendAll(t, l, 1, 3)
	sound(t, dir, l, 3)
	if n := notes(t, dir); n != nil {
		t.Errorf("notes %q", n)
	}
}

// Nothing in the directory leads out of it, and nothing blocks.
func TestLinksAreRefused(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	link := func(t *testing.T, path string) {
		if err := os.Symlink(elsewhere, path); err != nil {
			t.Fatal(err)
		}
	}
	fifo := func(t *testing.T, path string) {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{currentName, lockName, rotatedName(1)} {
		for what, make := range map[string]func(*testing.T, string){"link": link, "fifo": fifo} {
			t.Run(name+" "+what, func(t *testing.T) {
				dir := newDir(t)
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				make(t, filepath.Join(dir, name))
				if l, err := Open(dir); err == nil {
					l.Close()
					t.Error("opened")
				}
				if _, err := Verify(t.Context(), dir); name != lockName && err == nil {
					t.Error("verified")
				}
				if _, err := os.Lstat(elsewhere); err == nil {
					t.Error("a file was made elsewhere")
				}
			})
		}
	}
	real := whole(t, 3, fileSize, keepFiles)
	dir := newDir(t)
	if err := os.Symlink(real, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("opened through a link")
	}
	if _, err := Verify(t.Context(), dir); err == nil {
		t.Error("verified through a link")
	}
	if err := os.Chmod(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(real); err == nil {
		t.Error("opened in a directory that is open to others")
	}
}

// Many goroutines append at once: no record is lost, none is written twice.
func TestAppendConcurrently(t *testing.T) {
	const each, all = 200, 8
	dir := newDir(t)
	l := openLog(t, dir, 64<<10, maxFiles)
	var group sync.WaitGroup
	for g := range all {
		group.Go(func() {
			for i := range each {
				if err := l.Append(login(g*each + i)); err != nil {
					t.Error(err)
				}
				l.Head()
			}
		})
	}
	group.Wait()
	sound(t, dir, l, each*all)
	seen := make(map[int]bool)
	for _, r := range records(t, dir) {
		seen[r.PID] = true
	}
	if len(seen) != each*all {
		t.Errorf("%d records", len(seen))
	}
}

// A record is to be read when Append returns, and on the disk without anybody's doing.
func TestSync(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, fileSize, keepFiles)
	began := time.Now()
	if err := l.Append(login(1)); err != nil {
		t.Fatal(err)
	}
	if all := records(t, dir); len(all) != 1 {
		t.Errorf("%d records", len(all))
	}
	eventually(t, "the record is synced", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !l.dirty && l.timer == nil
	})
	if waited := time.Since(began); waited < syncEvery/2 {
		t.Errorf("synced after %v", waited)
	}
	// A disk that fails is told to the next caller.
	l.mu.Lock()
	l.syncErr = unix.EIO
	l.mu.Unlock()
	if err := l.Append(login(2)); !errors.Is(err, unix.EIO) {
		t.Errorf("after a failed sync: %v", err)
	}
	appendAll(t, l, 2, 3)
	sound(t, dir, l, 2)
}
