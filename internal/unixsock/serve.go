package unixsock

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// acceptPause is the wait after a failed accept, such as one for want of file descriptors.
const acceptPause = 50 * time.Millisecond

// Serve hands each connection to handle in a goroutine of its own, at most limit at a time, and of one process at most
// l.PerPeer at a time. Those beyond wait and are served in the order in which they came, as far as their process has
// room, so that no process can keep the others waiting. At most 4 limit connections are held, of one process half of that:
// its next is closed, and everybody's next waits in the kernel's queue. Serve returns when l is closed, after all handlers
// have returned.
func Serve(ctx context.Context, l *Listener, limit int, handle func(context.Context, *Conn)) error {
	room := &room{limit: limit, perPeer: l.PerPeer, peers: make(map[process]*peerConns)}
	held := make(chan struct{}, 4*limit)
	var handlers sync.WaitGroup
	defer handlers.Wait()
	defer room.close()
	for {
		held <- struct{}{}
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			<-held
			select {
			case <-time.After(acceptPause):
				continue
			case <-ctx.Done():
				return err
			}
		}
		switch room.enter(c) {
		case refused:
			c.Close()
			<-held
		case waiting:
		case served:
			handlers.Go(func() {
				for c != nil {
					handle(ctx, c)
					<-held
					c = room.next(c)
				}
			})
		}
	}
}

// process tells a process from a later one with the same pid.
type process struct {
	pid   int
	start uint64
}

func (p Peer) process() process { return process{p.PID, p.Start} }

// peerConns are the numbers of connections of one process.
type peerConns struct{ served, held int }

// room decides who is served and who waits.
type room struct {
	limit   int // served
	perPeer int // served of one process; 0 is any number

	mu      sync.Mutex // protects the following
	served  int
	peers   map[process]*peerConns
	waiting []*Conn // in the order in which they came
	closed  bool
}

// What becomes of a connection.
type verdict int

const (
	served verdict = iota
	waiting
	refused
)

// enter takes c in, or not.
func (r *room) enter(c *Conn) verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := c.Peer.process()
	p := r.peers[id]
	if p == nil {
		p = new(peerConns)
		r.peers[id] = p
	}
	if r.perPeer > 0 && p.held >= 2*r.limit {
		return refused
	}
	p.held++
	if !r.mayServe(p) {
		r.waiting = append(r.waiting, c)
		return waiting
	}
	r.served++
	p.served++
	return served
}

// mayServe reports whether one more connection of p can be served. mu is held.
func (r *room) mayServe(p *peerConns) bool {
	return r.served < r.limit && (r.perPeer == 0 || p.served < r.perPeer)
}

// next takes the place of c, which has been served, and returns the connection to be served in it, or nil.
func (r *room) next(c *Conn) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := c.Peer.process()
	p := r.peers[id]
	r.served--
	p.served--
	if p.held--; p.held == 0 {
		delete(r.peers, id)
	}
	if r.closed {
		return nil
	}
	i := slices.IndexFunc(r.waiting, func(c *Conn) bool { return r.mayServe(r.peers[c.Peer.process()]) })
	if i < 0 {
		return nil
	}
	n := r.waiting[i]
	r.waiting = slices.Delete(r.waiting, i, i+1)
	r.served++
	r.peers[n.Peer.process()].served++
	return n
}

// close ends those who wait.
func (r *room) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, c := range r.waiting {
		c.Close()
	}
	r.waiting = nil
}
