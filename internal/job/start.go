package job

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Start starts the command, which then needs no connection. It may be called again after an error: the command is started
// once.
func (r *Run) Start(ctx context.Context) error {
	if r.tools == nil {
		return errors.New("the run was not prepared")
	}
	text := commandText(r.cfg.Command)
	sum := sha256.Sum256([]byte(text))
	args := []string{r.cfg.ID, hex.EncodeToString(sum[:]), r.tools.setsid, r.tools.nap, r.tools.waitTries(), scriptText("run")}
	return r.call(ctx, func() call {
		return call{
			script: "start",
			args:   args,
			in: func(w io.Writer) error {
				_, err := io.WriteString(w, text)
				return err
			},
			read: (*lines).end,
		}
	})
}

// commandText is the script that sh runs.
func commandText(words []string) string {
	if len(words) == 1 {
		return words[0] + "\n"
	}
	return strings.Join(quoteAll(words), " ") + "\n"
}

// LostError says that a command is gone without a status: it was killed with the shell that waits for it, or the instance
// was restarted.
type LostError struct{ ID string }

func (e *LostError) Error() string {
	return fmt.Sprintf("the command of run %s is gone and has left no status", e.ID)
}

// NoRunError says that an instance knows no started run of an id.
type NoRunError struct{ ID string }

func (e *NoRunError) Error() string {
	return fmt.Sprintf("the instance has no run %s that was started", e.ID)
}

// Follow writes the output of the command, from its beginning, until it has ended, and returns its exit status. When ctx
// ends, it returns and the command goes on.
func (r *Run) Follow(ctx context.Context) (status int, err error) {
	if err := r.probe(ctx, false); err != nil {
		return 0, err
	}
	err = r.call(ctx, func() call {
		return call{
			script: "follow",
			args: []string{r.cfg.ID, fmt.Sprint(r.out[0]), fmt.Sprint(r.out[1]), r.tools.nap,
				r.tools.waitTries()},
			read: func(l *lines) error {
				status, err = r.follow(l)
				return err
			},
		}
	})
	return status, err
}

// follow reads frames up to the status.
func (r *Run) follow(l *lines) (int, error) {
	for {
		line, err := l.next()
		if err != nil {
			return 0, err
		}
		words := strings.Split(line, " ")
		switch {
		case line == "alive":
			l.moved()
		case line == "short out":
			r.shorter(0)
		case line == "short err":
			r.shorter(1)
		case line == "lost":
			return 0, &LostError{r.cfg.ID}
		case line == "absent":
			return 0, &NoRunError{r.cfg.ID}
		case len(words) == 2 && words[0] == "status":
			n, err := l.number(words[1])
			if err == nil && n > 255 {
				err = l.wrong("%.100q", line)
			}
			return int(n), err
		case len(words) == 3 && words[0] == "out":
			err = r.frame(l, words, r.cfg.Stdout, &r.out[0])
		case len(words) == 3 && words[0] == "err":
			err = r.frame(l, words, r.cfg.Stderr, &r.out[1])
		default:
			err = l.wrong("%.100q", line)
		}
		if err != nil {
			return 0, err
		}
	}
}

// shorter begins anew with the output or the errors of a command that has cut them short.
func (r *Run) shorter(i int) {
	r.out[i] = 0
	if !r.short {
		r.cfg.Progress(Event{Step: Short})
	}
	r.short = true
}

// frame writes what is new of the bytes of a frame. *offset is where the writer is in the whole output.
func (r *Run) frame(l *lines, words []string, w io.Writer, offset *int64) error {
	start, err := l.number(words[1])
	if err != nil {
		return err
	}
	length, err := l.number(words[2])
	if err != nil {
		return err
	}
	if start > *offset || length < *offset-start {
		return l.wrong("output from %d to %d when %d was due", start, start+length, *offset)
	}
	if _, err := io.CopyN(io.Discard, l.r, *offset-start); err != nil {
		return err
	}
	buf := make([]byte, min(64<<10, max(start+length-*offset, 1)))
	for left := start + length - *offset; left > 0; {
		n, err := l.r.Read(buf[:min(int64(len(buf)), left)])
		if n > 0 {
			l.moved()
			written, werr := w.Write(buf[:n])
			*offset += int64(written)
			left -= int64(written)
			if werr != nil {
				return &localError{fmt.Errorf("the output cannot be written: %w", werr)}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
