package sshd

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// process is a running sshd.
type process struct {
	cmd *exec.Cmd
	// done is closed when the listening process has been waited for; err is its end, to be read after that.
	done chan struct{}
	err  error
	// drained is closed when nobody holds its stderr any more.
	drained chan struct{}
}

// startProcess starts cmd so that it cannot outlive the test's process where the system can promise that.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{}), drained: make(chan struct{})}
	cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		// The signal of dieWithParent comes when the thread that forked ends, not the process: keep the thread.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		if p.err == nil {
			p.err = errors.New("exit status 0")
		}
		close(p.done)
	}()
	return p, <-started
}

// kill ends the server and all that its sessions started, and nothing else: the children of its children, and
// the processes that carry its mark in their environment.
//
// Every connection is a session and a process group of its own, so no one signal reaches them all. The listening
// process is stopped first, so that it starts no more of them, and it goes last, so that they keep their parent
// and can be told.
func (p *process) kill(mark string) error {
	root := p.cmd.Process.Pid
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		// It ended by itself, and its number may be another's by now.
		root = noProcess
	}
	deadline := time.Now().Add(killTimeout)
	var err error
	for {
		var victims []int
		if victims, err = family(root, mark); err != nil || len(victims) == 0 {
			break
		}
		if time.Now().After(deadline) {
			err = fmt.Errorf("processes %v of a session do not end", victims)
			break
		}
		for _, pid := range victims {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		// There is no event for the end of another process's child.
		time.Sleep(time.Millisecond)
	}
	p.cmd.Process.Kill()
	timeout := time.NewTimer(killTimeout)
	defer timeout.Stop()
	for _, end := range []<-chan struct{}{p.done, p.drained} {
		select {
		case <-end:
		case <-timeout.C:
			return errors.Join(err, errors.New("sshd was killed and something of it still holds its stderr"))
		}
	}
	return err
}

// noProcess is nobody's parent.
const noProcess = -1

// row is a process that is not a zombie.
type row struct {
	pid, parent int
	marked      bool
}

// family returns the living descendants of root, without root, and the processes that carry the mark.
func family(root int, mark string) ([]int, error) {
	rows, err := processes(mark)
	if err != nil {
		return nil, err
	}
	var members []int
	parents := []int{root}
	for len(parents) > 0 {
		parent := parents[0]
		parents = parents[1:]
		for _, r := range rows {
			if r.parent == parent && r.pid != root && !slices.Contains(members, r.pid) {
				members = append(members, r.pid)
				parents = append(parents, r.pid)
			}
		}
	}
	for _, r := range rows {
		if r.marked && !slices.Contains(members, r.pid) {
			members = append(members, r.pid)
		}
	}
	return members, nil
}
