package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"vast-ssh/internal/resolve"
	"vast-ssh/internal/wire"
)

// stream is the connection to a server: a *net.TCPConn, or a *tunnel.
type stream interface {
	net.Conn
	syscall.Conn
}

// dialer makes a connection to a TCP address.
type dialer func(ctx context.Context, addr string) (stream, error)

// link is a connection whose server has shown its identification line.
type link struct {
	conn     stream
	endpoint resolve.Endpoint
	exchange *wire.Exchange
	passed   []byte // what exchange has released so far
}

// dial tries the endpoints in their order, the next one after cfg.Delay or as soon as all before it have failed, and returns
// the first whose server identifies itself. The others are closed.
func dial(ctx context.Context, cfg *Config) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()

	type result struct {
		i    int
		link *link
		err  error
	}
	results := make(chan result)
	attempts := make([]Attempt, len(cfg.Endpoints))
	next, running := 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil && (next < len(cfg.Endpoints) || running > 0) {
		due := timer.C
		if next == len(cfg.Endpoints) {
			due = nil
		}
		select {
		case <-due:
			i := next
			go func() {
				l, err := connect(ctx, cfg.dialer(), cfg.Endpoints[i])
				select {
				case results <- result{i, l, err}:
				case <-ctx.Done():
					if l != nil {
						l.conn.Close()
					}
				}
			}()
			next++
			running++
			timer.Reset(cfg.Delay)
		case r := <-results:
			running--
			if r.err == nil {
				return r.link, nil
			}
			if ctx.Err() != nil {
				continue // it failed because ctx ended, which is not its reason
			}
			attempts[r.i] = Attempt{cfg.Endpoints[r.i], r.err}
			if running == 0 {
				timer.Reset(0)
			}
		case <-ctx.Done():
		}
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return nil, cause
	}
	for i := range attempts {
		if attempts[i].Err == nil {
			attempts[i] = Attempt{cfg.Endpoints[i], fmt.Errorf("no answer in %v", cfg.DialTimeout)}
		}
	}
	return nil, &UnreachableError{Instance: cfg.Instance, Attempts: attempts}
}

func (c *Config) dialer() dialer {
	if c.Through != nil {
		return c.Through.dial
	}
	return dialTCP
}

func dialTCP(ctx context.Context, addr string) (stream, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			err = op.Err // the address is told by the caller
		}
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// connect reaches one endpoint and reads up to its identification line; wire bounds what may stand before it.
func connect(ctx context.Context, dial dialer, e resolve.Endpoint) (*link, error) {
	c, err := dial(ctx, e.Addr())
	if err != nil {
		return nil, err
	}
	l := &link{conn: c, endpoint: e, exchange: wire.New()}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	if err := l.identify(); err != nil {
		stop()
		c.Close()
		return nil, err
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return l, nil
}

// closedError says in words that a server has closed the connection. It wraps what was read.
type closedError struct {
	text string
	err  error
}

func (e *closedError) Error() string { return e.text }

func (e *closedError) Unwrap() error { return e.err }

func (l *link) identify() error {
	buf := make([]byte, 4096)
	for {
		if _, ok := l.exchange.ServerVersion(); ok {
			return nil
		}
		n, err := l.conn.Read(buf)
		if n > 0 {
			pass, perr := l.exchange.Server(buf[:n])
			if perr != nil {
				return perr
			}
			l.passed = append(l.passed, pass...)
			continue
		}
		if errors.Is(err, io.EOF) {
			return &closedError{"the connection closed before an SSH server identified itself", err}
		}
		if err != nil {
			return err
		}
	}
}
