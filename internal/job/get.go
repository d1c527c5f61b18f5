package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Report is what Fetch has on the local disk, all of it verified.
type Report struct {
	Files     int       `json:"files"`
	Bytes     int64     `json:"bytes"`
	Identical int       `json:"identical"` // of Files, those that were there already
	Links     int       `json:"links"`     // symbolic links to what was downloaded
	Skipped   []Skipped `json:"skipped,omitempty"`
	Empty     []string  `json:"empty,omitempty"` // remote paths of the Gets that brought no file
}

// Missing returns what a Get was meant to bring and did not, which is gone with the instance.
func (r Report) Missing() []Skipped {
	missing := slices.DeleteFunc(slices.Clone(r.Skipped), func(s Skipped) bool { return s.Reason == unfinished })
	for _, p := range r.Empty {
		missing = append(missing, Skipped{Path: p, Reason: "without a file"})
	}
	return missing
}

// Skipped is something on the instance that is not fetched: it is neither a file nor a directory, or an unfinished upload.
type Skipped struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
	// Local is the directory into which a Get of Path would bring what a link leads to, or empty.
	Local string `json:"-"`
	link  bool
}

const unfinished = "an unfinished transfer"

// ConflictError names local files that differ from what would take their place.
type ConflictError struct{ Paths []string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("local files differ from those of the instance and were left as they are: %d", len(e.Paths))
}

// Details names some of them.
func (e *ConflictError) Details() []string {
	shown := e.Paths[:min(len(e.Paths), 10)]
	details := make([]string, len(shown))
	for i, p := range shown {
		details[i] = fmt.Sprintf("%.500q", p)
	}
	return details
}

// ClashError says that two files of an instance would become one here.
type ClashError struct {
	First, Second string // remote paths
	Local         string
	one           bool // both are of one Get
}

func (e *ClashError) Error() string {
	return fmt.Sprintf("%.200q and %.200q of the instance would both become %.200q", e.First, e.Second, e.Local)
}

// Hint says how both have a place. Two names that only a local file system takes for one have none.
func (e *ClashError) Hint() string {
	if e.one {
		return ""
	}
	return "give each --get a directory of its own"
}

// fetchTries is how often a download is made that finds files changed.
const fetchTries = 3

// fileID is a local file, by whatever name.
type fileID struct{ dev, ino uint64 }

// destination is where one Get goes to.
type destination struct {
	get  Transfer
	root *os.Root
	// written are the files that this Fetch has put into place, over all of its destinations, by what they were made from.
	written map[fileID]string
	touched map[string]bool // directories to be synced, relative
	links   []localLink
}

// receiving is a file to download.
type receiving struct {
	entry
	remote string // path
	part   string // below the root
	there  bool   // it is in place and verified
	same   bool   // it was there before
	got    bool   // the part is whole, as far as its length says
	fresh  bool   // the part is to be made anew
}

// CheckGets makes the local directories of the downloads. It needs no connection.
func (r *Run) CheckGets() error {
	for _, get := range r.cfg.Gets {
		root, err := openDestination(get.Local)
		if err != nil {
			return err
		}
		root.Close()
	}
	return nil
}

func openDestination(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// Fetch downloads, and returns nil only when all there is on the instance is on the local disk, synced, with the same
// hashes, and a second listing was like the first. Its errors are a *ConflictError, *ClashError, *MissingError, *NameError,
// *VerifyError, what wraps ErrChanged, and those of the connection and of the local files.
func (r *Run) Fetch(ctx context.Context) (Report, error) {
	var rep Report
	if err := r.probe(ctx, false); err != nil {
		return rep, err
	}
	written := make(map[fileID]string)
	var all []*destination
	for _, get := range r.cfg.Gets {
		root, err := openDestination(get.Local)
		if err != nil {
			return rep, err
		}
		defer root.Close()
		d := &destination{get: get, root: root, written: written}
		if err := r.fetch(ctx, d, &rep); err != nil {
			return rep, fmt.Errorf("download %q: %w", get.Remote, err)
		}
		all = append(all, d)
	}
	for _, d := range all {
		if err := r.makeLinks(d, &rep); err != nil {
			return rep, fmt.Errorf("download %q: %w", d.get.Remote, err)
		}
	}
	rep.Skipped = slices.DeleteFunc(rep.Skipped, func(s Skipped) bool { return s.link && r.gets(s.Path) })
	return rep, nil
}

// gets reports whether a remote path is the source of a Get, which brings what a link there leads to.
func (r *Run) gets(p string) bool {
	return slices.ContainsFunc(r.cfg.Gets, func(get Transfer) bool {
		return path.Clean(remotePath(get.Remote)) == path.Clean(remotePath(p))
	})
}

func (r *Run) fetch(ctx context.Context, d *destination, rep *Report) error {
	for try := 1; ; try++ {
		err := r.fetchOnce(ctx, d, rep)
		if !errors.Is(err, ErrChanged) || try == fetchTries {
			return err
		}
	}
}

func (r *Run) fetchOnce(ctx context.Context, d *destination, rep *Report) error {
	entries, dir, err := r.list(ctx, d.get.Remote)
	if err != nil {
		return err
	}
	skipped := d.sortOut(entries)
	files, err := r.fetchAll(ctx, d, entries, dir)
	if err != nil {
		return err
	}
	now, _, err := r.list(ctx, d.get.Remote)
	if err != nil {
		return err
	}
	if !slices.Equal(now, entries) {
		return ErrChanged
	}
	if err := d.sync(); err != nil {
		return err
	}
	rep.count(files)
	rep.Skipped = append(rep.Skipped, skipped...)
	if len(files) == 0 {
		rep.Empty = append(rep.Empty, d.get.Remote)
	}
	return nil
}

// count adds what is in place.
func (rep *Report) count(files []*receiving) {
	for _, f := range files {
		rep.Files++
		rep.Bytes += f.size
		if f.same {
			rep.Identical++
		}
	}
}

// skipped tells why an entry is not fetched, or nothing.
func (e entry) skipped() string {
	switch {
	case e.kind != 0 && e.kind != fs.ModeDir:
		return describe(e.kind)
	case e.kind == 0 && strings.HasPrefix(path.Base(e.name), partPrefix):
		return unfinished
	}
	return ""
}

// fetchAll brings every file of a listing into its place.
func (r *Run) fetchAll(ctx context.Context, d *destination, entries []entry, dir bool) ([]*receiving, error) {
	var files []*receiving
	d.touched = map[string]bool{".": true}
	for _, e := range entries {
		switch {
		case e.skipped() != "":
		case e.kind == fs.ModeDir:
			if err := d.makeDir(e); err != nil {
				return nil, err
			}
		default:
			f := &receiving{entry: e, remote: remotePath(d.get.Remote)}
			if dir {
				f.remote = joinRemote(d.get.Remote, e.name)
			}
			parent := path.Dir(e.name)
			f.part = path.Join(parent, partName(r.cfg.ID, e.name))
			d.touched[parent] = true
			files = append(files, f)
		}
	}
	if err := r.findPresent(ctx, d, files); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		left := slices.DeleteFunc(slices.Clone(files), func(f *receiving) bool { return f.there })
		if len(left) == 0 {
			return files, nil
		}
		if err := r.receive(ctx, d, left); err != nil {
			return nil, err
		}
		wrong, err := r.place(ctx, d, left)
		if err != nil {
			return nil, err
		}
		if wrong != "" && try > 0 {
			return nil, &VerifyError{wrong}
		}
	}
}

// makeDir makes a directory. Those above it come first, so that none of them is a link by which files would go elsewhere.
func (d *destination) makeDir(e entry) error {
	info, err := d.root.Lstat(e.name)
	if err == nil && !info.IsDir() {
		return &ConflictError{[]string{filepath.Join(d.get.Local, e.name)}}
	}
	d.touched[e.name] = true
	return d.root.MkdirAll(e.name, 0o700|e.perm)
}

// findPresent looks for files that are in their places already, and refuses to go on where others are.
func (r *Run) findPresent(ctx context.Context, d *destination, files []*receiving) error {
	var present []*receiving
	var paths []string
	conflict := new(ConflictError)
	for _, l := range d.links {
		_, err := d.linkThere(l, r.cfg.Overwrite)
		if err := conflict.add(err); err != nil {
			return err
		}
	}
	for _, f := range files {
		info, err := d.root.Lstat(f.name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case info.Mode().IsRegular() && info.Size() == f.size:
			present = append(present, f)
			paths = append(paths, f.remote)
		default:
			if err := conflict.add(d.mayReplace(f.name, f.remote, info, r.cfg.Overwrite)); err != nil {
				return err
			}
		}
	}
	err := r.hashes(ctx, paths, func(i int, hash string) error {
		f := present[i]
		local, err := hashFile(ctx, d.root, f.name, f.size)
		if err != nil {
			return &localError{err}
		}
		if f.there = local == hash; f.there {
			f.same = true
			return syncFile(d.root, f.name)
		}
		info, err := d.root.Lstat(f.name)
		if err != nil {
			return &localError{err}
		}
		return conflict.add(d.mayReplace(f.name, f.remote, info, r.cfg.Overwrite))
	})
	if err == nil && len(conflict.Paths) > 0 {
		err = conflict
	}
	return err
}

func syncFile(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return &localError{err}
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return &localError{err}
	}
	return nil
}

// add collects the paths of a *ConflictError, and returns every other error.
func (e *ConflictError) add(err error) error {
	var other *ConflictError
	if errors.As(err, &other) {
		e.Paths = append(e.Paths, other.Paths...)
		return nil
	}
	return err
}

// mayReplace returns an error if what is at a remote path must not take the place of the local file that info is about. What
// this Fetch has written for the same path may always be replaced, and for another never: two files of the instance would
// become one.
func (d *destination) mayReplace(name, remote string, info fs.FileInfo, overwrite bool) error {
	local := filepath.Join(d.get.Local, name)
	from, ours := d.written[idOf(info)]
	switch {
	case info.IsDir(), !ours && !overwrite:
		return &ConflictError{[]string{local}}
	case ours && from != remote:
		return &ClashError{from, remote, local, strings.HasPrefix(from, joinRemote(d.get.Remote, ""))}
	}
	return nil
}

func idOf(info fs.FileInfo) fileID {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}
}

// receive downloads the files into their parts, from where those end.
func (r *Run) receive(ctx context.Context, d *destination, files []*receiving) error {
	ev := Event{Step: Got, Files: len(files)}
	for _, f := range files {
		f.got = false
		ev.Total += f.size
	}
	return r.link.do(ctx, func(client *ssh.Client) error {
		ev.Bytes = ev.Total
		left := slices.DeleteFunc(slices.Clone(files), func(f *receiving) bool { return f.got })
		offsets := make([]int64, len(left))
		for i, f := range left {
			var err error
			if offsets[i], err = d.openPart(f); err != nil {
				return err
			}
			ev.Bytes -= f.size - offsets[i]
		}
		return r.once(ctx, client, r.fetchCall(d, left, offsets, ev))
	})
}

// openPart makes the part of a file ready and returns where it ends, at a block.
func (d *destination) openPart(f *receiving) (int64, error) {
	info, err := d.root.Lstat(f.part)
	if err == nil && (f.fresh || !info.Mode().IsRegular()) {
		if err = d.root.Remove(f.part); err == nil {
			err = fs.ErrNotExist
		}
	}
	f.fresh = false
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.root.MkdirAll(path.Dir(f.part), 0o777); err != nil {
			return 0, err
		}
		part, err := d.root.OpenFile(f.part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.perm|0o600)
		if err != nil {
			return 0, err
		}
		return 0, part.Close()
	}
	if err != nil {
		return 0, err
	}
	return min(info.Size(), f.size) / blockSize * blockSize, nil
}

// fetchCall receives each file from its offset on. ev counts what is there.
func (r *Run) fetchCall(d *destination, files []*receiving, offsets []int64, ev Event) call {
	return call{
		script: "fetch",
		in: func(w io.Writer) error {
			for i, f := range files {
				count := (f.size - offsets[i] + blockSize - 1) / blockSize
				if _, err := fmt.Fprintln(w, i, offsets[i]/blockSize, count, encode(f.remote)); err != nil {
					return err
				}
			}
			return nil
		},
		read: func(l *lines) error {
			for i, f := range files {
				words, err := l.fields(2)
				if err != nil {
					return err
				}
				if words[1] != fmt.Sprint(i) || words[0] != "b" && words[0] != "x" {
					return l.wrong("%.100q", strings.Join(words, " "))
				}
				if words[0] == "x" {
					return fmt.Errorf("%q: %w", f.remote, ErrChanged)
				}
				if err := d.writePart(l, f, offsets[i], func(n int) {
					ev.Bytes += int64(n)
					r.cfg.Progress(ev)
				}); err != nil {
					return err
				}
				// A file that is no longer as long as it was listed puts the answer out of step.
				end, err := l.next()
				switch {
				case err != nil && !errors.As(err, new(*ProtocolError)):
					return err
				case err != nil || end != fmt.Sprintf("e %d 0", i):
					return fmt.Errorf("%q: %w", f.remote, ErrChanged)
				}
				f.got = true
			}
			return l.end()
		},
	}
}

// writePart writes what comes of a file into its part, and syncs it.
func (d *destination) writePart(l *lines, f *receiving, offset int64, moved func(int)) (err error) {
	part, err := d.root.OpenFile(f.part, os.O_WRONLY, 0)
	if err != nil {
		return &localError{err}
	}
	defer func() {
		if cerr := part.Close(); err == nil && cerr != nil {
			err = &localError{cerr}
		}
	}()
	if err := part.Truncate(offset); err != nil {
		return &localError{err}
	}
	buf := make([]byte, min(256<<10, max(f.size-offset, 1)))
	for offset < f.size {
		n, err := l.r.Read(buf[:min(int64(len(buf)), f.size-offset)])
		if n > 0 {
			l.moved()
			if _, err := part.WriteAt(buf[:n], offset); err != nil {
				return &localError{err}
			}
			offset += int64(n)
			moved(n)
		}
		if err != nil {
			return err
		}
	}
	if err := part.Sync(); err != nil {
		return &localError{err}
	}
	return nil
}

// place compares the parts with the files they were made from, gives those that are the same their names, and returns the
// name of one that is not.
func (r *Run) place(ctx context.Context, d *destination, files []*receiving) (wrong string, err error) {
	ev := Event{Step: Verify, Files: len(files)}
	var paths []string
	for _, f := range files {
		ev.Total += f.size
		paths = append(paths, f.remote)
	}
	err = r.hashes(ctx, paths, func(i int, hash string) error {
		f := files[i]
		local, err := hashFile(ctx, d.root, f.part, f.size)
		if err != nil {
			return &localError{err}
		}
		if local != hash {
			wrong, f.fresh = f.remote, true
			return nil
		}
		if err := d.rename(f, r.cfg.Overwrite); err != nil {
			return err
		}
		f.there = true
		ev.Bytes += f.size
		r.cfg.Progress(ev)
		return nil
	})
	return wrong, err
}

// rename gives a part the mode and the name of its file.
func (d *destination) rename(f *receiving, overwrite bool) error {
	info, err := d.root.Lstat(f.part)
	if err != nil {
		return &localError{err}
	}
	if perm := info.Mode().Perm(); perm != perm&f.perm {
		if err := d.root.Chmod(f.part, perm&f.perm); err != nil {
			return &localError{err}
		}
	}
	there, err := d.root.Lstat(f.name)
	if err == nil {
		if err := d.mayReplace(f.name, f.remote, there, overwrite); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return &localError{err}
	}
	if err := d.root.Rename(f.part, f.name); err != nil {
		return &localError{err}
	}
	d.written[idOf(info)] = f.remote
	return nil
}

// sync puts the names on the disk, those of the directories above the root too as far as they may be opened.
func (d *destination) sync() error {
	top, err := filepath.Abs(d.get.Local)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(top); ; dir = filepath.Dir(dir) {
		if f, err := os.Open(dir); err == nil {
			f.Sync()
			f.Close()
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for name := range d.touched {
		dir, err := d.root.Open(name)
		if err != nil {
			return err
		}
		err = dir.Sync()
		dir.Close()
		// Some file systems cannot sync a directory and say so.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}

// Remove removes the directory of the run, once the command has ended.
func (r *Run) Remove(ctx context.Context) error {
	return r.call(ctx, func() call {
		return call{script: "remove", args: []string{r.cfg.ID}, read: (*lines).end}
	})
}
