package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// done is a world in which a run has ended, so that there is something to fetch.
func done(t *testing.T, command string) (*world, string) {
	t.Helper()
	w := newWorld(t, gnu)
	r, o := w.run(Config{Command: []string{command}})
	status, _, err := all(bound(t), r)
	if err != nil || status != 0 {
		t.Fatalf("status %d, %v, %q", status, err, &o.err)
	}
	return w, r.ID()
}

// What is there already is left alone: what is the same is counted, what differs is an error, and nothing is half done.
func TestExisting(t *testing.T) {
	w, id := done(t, "mkdir -p out/d && echo one >out/one && echo two >out/d/two && echo six >out/six")
	dst := t.TempDir()
	write(t, filepath.Join(dst, "one"), "one\n")
	write(t, filepath.Join(dst, "d/two"), "OLD\n") // of the same length
	write(t, filepath.Join(dst, "six"), "other length")
	gets := []Transfer{{dst, "out"}}
	r, _ := w.run(Config{ID: id, Gets: gets})
	_, err := r.Fetch(bound(t))
	var conflict *ConflictError
	if !errors.As(err, &conflict) || len(conflict.Paths) != 2 {
		t.Fatalf("got %v", err)
	}
	if a, b := read(t, filepath.Join(dst, "d/two")), read(t, filepath.Join(dst, "six")); a != "OLD\n" || b != "other length" {
		t.Errorf("files were changed: %q, %q", a, b)
	}
	r, _ = w.run(Config{ID: id, Gets: gets, Overwrite: true})
	rep, err := r.Fetch(bound(t))
	check(t, err)
	if rep.Files != 3 || rep.Identical != 1 || rep.Bytes != 12 {
		t.Errorf("%+v", rep)
	}
	sameTree(t, dst, filepath.Join(w.home, "out"))
	rep, err = r.Fetch(bound(t))
	if err != nil || rep.Identical != 3 {
		t.Errorf("again: %+v, %v", rep, err)
	}
	// A directory is not replaced by a file, whatever the user says.
	check(t, os.Remove(filepath.Join(dst, "six")))
	write(t, filepath.Join(dst, "six/inside"), "x")
	if _, err := r.Fetch(bound(t)); !errors.As(err, &conflict) {
		t.Errorf("a directory in the place of a file: %v", err)
	}
}

// Two remote files with the name of one local file are not made one, whatever the user says about overwriting.
func TestTwoIntoOne(t *testing.T) {
	w, id := done(t, "mkdir a b && echo a >a/f && echo b >b/f")
	dst := t.TempDir()
	r, _ := w.run(Config{ID: id, Gets: []Transfer{{dst, "a"}, {dst, "b"}}, Overwrite: true})
	var clash *ClashError
	if _, err := r.Fetch(bound(t)); !errors.As(err, &clash) || clash.First != "./a/f" || clash.Second != "./b/f" || clash.Hint() == "" {
		t.Errorf("got %v", err)
	}
	if got := read(t, filepath.Join(dst, "f")); got != "a\n" {
		t.Errorf("the file is %q", got)
	}
}

func TestMissing(t *testing.T) {
	w, id := done(t, "true")
	var missing *MissingError
	r, _ := w.run(Config{ID: id, Gets: []Transfer{{t.TempDir(), "nothing/here"}}})
	if _, err := r.Fetch(bound(t)); !errors.As(err, &missing) || missing.Path != "nothing/here" {
		t.Errorf("got %v", err)
	}
	r, _ = w.run(Config{ID: id, Gets: []Transfer{{t.TempDir(), "/dev/null"}}})
	if _, err := r.Fetch(bound(t)); !errors.As(err, new(*RemoteError)) {
		t.Errorf("a device: %v", err)
	}
}

// Special files and links that lead out are told of and not made; modes come without setuid, and what nobody may read can
// still be fetched by root.
func TestSkipped(t *testing.T) {
	w, id := done(t, `mkdir out && cd out && ln -s /etc/passwd link && ln -s none nowhere && mkfifo fifo && ln -s fifo tofifo && echo x >f &&
		chmod 6755 f && echo y >.vast-ssh-part-0 && mkdir sub && echo z >sub/g && chmod 600 sub/g`)
	dst := t.TempDir()
	r, _ := w.run(Config{ID: id, Gets: []Transfer{{dst, "out"}}})
	rep, err := r.Fetch(bound(t))
	check(t, err)
	var skipped []string
	for _, s := range rep.Skipped {
		skipped = append(skipped, s.Path+": "+s.Reason)
	}
	want := `out/.vast-ssh-part-0: an unfinished transfer, out/fifo: a FIFO, ` +
		`out/link: a symbolic link to "/etc/passwd", which is not among the results, ` +
		`out/nowhere: a symbolic link to "none", where nothing is, out/tofifo: a symbolic link to "fifo", where nothing is`
	if got := strings.Join(skipped, ", "); got != want || rep.Files != 2 || rep.Links != 0 {
		t.Errorf("%s\n%+v", got, rep)
	}
	if missing := rep.Missing(); len(missing) != 4 || missing[1].Local != dst {
		t.Errorf("missing: %+v", missing)
	}
	got := tree(t, dst)
	if len(got) != 3 || got["f"] != (0o755&^os.FileMode(umask)).String()+" x\n" || got["sub/g"] != (0o600&^os.FileMode(umask)).String()+" z\n" {
		t.Errorf("%q", got)
	}
}

// A local link does not lead a file out of the directory that it is meant for.
func TestLocalLink(t *testing.T) {
	w, id := done(t, "mkdir -p out/d && echo x >out/d/f")
	dst, outside := t.TempDir(), t.TempDir()
	check(t, os.Symlink(outside, filepath.Join(dst, "d")))
	r, _ := w.run(Config{ID: id, Gets: []Transfer{{dst, "out"}}, Overwrite: true})
	if _, err := r.Fetch(bound(t)); err == nil {
		t.Error("fetched through a link")
	}
	if got := tree(t, outside); len(got) != 0 {
		t.Errorf("outside: %q", got)
	}
}

// A file that changes within a second of its last change, and keeps its size, is fetched again.
func TestChangingWithinASecond(t *testing.T) {
	for _, programs := range []string{gnu, busybox} {
		w := newWorld(t, programs)
		file := filepath.Join(w.home, "out/f")
		at := time.Now().Add(-time.Hour).Truncate(time.Second)
		set := func(content string, after time.Duration) {
			write(t, file, content)
			check(t, os.Chtimes(file, at, at.Add(after)))
		}
		set("begin\n", 0)
		dst, once := t.TempDir(), true
		r, _ := w.run(Config{Gets: []Transfer{{dst, "out"}}, Progress: func(ev Event) {
			if ev.Step == Verify && once {
				once = false
				set("other\n", time.Millisecond)
			}
		}})
		_, err := r.Fetch(bound(t))
		check(t, err)
		if got := read(t, filepath.Join(dst, "f")); got != "other\n" {
			t.Errorf("%s: the file is %q", programs, got)
		}
	}
}

// Files that change all the time are an error, and those that change once are fetched again.
func TestChanging(t *testing.T) {
	w, id := done(t, "mkdir out && echo begin >out/log")
	times := 0
	r, _ := w.run(Config{ID: id, Gets: []Transfer{{t.TempDir(), "out"}}, Progress: func(ev Event) {
		if ev.Step == Verify {
			times++
			write(t, filepath.Join(w.home, "out/log"), strings.Repeat("more\n", times))
		}
	}})
	if _, err := r.Fetch(bound(t)); !errors.Is(err, ErrChanged) {
		t.Errorf("got %v", err)
	}

	w, id = done(t, "mkdir out && echo 1 >out/a && echo 2 >out/b")
	dst := t.TempDir()
	changed := false
	r, _ = w.run(Config{ID: id, Gets: []Transfer{{dst, "out"}}, Progress: func(ev Event) {
		if ev.Step == Verify && !changed {
			changed = true
			write(t, filepath.Join(w.home, "out/a"), "changed")
			write(t, filepath.Join(w.home, "out/new"), "too")
		}
	}})
	rep, err := r.Fetch(bound(t))
	check(t, err)
	if rep.Files != 3 {
		t.Errorf("%+v", rep)
	}
	sameTree(t, dst, filepath.Join(w.home, "out"))
}

// A part that an earlier process has left is gone on with, and one with other bytes is made anew.
func TestPartsGoOn(t *testing.T) {
	w, id := done(t, "mkdir out && head -c 300000 /dev/urandom >out/f")
	content := read(t, filepath.Join(w.home, "out/f"))
	for _, tt := range []struct {
		part string
		want int // bytes that are downloaded
	}{
		{content[:200_000], 300_000 - 3*blockSize},
		{strings.Repeat("x", 200_000), 2*300_000 - 3*blockSize},
		{content + "more", 300_000 - 4*blockSize},
		{"", 300_000},
	} {
		dst := t.TempDir()
		write(t, filepath.Join(dst, partName(id, "f")), tt.part)
		before := w.relay.carried()
		r, _ := w.run(Config{ID: id, Gets: []Transfer{{dst, "out"}}})
		_, err := r.Fetch(bound(t))
		check(t, err)
		sameTree(t, dst, filepath.Join(w.home, "out"))
		// The logins and scripts are some 40 KiB.
		if got := w.relay.carried() - before; got < tt.want || got > tt.want+60_000 {
			t.Errorf("%d bytes went over the line, want little more than %d", got, tt.want)
		}
	}
}

// Sources are refused before anything is sent.
func TestSources(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		make       func(dir string) error
	}{
		{"a link that leads out", "leads nowhere or out of it", func(d string) error { return os.Symlink("/etc/passwd", d+"/l") }},
		{"a link to beside it", "leads nowhere or out of it", func(d string) error { return os.Symlink("../beside", d+"/l") }},
		{"a link to nothing", "leads nowhere or out of it", func(d string) error { return os.Symlink("none", d+"/l") }},
		{"a loop", "a directory that it is in", func(d string) error { return os.Symlink(".", d+"/l") }},
		{"a FIFO", "neither a file nor a directory", func(d string) error { return syscall.Mkfifo(d+"/f", 0o600) }},
	} {
		top := t.TempDir()
		write(t, filepath.Join(top, "beside"), "x")
		dir := filepath.Join(top, "src")
		write(t, filepath.Join(dir, "fine"), "x")
		check(t, tt.make(dir))
		r, err := New(Config{ID: NewID(), Puts: []Transfer{{dir, "in"}}, Command: []string{"true"}})
		check(t, err)
		if err := r.Prepare(bound(t)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	r, err := New(Config{ID: NewID(), Puts: []Transfer{{"/does/not/exist", "in"}}, Command: []string{"true"}})
	check(t, err)
	if err := r.Prepare(bound(t)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing source: %v", err)
	}
	a, b := t.TempDir(), t.TempDir()
	write(t, filepath.Join(a, "f"), "a")
	write(t, filepath.Join(b, "f"), "b")
	r, err = New(Config{ID: NewID(), Puts: []Transfer{{a, "in"}, {b, "~/in/"}}, Command: []string{"true"}})
	check(t, err)
	if err := r.Prepare(bound(t)); !errors.As(err, new(*SourceError)) {
		t.Errorf("two sources of one file: %v", err)
	}
}

// Links that stay inside are followed, and what stands in the way on the instance is told.
func TestPutLinksAndObstacles(t *testing.T) {
	w := newWorld(t, gnu)
	src := t.TempDir()
	write(t, filepath.Join(src, "d/f"), "x")
	check(t, os.Symlink("d", filepath.Join(src, "e")))
	check(t, os.Symlink("d/f", filepath.Join(src, "g")))
	link := filepath.Join(t.TempDir(), "link")
	check(t, os.Symlink(src, link))
	r, _ := w.run(Config{Puts: []Transfer{{link, "in"}}, Command: []string{"true"}})
	check(t, r.Prepare(bound(t)))
	for _, name := range []string{"d/f", "e/f", "g"} {
		if got := read(t, filepath.Join(w.home, "in", name)); got != "x" {
			t.Errorf("%s is %q", name, got)
		}
	}
	for i, obstacle := range []string{"dir/d/f/x", "file"} {
		write(t, filepath.Join(w.home, obstacle), "in the way")
		r, _ := w.run(Config{Puts: []Transfer{{src, []string{"dir", "file"}[i]}}, Command: []string{"true"}})
		if err := r.Prepare(bound(t)); err == nil {
			t.Errorf("uploaded in spite of %s", obstacle)
		}
		if _, err := os.Stat(filepath.Join(w.home, ".vast-ssh-run", r.ID(), "started")); err == nil {
			t.Error("the command was started")
		}
	}
}

func TestSpecs(t *testing.T) {
	for _, tt := range []struct {
		spec          string
		put           bool
		local, remote string // empty if it is wrong
	}{
		{"a:b", true, "a", "b"},
		{"a:b:c", true, "a:b", "c"},
		{".:/workspace", true, ".", "/workspace"},
		{"a", true, "", ""},
		{":b", true, "", ""},
		{"a:", true, "", ""},
		{"", true, "", ""},
		{"a\x00:b", true, "", ""},
		{"b:a", false, "a", "b"},
		{"c:a:b", false, "a:b", "c"},
		{"/workspace/out:.", false, ".", "/workspace/out"},
		{"b:", false, "", ""},
		{":a", false, "", ""},
		{"a", false, "", ""},
	} {
		parse := ParseGet
		if tt.put {
			parse = ParsePut
		}
		got, err := parse(tt.spec)
		if tt.local == "" {
			if !errors.As(err, new(*SpecError)) {
				t.Errorf("%q: %+v, %v", tt.spec, got, err)
			}
		} else if want := (Transfer{tt.local, tt.remote}); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", tt.spec, got, err, want)
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "a/b": true, "...": true, "-": true, "a\nb": true, "\xff": true, "..a/b..": true,
		"": false, ".": false, "..": false, "../a": false, "a/../b": false, "/a": false, "a//b": false, "a/": false, "./a": false,
		"a/.": false, "a\x00b": false, strings.Repeat("a", 256): false, strings.Repeat("a/", 3000) + "a": false,
	} {
		if err := checkName(name); (err == nil) != ok {
			t.Errorf("%.40q: %v", name, err)
		}
	}
}

func TestListings(t *testing.T) {
	const f, d = "81a4 5 1700000000\n", "41ed 4096 1700000000\n"
	for _, tt := range []struct {
		name, text string
		want       string // the names, or what the error says
		ok         bool
	}{
		{"nothing below", "dir\n1\n" + d + ".\x000\n", "", true},
		{"two batches", "dir\n2\n" + d + f + ".\x00./b\x001\n" + f + "./a\nb\x000\n", "a\nb,b", true},
		{"a file", "file\n" + f, "base", true},
		{"absent", "absent\n", "no file", false},
		{"nothing", "", "unexpected EOF", false},
		{"cut in a name", "dir\n1\n" + f + "./a", "unexpected EOF", false},
		{"cut in a batch", "dir\n2\n" + f, "unexpected EOF", false},
		{"without an end", "dir\n1\n" + f + "./a\x00", "unexpected EOF", false},
		{"gone meanwhile", "dir\n!\n", "change", false},
		{"up", "dir\n1\n" + f + "./../a\x000\n", "leads elsewhere", false},
		{"absolute", "dir\n1\n" + f + "/etc/passwd\x000\n", "leads elsewhere", false},
		{"twice", "dir\n2\n" + f + f + "./a\x00./a\x000\n", "twice", false},
		{"a long name", "dir\n1\n" + f + strings.Repeat("a", 5000) + "\x000\n", "too long", false},
		{"too many", "dir\n99999999\n", "more than", false},
		{"a negative count", "dir\n-1\n", "number", false},
		{"a negative size", "dir\n1\n81a4 -5 0\n./a\x000\n", "number", false},
		{"a huge size", "dir\n1\n81a4 99999999999999999999 0\n./a\x000\n", "number", false},
		{"no mode", "dir\n1\nrw 5 0\n./a\x000\n", "mode", false},
		{"a long line", "dir\n" + strings.Repeat("1", 1000) + "\n", "more than 256 bytes", false},
		{"another word", "hello\n", "hello", false},
		{"below a link", "dir\n2\na1ff 5 1\n" + f + "./a\x00./a/b\x000\n", "change", false},
		{"below nothing", "dir\n1\n" + f + "./a/b\x000\n", "change", false},
		{"a device for a file", "file\n21a4 5 0\n", "none", false},
	} {
		entries, _, err := readListing(newLines("list", strings.NewReader(tt.text)), "some/base")
		var names []string
		for _, e := range entries {
			names = append(names, e.name)
		}
		switch {
		case tt.ok && (err != nil || strings.Join(names, ",") != tt.want):
			t.Errorf("%s: %q, %v", tt.name, names, err)
		case !tt.ok && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %q, %v", tt.name, names, err)
		}
	}
}

// Whatever an instance says, the names that come out of a listing stay below the directory that they are meant for.
func FuzzListing(f *testing.F) {
	f.Add("dir\n2\n41ed 4096 1\n81a4 5 1\n.\x00./a\x000\n")
	f.Add("file\n81a4 5 1700000000\n")
	f.Add("dir\n1\na1ff 5 1\n./../x\x000\n")
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		entries, dir, err := readListing(newLines("list", strings.NewReader(text)), "x/y")
		if err != nil {
			return
		}
		if !dir && len(entries) != 1 {
			t.Fatalf("a file with %d entries", len(entries))
		}
		for i, e := range entries {
			path := filepath.Join(root, e.name)
			if !strings.HasPrefix(path, root+"/") || path != root+"/"+e.name {
				t.Errorf("%q leads to %q", e.name, path)
			}
			if e.perm&^0o777 != 0 || e.size < 0 {
				t.Errorf("%+v", e)
			}
			if i > 0 && entries[i-1].name >= e.name {
				t.Errorf("%q after %q", e.name, entries[i-1].name)
			}
		}
	})
}

// Whatever frames an instance sends, what is written never goes back and never leaps.
func FuzzFollow(f *testing.F) {
	f.Add("out 0 3\nabcerr 0 2\nxyout 0 5\nabcdestatus 0\n")
	f.Add("alive\nlost\n")
	f.Add("out 4096 1\na")
	f.Add("out 0 1\nashort out\n")
	f.Fuzz(func(t *testing.T, text string) {
		var out, errs strings.Builder
		r, err := New(Config{ID: NewID(), Stdout: &out, Stderr: &errs})
		check(t, err)
		status, err := r.follow(newLines("follow", strings.NewReader(text)))
		if err == nil && (status < 0 || status > 255) {
			t.Errorf("status %d", status)
		}
		written := [2]int64{int64(out.Len()), int64(errs.Len())}
		if r.out != written && !r.short || r.out[0] > written[0] || r.out[1] > written[1] || out.Len()+errs.Len() > len(text) {
			t.Errorf("offsets %v for %d and %d bytes", r.out, out.Len(), errs.Len())
		}
	})
}

func TestFrames(t *testing.T) {
	for _, tt := range []struct {
		text, out string
		status    int
		wrong     string
	}{
		{"out 0 3\nabcout 0 5\nabcdeerr 0 1\nxstatus 7\n", "abcde", 7, ""},
		{"out 1 3\nabc", "", 0, "when 0 was due"},
		{"out 0 5\nabcdeout 0 4\nabcd", "abcde", 0, "when 5 was due"},
		{"out 0 5\nabc", "abc", 0, "EOF"},
		{"status 256\n", "", 0, "256"},
		{"status x\n", "", 0, "number"},
		{"out 0 99999999999999999999\n", "", 0, "number"},
		{"out 0 5\nabcdeshort out\nout 0 2\nxyout 0 3\nxyzstatus 0\n", "abcdexyz", 0, ""},
		{"out 0 5\nabcdeshort err\nout 0 6\nabcdefstatus 0\n", "abcdef", 0, ""},
		{"lost\n", "", 0, "left no status"},
		{"absent\n", "", 0, "no run"},
	} {
		var out strings.Builder
		r, err := New(Config{ID: NewID(), Stdout: &out})
		check(t, err)
		status, err := r.follow(newLines("follow", strings.NewReader(tt.text)))
		if out.String() != tt.out || status != tt.status && tt.wrong == "" {
			t.Errorf("%q gave %q and status %d", tt.text, &out, status)
		}
		if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%q: %v", tt.text, err)
		}
	}
}

func TestCommandText(t *testing.T) {
	for _, tt := range []struct {
		words []string
		want  string
	}{
		{[]string{"echo $HOME; ls"}, "echo $HOME; ls\n"},
		{[]string{"echo", "$HOME", "it's", ""}, `'echo' '$HOME' 'it'\''s' ''` + "\n"},
	} {
		if got := commandText(tt.words); got != tt.want {
			t.Errorf("%q became %q", tt.words, got)
		}
	}
	if got := fmt.Sprint(remotePath("~"), " ", remotePath("~/a"), " ", remotePath("/a"), " ", remotePath("-a")); got != ". ./a /a ./-a" {
		t.Error(got)
	}
}

// An upload goes on where its part ends, and is made anew if the part is something else.
func TestUploadGoesOn(t *testing.T) {
	content := noise(1, 300_000)
	for _, programs := range []string{gnu, busybox} {
		w := newWorld(t, programs)
		src := t.TempDir()
		write(t, filepath.Join(src, "f"), content)
		for i, tt := range []struct {
			part string
			want int // bytes that are uploaded
		}{
			{content[:200_000], 300_000 - 3*blockSize},
			{strings.Repeat("x", 200_000), 2*300_000 - 3*blockSize},
			{content, 300_000 - 4*blockSize},
			{"", 300_000},
		} {
			in := fmt.Sprint("in", i)
			r, _ := w.run(Config{Puts: []Transfer{{src, in}}, Command: []string{"true"}})
			write(t, filepath.Join(w.home, in, partName(r.ID(), "f")), tt.part)
			before := w.relay.carried()
			check(t, r.Prepare(bound(t)))
			if got := w.relay.carried() - before; got < tt.want || got > tt.want+60_000 {
				t.Errorf("%s: %d bytes went over the line, want little more than %d", programs, got, tt.want)
			}
			sameTree(t, filepath.Join(w.home, in), src)
		}
	}
}
