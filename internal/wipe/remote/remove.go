//go:build linux

package remote

import (
	"crypto/rand"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// renames is how many neutral names are tried.
const renames = 8

// removeName takes a name out of a directory. Before, it is renamed to one of the same length that says nothing, so that the
// place where the name stood in the directory is written over.
func removeName(d *dir, name string, flags int) error {
	for range renames {
		neutral := strings.ToLower(rand.Text() + rand.Text())
		for len(neutral) < len(name) {
			neutral += strings.ToLower(rand.Text())
		}
		neutral = neutral[:len(name)]
		err := unix.Renameat2(d.fd, name, d.fd, neutral, unix.RENAME_NOREPLACE)
		switch {
		case err == nil:
			d.dirty.Store(true)
			if err := unix.Unlinkat(d.fd, neutral, flags); err != nil {
				// It keeps its name rather than one that nobody knows.
				_ = unix.Renameat2(d.fd, neutral, d.fd, name, unix.RENAME_NOREPLACE)
				return err
			}
			return nil
		case errors.Is(err, unix.EEXIST):
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTSUP):
			// The file system has no such renames, or, as an overlay does for a directory of the image, refuses this one.
		default:
			return err
		}
		break
	}
	d.dirty.Store(true)
	return unix.Unlinkat(d.fd, name, flags)
}

// removeDir takes an open directory out of the one that it is in.
func removeDir(d *dir) error {
	err := removeName(d.up, d.name, unix.AT_REMOVEDIR)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	switch was, now := mutable(d.up, d.name); {
	case !was:
		return err
	case !now:
		return errImmutable
	}
	return removeName(d.up, d.name, unix.AT_REMOVEDIR)
}

// guards are FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h.
const guards = 0x10 | 0x20

// mutable takes the attributes that protect a file from changes off it, and reports whether there were any and they are
// gone. See ioctl_iflags(2).
func mutable(d *dir, name string) (was, now bool) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, false
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&guards == 0 {
		return false, false
	}
	return true, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^guards) == nil
}
