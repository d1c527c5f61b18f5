package unixsock

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// acceptPause is the wait after a failed accept, such as one for want of file descriptors.
const acceptPause = 50 * time.Millisecond

// Serve hands each connection to handle in a goroutine of its own, at most limit at a time; more wait in the kernel's
// queue. Of one process it serves at most l.PerPeer at a time and closes what comes beyond, so that no process can keep
// the others waiting. It returns when l is closed, after all handlers have returned.
func Serve(ctx context.Context, l *Listener, limit int, handle func(context.Context, *Conn)) error {
	slots := make(chan struct{}, limit)
	var handlers sync.WaitGroup
	defer handlers.Wait()
	served := crowd{most: l.PerPeer, conns: make(map[process]int)}
	for {
		slots <- struct{}{}
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			<-slots
			select {
			case <-time.After(acceptPause):
				continue
			case <-ctx.Done():
				return err
			}
		}
		if !served.enter(c.Peer) {
			c.Close()
			<-slots
			continue
		}
		handlers.Go(func() {
			defer func() {
				served.leave(c.Peer)
				<-slots
			}()
			handle(ctx, c)
		})
	}
}

// process tells a process from a later one with the same pid.
type process struct {
	pid   int
	start uint64
}

// crowd counts the connections that are served, by process.
type crowd struct {
	most int // of one process; 0 is any number

	mu    sync.Mutex // protects the following
	conns map[process]int
}

// enter counts one more of p, and is false if there is no room for it.
func (cr *crowd) enter(p Peer) bool {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	id := process{p.PID, p.Start}
	if cr.most > 0 && cr.conns[id] >= cr.most {
		return false
	}
	cr.conns[id]++
	return true
}

func (cr *crowd) leave(p Peer) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	id := process{p.PID, p.Start}
	if cr.conns[id]--; cr.conns[id] == 0 {
		delete(cr.conns, id)
	}
}
