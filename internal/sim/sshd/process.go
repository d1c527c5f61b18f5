package sshd

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"vast-ssh/internal/sim/sshd/daemon"
)

// process is a running sshd.
type process struct {
	*daemon.Process
	// drained is closed when nobody holds its stderr any more.
	drained chan struct{}
}

// kill ends the server and all that its sessions started, and nothing else: the children of its children, and
// the processes that carry its mark in their environment.
//
// Every connection is a session and a process group of its own, so no one signal reaches them all. And whoever is
// killed while it starts another process leaves that one without a parent to be known by. So the family is stopped
// first, from the listening process on, until nobody in it can start anything; then it is killed.
func (p *process) kill(mark string) error {
	root := p.Cmd.Process.Pid
	if err := p.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		// It ended by itself, and its number may be another's by now.
		root = noProcess
	}
	deadline := time.Now().Add(killTimeout)
	members, err := freeze(root, mark, deadline)
	for _, m := range members {
		syscall.Kill(m.pid, syscall.SIGKILL)
	}
	p.Cmd.Process.Kill()
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	for _, end := range []<-chan struct{}{p.Done, p.drained} {
		select {
		case <-end:
		case <-timeout.C:
			return errors.Join(err, errors.New("sshd was killed and something of it still holds its stderr"))
		}
	}
	return errors.Join(err, gone(members, deadline))
}

// poll is how often other processes are looked at: there is no event for what happens to one that is not a child.
const poll = time.Millisecond

// freeze stops the living descendants of root and the processes that carry the mark, and returns them.
func freeze(root int, mark string, deadline time.Time) ([]row, error) {
	for {
		members, err := family(root, mark)
		if err != nil {
			return members, err
		}
		moving := slices.DeleteFunc(slices.Clone(members), func(r row) bool { return r.stopped })
		if len(moving) == 0 {
			return members, nil
		}
		for _, r := range moving {
			syscall.Kill(r.pid, syscall.SIGSTOP)
		}
		if time.Now().After(deadline) {
			return members, fmt.Errorf("%d processes of a session do not stop", len(moving))
		}
		time.Sleep(poll)
	}
}

// gone waits until the killed processes are no more.
func gone(members []row, deadline time.Time) error {
	for {
		rows, err := processes("")
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(slices.Clone(members), func(m row) bool {
			// Another process can have got the number.
			return !slices.ContainsFunc(rows, func(r row) bool { return r.pid == m.pid && r.began == m.began })
		})
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of a session do not end", len(left))
		}
		time.Sleep(poll)
	}
}

// noProcess is nobody's parent.
const noProcess = -1

// row is a process that is not a zombie.
type row struct {
	pid, parent     int
	began           int64 // in units of the system
	stopped, marked bool
}

// family returns the living descendants of root, without root, and the processes that carry the mark.
func family(root int, mark string) ([]row, error) {
	rows, err := processes(mark)
	if err != nil {
		return nil, err
	}
	in := map[int]bool{root: true}
	var members []row
	for grown := true; grown; {
		grown = false
		for _, r := range rows {
			if !in[r.pid] && (in[r.parent] || r.marked) {
				in[r.pid] = true
				members = append(members, r)
				grown = true
			}
		}
	}
	return members, nil
}
