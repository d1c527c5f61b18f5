package chainlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The size that a file does not exceed, in bytes, and how many files are kept.
const (
	fileSize  = 1 << 20
	keepFiles = 16
)

// syncEvery is how long a record may be in the kernel alone.
const syncEvery = time.Second

// maxFull is how many full files may wait for the disk.
const maxFull = 8

// ErrInUse is returned where another process writes the log.
var ErrInUse = errors.New("another process writes the log")

var errClosed = errors.New("the log is closed")

// Log is a log that is open for writing. Its methods may be called from many goroutines.
type Log struct {
	dir      string
	fileSize int64
	keep     int

	mu     sync.Mutex // protects the following
	lock   *os.File
	file   *os.File    // the current file; nil if it has to be opened again
	info   os.FileInfo // which file that is
	size   int64       // of file, as it was left
	first  uint64      // seq of the first record in file, 0 if there is none
	head   Head
	damage []Problem
	notes  []Record // to be written before the next record
	flood  *flood

	dirty   bool       // file has records that may not be on the disk
	full    []*os.File // full files that may not be
	syncErr error      // of the last attempt, not told yet
	timer   *time.Timer
	ticks   sync.WaitGroup
	closed  bool
}

// Open opens the log in dir for writing and makes the directory if it is missing. Where another process has it open
// the error is ErrInUse. A file that was damaged since does not stop it: see Damage.
func Open(dir string) (*Log, error) { return open(dir, fileSize, keepFiles) }

func open(dir string, fileSize int64, keep int) (*Log, error) {
	l := &Log{dir: dir, fileSize: fileSize, keep: keep, head: Head{Hash: Genesis}, flood: newFlood(time.Now())}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.attach()
	if err == nil {
		err = l.writeNotes()
	}
	if err != nil {
		l.detach()
		return nil, fmt.Errorf("open the log of decisions: %w", err)
	}
	return l, nil
}

// Damage is what Open found wrong with the current file. The chain goes on from the last good record, with a record
// that says so. Older files are looked at by Verify only.
func (l *Log) Damage() []Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.damage
}

// Head returns the number and the hash of the last record, for comparison with what Verify finds. Without a record
// the number is 0.
func (l *Log) Head() (seq uint64, hash string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Seq, l.head.Hash
}

// Append writes r, or counts it, as the comment of the package allows for refusals. On an error r is not in the log, and
// what it tells of must not happen; a refusal is written once that is possible again. The next call tries anew: where
// there is space again, or a directory, the chain goes on.
func (l *Log) Append(r Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.append(r); err != nil {
		return fmt.Errorf("write the log of decisions: %w", err)
	}
	return nil
}

func (l *Log) append(r Record) error {
	now := time.Now()
	if r.At.IsZero() {
		r.At = now
	}
	if r.Verdict == "" {
		return errors.New("a record without a verdict")
	}
	r = r.fitted()
	if l.closed {
		return errClosed
	}
	if err := l.syncErr; err != nil {
		l.syncErr = nil
		return err
	}
	if l.flood.owing && l.flood.write(now, false, l.write) == nil {
		l.flood.owing = false
	}
	if !floods(r.Verdict) {
		return l.write(r)
	}
	if !l.flood.admit(r, now) {
		l.schedule()
		return nil
	}
	err := l.write(r)
	if err != nil {
		l.flood.owe(r, now)
		l.schedule()
	}
	return err
}

// write writes r to the current file. One that was removed or changed by something else is opened again, or made anew,
// so that what it tells is not lost too.
func (l *Log) write(r Record) error {
	if l.file != nil && !l.undisturbed() {
		l.file.Close()
		l.file = nil
	}
	if l.file == nil {
		if err := l.attach(); err != nil {
			return err
		}
	}
	if err := l.writeNotes(); err != nil {
		return err
	}
	return l.put(r)
}

func (l *Log) writeNotes() error {
	for len(l.notes) > 0 {
		if err := l.put(l.notes[0]); err != nil {
			return err
		}
		l.notes = l.notes[1:]
	}
	return nil
}

func (l *Log) note(reason, format string, args ...any) {
	r := Record{At: time.Now(), Verdict: Note, Reason: reason, Sentence: fmt.Sprintf(format, args...)}
	l.notes = append(l.notes, r.fitted())
}

// undisturbed tells whether the current file is where it was and as it was left.
func (l *Log) undisturbed() bool {
	info, err := os.Lstat(filepath.Join(l.dir, currentName))
	return err == nil && os.SameFile(info, l.info) && info.Size() == l.size
}

// put makes a line of r and writes it.
func (l *Log) put(r Record) error {
	r.Seq, r.Prev = l.head.Seq+1, l.head.Hash
	line, hash, err := r.line()
	if err != nil {
		return err
	}
	if l.first != 0 && l.size+int64(len(line)) > l.fileSize {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if n, err := l.file.Write(line); err != nil {
		// A part of a line must not stay. Where it does, it is set aside when the file is opened again.
		if n > 0 && l.file.Truncate(l.size) != nil {
			l.file.Close()
			l.file = nil
		}
		return err
	}
	l.size += int64(len(line))
	l.head = Head{r.Seq, hash}
	if l.first == 0 {
		l.first = r.Seq
	}
	l.dirty = true
	l.schedule()
	return nil
}

// rotate gives the current file its lasting name and begins a new one. Its content gets to the disk later.
func (l *Log) rotate() error {
	current, lasting := filepath.Join(l.dir, currentName), filepath.Join(l.dir, rotatedName(l.first))
	if _, err := os.Lstat(lasting); !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "rename to", Path: lasting, Err: fs.ErrExist}
	}
	if err := os.Rename(current, lasting); err != nil {
		return err
	}
	if len(l.full) == maxFull { // the disk is slower than the writer
		if err := syncFiles(l.dir, l.full, nil); err != nil {
			l.syncErr = err
		}
		l.full = nil
	}
	l.full = append(l.full, l.file)
	l.file = nil
	f, err := openFile(l.dir, currentName, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	if err := l.use(f, 0, 0); err != nil {
		return err
	}
	names, err := list(l.dir)
	if err != nil {
		return nil // the next rotation tries again
	}
	for _, name := range names[:max(0, len(names)-l.keep)] {
		os.Remove(filepath.Join(l.dir, name))
	}
	return nil
}

// use makes f the current file.
func (l *Log) use(f *os.File, size int64, first uint64) error {
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.info, l.size, l.first = f, info, size, first
	return nil
}

// schedule makes tick run in a while.
func (l *Log) schedule() {
	if l.timer == nil && !l.closed {
		l.ticks.Add(1)
		l.timer = time.AfterFunc(syncEvery, l.tick)
	}
}

// tick brings to the disk what is in the kernel, while others may append, and writes the counts that are due.
func (l *Log) tick() {
	defer l.ticks.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.flood.write(time.Now(), false, l.write) // an error leaves the counts where they are
	full, current := l.unsynced()
	l.mu.Unlock()
	err := syncFiles(l.dir, full, current)
	l.mu.Lock()
	if err != nil {
		l.syncErr = err
	}
	l.timer = nil
	if l.dirty || len(l.full) > 0 || l.flood.pending() {
		l.schedule()
	}
}

// unsynced hands over what is not on the disk. The full files are closed by whoever takes them.
func (l *Log) unsynced() (full []*os.File, current *os.File) {
	full, l.full = l.full, nil
	if l.dirty {
		current, l.dirty = l.file, false
	}
	return full, current
}

// syncFiles brings files to the disk, and closes those that are full.
func syncFiles(dir string, full []*os.File, current *os.File) error {
	var errs []error
	for _, f := range full {
		errs = append(errs, syncFile(f), f.Close())
	}
	if current != nil {
		errs = append(errs, syncFile(current))
	}
	if len(errs) == 0 {
		return nil
	}
	d, err := os.Open(dir)
	if err == nil {
		err = syncFile(d)
		d.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) { // which the next record meets
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func syncFile(f *os.File) error {
	err := f.Sync()
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP): // the file system has no such thing
	case errors.Is(err, fs.ErrClosed): // it is being opened again
	default:
		return err
	}
	return nil
}

// Close writes the counts, waits until everything is on the disk, and lets the log go.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.timer != nil && l.timer.Stop() {
		l.ticks.Done()
	}
	l.mu.Unlock()
	l.ticks.Wait()
	l.mu.Lock()
	err := l.flood.write(time.Now(), true, l.write)
	full, current := l.unsynced()
	err = errors.Join(err, l.syncErr, syncFiles(l.dir, full, current))
	l.detach()
	if err != nil {
		return fmt.Errorf("close the log of decisions: %w", err)
	}
	return nil
}

// detach closes what is open.
func (l *Log) detach() {
	for _, f := range append(l.full, l.file, l.lock) {
		if f != nil {
			f.Close()
		}
	}
	l.full, l.file, l.lock = nil, nil, nil
}
