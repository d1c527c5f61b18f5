package job

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what an instance may list.
const (
	maxEntries   = 500_000
	maxListing   = 256 << 20 // bytes of names
	maxPath      = 4 << 10   // bytes
	maxComponent = 255       // bytes
	maxBatch     = 100_000   // entries of one find -exec
)

// entry is a file, a directory or something else below the source of a download.
type entry struct {
	name string // slashes between, relative, without "." and ".."
	kind fs.FileMode
	perm fs.FileMode
	size int64
	time string // of the last changes, as the instance writes it, to be compared
	// Of a symbolic link: its text, which is empty if it is not known, and "f", "d" or "-" for what it leads to.
	target, leads string
}

// ErrChanged is wrapped by the error for files that change while they are moved.
var ErrChanged = errors.New("files change while they are moved")

// MissingError says that there is nothing at a remote path.
type MissingError struct{ Path string }

func (e *MissingError) Error() string { return fmt.Sprintf("the instance has no file %q", e.Path) }

// NameError says that an instance lists a name that no file gets here.
type NameError struct{ Name, Reason string }

func (e *NameError) Error() string {
	return fmt.Sprintf("the instance lists the name %.200q, which %s", e.Name, e.Reason)
}

// list returns what there is at a remote path, and whether it is a directory.
func (r *Run) list(ctx context.Context, remote string) (entries []entry, dir bool, err error) {
	err = r.call(ctx, func() call {
		return call{script: "list", args: []string{encode(remotePath(remote))}, read: func(l *lines) error {
			entries, dir, err = readListing(l, remote)
			return err
		}}
	})
	if err == nil {
		err = r.readLinks(ctx, remote, entries)
	}
	return entries, dir, err
}

// readListing reads what the script list says of a remote path. The entries come sorted.
func readListing(l *lines, remote string) (entries []entry, dir bool, err error) {
	kind, err := l.next()
	if err != nil {
		return nil, false, err
	}
	switch kind {
	case "absent":
		return nil, false, &MissingError{remote}
	case "file":
		e, err := readStat(l)
		if err != nil {
			return nil, false, err
		}
		e.name = path.Base(remote)
		if e.kind != 0 {
			return nil, false, l.wrong("a file that is none")
		}
		return []entry{e}, false, checkName(e.name)
	case "dir":
		entries, err = readBatches(l)
		return entries, true, err
	}
	return nil, false, l.wrong("%.100q", kind)
}

func readBatches(l *lines) ([]entry, error) {
	var all []entry
	seen := make(map[string]bool)
	bytes := 0
	for {
		line, err := l.next()
		if err != nil {
			return nil, err
		}
		if line == "!" {
			return nil, fmt.Errorf("%w: one was gone before it was looked at", ErrChanged)
		}
		count, err := l.number(line)
		if err != nil {
			return nil, err
		}
		if count == 0 {
			break
		}
		if count > maxBatch || len(all)+int(count) > maxEntries {
			return nil, l.wrong("more than %d files", maxEntries)
		}
		var batch []entry
		for range count {
			e, err := readStat(l)
			if err != nil {
				return nil, err
			}
			batch = append(batch, e)
		}
		for i := range batch {
			name, err := readName(l)
			if err != nil {
				return nil, err
			}
			if bytes += len(name); bytes > maxListing {
				return nil, l.wrong("more than %d bytes of names", maxListing)
			}
			if name == "." {
				continue // where the listing begins
			}
			batch[i].name = strings.TrimPrefix(name, "./")
			if err := checkName(batch[i].name); err != nil {
				return nil, err
			}
			if seen[batch[i].name] {
				return nil, &NameError{batch[i].name, "is there twice"}
			}
			seen[batch[i].name] = true
			all = append(all, batch[i])
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all, checkParents(all)
}

// checkParents makes sure that whatever is listed is in a directory that is listed. It may have become something else meanwhile.
func checkParents(entries []entry) error {
	dirs := map[string]bool{".": true}
	for _, e := range entries { // a directory sorts before what is in it
		if !dirs[path.Dir(e.name)] {
			return fmt.Errorf("%w: %.200q is in no directory", ErrChanged, e.name)
		}
		if e.kind == fs.ModeDir {
			dirs[e.name] = true
		}
	}
	return nil
}

// readName reads a name up to its NUL.
func readName(l *lines) (string, error) {
	var name []byte
	for {
		b, err := l.r.ReadByte()
		switch {
		case err == io.EOF:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case b == 0:
			return string(name), nil
		case len(name) > maxPath+2:
			return "", &NameError{string(name), "is too long"}
		}
		name = append(name, b)
	}
}

// readStat reads a line of stat -c "%f %s %y %z": the mode in hexadecimal, the size, and the times of the last changes of the
// content and of all else. They are finer than a second, in which a file may change and keep its size.
func readStat(l *lines) (entry, error) {
	line, err := l.next()
	if err != nil {
		return entry{}, err
	}
	words := strings.SplitN(line, " ", 3)
	if len(words) != 3 {
		return entry{}, l.wrong("%.100q", line)
	}
	mode, err := strconv.ParseUint(words[0], 16, 32)
	if err != nil {
		return entry{}, l.wrong("%.40q for a mode", words[0])
	}
	e := entry{kind: fs.ModeIrregular, perm: fs.FileMode(mode) & fs.ModePerm, time: words[2]}
	switch mode & 0o170000 { // S_IFMT, as Linux has it everywhere
	case 0o100000:
		e.kind = 0
	case 0o040000:
		e.kind = fs.ModeDir
	case 0o120000:
		e.kind = fs.ModeSymlink
	case 0o010000:
		e.kind = fs.ModeNamedPipe
	case 0o140000:
		e.kind = fs.ModeSocket
	case 0o020000, 0o060000:
		e.kind = fs.ModeDevice
	}
	if e.kind == 0 {
		if e.size, err = l.number(words[1]); err != nil {
			return entry{}, err
		}
	}
	return e, nil
}

// checkName refuses what could lead out of the directory it is meant for, or is no name of a file.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxPath:
		return &NameError{name, "has no length that a name has"}
	case strings.ContainsRune(name, 0):
		return &NameError{name, "has a NUL in it"}
	case !filepath.IsLocal(name):
		return &NameError{name, "leads elsewhere"}
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == "." || part == "..":
			return &NameError{name, "is not a plain path"}
		case len(part) > maxComponent:
			return &NameError{name, "has a part that is too long"}
		}
	}
	return nil
}

// describe tells what an entry is that is not fetched.
func describe(kind fs.FileMode) string {
	switch kind {
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	case fs.ModeDevice:
		return "a device"
	}
	return "not a file"
}

// newLines is lines over bytes, for what needs no connection.
func newLines(script string, r io.Reader) *lines {
	return &lines{script: script, r: bufio.NewReader(r), moved: func() {}}
}
