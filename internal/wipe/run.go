package wipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sshsession"
	"vast-ssh/internal/wipe/catalogue"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

const (
	// finishTimeout bounds the removal of the login, which is a few small files.
	finishTimeout = 2 * time.Minute
	// maxClosed is how often a machine has to close a connection before the login to count as one that nobody can log in to.
	maxClosed = 3
	// maxFaults is how often the far side may fail by itself, and maxIdle how many connections there may be, without anything
	// getting done in between.
	maxFaults = 3
	maxIdle   = 50
	// watchEvery and watchPatience find a connection that is lost without a word. The helper may be under way before an answer.
	watchEvery    = 15 * time.Second
	watchPatience = 90 * time.Second

	// toBegin is how many silences the far side may take before it begins: for a probe, and for the helper on a slow line.
	toBegin = 10

	// longest is by how much a pause grows.
	longest = 15
)

// Run does what was planned, up to and including the removal of the login, and keeps a report. It does not destroy the
// instance. Without a report nothing was touched. With one, what went wrong is in it, and the error is that it could not be kept.
//
// When ctx ends the far side is asked to stop between two blocks, and the report says how far it came.
func (w *Wipe) Run(ctx context.Context) (*Report, error) {
	if w.report != nil { // an earlier wipe has removed everything
		w.report.Policy = w.cfg.Options.Destroy
		w.dropJobs(ctx, w.report)
		return w.report, nil
	}
	defer w.Close()
	if len(w.req.Volumes) > 0 { // since the plan another instance may have got one
		if err := w.mayWipeVolumes(ctx, w.wiped()); err != nil {
			return nil, err
		}
	}
	r := w.newReport()
	if err := w.Keep(r); err != nil {
		return nil, fmt.Errorf("nothing was touched: %w", err)
	}
	w.dropJobs(ctx, r)
	res, finished, err := w.data(ctx, r)
	if res != nil {
		r.take(&w.set, res)
	}
	if finished {
		r.Volumes = w.req.Volumes
	}
	switch {
	case ctx.Err() != nil && !finished:
		r.Data, r.Problem = Stopped, "it was interrupted"
	case err != nil:
		r.Data, r.Problem = Incomplete, err.Error()
	case r.Remains() > 0:
		r.Data, r.Problem = Incomplete, several(r.Remains(), "thing")+" could not be removed"
	default:
		r.Data, r.Problem = Clean, ""
	}
	r.DataEnded = w.cfg.Now().UTC()
	return r, w.Keep(r)
}

// Notify sets what is told of the run.
func (w *Wipe) Notify(fn func(Event)) { w.cfg.Notify = fn }

// Keep writes the report as it is now.
func (w *Wipe) Keep(r *Report) error {
	r.Ended = w.cfg.Now().UTC()
	if err := r.write(w.cfg.Dir); err != nil {
		return fmt.Errorf("keep the report: %w", err)
	}
	return nil
}

func (w *Wipe) newReport() *Report {
	in, o := w.cfg.Instance, w.cfg.Options
	r := &Report{
		Version: reportVersion, Program: "vast-ssh", Instance: in.ID, Label: in.Label, Container: label(in.ID), Machine: in.MachineID,
		Rented: in.Started, Started: w.cfg.Now().UTC(), Scope: o.Scope, Policy: o.Destroy, Paths: o.Paths, Keep: o.Keep,
		Method: method, FarSide: w.Plan.Helper, Data: Stopped, Problem: "it has not come to its end", Destroyed: DestroyNot,
		Unreachable: w.Plan.Unreachable,
	}
	// What the plan has seen may be gone before a run can say so.
	r.Rotate = slices.Clone(w.Plan.Secrets)
	return r
}

// dropJobs deletes the scheduled jobs, if that is wanted: they would go on copying.
func (w *Wipe) dropJobs(ctx context.Context, r *Report) {
	r.JobsLeft = nil
	for _, j := range w.Plan.Jobs {
		if !w.cfg.Options.DropJobs || j.Other != 0 {
			r.JobsLeft = append(r.JobsLeft, j)
			continue
		}
		if err := w.cfg.API.DropScheduledJob(ctx, j.ID); err != nil {
			w.cfg.notify("scheduled job %d could not be deleted: %v", j.ID, err)
			r.JobsLeft = append(r.JobsLeft, j)
			continue
		}
		r.JobsDropped = append(r.JobsDropped, j)
	}
}

// fault says that the machine, and not the way to it, is the trouble.
type fault struct{ error }

func (f *fault) Unwrap() error { return f.error }

// data goes through connections until the far side is through, and then has it finish. The result is that of the last
// word there was. finished says that the run came to its end.
func (w *Wipe) data(ctx context.Context, r *Report) (res *protocol.Result, finished bool, err error) {
	pause, faults, idle := w.cfg.Pause, 0, 0
	w.heard = w.cfg.Now()
	for {
		done := w.done
		last, finished, err := w.attempt(ctx, r)
		if last != nil {
			res = last
		}
		if w.done != done {
			pause, faults, idle = w.cfg.Pause, 0, 0
		}
		what := "the connection is lost"
		var far *fault
		switch {
		case finished || ctx.Err() != nil:
			return res, finished, err
		case errors.As(err, &far):
			if faults++; faults == maxFaults {
				return res, false, far.error
			}
			what = "the far side has failed"
		case err == nil:
			return res, false, errOvertaken
		case !w.again(err):
			return res, false, err
		}
		if idle++; idle == maxIdle {
			return res, false, fmt.Errorf("nothing got done over %d connections: %w", idle, err)
		}
		if w.cfg.Now().Sub(w.heard) > w.cfg.Patience {
			return res, false, fmt.Errorf("the machine was out of reach for %v: %w", w.cfg.Patience, err)
		}
		w.cfg.notify("%s, trying again: %v", what, err)
		if !sleep(ctx, pause) {
			return res, false, ctx.Err()
		}
		pause = min(2*pause, longest*w.cfg.Pause)
	}
}

// again reports whether after err another connection could go on.
func (w *Wipe) again(err error) bool {
	var wrong *deploy.WrongContainerError
	var refused *deploy.RefusedError
	var connect *connectError
	switch {
	case errors.As(err, &wrong), errors.As(err, &refused), errors.Is(err, errLies):
		return false
	case errors.As(err, &connect):
		return w.cfg.Retry == nil || w.cfg.Retry(err)
	}
	return true
}

// connectError is the error of a new connection.
type connectError struct{ error }

func (e *connectError) Unwrap() error { return e.error }

// attempt is one connection. It reports whether the wipe came to its end.
func (w *Wipe) attempt(ctx context.Context, r *Report) (res *protocol.Result, finished bool, err error) {
	client := w.client
	w.client = nil
	if client == nil {
		if client, err = w.connect(ctx); err != nil {
			return nil, false, &connectError{err}
		}
	}
	defer client.Close()
	if err := w.keepLogin(r); err != nil {
		return nil, false, &fault{err}
	}
	// A machine may answer for ever whether it is there, and nothing else.
	begin, cancel := context.WithTimeout(ctx, toBegin*w.cfg.Silence)
	defer cancel()
	// The container behind the address is asked for again each time.
	facts, err := deploy.Probe(begin, client, label(w.cfg.Instance.ID), catalogue.Variables())
	if err != nil {
		return nil, false, err
	}
	req := w.req
	req.Op = protocol.OpRun
	s, err := deploy.Start(begin, client, facts, req)
	if err != nil {
		return nil, false, startError(err)
	}
	defer func() { s.Close() }()
	r.Connections++
	r.FarSide, r.JournalInMemory = s.Kind, s.Hello.Memory
	res, err = w.follow(ctx, client, s)
	if err != nil || res == nil || res.Stopped || ctx.Err() != nil {
		return res, false, err
	}
	if res.Remains() > 0 && w.cfg.Options.Destroy != Always {
		return res, true, nil // the way in stays open for another try
	}
	// Should this program end meanwhile, or the last word be lost, the next one finds out from the report what there was.
	r.take(&w.set, res)
	r.LoginBegun = w.set.removesLogin()
	if err := w.Keep(r); err != nil {
		return res, true, err
	}
	return w.login(ctx, client, s, r, res)
}

// login has the far side remove the login, and finds out what became of that when its last word is lost. Its results are those
// of attempt.
func (w *Wipe) login(ctx context.Context, client *ssh.Client, s *deploy.Session, r *Report, res *protocol.Result) (*protocol.Result, bool, error) {
	last, err := w.finish(ctx, client, s)
	if last != nil {
		r.LoginRemoved = w.set.removesLogin() && !w.set.leavesLogin(last)
		return last, true, nil
	}
	var far *deploy.FarError
	if errors.As(err, &far) || errors.Is(err, errLies) {
		return res, true, fmt.Errorf("the login could not be removed: %w", err)
	}
	w.cfg.notify("the machine's last word is lost (%v): looking whether it still lets the key in", err)
	lets, unknown := w.letsIn(ctx)
	switch {
	case unknown != nil:
		return res, true, fmt.Errorf("nobody knows whether the login was removed: %w", unknown)
	case lets:
		if kept := w.keepLogin(r); kept != nil {
			return res, true, kept
		}
		return res, false, err // the next connection goes on
	}
	r.LoginRemoved, r.LoginUnconfirmed = r.LoginBegun, true
	return res, true, nil
}

// keepLogin brings the report up to date once the removal of the login has begun: a login of our own after the time in it would
// look as if the machine had been used again.
func (w *Wipe) keepLogin(r *Report) error {
	if !r.LoginBegun {
		return nil
	}
	return w.Keep(r)
}

// connect makes a connection that ends when its other end is lost.
func (w *Wipe) connect(ctx context.Context) (*ssh.Client, error) {
	client, err := w.cfg.Connect(ctx)
	if err != nil {
		return nil, err
	}
	sshsession.Watch(client, watchEvery, watchPatience)
	return client, nil
}

// startError tells a far side that cannot work from a connection that broke.
func startError(err error) error {
	var far *deploy.FarError
	if errors.As(err, &far) {
		return &fault{err}
	}
	return err
}

// follow passes on what the far side says until it is through, or its connection is.
func (w *Wipe) follow(ctx context.Context, client *ssh.Client, s *deploy.Session) (*protocol.Result, error) {
	// It has less time for the last word of a run that is to stop.
	silence, toStop := w.cfg.Silence, w.cfg.Silence/3
	alive := time.AfterFunc(silence, func() { client.Close() })
	defer alive.Stop()
	defer context.AfterFunc(ctx, func() {
		alive.Reset(toStop) // before a word that a lost connection may hold up
		if s.Stop() != nil {
			client.Close()
		}
	})()
	stopping := false
	for {
		m, err := s.Receive()
		if err == nil {
			w.heard = w.cfg.Now()
		}
		switch {
		case ctx.Err() == nil:
			if alive.Reset(silence); ctx.Err() != nil {
				alive.Reset(toStop)
			}
		case !stopping:
			stopping = true
			w.cfg.notify("stopping: no file is begun any more")
		}
		var far *deploy.FarError
		switch {
		case errors.As(err, &far):
			return nil, &fault{err}
		case errors.Is(err, io.EOF):
			return nil, errEnded
		case err != nil:
			return nil, err
		case m.Progress != nil:
			w.count(m.Progress.Done)
			if s.Kind == deploy.Script {
				m.Progress.Total = w.expect(m.Progress.Done)
			}
			w.progress(m.Progress)
		case m.Result != nil:
			if err := w.set.checkResult(m.Result); err != nil {
				return nil, err // of one that makes no sense nothing is taken
			}
			w.count(m.Result.Total)
			return m.Result, nil
		}
	}
}

// count remembers the most that was ever done. What a far side that goes on says first is no more.
func (w *Wipe) count(now protocol.Tally) {
	w.done.Files, w.done.Bytes = max(w.done.Files, now.Files), max(w.done.Bytes, now.Bytes)
}

// expect returns the total for a far side that does not count before it begins: what was planned, and what runs before this one
// have done.
func (w *Wipe) expect(done protocol.Tally) protocol.Tally {
	if w.expected == nil {
		planned := w.Plan.Total
		w.expected = &protocol.Tally{Files: done.Files + planned.Files, Bytes: done.Bytes + planned.Bytes}
	}
	return *w.expected
}

// steps says what is done in the phases that have no total.
var steps = map[protocol.Phase]string{
	protocol.PhaseProcesses: "ending processes and counting files",
	protocol.PhaseSweep:     "looking for what came back",
}

func (w *Wipe) progress(p *protocol.Progress) {
	if step, ok := steps[p.Phase]; ok && !w.told[p.Phase] {
		w.told[p.Phase] = true
		w.cfg.notify("%s", step)
	}
	if w.cfg.Notify == nil || p.Done.Files < 0 || p.Done.Bytes < 0 {
		return
	}
	now := Progress{Files: p.Done.Files, Bytes: p.Done.Bytes}
	if p.Total != (protocol.Tally{}) {
		now.TotalFiles, now.TotalBytes = max(p.Total.Files, now.Files), max(p.Total.Bytes, now.Bytes)
	}
	w.cfg.Notify(Event{Progress: &now})
}

// finish has the far side remove the login and itself, and returns its last word. Once that is under way it is not taken
// back: the end of ctx is not heard.
func (w *Wipe) finish(ctx context.Context, client *ssh.Client, s *deploy.Session) (*protocol.Result, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if w.set.removesLogin() {
		w.cfg.notify("removing what logging in needs")
	}
	defer context.AfterFunc(ctx, func() { client.Close() })() // before the first word, for which there may be no room
	last, err := s.Finish(ctx)
	if err != nil {
		return nil, err
	}
	if last != s {
		defer last.Close()
	}
	return w.lastWord(last)
}

func (w *Wipe) lastWord(s *deploy.Session) (*protocol.Result, error) {
	for {
		m, err := s.Receive()
		switch {
		case err != nil:
			return nil, err
		case m.Result != nil && m.Result.Finished:
			if err := w.set.checkResult(m.Result); err != nil {
				return nil, err
			}
			return m.Result, nil
		}
	}
}

// letsIn finds out whether the machine still lets the key in. One whose host keys are gone, too, cannot be asked: it closes every
// connection. An error says that nobody knows.
func (w *Wipe) letsIn(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Patience)
	defer cancel()
	for closed := 0; ; {
		client, err := w.cfg.Connect(ctx)
		switch {
		case err == nil:
			client.Close()
			return true, nil
		case w.cfg.Refused(err):
			return false, nil
		case w.cfg.Closed(err):
			if closed++; closed == maxClosed {
				return false, nil
			}
		case w.cfg.Retry != nil && !w.cfg.Retry(err):
			return false, err
		default:
			closed = 0
		}
		if !sleep(ctx, w.cfg.Pause) {
			return false, err
		}
	}
}

// sleep waits for d, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
