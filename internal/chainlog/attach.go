package chainlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
)

// maxOpen bounds a file that is taken over, in bytes. This program makes none that are nearly as large.
const maxOpen = 64 << 20

// attach opens the current file for writing, sets aside what is behind its last good record, and finds out where the
// chain goes on. What people should know of it becomes a note.
func (l *Log) attach() error {
	if err := atomicfile.EnsureDir(l.dir); err != nil {
		return err
	}
	if err := l.takeLock(); err != nil {
		return err
	}
	f, err := openFile(l.dir, currentName, os.O_RDWR|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return err
	}
	found, err := l.mend(f)
	if err != nil {
		f.Close()
		return err
	}
	head := found.head
	if head.Seq == 0 {
		if head, err = l.lastRotated(); err != nil {
			f.Close()
			return err
		}
	}
	if err := l.use(f, found.end, found.first); err != nil {
		return err
	}
	if l.head.Seq == 0 {
		l.head, l.damage = head, found.problems
		if len(found.problems) > 0 {
			l.note("broken", "the log is broken at %s; it goes on from record %d", found.problems[0], head.Seq)
		}
	} else if l.head != head && !slices.ContainsFunc(l.notes, func(n Record) bool { return n.Reason == "lost" }) {
		l.note("lost", "the log was found to end with record %d, though record %d had been written", head.Seq, l.head.Seq)
	}
	return nil
}

// takeLock makes this process the only one to write in the directory. A lock on a file that is no longer there is
// none.
func (l *Log) takeLock() error {
	if l.lock != nil {
		own, err := l.lock.Stat()
		if err != nil {
			return err
		}
		if there, err := os.Lstat(filepath.Join(l.dir, lockName)); err == nil && os.SameFile(own, there) {
			return nil
		}
		l.lock.Close()
		l.lock = nil
	}
	f, err := openFile(l.dir, lockName, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrInUse
		}
		return &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	l.lock = f
	return nil
}

// survey is what a file holds.
type survey struct {
	first    uint64    // seq of the first good record, 0 without one
	head     Head      // the last good record
	end      int64     // offset behind it
	problems []Problem // in front of it
}

// look surveys a file. A record is good if its hash is right and it is newer than those before.
func look(f *os.File, name string) (survey, error) {
	info, err := f.Stat()
	if err != nil {
		return survey{}, err
	}
	if info.Size() > maxOpen {
		return survey{}, &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("larger than %d bytes", maxOpen)}
	}
	var s survey
	var c chain
	var problems []Problem
	for sc := newScanner(f, 0, info.Size()); ; {
		line, err := sc.next()
		if err == io.EOF || err == errTorn {
			return s, nil
		}
		if err != nil && err != errLong {
			return survey{}, err
		}
		p := Problem{File: name, Line: sc.line, Seq: c.head.Seq + 1, What: "the line is not a record"}
		record, bad := link{}, err
		if bad == nil {
			record, bad = parseLink(line)
		}
		if bad == nil {
			p.Seq, p.What = record.Seq, c.add(record)
		}
		if p.What != "" && len(problems) < maxProblems {
			problems = append(problems, p)
		}
		if record.whole && record.Seq > s.head.Seq {
			if s.first == 0 {
				s.first = record.Seq
			}
			s.head, s.end, s.problems = Head{record.Seq, record.hash}, sc.offset, problems
		}
	}
}

// mend moves what is behind the last good record of f to a file of its own.
func (l *Log) mend(f *os.File) (survey, error) {
	s, err := look(f, currentName)
	if err != nil {
		return s, err
	}
	info, err := f.Stat()
	if err != nil {
		return s, err
	}
	size := info.Size() - s.end
	if size == 0 {
		return s, nil
	}
	name := "torn." + time.Now().UTC().Format("20060102T150405.000000000Z")
	aside, err := openFile(l.dir, name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return s, err
	}
	_, err = io.Copy(aside, io.NewSectionReader(f, s.end, size))
	if err == nil {
		err = syncFile(aside)
	}
	if err = errors.Join(err, aside.Close()); err != nil {
		return s, errors.Join(err, os.Remove(aside.Name()))
	}
	if err := f.Truncate(s.end); err != nil {
		return s, err
	}
	l.note("torn", "%d bytes behind record %d that are no whole record were moved to %s", size, s.head.Seq, name)
	return s, nil
}

// lastRotated is the last good record of the full files.
func (l *Log) lastRotated() (Head, error) {
	names, err := list(l.dir)
	if err != nil {
		return Head{}, err
	}
	for i := len(names) - 1; i >= 0; i-- {
		if names[i] == currentName {
			continue
		}
		f, err := openFile(l.dir, names[i], os.O_RDONLY)
		if err != nil {
			return Head{}, err
		}
		s, err := look(f, names[i])
		f.Close()
		if err != nil || s.head.Seq > 0 {
			return s.head, err
		}
	}
	return Head{Hash: Genesis}, nil
}
