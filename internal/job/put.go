package job

import (
	"context"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/ssh"
)

// blockSize is that of dd in the scripts. Moving a file begins at a multiple of it.
const blockSize = 64 << 10

// VerifyError says that a file is not the same at both ends.
type VerifyError struct{ Path string }

func (e *VerifyError) Error() string {
	return fmt.Sprintf("%q is not the same here and on the instance, by its hash", e.Path)
}

// put uploads the sources.
func (r *Run) put(ctx context.Context) error {
	for _, s := range r.sources {
		if err := r.putSource(ctx, s); err != nil {
			return fmt.Errorf("upload %q: %w", s.put.Local, err)
		}
	}
	return nil
}

// Uploaded returns how many files there are to upload, or were uploaded, and their bytes. It knows after CheckPuts.
func (r *Run) Uploaded() (files int, bytes int64) {
	for _, s := range r.sources {
		for _, f := range s.files {
			files++
			bytes += f.size
		}
	}
	return files, bytes
}

func (r *Run) putSource(ctx context.Context, s *source) error {
	if err := r.makeDirs(ctx, s); err != nil {
		return err
	}
	pending := s.files
	for try := 0; len(pending) > 0; try++ {
		if err := r.send(ctx, pending); err != nil {
			return err
		}
		var parts []string
		for _, f := range pending {
			parts = append(parts, f.part)
		}
		var wrong []*sending
		ev := Event{Step: Verify, Files: len(pending)}
		for _, f := range pending {
			ev.Total += f.size
		}
		if err := r.hashes(ctx, parts, func(i int, hash string) error {
			if hash != pending[i].hash {
				wrong = append(wrong, pending[i])
			}
			ev.Bytes += pending[i].size
			r.cfg.Progress(ev)
			return nil
		}); err != nil {
			return err
		}
		if len(wrong) > 0 && try > 0 {
			return &VerifyError{wrong[0].name}
		}
		for _, f := range wrong {
			f.sent, f.fresh = false, true
		}
		pending = wrong
	}
	return r.commit(ctx, s.files)
}

func (r *Run) makeDirs(ctx context.Context, s *source) error {
	dirs := []string{remotePath(s.put.Remote)}
	for _, d := range s.dirs {
		dirs = append(dirs, joinRemote(s.put.Remote, d))
	}
	return r.call(ctx, func() call {
		return call{script: "dirs", read: (*lines).end, in: func(w io.Writer) error {
			for _, d := range dirs {
				if _, err := fmt.Fprintln(w, encode(d)); err != nil {
					return err
				}
			}
			return nil
		}}
	})
}

// send writes the files into their parts, from where those end.
func (r *Run) send(ctx context.Context, files []*sending) error {
	ev := Event{Step: Sent, Files: len(files)}
	for _, f := range files {
		ev.Total += f.size
	}
	return r.link.do(ctx, func(client *ssh.Client) error {
		left := slices.DeleteFunc(slices.Clone(files), func(f *sending) bool { return f.sent })
		offsets := make([]int64, len(left))
		if err := r.once(ctx, client, sizesCall(left, offsets)); err != nil {
			return err
		}
		ev.Bytes = ev.Total
		for i, f := range left {
			if f.fresh {
				offsets[i] = 0
			}
			offsets[i] = min(offsets[i], f.size) / blockSize * blockSize
			if offsets[i] > f.seen {
				f.seen = offsets[i]
				r.link.moved()
			}
			ev.Bytes -= f.size - offsets[i]
		}
		return r.once(ctx, client, r.sendCall(left, offsets, ev))
	})
}

// sendCall sends each file from its offset on. ev counts what is there.
func (r *Run) sendCall(files []*sending, offsets []int64, ev Event) call {
	return call{
		script: "send",
		args:   []string{r.cfg.ID, NewID()},
		in: func(w io.Writer) error {
			for i, f := range files {
				size := f.size - offsets[i]
				if _, err := fmt.Fprintf(w, "%d %d %d %d %s\n", i, offsets[i]/blockSize, size/blockSize, size%blockSize,
					encode(f.part)); err != nil {
					return err
				}
				if err := f.read(w, offsets[i]); err != nil {
					return err
				}
			}
			return nil
		},
		read: func(l *lines) error {
			for i, f := range files {
				if err := l.expect("k", i); err != nil {
					return err
				}
				l.moved()
				f.sent, f.fresh = true, false
				ev.Bytes += f.size - offsets[i]
				r.cfg.Progress(ev)
			}
			return l.end()
		},
	}
}

// sizesCall asks how much of each file is there.
func sizesCall(files []*sending, sizes []int64) call {
	return call{
		script: "sizes",
		in: func(w io.Writer) error {
			for i, f := range files {
				if _, err := fmt.Fprintln(w, i, encode(f.part), encode(f.final)); err != nil {
					return err
				}
			}
			return nil
		},
		read: func(l *lines) error {
			for i, f := range files {
				size, err := l.value(i)
				if err != nil {
					return err
				}
				if size == "dir" {
					return fmt.Errorf("the instance has a directory %q where a file goes", f.final)
				}
				if sizes[i], err = l.number(size); err != nil {
					return err
				}
			}
			return l.end()
		},
	}
}

// commit gives the parts, which have been verified, their modes and names.
func (r *Run) commit(ctx context.Context, files []*sending) error {
	return r.call(ctx, func() call {
		return call{
			script: "commit",
			in: func(w io.Writer) error {
				for i, f := range files {
					if _, err := fmt.Fprintf(w, "%d %04o %s %s\n", i, f.perm, encode(f.part), encode(f.final)); err != nil {
						return err
					}
				}
				return nil
			},
			read: func(l *lines) error {
				for i := range files {
					if err := l.expect("k", i); err != nil {
						return err
					}
				}
				return l.end()
			},
		}
	})
}

// hashes has remote files hashed and calls each with every hash, which is "-" where there is no file.
func (r *Run) hashes(ctx context.Context, paths []string, each func(i int, hash string) error) error {
	done := 0
	return r.call(ctx, func() call {
		from := done
		return call{
			script: "hash",
			in: func(w io.Writer) error {
				for i, p := range paths[from:] {
					if _, err := fmt.Fprintln(w, from+i, encode(p)); err != nil {
						return err
					}
				}
				return nil
			},
			read: func(l *lines) error {
				for done < len(paths) {
					hash, err := l.value(done)
					if err != nil {
						return err
					}
					l.moved()
					if err := each(done, hash); err != nil {
						return err
					}
					done++
				}
				return l.end()
			},
		}
	})
}
