package ipc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"vast-ssh/internal/unixsock"
)

// Client is a connection to the control socket of a running agent. It is for one goroutine.
type Client struct {
	conn net.Conn
}

// Dial connects to the control socket at path. The process behind it must have our own uid.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := unixsock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Witness tells the agent about an observed key exchange. When it returns nil the agent holds the witness; a refusal is
// a *RefusedError.
func (c *Client) Witness(ctx context.Context, w Witness) error {
	_, err := c.call(ctx, request{Op: opWitness, Witness: &w})
	return err
}

// Withdraw tells the agent that the connection of w has ended. A witness that nobody has used is forgotten. The refusal is
// what this login was refused last, or nil.
func (c *Client) Withdraw(ctx context.Context, w Witness) (*Refusal, error) {
	rep, err := c.call(ctx, request{Op: opWithdraw, Witness: &w})
	return rep.Refusal, err
}

// Lock has the agent forget the private key and refuse all logins until Unlock.
func (c *Client) Lock(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: opLock})
	return err
}

// Unlock has the agent load the private key. passphrase is empty for a key without one. A *RefusedError with the reason
// WrongPassphrase is worth another question.
func (c *Client) Unlock(ctx context.Context, passphrase []byte) error {
	_, err := c.call(ctx, request{Op: opUnlock, Passphrase: passphrase})
	return err
}

// Status asks for the agent's state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	rep, err := c.call(ctx, request{Op: opStatus})
	if err != nil {
		return Status{}, err
	}
	if rep.Status == nil {
		return Status{}, errors.New("the agent sent no status")
	}
	return *rep.Status, nil
}

// Stop asks the agent to finish what is in flight and exit. It returns when the agent has closed the connection, the
// last thing that it does.
func (c *Client) Stop(ctx context.Context) error {
	if _, err := c.call(ctx, request{Op: opStop}); err != nil {
		return err
	}
	defer c.limit(ctx)()
	if _, err := c.conn.Read(make([]byte, 1)); err == nil {
		return errors.New("the agent goes on talking after it was told to stop")
	} else if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errors.New("the agent did not exit in time")
	}
	return nil
}

func (c *Client) call(ctx context.Context, req request) (reply, error) {
	defer c.limit(ctx)()
	var rep reply
	err := writeMessage(c.conn, req)
	if err == nil {
		err = readMessage(c.conn, &rep)
	}
	if err != nil {
		// What arrives later would pass for the answer to another request.
		c.conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return reply{}, fmt.Errorf("talk to the agent: %w", err)
	}
	if rep.Error != "" {
		return reply{}, &RefusedError{Reason: rep.Reason, Sentence: rep.Error, Next: rep.Hint}
	}
	return rep, nil
}

// limit bounds the reads and writes that follow by Timeout and by ctx, until stop is called.
func (c *Client) limit(ctx context.Context) (stop func() bool) {
	c.conn.SetDeadline(time.Now().Add(Timeout))
	return context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
}
