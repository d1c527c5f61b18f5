//go:build linux

// Package remote is what runs on the rented machine when it is wiped: it finds the files that the rules of a request
// name, overwrites each once in place with random data, reads it back, and removes it. It is linked into the helper
// program only.
//
// It does nothing in a container other than the one that the request names, opens everything by one name in an open
// directory and follows no link while it walks, writes only to files that somebody has made or changed in the container,
// and says of each thing that it leaves why. When its connection ends it stops between two blocks; the journal lets the
// next one go on.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// Bounds of a request.
const (
	maxGroups = 2_000
	maxNames  = 10_000
)

// progressEvery is how often a run says how far it is. It also tells the other end that the connection lives.
const progressEvery = 250 * time.Millisecond

// Serve holds one conversation and returns when it is over. The peer hears of every error that it can do something about.
func Serve(in io.Reader, out io.Writer) error {
	// A peer that is gone is told of by the end of in.
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	raiseLimits()
	w := protocol.NewWriter(out)
	messages := protocol.NewReader(in)
	var req protocol.Request
	if err := messages.Receive(&req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	c := &conversation{w: w, req: req, commands: make(chan protocol.Op, 1)}
	environ, err := environment()
	if err == nil {
		err = checkLabel(environ, req.Label)
	}
	if err == nil {
		err = check(req)
	}
	if err == nil {
		_, err = ancestry()
	}
	if err != nil {
		return w.Send(protocol.Message{Refused: err.Error()})
	}
	// The signal is of a later run that takes the place of this one.
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer cancel()
	go c.listen(messages, cancel)
	f := &far{req: req, environ: environ, notes: &notes{}}
	switch req.Op {
	case protocol.OpPlan:
		err = c.plan(ctx, f)
	case protocol.OpRun:
		err = c.run(ctx, f)
	}
	if err != nil {
		return w.Send(protocol.Message{Error: bounded(err.Error(), protocol.MaxText)})
	}
	return nil
}

// check refuses a request that is not of this version, or that a peer could not mean.
func check(req protocol.Request) error {
	switch {
	case req.Version != protocol.Version:
		return fmt.Errorf("the conversation is of version %d and not %d", req.Version, protocol.Version)
	case req.Op != protocol.OpPlan && req.Op != protocol.OpRun:
		return fmt.Errorf("there is nothing called %q to do", req.Op)
	case len(req.Rules) > protocol.MaxRules, len(req.Keep)+len(req.KeepGlobs)+len(req.Named)+len(req.Volumes) > maxNames:
		return errors.New("the request is too large")
	case !clean(req.Dir) || path.Dir(req.Dir) == "/":
		return fmt.Errorf("the directory %q cannot be used", req.Dir)
	}
	for _, r := range req.Rules {
		_, err := filepath.Match(r.Glob, "")
		switch {
		case r.Group < 0 || r.Group >= maxGroups, r.Changed == (r.Glob != ""), err != nil,
			r.Glob != "" && (!clean(r.Glob) || r.Glob == "/"):
			return fmt.Errorf("the rule %q cannot be followed", r.Glob)
		}
	}
	for _, name := range slices.Concat(req.Keep, req.KeepGlobs, req.Named, req.Volumes) {
		if !clean(name) {
			return fmt.Errorf("the path %q is not absolute and clean", name)
		}
	}
	return nil
}

func clean(name string) bool { return path.IsAbs(name) && path.Clean(name) == name }

// raiseLimits makes room for one open directory a level. What the system does not allow costs depth only.
func raiseLimits() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	}
}

// conversation is one request and its answers.
type conversation struct {
	w        *protocol.Writer
	req      protocol.Request
	commands chan protocol.Op
}

// listen passes on what the peer says. Its end, and a stop, end ctx, but not behind a finish. Its end closes commands.
func (c *conversation) listen(messages *protocol.Reader, cancel func()) {
	defer close(c.commands)
	for {
		var cmd protocol.Command
		err := messages.Receive(&cmd)
		switch {
		case err != nil, cmd.Op == protocol.OpStop:
			cancel()
			return
		case cmd.Op == protocol.OpFinish:
			c.commands <- cmd.Op
			for messages.Receive(&cmd) == nil { // to its end
			}
			return
		}
	}
}

func (c *conversation) plan(ctx context.Context, f *far) error {
	if err := c.w.Send(protocol.Message{Hello: &protocol.Hello{Version: protocol.Version}}); err != nil {
		return err
	}
	p, err := f.plan(ctx)
	if err != nil {
		return err
	}
	return c.w.Send(protocol.Message{Plan: p})
}

func (c *conversation) run(ctx context.Context, f *far) error {
	j, resumed, err := openJournal(c.req.Dir, f.groups(), c.req.RulesHash())
	if err != nil {
		return fmt.Errorf("make the directory of the journal: %w", err)
	}
	hello := protocol.Hello{Version: protocol.Version, Memory: inMemory(c.req.Dir), Resumed: resumed}
	if err := c.w.Send(protocol.Message{Hello: &hello}); err != nil {
		return err
	}
	r, err := newRun(f, j)
	if err != nil {
		return err
	}
	stop := c.report(r)
	err = errors.Join(r.everything(ctx), f.giveBack())
	stop()
	result := j.result()
	switch {
	case ctx.Err() != nil:
		result.Stopped = true
		return c.w.Send(protocol.Message{Result: &result})
	case err != nil:
		return err
	}
	if err := c.w.Send(protocol.Message{Result: &result}); err != nil {
		return err
	}
	select {
	case op, ok := <-c.commands:
		if !ok || op != protocol.OpFinish {
			return nil
		}
	case <-ctx.Done():
		return nil
	}
	f.req.Op = protocol.OpFinish
	if err := r.finish(); err != nil {
		return err
	}
	result = j.result()
	result.Finished = true
	if err := j.remove(); err != nil {
		result.Items = append(result.Items, item(protocol.Failed, 0, c.req.Dir, err))
		result.Counts[protocol.Failed]++
	}
	return c.last(f, protocol.Message{Result: &result})
}

// partTimeout bounds the wait for a peer that has got the last word, and is to close its side.
const partTimeout = 10 * time.Second

// last sends the last word of a finish. When it has arrived, the processes that are held are killed, with which the container
// may end. On a machine that stays in use they go on by now.
func (c *conversation) last(f *far, m protocol.Message) error {
	if !c.req.Processes || f.staysInUse() {
		return c.w.Send(m)
	}
	r, err := rolesNow() // when the connection has ended, what it came through is not known any more
	err = errors.Join(c.w.Send(m), err)
	select {
	case <-c.commands:
	case <-time.After(partTimeout):
	}
	for pid := range r.held {
		unix.Kill(pid, unix.SIGKILL)
	}
	return err
}

// report tells the progress of r until stop is called. A peer that does not listen holds nothing up.
func (c *conversation) report(r *run) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				p := r.progress()
				if c.w.Send(protocol.Message{Progress: &p}) != nil {
					return
				}
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// RemoveSelf takes the name of the running program away, so that nothing of it stays whatever happens to it.
func RemoveSelf() error {
	name, err := os.Executable()
	if err != nil {
		return err
	}
	return os.Remove(name)
}
