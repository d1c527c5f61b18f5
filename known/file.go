package known

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
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
)

// FileError reports a file of pins that cannot be read, trusted or understood. No connection can be judged with
// it, and this package does not write to it until a person has put it right.
type FileError struct {
	Path   string
	Line   int // from 1, or 0 when no line is to blame
	Reason string
	Err    error // what the system said, or nil

	fix string
}

func (e *FileError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("pins in %q, line %d: %s", e.Path, e.Line, e.Reason)
	}
	return fmt.Sprintf("pins in %q: %s", e.Path, e.Reason)
}

func (e *FileError) Unwrap() error { return e.Err }

// Hint returns the command that mends the file, or advice.
func (e *FileError) Hint() string {
	var dir *atomicfile.DirError
	switch {
	case e.fix != "":
		return e.fix
	case errors.As(e.Err, &dir) && dir.Fix != "":
		return dir.Fix
	case e.Line > 0:
		return "correct that line or delete it; a machine without a pin is met as a new one"
	}
	return "nothing connects until the file can be read; bring back an older copy or move it away"
}

// File is a file of pins. Its methods may be called concurrently, and other processes may use the same file.
type File struct {
	path  string
	cache atomic.Pointer[snapshot]
	// settle is how old a file must be before its parsed form is kept, see load.
	settle time.Duration
}

// Open returns the pins at path. It touches nothing: a file or directory that does not exist holds no pins, and
// the first write makes both.
func Open(path string) *File { return &File{path: path, settle: 2 * time.Second} }

// Pins returns all pins in the order of the file.
func (f *File) Pins() ([]Pin, error) {
	t, err := f.load()
	if err != nil {
		return nil, err
	}
	pins := make([]Pin, len(t.entries))
	for i, e := range t.entries {
		pins[i] = e.Pin
	}
	return pins, nil
}

// Of returns the pins of one instance, none if it is unknown.
func (f *File) Of(id uint64) ([]Pin, error) {
	t, err := f.load()
	if err != nil {
		return nil, err
	}
	return t.pinsOf(id), nil
}

// Check returns nil if key is pinned for instance id. Otherwise its error is an *UnknownError when the instance has
// no pins, a *MismatchError when it has others, or a *FileError.
//
// While the file does not change, a call costs one lstat.
func (f *File) Check(id uint64, key ssh.PublicKey) error {
	t, err := f.load()
	if err != nil {
		return err
	}
	blob := key.Marshal()
	for _, i := range t.of[id] {
		if bytes.Equal(t.entries[i].blob, blob) {
			return nil
		}
	}
	if want := t.pinsOf(id); len(want) > 0 {
		return &MismatchError{Instance: id, Got: key, Want: want}
	}
	return &UnknownError{Instance: id, Key: key}
}

func (t *table) pinsOf(id uint64) []Pin {
	var pins []Pin
	for _, i := range t.of[id] {
		pins = append(pins, t.entries[i].Pin)
	}
	return pins
}

// identity tells one state of a file from another.
type identity struct {
	dev, ino   uint64
	size       int64
	mtim, ctim unix.Timespec
}

type snapshot struct {
	identity
	*table
}

// load returns the content of the file, from memory if the file is the one that was read last.
//
// That it is the same is concluded from lstat: every write, chmod or rename over the file gives another inode or
// another ctime, which no user can set back. Two changes within one tick of the file system's clock could share
// both (a write in place, or a new file on a freed inode), so a file whose ctime is not older than settle when it
// is read is read again next time. After that, any change has a later ctime: only a clock set back to the very
// nanosecond could hide one. The state is taken before the content, so content that changed in between belongs to
// a state that will not be met again.
func (f *File) load() (*table, error) {
	var st unix.Stat_t
	now := time.Now()
	err := unix.Lstat(f.path, &st)
	for errors.Is(err, unix.EINTR) {
		err = unix.Lstat(f.path, &st)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &table{}, nil
	}
	if err != nil {
		return nil, f.unreadable(err)
	}
	id := identity{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
	if s := f.cache.Load(); s != nil && s.identity == id {
		return s.table, nil
	}
	t, err := f.read(&st)
	if err == nil && now.Sub(time.Unix(st.Ctim.Unix())) > f.settle {
		f.cache.Store(&snapshot{id, t})
	}
	return t, err
}

// read reads and parses the file, of which st is the state.
func (f *File) read(st *unix.Stat_t) (*table, error) {
	// With a directory that nobody else may write to, the file that st describes is not swapped before it is read
	// but by ourselves.
	if err := atomicfile.CheckDir(filepath.Dir(f.path)); err != nil {
		return nil, f.unreadable(err)
	}
	if err := f.checkOwned(st); err != nil {
		return nil, err
	}
	data, err := atomicfile.Read(f.path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &table{}, nil
	}
	if err != nil {
		return nil, f.unreadable(err)
	}
	t, err := parse(data)
	var bad *lineError
	if errors.As(err, &bad) {
		return nil, &FileError{Path: f.path, Line: bad.line, Reason: bad.reason}
	}
	return t, err
}

// checkOwned makes sure that only this user can have written the file.
func (f *File) checkOwned(st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return &FileError{Path: f.path, Reason: "not a regular file"}
	case int(st.Uid) != os.Geteuid():
		return &FileError{Path: f.path, Reason: "the file belongs to another user"}
	case st.Mode&0o022 != 0:
		quoted := "'" + strings.ReplaceAll(f.path, "'", `'\''`) + "'"
		return &FileError{Path: f.path, Reason: fmt.Sprintf("other users can write to it (mode %04o)", st.Mode&0o777),
			fix: "chmod 600 " + quoted}
	}
	return nil
}

func (f *File) unreadable(err error) error {
	return &FileError{Path: f.path, Reason: err.Error(), Err: err}
}

// Introduce makes the first contact with an instance. If the instance has pins it returns them. Otherwise it calls
// meet, which finds the keys of the machine over the network, adds them to the file and returns them.
//
// Of all processes that introduce one instance at a time, one calls meet; the others wait until ctx ends and
// return what it found, or try themselves if it failed. Should other pins have been added by other means while meet
// ran, they stand: a key of meet that is not among them is a *MismatchError. meet must return 1 to 8 pins of
// instance id with keys that are Pinnable; its own error is returned as it is.
func (f *File) Introduce(ctx context.Context, id uint64, meet func(context.Context) ([]Pin, error)) ([]Pin, error) {
	if pins, err := f.Of(id); err != nil || len(pins) > 0 {
		return pins, err
	}
	waiting, cancel := context.WithTimeout(ctx, introduceTimeout)
	defer cancel()
	unlock, err := f.lock(waiting, Name(id))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if pins, err := f.Of(id); err != nil || len(pins) > 0 {
		return pins, err
	}
	met, err := meet(ctx)
	if err != nil {
		return nil, err
	}
	if met, err = validate(id, met); err != nil {
		return nil, err
	}
	err = f.change(ctx, func(t *table) ([]byte, error) {
		present := t.pinsOf(id)
		if len(present) == 0 {
			return t.with(id, met), nil
		}
		for _, p := range met {
			if !holds(present, p.Key) {
				return nil, &MismatchError{Instance: id, Got: p.Key, Want: present}
			}
		}
		met = present
		return t.data, nil
	})
	if err != nil {
		return nil, err
	}
	return met, nil
}

// Replace gives instance id exactly these pins, 1 to 8, whatever it had. It is for a person who has decided so.
func (f *File) Replace(ctx context.Context, id uint64, pins []Pin) error {
	pins, err := validate(id, pins)
	if err != nil {
		return err
	}
	return f.change(ctx, func(t *table) ([]byte, error) { return t.with(id, pins), nil })
}

// Remove deletes the pins of an instance that is gone, and returns them.
func (f *File) Remove(ctx context.Context, id uint64) ([]Pin, error) {
	if pins, err := f.Of(id); err != nil || len(pins) == 0 {
		return nil, err
	}
	var removed []Pin
	err := f.change(ctx, func(t *table) ([]byte, error) {
		removed = t.pinsOf(id)
		return t.with(id, nil), nil
	})
	if err != nil {
		return nil, err
	}
	return removed, nil
}

// changeTimeout bounds the wait for another process that changes the file, which is a matter of milliseconds, and
// introduceTimeout for one that is meeting the same instance, where a person may have to answer.
const (
	changeTimeout    = 10 * time.Second
	introduceTimeout = 2 * time.Minute
)

// change replaces the file by what edit makes of it, under the lock of the file. It writes nothing if edit fails or
// returns the content unchanged.
func (f *File) change(ctx context.Context, edit func(*table) ([]byte, error)) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	unlock, err := f.lock(ctx, filepath.Base(f.path))
	if err != nil {
		return err
	}
	defer unlock()
	t, err := f.load()
	if err != nil {
		return err
	}
	data, err := edit(t)
	if err != nil || bytes.Equal(data, t.data) {
		return err
	}
	if len(data) > maxFile {
		return fmt.Errorf("pins in %q: the file would be over %d bytes", f.path, maxFile)
	}
	return atomicfile.Write(f.path, data)
}

// lock takes the lock file .<name>.lock beside the pins. Instances have locks of their own, since meeting one takes
// a network's time and must not hold up the others.
func (f *File) lock(ctx context.Context, name string) (unlock func(), err error) {
	dir := filepath.Dir(f.path)
	if err := atomicfile.EnsureDir(dir); err != nil {
		return nil, f.unreadable(err)
	}
	return atomicfile.Lock(ctx, filepath.Join(dir, "."+name+".lock"))
}

// with returns the content with pins in place of those of instance id, where the first of these was or at the end,
// and with every other byte as it is.
func (t *table) with(id uint64, pins []Pin) []byte {
	at := len(t.data)
	if old := t.of[id]; len(old) > 0 {
		at = t.entries[old[0]].start
	}
	out := slices.Clone(t.data[:at])
	for _, p := range pins {
		out = append(out, p.line()...)
	}
	next := at
	for _, i := range t.of[id] {
		out = append(out, t.data[next:t.entries[i].start]...)
		next = t.entries[i].end
	}
	return append(out, t.data[next:]...)
}
