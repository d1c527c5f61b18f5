//go:build linux

package remote

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// id is a file, whatever its names.
type id struct{ dev, ino uint64 }

func idOf(st *unix.Stat_t) id { return id{uint64(st.Dev), st.Ino} }

// dir is an open directory. Everything in it is reached through it by one name, so that nobody can lead a path elsewhere
// between a look and a deed. It is closed when the last of its users has released it.
type dir struct {
	fd     int
	path   string
	up     *dir   // nil for the root of a walk
	name   string // in up
	refs   atomic.Int32
	dirty  atomic.Bool // a name was removed
	remove bool        // the directory itself goes when it is empty
	group  int         // that of the rule which says so
	// closing is called at the end, with the directory still open.
	closing func(*dir)
}

const openDirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openIn opens the directory name in the directory fd. Unless crosses is set it fails with EXDEV where something is mounted at
// it, if the kernel can tell; see openat2(2).
func openIn(fd int, name string, crosses bool) (int, error) {
	if !crosses {
		how := unix.OpenHow{Flags: openDirFlags, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS}
		got, err := unix.Openat2(fd, name, &how)
		// An old kernel has no such call, and an old container runtime forbids what it does not know.
		if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return got, err
		}
	}
	return unix.Openat(fd, name, openDirFlags, 0)
}

// openDir opens a directory by a path in which no component may be a link, and a mount point only if it is one of known.
func openDir(name string, known mounts) (*dir, error) {
	fd, err := unix.Open("/", openDirFlags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "/", Err: err}
	}
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" {
			continue
		}
		at = path.Join(at, part)
		_, crosses := known[at]
		next, err := openIn(fd, part, crosses)
		unix.Close(fd)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		fd = next
	}
	d := &dir{fd: fd, path: name}
	d.refs.Store(1)
	return d, nil
}

// enter opens the directory name in d, which it keeps open. crosses says that name is a mount point that may be entered.
func (d *dir) enter(name string, crosses bool) (*dir, error) {
	fd, err := openIn(d.fd, name, crosses)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.at(name), Err: err}
	}
	d.hold()
	c := &dir{fd: fd, path: d.at(name), up: d, name: name, closing: d.closing}
	c.refs.Store(1)
	return c, nil
}

// at is the path of a name in d.
func (d *dir) at(name string) string { return path.Join(d.path, name) }

func (d *dir) hold() { d.refs.Add(1) }

// release ends one use. The last one makes durable that names were removed.
func (d *dir) release() {
	for d != nil && d.refs.Add(-1) == 0 {
		if d.dirty.Load() {
			// Not every file system syncs directories. The names are gone all the same.
			_ = unix.Fsync(d.fd)
		}
		if d.closing != nil {
			d.closing(d)
		}
		unix.Close(d.fd)
		d = d.up
	}
}

// stat looks at a name without following it.
func (d *dir) stat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// maxChunk is how many names of a directory are read at a time.
const maxChunk = 1024

// list calls fn for every name in d.
func (d *dir) list(fn func(name string) error) error {
	fd, err := unix.Openat(d.fd, ".", openDirFlags, 0) // an offset of its own
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	return eachName(f, fn)
}

// eachName calls fn for every name in a directory, which may have millions, and is not read whole first.
func eachName(f *os.File, fn func(name string) error) error {
	for {
		chunk, err := f.Readdirnames(maxChunk)
		for _, name := range chunk {
			if err := fn(name); err != nil {
				return err
			}
		}
		if len(chunk) == 0 || err != nil {
			if err != nil && !isEOF(err) {
				return err
			}
			return nil
		}
	}
}

// empty reports whether there is no name in d.
func (d *dir) empty() bool {
	some := errors.New("some")
	return d.list(func(string) error { return some }) == nil
}

// walkPath calls fn for name and everything below it, without following links, and for what of it cannot be looked at with the error.
// It ends with the first error of fn.
func walkPath(name string, fn func(at string, st *unix.Stat_t, err error) error) error {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return fn(name, nil, err)
	}
	if err := fn(name, &st, nil); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	f, err := os.OpenFile(name, openDirFlags|unix.O_NONBLOCK, 0)
	if err != nil {
		return fn(name, &st, err)
	}
	defer f.Close()
	var stop error
	err = eachName(f, func(child string) error {
		stop = walkPath(path.Join(name, child), fn)
		return stop
	})
	if err != nil && stop == nil {
		return fn(name, &st, err)
	}
	return err
}
