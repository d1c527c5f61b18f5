package job

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Links among the results that lead to results are made, whatever they are called and however they say it.
func TestLinks(t *testing.T) {
	const odd = "odd\nname\n"
	for _, programs := range []string{gnu, busybox} {
		w := newWorld(t, programs)
		r, _ := w.run(Config{Command: []string{"sh", "-c", `mkdir -p out/blobs out/snap/abc "out/$0" && cd out && echo weights >blobs/1 &&
			ln -s ../../blobs/1 snap/abc/model && ln -s snap/abc latest && ln -s ./latest//model best && ln -s . self &&
			ln -s "../$0/../blobs/1" "$0/%s \\ 'it" && ln -s "$0" "to $0" && ln -s "$HOME/out/blobs" abs`, odd}})
		_, _, err := all(bound(t), r)
		check(t, err)
		dst := t.TempDir()
		for _, get := range []string{"out", w.home + "/out/"} { // the second finds all but one there
			r, _ = w.run(Config{ID: r.ID(), Gets: []Transfer{{dst, get}}})
			rep, err := r.Fetch(bound(t))
			check(t, err)
			made := 6
			if filepath.IsAbs(get) {
				made = 7
			}
			if rep.Files != 1 || rep.Links != made || len(rep.Missing()) != 7-made {
				t.Errorf("%s: %s: %+v", programs, get, rep)
			}
		}
		for name, want := range map[string]string{
			"snap/abc/model": "../../blobs/1", "latest": "snap/abc", "best": "blobs/1", "self": ".", "abs": "blobs",
			odd + `/%s \ 'it`: "../blobs/1", "to " + odd: odd,
		} {
			if text, err := os.Readlink(filepath.Join(dst, name)); err != nil || text != want {
				t.Errorf("%s: %q leads to %q, %v", programs, name, text, err)
			}
		}
	}
}

// Where nobody can read a link, it is not made, and missing.
func TestLinksWithoutReadlink(t *testing.T) {
	w := newWorld(t, programsWith(t, nil, "readlink"))
	write(t, filepath.Join(w.home, "out/f"), "x")
	check(t, os.Symlink("f", filepath.Join(w.home, "out/l")))
	r, _ := w.run(Config{Gets: []Transfer{{t.TempDir(), "out"}}, Command: []string{"true"}})
	_, rep, err := all(bound(t), r)
	if err != nil || rep.Links != 0 || len(rep.Missing()) != 1 || rep.Skipped[0].Reason != "a symbolic link" {
		t.Errorf("%+v, %v", rep, err)
	}
}

// What a link leads to comes by a Get of the link, into its place, and is not missing any more.
func TestGetOfALink(t *testing.T) {
	w, id := done(t, `mkdir -p out ckpt/dir && echo 1 >ckpt/1 && echo 2 >ckpt/dir/2 && cd out && ln -s ../ckpt/1 best && ln -s ../ckpt/dir d`)
	dst := t.TempDir()
	gets := []Transfer{{dst, "out"}}
	r, _ := w.run(Config{ID: id, Gets: gets})
	rep, err := r.Fetch(bound(t))
	check(t, err)
	if len(rep.Empty) != 1 || len(rep.Missing()) != 3 {
		t.Errorf("%+v", rep)
	}
	for _, s := range rep.Skipped {
		gets = append(gets, Transfer{s.Local, s.Path})
	}
	gets[0].Remote = "ckpt" // a Get without a file is missing, whatever else there is
	gets = append(gets, Transfer{dst, "./out/"})
	for range 2 {
		r, _ = w.run(Config{ID: id, Gets: gets})
		rep, err = r.Fetch(bound(t))
		if err != nil || len(rep.Skipped) != 0 || rep.Files != 4 || len(rep.Empty) != 1 {
			t.Errorf("%+v, %v", rep, err)
		}
		if a, b := read(t, filepath.Join(dst, "best")), read(t, filepath.Join(dst, "d/2")); a != "1\n" || b != "2\n" {
			t.Errorf("%q, %q", a, b)
		}
	}
}

// A local file is not replaced by a link, nor the other way, unless the user says so; and a directory never.
func TestLinksAndWhatIsThere(t *testing.T) {
	w, id := done(t, "mkdir out && echo x >out/f && ln -s f out/l")
	for _, tt := range []struct {
		make           func(place string) error
		fails, refused bool // without and with Overwrite
	}{
		{func(p string) error { return os.WriteFile(p, []byte("x\n"), 0o600) }, true, false},
		{func(p string) error { return os.Symlink("/etc/passwd", p) }, true, false},
		{func(p string) error { return os.Symlink("f", p) }, false, false},
		{func(p string) error { return os.Mkdir(p, 0o700) }, true, true},
	} {
		for _, overwrite := range []bool{false, true} {
			dst := t.TempDir()
			check(t, tt.make(filepath.Join(dst, "l")))
			r, _ := w.run(Config{ID: id, Gets: []Transfer{{dst, "out"}}, Overwrite: overwrite})
			_, err := r.Fetch(bound(t))
			fails := tt.fails && !overwrite || tt.refused && overwrite
			if fails != errors.As(err, new(*ConflictError)) || !fails && err != nil {
				t.Errorf("overwrite %v: %v", overwrite, err)
			}
			text, _ := os.Readlink(filepath.Join(dst, "l"))
			if _, err := os.Stat(filepath.Join(dst, "f")); (err == nil) == fails || (text == "f") == fails {
				t.Errorf("overwrite %v: %v, and the link says %q", overwrite, err, text)
			}
		}
	}
	// Two links of one name and different texts do not become one.
	w, id = done(t, "mkdir a b && echo x >a/f && echo y >b/g && ln -s f a/l && ln -s g b/l")
	r, _ := w.run(Config{ID: id, Gets: []Transfer{{t.TempDir(), "a"}}, Overwrite: true})
	r.cfg.Gets = append(r.cfg.Gets, Transfer{r.cfg.Gets[0].Local, "b"})
	if _, err := r.Fetch(bound(t)); !errors.As(err, new(*ClashError)) {
		t.Errorf("two links: %v", err)
	}
}

// No file goes through a link that an earlier download has made, though that stays inside of the directory.
func TestNothingGoesThroughALink(t *testing.T) {
	w, id := done(t, "mkdir -p out/r out/x/y && echo x >out/r/f && ln -s ../../r out/x/y/a")
	dst := t.TempDir()
	r, _ := w.run(Config{ID: id, Gets: []Transfer{{dst, "out"}}, Overwrite: true})
	_, err := r.Fetch(bound(t))
	check(t, err)
	before := tree(t, dst)
	link := filepath.Join(w.home, "out/x/y/a")
	check(t, os.Remove(link))
	write(t, filepath.Join(link, "g"), "y")
	check(t, os.Symlink("../../../r/f", filepath.Join(link, "up")))
	if _, err := r.Fetch(bound(t)); !errors.As(err, new(*ConflictError)) {
		t.Errorf("got %v", err)
	}
	if after := tree(t, dst); len(after) != len(before) {
		t.Errorf("%q, was %q", after, before)
	}
}

// place makes entries of a text: names that end in a slash are directories, and those with an arrow links.
func place(text string) []entry {
	var entries []entry
	for _, word := range strings.Fields(text) {
		name, target, link := strings.Cut(word, "->")
		e := entry{name: strings.TrimSuffix(name, "/"), target: target, leads: "f"}
		switch {
		case link:
			e.kind = fs.ModeSymlink
		case e.name != name:
			e.kind = fs.ModeDir
		}
		entries = append(entries, e)
	}
	return entries
}

func TestResolve(t *testing.T) {
	const rest = " a/ a/b/ a/b/f up->a/b chain->up/f loop->pool pool->loop a/b/back->../../up/f out->.. .vast-ssh-part-1"
	for target, want := range map[string]string{
		"a/b/f": "a/b/f", "a": "a", "./a//b/": "a/b", "a/../a/b/f": "a/b/f", ".": ".", "up": "a/b", "up/f": "a/b/f", "chain": "a/b/f",
		"up/../b/f": "a/b/f", "a/b/back": "a/b/f", "/top/a": "a", "/top": ".", "/top/up/f": "a/b/f",
		"": "", "..": "", "../top/a": "", "a/../../x": "", "a/f": "", "a/b/f/x": "", "a/b/f/..": "", "loop": "", "me": "", "out/a": "",
		"/": "", "/topmost/a": "", "/etc/passwd": "", "top/a": "", "chain/..": "", ".vast-ssh-part-1": "",
	} {
		entries := place("me->" + target + rest)
		got, ok := newListing("/top/", entries).link(entries[0])
		if ok != (want != "") || got.text != want {
			t.Errorf("%q gave %+v, %v, want %q", target, got, ok, want)
		}
	}
	deep := place("a/ a/b/ a/b/me->../../f f")
	if got, ok := newListing("x", deep).link(deep[2]); !ok || got != (localLink{"a/b/me", "../../f"}) {
		t.Errorf("%+v, %v", got, ok)
	}
}

// Whatever the texts of links are, those that are made stay below the directory they are made in.
func FuzzResolve(f *testing.F) {
	f.Add("../a/b", "a")
	f.Add("/top/../..", "me/..")
	f.Add("b//c/../../..", "../x/d")
	f.Fuzz(func(t *testing.T, one, two string) {
		entries := place("a/ a/b/ a/b/f x/ x/one-> x/two-> f")
		entries[4].target, entries[5].target = one, two
		all := newListing("/top", entries)
		for _, e := range entries[4:6] {
			l, ok := all.link(e)
			if ok && (filepath.IsAbs(l.text) || l.text != ".." && !filepath.IsLocal(filepath.Join("x", l.text))) {
				t.Errorf("%q and %q gave %+v", one, two, l)
			}
		}
	})
}
