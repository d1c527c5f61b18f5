package companion

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the agent waits for at most, whatever the context of the call allows. Those that are no constants are longer in tests.
var (
	startLimit = 10 * time.Second
	chainLimit = 2 * time.Second
	exitLimit  = 2 * time.Second
	writeLimit = time.Second // the companion always reads, or it is broken
)

const (
	confirmLimit = promptTimeout + 5*time.Second
	notifyLimit  = notifyTimeout + 2*time.Second
)

// Client is the agent's end. Its methods may be called from many goroutines.
type Client struct {
	conn   net.Conn
	turn   chan struct{} // holds the one who writes
	gone   chan struct{} // closed when the companion can answer no more
	exited chan struct{} // closed when its process has ended

	mu      sync.Mutex // protects the following
	last    uint64     // id of the last request
	waiting map[uint64]chan<- reply
}

// Options say how the companion is started.
type Options struct {
	// Askpass is the absolute path of the program that asks people. If it is empty, SSH_ASKPASS of the agent's
	// environment is used, and without it the first program that is in one of the usual places.
	Askpass string
	// Stderr takes what the askpass program complains about. If it is nil that is lost.
	Stderr *os.File
}

// Start runs program with the argument "companion" and returns when it answers. The process has its own session and
// of the environment what an askpass program needs; it ends with Close, or with the process that started it. ctx is
// for the start only.
func Start(ctx context.Context, program string, o Options) (*Client, error) {
	c, err := start(ctx, program, o)
	if err != nil {
		return nil, fmt.Errorf("start the companion process: %w", err)
	}
	return c, nil
}

func start(ctx context.Context, program string, o Options) (*Client, error) {
	near, far, err := socketpair()
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(near) // a copy
	near.Close()
	if err != nil {
		far.Close()
		return nil, err
	}
	cmd := exec.Command(program, "companion")
	cmd.Dir = "/"
	cmd.Env = environment(os.Environ())
	if o.Askpass != "" {
		cmd.Env = append(cmd.Env, "SSH_ASKPASS="+o.Askpass)
	}
	if o.Stderr != nil {
		cmd.Stderr = o.Stderr
	}
	cmd.ExtraFiles = []*os.File{far} // becomes fd 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	far.Close() // now, or a companion that ends at once would not be seen to
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := newClient(conn)
	go func() {
		defer close(c.exited)
		cmd.Wait()
	}()
	if _, err := c.call(ctx, startLimit, request{Op: opHello}); err != nil {
		// What does not answer may not read either, and so not see the end.
		cmd.Process.Kill()
		c.Close()
		return nil, err
	}
	return c, nil
}

func newClient(conn net.Conn) *Client {
	c := &Client{
		conn:    conn,
		turn:    make(chan struct{}, 1),
		gone:    make(chan struct{}),
		exited:  make(chan struct{}),
		waiting: make(map[uint64]chan<- reply),
	}
	go c.receive()
	return c
}

// socketpair returns two connected sockets that no program inherits unless it is given one.
func socketpair() (near, far *os.File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	return os.NewFile(uintptr(fds[0]), "companion"), os.NewFile(uintptr(fds[1]), "agent"), nil
}

// Close lets the companion end, with everything that it is at, and returns when it has, or after two seconds.
func (c *Client) Close() error {
	err := c.conn.Close()
	select {
	case <-c.exited:
	case <-time.After(exitLimit):
	}
	return err
}

// Chain returns the process pid and its ancestors, the nearest first: at most 16, and fewer where one has gone. It is
// for people to read and nothing to decide on.
func (c *Client) Chain(ctx context.Context, pid int) ([]Process, error) {
	rep, err := c.call(ctx, chainLimit, request{Op: opChain, PID: pid})
	return rep.Chain, err
}

// Confirm asks a person and reports whether the answer is yes: an askpass program was started, exited with status 0,
// and said nothing else than "yes", if anything. A person who says no has no error; a question that could not be
// asked or was not answered within a minute has one. When ctx ends the question disappears. While four questions are
// open the fifth fails with ErrBusy.
func (c *Client) Confirm(ctx context.Context, q Question) (bool, error) {
	if err := q.check(); err != nil {
		return false, err
	}
	rep, err := c.call(ctx, confirmLimit, request{Op: opConfirm, Question: &q})
	return rep.Yes, err
}

// Notify shows n on the desktop: the same summary at most every ten seconds, and six a minute in all. What is left out
// is no error; it is counted and told in the next one.
func (c *Client) Notify(ctx context.Context, n Notification) error {
	n.Summary, n.Body = cut(n.Summary), cut(n.Body)
	_, err := c.call(ctx, notifyLimit, request{Op: opNotify, Notification: &n})
	return err
}

// call returns no part of a reply together with an error.
func (c *Client) call(ctx context.Context, limit time.Duration, req request) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer := make(chan reply, 1)
	c.mu.Lock()
	c.last++
	req.ID = c.last
	c.waiting[req.ID] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, req.ID)
	}()
	if err := c.send(ctx, req); err != nil {
		return reply{}, err
	}
	var rep reply
	select {
	case rep = <-answer:
	case <-c.gone:
		return reply{}, ErrGone
	case <-ctx.Done():
		c.send(context.WithoutCancel(ctx), request{ID: req.ID, Op: opCancel})
	}
	// A late yes is none.
	if err := ctx.Err(); err != nil {
		return reply{}, err
	}
	if rep.Busy {
		return reply{}, ErrBusy
	}
	if rep.Error != "" {
		return reply{}, errors.New(rep.Error)
	}
	return rep, nil
}

// send writes one message whole. A message that could not be written whole leaves nothing to go on with.
func (c *Client) send(ctx context.Context, req request) error {
	b, err := frame(req)
	if err != nil {
		return err
	}
	select {
	case c.turn <- struct{}{}:
	case <-c.gone:
		return ErrGone
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.turn }()
	c.conn.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, err := c.conn.Write(b); err != nil {
		c.conn.Close()
		return ErrGone
	}
	return nil
}

// receive hands each reply to the call that waits for it. A call that has given up is not there any more.
func (c *Client) receive() {
	defer close(c.gone)
	defer c.conn.Close()
	r := bufio.NewReader(c.conn)
	for {
		var rep reply
		if err := readMessage(r, &rep); err != nil {
			return
		}
		c.mu.Lock()
		answer := c.waiting[rep.ID]
		delete(c.waiting, rep.ID)
		c.mu.Unlock()
		if answer != nil {
			answer <- rep
		}
	}
}
