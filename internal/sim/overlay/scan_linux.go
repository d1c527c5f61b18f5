package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hit is a place where a needle was found.
type Hit struct {
	// Path is where it is inside.
	Path string
	// Needle is the index of the needle.
	Needle int
	// In is "content", "name", "target" (of a symbolic link) or "xattr".
	In string
}

// Scan searches what the instance has written, in its upper layer and in its tmpfs mounts, from outside: contents, file
// names, the targets of links, and the values of extended attributes. It works after Stop too. Volumes are not
// searched. A needle counts once a file and kind.
func (i *Instance) Scan(needles [][]byte) []Hit {
	i.t.Helper()
	var hits []Hit
	for _, a := range i.areas {
		if err := a.scan(needles, func(h Hit) { hits = append(hits, h) }); err != nil {
			i.t.Fatalf("overlay: scan %q: %v", a.at, err)
		}
	}
	return hits
}

func (a area) scan(needles [][]byte, hit func(Hit)) error {
	var top unix.Stat_t
	if err := unix.Fstat(int(a.dir.Fd()), &top); err != nil {
		return err
	}
	// The slash makes the walk begin at the directory and not at the link.
	base := fmt.Sprintf("/proc/self/fd/%d/", a.dir.Fd())
	return filepath.WalkDir(base, func(file string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if st.Dev != top.Dev {
			// Another mount, which is an area of its own.
			return fs.SkipDir
		}
		inside := filepath.Join("/", a.at, strings.TrimPrefix(file, strings.TrimSuffix(base, "/")))
		if err := scanFile(file, d.Type(), needles, func(needle int, in string) { hit(Hit{inside, needle, in}) }); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func scanFile(file string, kind fs.FileMode, needles [][]byte, hit func(needle int, in string)) error {
	in := func(text []byte, where string) {
		for n, needle := range needles {
			if bytes.Contains(text, needle) {
				hit(n, where)
			}
		}
	}
	if name := filepath.Base(file); !strings.HasSuffix(file, "/") {
		in([]byte(name), "name")
	}
	if kind&fs.ModeSymlink != 0 {
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		in([]byte(target), "target")
	}
	values, err := xattrs(file)
	if err != nil {
		return err
	}
	in(values, "xattr")
	if !kind.IsRegular() {
		return nil
	}
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	found := make(map[int]bool)
	return search(f, needles, func(needle int, _ int64) {
		if !found[needle] {
			found[needle] = true
			hit(needle, "content")
		}
	})
}

// xattrs returns the values of the extended attributes of a file, a zero byte after each.
func xattrs(file string) ([]byte, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs of %s: %w", file, err)
	}
	var values []byte
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(file, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("xattr %s of %s: %w", name, file, err)
		}
		values = append(append(values, value[:n]...), 0)
	}
	return values, nil
}

// ScanDisk writes everything back and searches the image of an instance with Config.Disk, blocks that belong to no
// file too. It returns the offsets of what it found, needle by needle within each stretch of data. Holes of the image
// are passed over.
func (i *Instance) ScanDisk(needles [][]byte) []int64 {
	i.t.Helper()
	offsets, err := i.scanDisk(needles)
	if err != nil {
		i.t.Fatalf("overlay: scan the disk: %v", err)
	}
	return offsets
}

func (i *Instance) scanDisk(needles [][]byte) ([]int64, error) {
	if i.config.Disk == 0 {
		return nil, errors.New("the instance has none")
	}
	if err := unix.Syncfs(int(i.areas[0].dir.Fd())); err != nil {
		return nil, err
	}
	image, err := os.Open(i.image())
	if err != nil {
		return nil, err
	}
	defer image.Close()
	var offsets []int64
	for end := int64(0); ; {
		start, err := unix.Seek(int(image.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return offsets, nil
		}
		if err != nil {
			return nil, err
		}
		if end, err = unix.Seek(int(image.Fd()), start, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		data := io.NewSectionReader(image, start, end-start)
		if err := search(data, needles, func(_ int, at int64) { offsets = append(offsets, start+at) }); err != nil {
			return nil, err
		}
	}
}

// search calls found with every place of every needle in what r reads.
func search(r io.Reader, needles [][]byte, found func(needle int, at int64)) error {
	overlap := 0
	for _, needle := range needles {
		if len(needle) == 0 {
			return errors.New("an empty needle is everywhere")
		}
		overlap = max(overlap, len(needle)-1)
	}
	buf := make([]byte, overlap+1<<20)
	// kept is how much of buf is of the round before, and base where buf begins.
	for kept, base := 0, int64(0); ; {
		n, err := io.ReadFull(r, buf[kept:])
		text := buf[:kept+n]
		for k, needle := range needles {
			// A shorter needle may lie in what is kept altogether, where the round before has found it.
			from := max(0, kept-len(needle)+1)
			for {
				at := bytes.Index(text[from:], needle)
				if at < 0 {
					break
				}
				found(k, base+int64(from+at))
				from += at + 1
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
		next := min(overlap, len(text))
		copy(buf, text[len(text)-next:])
		base += int64(len(text) - next)
		kept = next
	}
}
