package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
	"vast-ssh/known"
)

// Jump is a login at one instance from which another is reached: what ssh -J does, in this process. The instance in the
// middle carries bytes that it cannot read, as any other machine on the way. Nothing of the agent is forwarded to it.
type Jump struct {
	client   *ssh.Client
	instance uint64
	way      string        // the instances on it, for people
	ended    chan struct{} // closed when the connection has ended
}

// keepAliveEvery is how often the instance in the middle is asked whether it is there, and keepAliveLimit how long its
// answer may take. Together they are what ServerAliveInterval 15 is for ssh.
const (
	keepAliveEvery = 15 * time.Second
	keepAliveLimit = 30 * time.Second
)

// loginTimeout bounds a login at an instance in the middle, as sshd does. Somebody may have to be asked for consent.
const loginTimeout = 2 * time.Minute

// OpenJump logs in over c as Login does. c is closed if that fails, and by Close. An error of the agent is a
// *RefusedError.
func OpenJump(ctx context.Context, c *Conn, agentSocket string) (*Jump, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	client, err := Login(ctx, c, agentSocket)
	if err != nil {
		c.Close()
		switch r := c.Refusal(); {
		case r != nil:
			err = &RefusedError{r}
		case errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("it was not finished in %v", loginTimeout)
		}
		return nil, fmt.Errorf("log in at %s: %w", c.Name(), err)
	}
	j := &Jump{client: client, instance: c.cfg.Instance, way: c.Name(), ended: make(chan struct{})}
	if c.cfg.Through != nil {
		j.way = c.cfg.Through.way + ", " + j.way
	}
	go func() {
		defer close(j.ended)
		client.Wait()
	}()
	go j.keepAlive(keepAliveEvery, keepAliveLimit)
	return j, nil
}

// Close ends the login, and with it every connection that goes through it.
func (j *Jump) Close() error { return j.client.Close() }

// keepAlive ends the connection when the instance does not answer any more.
func (j *Jump) keepAlive(every, limit time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-j.ended:
			return
		}
		late := time.AfterFunc(limit, func() { j.Close() })
		_, _, err := j.client.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			return
		}
	}
}

// beyond gives endpoints as they are reached from here.
func (j *Jump) beyond(endpoints []resolve.Endpoint) []resolve.Endpoint {
	var list []resolve.Endpoint
	for _, e := range endpoints {
		e.Route = resolve.Route(fmt.Sprintf("%s via %s", e.Route, j.way))
		list = append(list, e)
	}
	return list
}

// dial is a dialer. The error is a *ForwardingError if the instance refuses.
func (j *Jump) dial(ctx context.Context, addr string) (stream, error) {
	far, err := j.client.DialContext(ctx, "tcp", addr)
	var refused *ssh.OpenChannelError
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &refused):
		return nil, &ForwardingError{j.instance, refused.Reason, refused.Message}
	default:
		return nil, fmt.Errorf("the connection to %s has ended", known.Name(j.instance))
	}
	t, err := newTunnel(far)
	if err != nil {
		far.Close()
		return nil, err
	}
	return t, nil
}

// ForwardingError reports that an instance did not make a connection to another one.
type ForwardingError struct {
	Instance uint64
	Reason   ssh.RejectionReason
	Message  string // of the instance
}

func (e *ForwardingError) Error() string {
	if e.Reason == ssh.Prohibited {
		return fmt.Sprintf("%s does not let connections through: %.200q", known.Name(e.Instance), e.Message)
	}
	return fmt.Sprintf("%s cannot connect there: %.200q", known.Name(e.Instance), e.Message)
}

// Hint returns the next thing to do.
func (e *ForwardingError) Hint() string {
	if e.Reason == ssh.Prohibited {
		return fmt.Sprintf("set \"AllowTcpForwarding yes\" in /etc/ssh/sshd_config on instance %d, or connect without it",
			e.Instance)
	}
	return "connect without the instance in the middle: it may not be able to reach the other one"
}

// RefusedError is a login that the agent did not sign, as it told when the connection had ended.
type RefusedError struct{ Refusal *ipc.Refusal }

func (e *RefusedError) Error() string { return e.Refusal.Sentence }

// Hint returns the next command to run.
func (e *RefusedError) Hint() string {
	if e.Refusal.Hint != "" {
		return e.Refusal.Hint
	}
	return fmt.Sprintf("vast-ssh why %d", e.Refusal.Instance)
}

// tunnel is one end of a socket pair whose other end is carried through a channel of an SSH connection. A channel alone
// knows no deadlines, and closing it ends no Read before the other side has answered.
type tunnel struct {
	*net.UnixConn
	far net.Conn
}

func newTunnel(far net.Conn) (*tunnel, error) {
	near, end, err := socketPair()
	if err != nil {
		return nil, err
	}
	go func() {
		// Each way ends by itself: a server may close its side and listen on.
		defer end.Close()
		var ways sync.WaitGroup
		ways.Go(func() {
			io.Copy(far, end)
			end.CloseRead()
			far.(interface{ CloseWrite() error }).CloseWrite()
		})
		ways.Go(func() {
			io.Copy(end, far)
			end.CloseWrite()
		})
		ways.Wait()
	}()
	return &tunnel{near, far}, nil
}

// Close closes the channel as well, without waiting for it: the other side of the SSH connection may not listen.
func (t *tunnel) Close() error {
	err := t.UnixConn.Close()
	go t.far.Close()
	return err
}

func socketPair() (near, end *net.UnixConn, err error) {
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "tunnel")
		c, cerr := net.FileConn(f)
		f.Close()
		if cerr != nil {
			err = errors.Join(err, cerr)
			continue
		}
		conns[i] = c.(*net.UnixConn)
	}
	if err != nil {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, nil, err
	}
	return conns[0], conns[1], nil
}
