package proxy

import (
	"bytes"
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

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/wire"
	"vast-ssh/known"
)

// Conn is a connection to an instance whose first key exchange is watched. Read is for one goroutine and Write for
// another, as with any ssh client; the other methods are for all. It is a net.Conn and no more: a method such as
// WriteTo would be a way around the watch.
type Conn struct {
	net      stream
	cfg      Config
	ctx      context.Context // of Open; ends the handshake
	endpoint resolve.Endpoint
	opened   time.Time
	stop     func() bool

	mu        sync.Mutex // protects the following
	exchange  *wire.Exchange
	readable  []byte       // may be read by the client
	looked    bool         // exchange has looked at what it holds since the client's KEXINIT
	reply     *wire.Reply  // set once it was judged: what the server sends from here on is not looked at
	witnessed bool         // the agent has the witness: what the client sends from here on is not looked at
	given     *ipc.Witness // until it was withdrawn
	refused   *ipc.Refusal // set when it was
	err       error        // final, once set

	clientReady chan struct{} // closed when the client's KEXINIT was seen
	readyOnce   sync.Once
	closed      chan struct{}
	closeOnce   sync.Once
	buf         []byte // of Read, until the reply was judged
}

// HostKeyError reports a host key that is not the one of the instance, or could not be checked. None of the server's key
// exchange reply was passed on.
type HostKeyError struct {
	Instance uint64
	Endpoint resolve.Endpoint
	Err      error // *known.MismatchError and others
}

func (e *HostKeyError) Error() string {
	return fmt.Sprintf("the host key on %s %s is refused: %v", e.Endpoint.Route, e.Endpoint.Addr(), e.Err)
}

func (e *HostKeyError) Unwrap() error { return e.Err }

// WitnessError reports that the agent did not take the witness, so that the login could not be signed. Nothing that the
// client sent in cipher was passed on.
type WitnessError struct{ Err error }

func (e *WitnessError) Error() string {
	return fmt.Sprintf("the agent did not take the witness: %v", e.Err)
}

// Hint returns the agent's advice, or where to look.
func (e *WitnessError) Hint() string {
	var hint interface{ Hint() string }
	if errors.As(e.Err, &hint) && hint.Hint() != "" {
		return hint.Hint()
	}
	return "vast-agent status"
}

func (e *WitnessError) Unwrap() error { return e.Err }

// HandshakeError reports a key exchange that did not come to its end.
type HandshakeError struct {
	Instance uint64
	Endpoint resolve.Endpoint
	Err      error
}

func (e *HandshakeError) Error() string {
	return fmt.Sprintf("the key exchange on %s %s failed: %v", e.Endpoint.Route, e.Endpoint.Addr(), e.Err)
}

// Hint returns the next command to run.
func (e *HandshakeError) Hint() string {
	return fmt.Sprintf("the machine may still be starting; see its state with: vast-ssh show %d", e.Instance)
}

func (e *HandshakeError) Unwrap() error { return e.Err }

func newConn(ctx context.Context, cfg Config, l *link) *Conn {
	c := &Conn{
		net:         l.conn,
		cfg:         cfg,
		ctx:         ctx,
		endpoint:    l.endpoint,
		opened:      time.Now(),
		exchange:    l.exchange,
		readable:    l.passed,
		clientReady: make(chan struct{}),
		closed:      make(chan struct{}),
		buf:         make([]byte, 16<<10),
	}
	l.conn.SetDeadline(time.Now().Add(cfg.HandshakeTimeout))
	// An ended context wakes up whoever waits for the network.
	c.stop = context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })
	return c
}

// Endpoint is the one that was reached.
func (c *Conn) Endpoint() resolve.Endpoint { return c.endpoint }

// Close closes the connection, and with it the Jump that it goes through, and ends a Read or Write that waits. Then it
// takes the witness back.
func (c *Conn) Close() error {
	err := c.net.Close()
	c.closeOnce.Do(func() {
		close(c.closed)
		c.stop()
		c.withdraw()
		if c.cfg.Through != nil {
			c.cfg.Through.Close()
		}
	})
	return err
}

// Refusal returns what the agent refused the login over c, or nil. It is known when Close has returned.
func (c *Conn) Refusal() *ipc.Refusal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

func (c *Conn) withdraw() {
	c.mu.Lock()
	given := c.given
	c.given = nil
	c.mu.Unlock()
	if given == nil || c.cfg.Withdraw == nil {
		return
	}
	refused := c.cfg.Withdraw(*given)
	c.mu.Lock()
	c.refused = refused
	c.mu.Unlock()
}

// Write sends bytes of the client: those in cipher only after the agent holds the witness.
//
// That is the moment, and not the server's reply, because a server can put any 32 bytes under its signature, such as
// the session id of a connection of its own with another machine of the user. A client goes on in cipher only when the
// signature has verified over its own session id, so what is witnessed then can be a proof of nothing else.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.watchClient(p)
	if err != nil {
		return 0, err
	}
	if n > 0 {
		if n, err = c.net.Write(p[:n]); err != nil {
			return n, c.broken(err)
		}
	}
	if n == len(p) {
		return n, nil
	}
	if err := c.testify(); err != nil {
		return n, c.failWith(err)
	}
	m, err := c.net.Write(p[n:])
	if err != nil {
		err = c.broken(err)
	}
	return n + m, err
}

// watchClient returns how many bytes of p may be sent before the agent has the witness.
func (c *Conn) watchClient(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.witnessed {
		return len(p), nil
	}
	n, err := c.exchange.Client(p)
	if err != nil {
		return 0, c.fail(err)
	}
	if c.exchange.ClientReady() {
		c.readyOnce.Do(func() { close(c.clientReady) })
	}
	if c.exchange.ClientDone() && c.reply == nil {
		return 0, c.fail(errEarly)
	}
	return n, nil
}

// errEarly is for a client that goes on in cipher before it can have read the server's reply.
var errEarly = errors.New("the client ended the key exchange before the server's reply was passed on")

// testify hands the witness to the agent.
func (c *Conn) testify() error {
	c.mu.Lock()
	reply := c.reply
	c.mu.Unlock()
	start := time.Now()
	w := ipc.Witness{
		Instance:  c.cfg.Instance,
		HostKey:   reply.HostKey,
		Signature: reply.Signature,
		User:      c.cfg.User,
		Route:     string(c.endpoint.Route),
		Label:     c.cfg.Label,
		Client:    c.cfg.Client,
	}
	if err := c.submit(w, start.Add(c.cfg.HandshakeTimeout)); err != nil {
		return &WitnessError{err}
	}
	c.cfg.trace(start, "the agent has the witness")
	c.mu.Lock()
	c.witnessed, c.given, c.exchange = true, &w, nil
	c.mu.Unlock()
	select {
	case <-c.closed: // while the agent answered
		c.withdraw()
	default:
	}
	return nil
}

// submit asks the agent to take w, again as long as it is busy and until, and in time for one answer at least.
func (c *Conn) submit(w ipc.Witness, until time.Time) error {
	for {
		ctx, cancel := context.WithTimeout(c.ctx, ipc.Timeout)
		err := c.cfg.Witness(ctx, w)
		cancel()
		var refused *ipc.RefusedError
		if !errors.As(err, &refused) || refused.Reason != ipc.Busy || time.Now().After(until) {
			return err
		}
		select {
		case <-c.closed:
			return net.ErrClosed
		default:
		}
	}
}

// Read gives bytes of the server: all of them in their order, those of the key exchange reply and behind it only after
// the host key was found pinned.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		n, direct, wait, err := c.take(p)
		switch {
		case err != nil || n > 0 || len(p) == 0:
			return n, err
		case direct:
			if n, err = c.net.Read(p); err != nil {
				err = c.broken(err)
			}
			return n, err
		case wait:
			if err := c.awaitClient(); err != nil {
				return 0, c.broken(err)
			}
			err = c.watchServer(nil)
		default:
			if n, err = c.net.Read(c.buf); err != nil {
				return 0, c.broken(err)
			}
			err = c.watchServer(c.buf[:n])
		}
		if err != nil {
			return 0, c.failWith(err)
		}
	}
}

// take fills p from what may be read. With nothing there, direct tells that the network may be read without a watch, and
// wait that the client's KEXINIT comes first: the server has nothing to add to its own before, and what it sent all the
// same is held until then.
func (c *Conn) take(p []byte) (n int, direct, wait bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.readable) > 0 {
		n = copy(p, c.readable)
		c.readable = c.readable[n:]
		return n, false, false, nil
	}
	if c.err != nil {
		return 0, false, false, c.err
	}
	if c.reply != nil {
		return 0, true, false, nil
	}
	return 0, false, c.exchange.ServerReady() && !c.looked, nil
}

func (c *Conn) awaitClient() error {
	timer := time.NewTimer(time.Until(c.opened.Add(c.cfg.HandshakeTimeout)))
	defer timer.Stop()
	select {
	case <-c.clientReady:
		return nil
	case <-c.closed:
		return net.ErrClosed
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-timer.C:
		return os.ErrDeadlineExceeded
	}
}

// watchServer feeds bytes of the server to the exchange and, when the reply is there, judges it.
func (c *Conn) watchServer(p []byte) error {
	c.mu.Lock()
	pass, err := c.exchange.Server(p)
	c.readable = append(c.readable, pass...)
	c.looked = c.exchange.ClientReady()
	reply := c.exchange.Reply()
	c.mu.Unlock()
	if err != nil || reply == nil {
		return err
	}
	if err := c.judge(reply); err != nil {
		return err
	}
	c.stop()
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.net.SetDeadline(time.Time{})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.readable = append(c.readable, c.exchange.Rest()...)
	c.reply, c.buf = reply, nil
	return nil
}

// judge checks the host key of the reply against the pins.
func (c *Conn) judge(reply *wire.Reply) error {
	key, err := ssh.ParsePublicKey(reply.HostKey)
	// The bytes are what the client will read, so another encoding of a pinned key is another key.
	if err != nil || !bytes.Equal(key.Marshal(), reply.HostKey) {
		return &HostKeyError{c.cfg.Instance, c.endpoint, errors.New("it does not parse")}
	}
	if err := c.cfg.Pins.Check(c.cfg.Instance, key); err != nil {
		return &HostKeyError{c.cfg.Instance, c.endpoint, err}
	}
	c.cfg.trace(c.opened, "host key %s matches its pin (%s)", ssh.FingerprintSHA256(key), reply.Method)
	return nil
}

func (c *Conn) failWith(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fail(err)
}

// broken takes an error of the network. Until the server's reply was judged it ends the handshake; after that it is an
// end like any other, unless it comes from a refusal.
func (c *Conn) broken(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.reply != nil:
		return err
	}
	switch cause := c.ctx.Err(); {
	case cause != nil:
		return c.fail(cause)
	case errors.Is(err, net.ErrClosed):
		return c.fail(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("it was not finished in %v", c.cfg.HandshakeTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		err = &closedError{"the server closed the connection", err}
	}
	return c.fail(&HandshakeError{c.cfg.Instance, c.endpoint, err})
}

// fail makes the connection useless in both directions, keeping the first reason. mu is held.
func (c *Conn) fail(err error) error {
	if c.witnessed {
		return err
	}
	if c.err == nil {
		c.err = err
		c.readable = nil
		c.net.SetDeadline(time.Unix(1, 0))
	}
	return c.err
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.net.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.net.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.net.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.net.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.net.SetWriteDeadline(t) }

// Name is the name under which the instance's host keys are pinned.
func (c *Conn) Name() string { return known.Name(c.cfg.Instance) }
