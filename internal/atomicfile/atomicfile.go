// Package atomicfile reads and replaces small files of ours whole, so that a reader, a concurrent writer and a
// crash meet either the old content or the new one, never a part.
package atomicfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// ErrTooLarge is returned by Read for a file over the limit.
var ErrTooLarge = errors.New("file is too large")

// DirError reports a directory that cannot be trusted to hold our files.
type DirError struct {
	Path   string
	Reason string
	// Fix is the shell command that mends it, or empty.
	Fix string
}

func (e *DirError) Error() string { return fmt.Sprintf("directory %q %s", e.Path, e.Reason) }

// Hint returns the command that mends it.
func (e *DirError) Hint() string { return e.Fix }

// EnsureDir makes dir and its missing parents with mode 0700, and checks that dir is a directory, no symbolic
// link, owned by this user and closed to everybody else.
func EnsureDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return CheckDir(dir)
}

// CheckDir makes the check of EnsureDir and creates nothing. Its error is a *DirError or an *fs.PathError.
func CheckDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return &DirError{Path: dir, Reason: "is a symbolic link"}
	case !info.IsDir():
		return &DirError{Path: dir, Reason: "is not a directory"}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return &DirError{Path: dir, Reason: "belongs to another user"}
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return &DirError{Path: dir, Reason: fmt.Sprintf("is open to other users (mode %04o)", perm),
			Fix: fmt.Sprintf("chmod 700 '%s'", dir)}
	}
	return nil
}

// Write replaces the file at path with data, mode 0600: a temporary file in the same directory, fsync, rename,
// fsync of the directory. It refuses to replace anything but a regular file. When it fails the old file is whole.
func Write(path string, data []byte) error {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return &fs.PathError{Op: "replace", Path: path, Err: errors.New("not a regular file")}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	pending, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer pending.Cleanup()
	if _, err := pending.Write(data); err != nil {
		return err
	}
	if err := pending.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems cannot sync a directory and say EINVAL; the rename has happened all the same.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// Read returns the content of the regular file at path. A file over limit bytes is an ErrTooLarge error, and a
// file that is not regular (a FIFO would block, a device would not end) is an error without being read.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrTooLarge}
	}
	return data, nil
}

// lockPoll is how often a waiter looks at a lock that another process holds.
const lockPoll = 10 * time.Millisecond

// Lock takes the exclusive lock file at path, creating it with mode 0600, and waits for other processes and
// goroutines until ctx ends. The kernel frees the lock of a process that dies. The file is never removed: a lock
// on a removed file guards nothing.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	l := flock.New(path, flock.SetPermissions(0o600))
	ok, err := l.TryLockContext(ctx, lockPoll)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	if !ok {
		l.Close()
		return nil, fmt.Errorf("lock %q: not free", path)
	}
	return func() { l.Close() }, nil
}
