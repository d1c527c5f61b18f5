package daemon

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"
)

// Process is a running program that the test's process started.
type Process struct {
	*exec.Cmd
	// Done is closed when the program has been waited for; Err is its end, to be read after that.
	Done chan struct{}
	Err  error
}

// Start starts cmd so that it cannot outlive the test's process where the system can promise that. Before that it
// calls prepare, if that is not nil, on the thread that will be cmd's parent and that ends with it: what prepare does to
// the thread, cmd inherits, and nobody else.
func Start(cmd *exec.Cmd, prepare func() error) (*Process, error) {
	p := &Process{Cmd: cmd, Done: make(chan struct{})}
	dieWithParent(cmd)
	started := make(chan error)
	go ownThread(func() {
		err := error(nil)
		if prepare != nil {
			err = prepare()
		}
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err != nil {
			return
		}
		p.Err = cmd.Wait()
		if p.Err == nil {
			p.Err = errors.New("exit status 0")
		}
		close(p.Done)
	})
	return p, <-started
}

// ownThread runs f on a thread that nobody uses before its end, and that ends with f. The signal of dieWithParent
// comes when the thread that forked ends, not the process.
func ownThread(f func()) {
	runtime.LockOSThread()
	if !isMainThread() {
		f()
		return
	}
	// The main thread is the process to others, and does not end before it.
	done := make(chan struct{})
	go func() {
		defer close(done)
		ownThread(f)
	}()
	<-done
	runtime.UnlockOSThread()
}

// Await waits for what Log.Listening reports, while p, which sshd is or which started it, lives.
func Await(ready <-chan error, p *Process) error {
	timeout := time.NewTimer(StartTimeout)
	defer timeout.Stop()
	select {
	case err := <-ready:
		return err
	case <-p.Done:
		return fmt.Errorf("sshd ended: %w", p.Err)
	case <-timeout.C:
		return fmt.Errorf("sshd did not listen within %v", StartTimeout)
	}
}
