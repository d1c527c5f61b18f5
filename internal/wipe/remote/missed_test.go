//go:build linux

package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

func TestWhichErrorsSayThatAFileIsGone(t *testing.T) {
	for errno, want := range map[unix.Errno]bool{
		unix.ENOENT: true, unix.ENOTDIR: true, unix.ELOOP: true, unix.EIO: false, unix.EMFILE: false, unix.ESTALE: false, unix.EACCES: false,
		unix.EXDEV: false, unix.ENAMETOOLONG: false,
	} {
		for _, err := range []error{errno, fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: "/x", Err: errno})} {
			if got := isGone(err); got != want {
				t.Errorf("%v: %v", err, got)
			}
		}
	}
	dir := t.TempDir()
	circle := filepath.Join(dir, "circle")
	if err := os.Symlink("circle", circle); err != nil {
		t.Fatal(err)
	}
	if _, err := filepath.EvalSymlinks(circle); err == nil || !isGone(err) {
		t.Errorf("a circle of links: %v", err)
	}
}

// blind is a far end whose rules it cannot look at: nobody has told it that something is mounted at /proc.
func blind(op protocol.Op, rules ...protocol.Rule) *far {
	return &far{
		req: protocol.Request{Op: op, Rules: rules}, notes: &notes{}, mounts: mounts{"/": {path: "/", class: layer}},
		owner: make(map[string]int), entered: make(map[string]bool),
	}
}

func TestWhatCannotBeLookedAtIsTold(t *testing.T) {
	none := visitor{file: func(t target) { t.dir.release() }}
	for op, want := range map[protocol.Op]int{protocol.OpPlan: 1, protocol.OpRun: 1, protocol.OpFinish: 0} {
		f := blind(op, protocol.Rule{Group: 2})
		if err := f.walkRoot(t.Context(), root{path: "/proc/self"}, none); err != nil || len(f.notes.items) != want {
			t.Errorf("%s: %v, %+v", op, err, f.notes.items)
		}
		for _, it := range f.notes.items {
			if it.Code != protocol.Failed || it.Group != 2 || it.Path != "/proc/self" {
				t.Errorf("%s: %+v", op, it)
			}
		}
		if err := f.walkRoot(t.Context(), root{path: "/nowhere/at/all"}, none); err != nil || len(f.notes.items) != want {
			t.Errorf("%s: what is not there is told: %v, %+v", op, err, f.notes.items)
		}
	}
}

func TestMatchesOfAPattern(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/.x/f", "a/y/f", "a/z", "a/*/f", "b/y/f"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700), os.WriteFile(filepath.Join(dir, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("a", filepath.Join(dir, "l")), unix.Mkfifo(filepath.Join(dir, "a/fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"a/*/f", "*/y/f", "l/*", `a/\*/f`, "a/[.y]*/f", "a/z/*", "none/*", "?/?/?", "a/" + strings.Repeat("n", 300), "*"} {
		want, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		f := blind(protocol.OpPlan)
		got := f.matches(protocol.Rule{Glob: filepath.Join(dir, pattern)})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || len(f.notes.items) > 0 {
			t.Errorf("%q: %q, want %q; %+v", pattern, got, want, f.notes.items)
		}
	}
}

// TestWhatIsKeptAndCannotBeLookedAt must not be taken for nothing.
func TestWhatIsKeptAndCannotBeLookedAt(t *testing.T) {
	f := blind(protocol.OpRun)
	f.keep = []string{"/nowhere", "/" + strings.Repeat("n/", 3000) + "n"}
	if kept, err := f.keptInodes(); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("%v, %v", kept, err)
	}
}

// TestADirectoryThatGoesWhileItIsRead is as one that was gone before.
func TestADirectoryThatGoesWhileItIsRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	f := blind(protocol.OpPlan, protocol.Rule{Group: 2})
	d, err := openDir(name, f.mounts)
	if err != nil {
		t.Fatal(err)
	}
	defer d.release()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := f.walkDir(t.Context(), 0, d, 0, visitor{}); err != nil || len(f.notes.items) > 0 {
		t.Errorf("%v, %+v", err, f.notes.items)
	}
}
