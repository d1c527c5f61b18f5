package chainlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vast-ssh/internal/testenv"
)

func TestVerifyWhole(t *testing.T) {
	if _, err := Verify(t.Context(), newDir(t)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if r := verify(t, whole(t, 0, fileSize, keepFiles)); r.Found != 0 || r.Records != 0 || r.Last != 0 || r.Files != 1 {
		t.Errorf("nothing in it: %+v", r)
	}
	r := verify(t, whole(t, 3, fileSize, keepFiles))
	if r.Found != 0 || r.Records != 3 || r.First != 1 || r.Last != 3 || r.Rotated {
		t.Errorf("three records: %+v", r)
	}
	r = verify(t, whole(t, 100, 4<<10, 5))
	if r.Found != 0 || r.First <= 1 || r.Last != 100 || !r.Rotated || r.Files != 5 || uint64(r.Records) != 101-r.First {
		t.Errorf("older ones removed: %+v", r)
	}
}

// Every change of the content is found, at its place.
func TestVerifyFinds(t *testing.T) {
	const full = 4 << 10
	source := whole(t, 30, full, 100)
	files := names(t, source)
	if len(files) < 4 {
		t.Fatalf("the log is in %v", files)
	}
	second := files[1]
	first, _ := rotatedFirst(second)
	type change func([][]byte) [][]byte
	edit := func(i int, from, to string) change {
		return func(l [][]byte) [][]byte {
			l[i] = bytes.Replace(l[i], []byte(from), []byte(to), 1)
			return l
		}
	}
	remove := func(from, to int) change { return func(l [][]byte) [][]byte { return slices.Delete(l, from, to) } }
	insert := func(i int, text string) change {
		return func(l [][]byte) [][]byte { return slices.Insert(l, i, []byte(text)) }
	}
	// forge changes a record and gives it the hash that it should have then.
	forge := func(fromEnd int) change {
		return func(l [][]byte) [][]byte {
			i := len(l) - fromEnd
			r, err := Parse(bytes.TrimSuffix(l[i], []byte("\n")))
			if err != nil {
				t.Fatal(err)
			}
			r.User = "mallory"
			if l[i], _, err = r.line(); err != nil {
				t.Fatal(err)
			}
			return l
		}
	}
	inSecond := lines(read(t, source, second))
	end := first + uint64(len(inSecond))
	for _, tt := range []struct {
		name   string
		file   string
		change change
		line   int
		seq    uint64
		what   string
	}{
		{"edit", second, edit(2, "root", "toor"), 3, first + 2, "was changed"},
		{"edit of the hash", second, edit(2, `,"hash":"`, `,"hush":"`), 3, first + 2, "not a record"},
		{"edit with a new hash", second, forge(2), len(inSecond), end - 1, "does not follow"},
		{"edit of the last line of a file", second, forge(1), 0, end, "does not follow"},
		{"another beginning", files[0], edit(0, Genesis, strings.Repeat("1", 64)), 1, 1, "was changed"},
		{"deletion", second, remove(1, 2), 2, first + 2, "is missing"},
		{"deletion of two", second, remove(1, 3), 2, first + 3, "are missing"},
		{"deletion of the first in a file", second, remove(0, 1), 1, first + 1, "as its name says"},
		{"deletion of the first of all", files[0], remove(0, 1), 1, 2, "as its name says"},
		{"truncation in the middle", second, remove(2, len(inSecond)), 0, end, "are missing"},
		{"truncation within a line", second, func(l [][]byte) [][]byte {
			return [][]byte{l[0], l[1][:99]}
		}, 2, first + 1, "has no end"},
		{"insertion", second, insert(2, string(inSecond[0])), 3, first, "out of place"},
		{"insertion of text", second, insert(2, "hello\n"), 3, first + 2, "not a record"},
		{"insertion of an empty line", second, insert(2, "\n"), 3, first + 2, "not a record"},
		{"insertion of a long line", second, insert(2, strings.Repeat("x", 1<<20)+"\n"), 3, first + 2, "too long"},
		{"reorder", second, func(l [][]byte) [][]byte {
			l[1], l[2] = l[2], l[1]
			return l
		}, 2, first + 2, "is missing"},
		{"lines of another file", second, func([][]byte) [][]byte {
			return lines(read(t, source, files[2]))
		}, 1, 0, "as its name says"},
		{"no end", currentName, func(l [][]byte) [][]byte {
			return append(l, []byte(`{"seq":31`))
		}, 0, 31, "has no end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := copyOf(t, source)
			write(t, dir, tt.file, bytes.Join(tt.change(lines(read(t, dir, tt.file))), nil))
			r := verify(t, dir)
			if r.Found == 0 {
				t.Fatal("not found")
			}
			p := r.Problems[0]
			here := tt.line == 0 || p.File == tt.file && p.Line == tt.line // 0: in another file
			if !strings.Contains(p.What, tt.what) || !here || tt.seq != 0 && p.Seq != tt.seq {
				t.Errorf("found %v", p)
			}
		})
	}
	t.Run("a file removed", func(t *testing.T) {
		dir := copyOf(t, source)
		if err := os.Remove(filepath.Join(dir, second)); err != nil {
			t.Fatal(err)
		}
		r := verify(t, dir)
		want := Problem{files[2], 1, end, fmt.Sprintf("records %d to %d are missing before it", first, end-1)}
		if !slices.Equal(r.Problems, []Problem{want}) {
			t.Errorf("%+v, want %v", r.Problems, want)
		}
	})
	t.Run("a file renamed", func(t *testing.T) {
		dir := copyOf(t, source)
		if err := os.Rename(filepath.Join(dir, second), filepath.Join(dir, rotatedName(first+1))); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, dir); r.Found != 1 || !strings.Contains(r.Problems[0].What, "as its name says") {
			t.Errorf("%+v", r.Problems)
		}
	})
	if r := verify(t, source); r.Found != 0 || r.Records != 30 {
		t.Errorf("the source: %+v", r)
	}
}

// No byte of a log can be another one without notice.
func TestVerifyFindsEveryByte(t *testing.T) {
	dir := whole(t, 3, fileSize, keepFiles)
	data := read(t, dir, currentName)
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= 1
		write(t, dir, currentName, changed)
		if i == len(data)-1 {
			continue // a last line without an end is waited for: see TestVerifyFinds
		}
		if r := verify(t, dir); r.Found == 0 {
			t.Fatalf("byte %d, %q, was changed to %q", i, data[i], changed[i])
		}
	}
}

// What is cut off at the end shows against what the agent has written last.
func TestVerifyTo(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, 4<<10, 100)
	appendAll(t, l, 0, 20)
	seq, hash := l.Head()
	check := func(what string, head Head) {
		t.Helper()
		r, err := VerifyTo(t.Context(), dir, head)
		if err != nil {
			t.Fatal(err)
		}
		if what == "" && r.Found != 0 || what != "" && (r.Found != 1 || !strings.Contains(r.Problems[0].What, what)) {
			t.Errorf("%+v, want %q", r, what)
		}
	}
	check("", Head{seq, hash})
	check("", Head{})
	appendAll(t, l, 20, 30)
	check("", Head{seq, hash})
	check("not the one that the agent has written", Head{seq, Genesis})
	seq, hash = l.Head()
	data := lines(read(t, dir, currentName))
	write(t, dir, currentName, bytes.Join(data[:len(data)-1], nil))
	check("ends before record 30", Head{seq, hash})
	check("", Head{})
	if err := os.Remove(filepath.Join(dir, currentName)); err != nil {
		t.Fatal(err)
	}
	check("ends before record 30", Head{seq, hash})
}

func copyOf(t testing.TB, source string) string {
	t.Helper()
	dir := newDir(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t, source) {
		write(t, dir, name, read(t, source, name))
	}
	return dir
}

// The format is what the package comment says: two scripts in other languages come to the same result.
func TestOtherLanguages(t *testing.T) {
	const inPython = `
import glob, hashlib, json, sys
last = None
for name in sorted(glob.glob(sys.argv[1] + "/log.*")):
    for line in open(name, encoding="utf-8", newline="\n"):
        s = line[:-1]
        r = json.loads(s)
        want = hashlib.sha256((r["prev"] + s[:-75]).encode()).hexdigest()
        if s[-75:] != ',"hash":"' + want + '"}':
            sys.exit("record %d was changed" % r["seq"])
        if r["seq"] == 1 and r["prev"] != "0" * 64:
            sys.exit("no beginning")
        if last and (r["seq"], r["prev"]) != (last["seq"] + 1, last["hash"]):
            sys.exit("record %d does not follow" % r["seq"])
        last = r
print(last["seq"], last["hash"])
`
	const inShell = `
seq=0 hash=0000000000000000000000000000000000000000000000000000000000000000
for file in "$1"/log.*; do
	while IFS= read -r line; do
		body=${line%???????????????????????????????????????????????????????????????????????????}
		seq=$((seq + 1))
		hash=$(printf %s%s "$hash" "$body" | sha256sum)
		hash=${hash%% *}
		[ "$line" = "$body,\"hash\":\"$hash\"}" ] || { echo "record $seq"; exit 1; }
	done <"$file"
done
echo "$seq $hash"
`
	dir := newDir(t)
	l := openLog(t, dir, 4<<10, 100)
	appendAll(t, l, 0, 20)
	for _, s := range []string{"日本", "\u202e\xff", "a\\\"b\n"} {
		if err := l.Append(refused(s, 1)); err != nil {
			t.Fatal(err)
		}
	}
	seq, hash := l.Head()
	want := fmt.Sprintf("%d %s\n", seq, hash)
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), testenv.NeedProgram(t, args[0]), args[1:]...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.Output()
		return string(out), err
	}
	broken := copyOf(t, dir)
	write(t, broken, currentName, bytes.Replace(read(t, dir, currentName), []byte("a sentence"), []byte("A sentence"), 1))
	for _, args := range [][]string{{"python3", "-c", inPython}, {"sh", "-c", inShell, "sh"}} {
		t.Run(args[0], func(t *testing.T) {
			testenv.NeedProgram(t, "sha256sum")
			if out, err := run(append(args, dir)...); err != nil || out != want {
				t.Errorf("%q, %v; want %q", out, err, want)
			}
			if out, err := run(append(args, broken)...); err == nil {
				t.Errorf("a broken log passes: %q", out)
			}
		})
	}
}

// A day's worth of records: 200,000, which is one decision every 0.43 s from morning to morning. A person makes
// hundreds of logins a day, and a cluster tool that connects to 40 instances every 20 s makes 172,800. To have them
// all here more files are kept than usual.
func TestDay(t *testing.T) {
	const day = 200_000
	dir := newDir(t)
	l := openLog(t, dir, 4*fileSize, maxFiles)
	began := time.Now()
	appendAll(t, l, 0, day)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wrote := time.Since(began)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := watchHeap(t)
	began = time.Now()
	r := verify(t, dir)
	took, most := time.Since(began), peak()
	if r.Found != 0 || r.Records != day || r.First != 1 || r.Last != day {
		t.Fatalf("%+v", r)
	}
	grown := int64(most) - int64(before.HeapAlloc)
	t.Logf("%d records in %d files: written in %v, verified in %v with %d KiB", day, r.Files, wrote, took, grown>>10)
	if grown > 16<<20 {
		t.Errorf("verifying needs %d bytes", grown)
	}
}

// watchHeap returns a function that ends the watch and returns the largest heap seen.
func watchHeap(t *testing.T) (peak func() uint64) {
	ctx, stop := context.WithCancel(t.Context())
	var most uint64
	var watcher sync.WaitGroup
	look := func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
	}
	watcher.Go(func() {
		for pause(ctx, 20*time.Millisecond) == nil {
			look()
		}
	})
	return func() uint64 {
		stop()
		watcher.Wait()
		look()
		return most
	}
}

// Readers meet a whole log at every moment, while it is written, rotated, and its oldest files are removed.
func TestVerifyWhileWriting(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir, 16<<10, 4)
	if err := l.Append(login(0)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := l.Append(login(i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 50 {
		seq, hash := l.Head()
		r, err := VerifyTo(t.Context(), dir, Head{seq, hash})
		if err != nil {
			t.Fatal(err)
		}
		if r.Found != 0 {
			t.Fatalf("%+v, with record %d as head", r, seq)
		}
	}
	stop()
	writer.Wait()
}

// FuzzVerify: whatever stands in the files, verifying ends, and passes only what the definition of the format allows.
func FuzzVerify(f *testing.F) {
	dir := whole(f, 3, fileSize, keepFiles)
	good := read(f, dir, currentName)
	f.Add([]byte(nil), good)
	l := lines(good)
	f.Add(l[0], bytes.Join(l[1:], nil))
	f.Add(good, l[2])
	f.Add([]byte("{}\n"), []byte("\n\n"))
	f.Fuzz(func(t *testing.T, older, newer []byte) {
		if n := len(newer); n > 0 {
			newer[n-1] = '\n' // one without an end is waited for
		}
		dir := newDir(t)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if older != nil {
			write(t, dir, rotatedName(1), older)
		}
		write(t, dir, currentName, newer)
		r := verify(t, dir)
		if len(r.Problems) > maxProblems || r.Found < len(r.Problems) {
			t.Errorf("%+v", r)
		}
		all := records(t, dir)
		if r.Found == 0 {
			prev, seq := Genesis, uint64(0)
			for _, line := range lines(append(bytes.Clone(older), newer...)) {
				rec, err := Parse(bytes.TrimSuffix(line, []byte("\n")))
				if err != nil {
					return // a record by its chain, whose other members are of no use
				}
				if seq > 0 && (rec.Prev != prev || rec.Seq != seq+1) || rec.Seq == 1 && rec.Prev != Genesis ||
					sum(rec.Prev, line[:len(line)-1-tailSize]) != rec.Hash {
					t.Errorf("%+v passes after record %d %s", rec, seq, prev)
				}
				prev, seq = rec.Hash, rec.Seq
			}
			if len(all) != r.Records {
				t.Errorf("%d records are read, %d verified", len(all), r.Records)
			}
		}
		// The writer goes on behind it, and what it writes is sound.
		w, err := open(dir, fileSize, keepFiles)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if err := w.Append(login(1)); err != nil {
			t.Fatal(err)
		}
		after := verify(t, dir)
		if seq, hash := w.Head(); after.Last != seq || after.Head != hash {
			t.Errorf("%+v after %d %s", after, seq, hash)
		}
		if again := verify(t, dir); again.Found > r.Found+1 {
			t.Errorf("%d problems, and %d before", again.Found, r.Found)
		}
	})
}
