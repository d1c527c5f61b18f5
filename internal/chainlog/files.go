package chainlog

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
)

const (
	currentName = "log.jsonl"
	lockName    = "lock"
)

// rotatedName is the name of a full file whose first line has seq first.
func rotatedName(first uint64) string { return fmt.Sprintf("log.%012d.jsonl", first) }

// rotatedFirst is the reverse of rotatedName.
func rotatedFirst(name string) (first uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, "log.")
	if !ok {
		return 0, false
	}
	digits, ok = strings.CutSuffix(digits, ".jsonl")
	if !ok {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0 && rotatedName(first) == name
}

// openFile opens a file of the directory that has to be a regular one of ours, and no link to elsewhere.
func openFile(dir, name string, flags int) (*os.File, error) {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600) // a FIFO would block
	if errors.Is(err, unix.ELOOP) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("is a symbolic link")}
	}
	if err != nil {
		return nil, err
	}
	if err := checkFile(f); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return errors.New("belongs to another user")
	}
	return nil
}

// maxFiles bounds the files that are read. The writer keeps far fewer.
const maxFiles = 128

// list returns the names of the log's files, oldest first.
func list(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	type file struct {
		name  string
		first uint64
	}
	var rotated []file
	current := false
	for {
		entries, err := d.ReadDir(maxFiles)
		for _, e := range entries {
			if first, ok := rotatedFirst(e.Name()); ok {
				rotated = append(rotated, file{e.Name(), first})
			}
			current = current || e.Name() == currentName
		}
		if len(rotated) > maxFiles {
			return nil, fmt.Errorf("%q holds more than %d files of the log", dir, maxFiles)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(rotated, func(a, b file) int { return cmp.Compare(a.first, b.first) })
	var names []string
	for _, f := range rotated {
		names = append(names, f.name)
	}
	if current {
		names = append(names, currentName)
	}
	return names, nil
}

// snapshot is the files of one moment, oldest first and open.
type snapshot []*logFile

type logFile struct {
	*os.File
	name string
}

func (s snapshot) close() {
	for _, f := range s {
		f.Close()
	}
}

// maxTries bounds how often a reader begins again because the writer has renamed a file.
const maxTries = 100

var errRestless = errors.New("the files of the log change faster than they can be opened")

// takeSnapshot opens all files of dir. A missing directory is an fs.ErrNotExist.
func takeSnapshot(ctx context.Context, dir string) (snapshot, error) {
	for range maxTries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := atomicfile.CheckDir(dir); err != nil {
			return nil, err
		}
		s, err := openAll(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errRestless) {
			return s, err
		}
	}
	return nil, errRestless
}

func openAll(dir string) (snapshot, error) {
	names, err := list(dir)
	if err != nil {
		return nil, err
	}
	var s snapshot
	for _, name := range names {
		f, err := openFile(dir, name, os.O_RDONLY)
		if err != nil {
			s.close()
			return nil, err
		}
		s = append(s, &logFile{f, name})
	}
	// Every rotation makes a new name, so equal names mean that nothing was renamed in between.
	again, err := list(dir)
	if err == nil && !slices.Equal(names, again) {
		err = errRestless
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// scanner reads the lines of a file, up to the offset to.
type scanner struct {
	f      io.ReaderAt
	to     int64
	r      *bufio.Reader
	offset int64 // of the next line
	line   int   // lines so far
}

// What is wrong with a line that cannot be read.
var (
	errLong = errors.New("the line is too long") // the next call goes on behind it
	errTorn = errors.New("the line has no end")  // and is the last one; the offset stays in front of it
)

const toEnd = math.MaxInt64

func newScanner(f io.ReaderAt, from, to int64) *scanner {
	s := &scanner{f: f, to: to, offset: from}
	s.again()
	return s
}

// again makes next read on from offset, behind what was the end of the file.
func (s *scanner) again() {
	section := io.NewSectionReader(s.f, s.offset, s.to-s.offset)
	if s.r == nil {
		s.r = bufio.NewReaderSize(section, 8*MaxLine)
	} else {
		s.r.Reset(section)
	}
}

// next returns the next line without its newline, valid until the next call. At the end of the file the error is
// io.EOF.
func (s *scanner) next() ([]byte, error) {
	line, err := s.r.ReadSlice('\n')
	size := len(line)
	for err == bufio.ErrBufferFull {
		var more []byte
		more, err = s.r.ReadSlice('\n')
		size += len(more)
	}
	switch {
	case err == io.EOF && size == 0:
		return nil, io.EOF
	case err == io.EOF:
		return nil, errTorn
	case err != nil:
		return nil, err
	}
	s.offset += int64(size)
	s.line++
	if size > MaxLine {
		return nil, errLong
	}
	return line[:size-1], nil
}
