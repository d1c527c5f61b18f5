package chainlog

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Read calls use for every record of the log in dir, oldest first, until use returns an error. Lines that are no
// records are left out: telling about them is for Verify. A missing directory is an fs.ErrNotExist.
func Read(ctx context.Context, dir string, use func(Record) error) error {
	return Lines(ctx, dir, -1, func(line []byte) error {
		r, err := Parse(line)
		if err != nil {
			return nil
		}
		return use(r)
	})
}

// Lines calls use for the last n lines of the log in dir as they are, without their newlines, oldest first; for all
// lines if n is negative. A line is valid until use returns. A missing directory is an fs.ErrNotExist.
func Lines(ctx context.Context, dir string, n int, use func(line []byte) error) error {
	s, err := takeSnapshot(ctx, dir)
	if err != nil {
		return err
	}
	defer s.close()
	_, err = s.last(ctx, n, use)
	return err
}

// last is Lines of a snapshot. end is the offset of the end in the newest file.
func (s snapshot) last(ctx context.Context, n int, use func([]byte) error) (end int64, err error) {
	// The lines are counted from the newest file on, until there are enough, so that none has to be kept.
	ends := make([]int64, len(s))
	from, have := len(s), 0
	for from > 0 && (n < 0 || have < n || from == len(s)) {
		from--
		if ends[from], err = s[from].lines(ctx, 0, toEnd, func([]byte) error { have++; return nil }); err != nil {
			return 0, err
		}
	}
	if n < 0 {
		n = have
	}
	for i, f := range s[from:] {
		if _, err := f.lines(ctx, 0, ends[from+i], func(line []byte) error {
			if have--; have >= n {
				return nil
			}
			return use(line)
		}); err != nil {
			return 0, err
		}
	}
	if len(s) > 0 {
		end = ends[len(s)-1]
	}
	return end, nil
}

// lines calls use for the lines between two offsets, and returns the offset of the end of the last one.
func (f *logFile) lines(ctx context.Context, from, to int64, use func([]byte) error) (end int64, err error) {
	sc := newScanner(f, from, to)
	for {
		if sc.line%checkEvery == 0 && ctx.Err() != nil {
			return sc.offset, ctx.Err()
		}
		line, err := sc.next()
		switch err {
		case nil:
			if err := use(line); err != nil {
				return sc.offset, err
			}
		case errLong:
		case io.EOF, errTorn:
			return sc.offset, nil
		default:
			return sc.offset, err
		}
	}
}

// followPoll is how often Follow looks for more.
const followPoll = 200 * time.Millisecond

// Follow is Lines, and goes on with the lines to come until ctx ends, whose error it returns. The directory may be
// missing at first.
func Follow(ctx context.Context, dir string, n int, use func(line []byte) error) error {
	s, err := takeSnapshot(ctx, dir)
	for errors.Is(err, fs.ErrNotExist) {
		if err := pause(ctx, followPoll); err != nil {
			return err
		}
		n = -1 // all of a log that begins now is to come
		s, err = takeSnapshot(ctx, dir)
	}
	if err != nil {
		return err
	}
	t := tail{dir: dir, use: use}
	if t.offset, err = s.last(ctx, n, use); err != nil {
		s.close()
		return err
	}
	t.keepLast(s)
	defer func() { t.keepLast(nil) }()
	for {
		if err := t.more(ctx); err != nil {
			return err
		}
		if err := pause(ctx, followPoll); err != nil {
			return err
		}
	}
}

// tail is how far Follow has come: to offset of the file f.
type tail struct {
	dir    string
	use    func([]byte) error
	f      *logFile // nil if there was none
	offset int64
}

// keepLast closes the files of s but the last, which becomes f.
func (t *tail) keepLast(s snapshot) {
	if t.f != nil {
		t.f.Close()
		t.f = nil
	}
	if len(s) > 0 {
		t.f = s[len(s)-1]
		s[:len(s)-1].close()
	}
}

// more uses the lines that have come.
func (t *tail) more(ctx context.Context) error {
	// Whether f is still the newest file is seen first: nothing is written to it once it is not, so that its end is
	// then final.
	newest, err := os.Lstat(filepath.Join(t.dir, currentName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := t.rest(ctx); err != nil || newest == nil {
		return err
	}
	if t.f != nil {
		if same, err := t.f.is(newest); same || err != nil {
			return err
		}
	}
	s, err := takeSnapshot(ctx, t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// What comes behind f is new. If f has gone everything is: the oldest files go first.
	after := 0
	for i, f := range s {
		info, err := f.Stat()
		if err != nil {
			s.close()
			return err
		}
		if t.f == nil {
			break
		}
		if same, err := t.f.is(info); err != nil {
			s.close()
			return err
		} else if same {
			after = i + 1
		}
	}
	for _, f := range s[after:] {
		if t.offset, err = f.lines(ctx, 0, toEnd, t.use); err != nil {
			s.close()
			return err
		}
	}
	t.keepLast(s)
	return nil
}

// rest uses what is left of f.
func (t *tail) rest(ctx context.Context) (err error) {
	if t.f == nil {
		return nil
	}
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	t.offset = min(t.offset, info.Size()) // somebody may have shortened it
	t.offset, err = t.f.lines(ctx, t.offset, toEnd, t.use)
	return err
}

func (f *logFile) is(info fs.FileInfo) (bool, error) {
	own, err := f.Stat()
	return err == nil && os.SameFile(own, info), err
}
