package job

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// source is what one Put uploads, as it was when it was looked at.
type source struct {
	put   Transfer
	root  *os.Root
	dirs  []string // relative, below the remote directory
	files []*sending
}

// sending is a file to upload.
type sending struct {
	root  *os.Root
	local string // below root
	name  string // below the remote directory
	final string // remote path
	part  string // remote path while it is on its way
	perm  fs.FileMode
	size  int64
	hash  string
	seen  int64 // bytes of the part that the instance had when it was last asked
	sent  bool
	fresh bool // to be sent from its start
}

// maxDepth is how deep directories may be, which also ends a loop of symbolic links.
const maxDepth = 100

// SourceError says why a local source is not uploaded.
type SourceError struct{ Path, Reason string }

func (e *SourceError) Error() string { return fmt.Sprintf("the source %q %s", e.Path, e.Reason) }

// CheckPuts looks at the local sources and hashes them. It needs no connection. Symbolic links are followed as long as they
// stay inside of the source, and what is neither a file nor a directory is an error.
func (r *Run) CheckPuts(ctx context.Context) error {
	if r.sources != nil {
		return nil
	}
	names := make(map[string]string)
	var sources []*source
	for _, put := range r.cfg.Puts {
		s, err := r.openSource(put)
		if err != nil {
			return err
		}
		for _, f := range s.files {
			if other := names[f.final]; other != "" {
				return &SourceError{put.Local, fmt.Sprintf("and %q both hold what becomes %q", other, f.final)}
			}
			names[f.final] = put.Local
		}
		sources = append(sources, s)
	}
	for _, s := range sources {
		if err := r.hashSource(ctx, s); err != nil {
			return err
		}
	}
	r.sources = sources
	return nil
}

func (r *Run) openSource(put Transfer) (*source, error) {
	real, err := filepath.EvalSymlinks(put.Local)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, err
	}
	s := &source{put: put}
	if !info.IsDir() {
		if s.root, err = os.OpenRoot(filepath.Dir(real)); err != nil {
			return nil, err
		}
		return s, r.addFile(s, filepath.Base(real), filepath.Base(filepath.Clean(put.Local)))
	}
	if s.root, err = os.OpenRoot(real); err != nil {
		return nil, err
	}
	return s, r.walk(s, ".", nil)
}

// walk adds what is in the directory dir. above are the directories that it is in.
func (r *Run) walk(s *source, dir string, above []fs.FileInfo) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := d.Stat()
	if err != nil {
		return err
	}
	for _, other := range above {
		if os.SameFile(info, other) {
			return &SourceError{s.put.Local, fmt.Sprintf("has the link %q to a directory that it is in", dir)}
		}
	}
	if len(above) >= maxDepth {
		return &SourceError{s.put.Local, "is too deep"}
	}
	above = append(above[:len(above):len(above)], info)
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if len(s.files)+len(s.dirs) >= maxEntries {
			return &SourceError{s.put.Local, fmt.Sprintf("has more than %d files", maxEntries)}
		}
		info, err := s.root.Stat(name)
		switch {
		case err != nil && e.Type()&fs.ModeSymlink != 0:
			return &SourceError{s.put.Local, fmt.Sprintf("has the symbolic link %q, which leads nowhere or out of it", name)}
		case err != nil:
			return err
		case info.IsDir():
			s.dirs = append(s.dirs, name)
			err = r.walk(s, name, above)
		default:
			err = r.addFile(s, name, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) addFile(s *source, local, name string) error {
	info, err := s.root.Stat(local)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &SourceError{s.put.Local, fmt.Sprintf("has %q in it, which is neither a file nor a directory", name)}
	}
	if err := checkName(name); err != nil {
		return &SourceError{s.put.Local, "has a name in it that is too long"}
	}
	final := joinRemote(s.put.Remote, name)
	dir, _ := path.Split(final)
	s.files = append(s.files, &sending{
		root: s.root, local: local, name: name, perm: info.Mode().Perm(), size: info.Size(),
		final: final, part: dir + partName(r.cfg.ID, name),
	})
	return nil
}

// joinRemote is a path below a remote one, which stays as it was written.
func joinRemote(dir, name string) string {
	dir = remotePath(dir)
	if dir[len(dir)-1] != '/' {
		dir += "/"
	}
	return dir + name
}

// partPrefix begins the names of files that are on their way.
const partPrefix = ".vast-ssh-part-"

// partName names the file beside name that becomes it. A run that goes on finds it again.
func partName(id, name string) string {
	sum := sha256.Sum256([]byte(name))
	return partPrefix + id + "-" + hex.EncodeToString(sum[:8])
}

func (r *Run) hashSource(ctx context.Context, s *source) error {
	ev := Event{Step: Read, Files: len(s.files)}
	for _, f := range s.files {
		ev.Total += f.size
	}
	for _, f := range s.files {
		var err error
		if f.hash, err = hashFile(ctx, s.root, f.local, f.size); err != nil {
			return err
		}
		ev.Bytes += f.size
		r.cfg.Progress(ev)
	}
	return nil
}

// hashFile hashes what is on the disk, which must be size bytes.
func hashFile(ctx context.Context, root *os.Root, name string, size int64) (string, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, &untilDone{ctx, io.LimitReader(f, size+1)})
	switch {
	case err != nil:
		return "", err
	case n != size:
		return "", fmt.Errorf("%q: %w", name, ErrChanged)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// untilDone reads until a context ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}

// read copies bytes of the file from an offset on.
func (f *sending) read(w io.Writer, offset int64) error {
	local, err := f.root.Open(f.local)
	if err != nil {
		return &localError{err}
	}
	defer local.Close()
	n, err := io.Copy(w, &localReader{io.NewSectionReader(local, offset, f.size-offset)})
	if err == nil && n != f.size-offset {
		err = &localError{fmt.Errorf("%q: %w", f.local, ErrChanged)}
	}
	return err
}

// localReader marks errors as those of this end.
type localReader struct{ r io.Reader }

func (l *localReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &localError{err}
	}
	return n, err
}
