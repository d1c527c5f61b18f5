// Package sshsession opens sessions on ssh connections (RFC 4254, section 6.1), and tells whether a connection is alive.
package sshsession

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// Open opens a session. It ends with ctx, and then the connection does, too, and with the connection, in which case the error
// wraps net.ErrClosed. x/crypto itself waits for ever on a connection that ends in the moment between: see
// https://github.com/golang/go/issues/26643.
func Open(ctx context.Context, client *ssh.Client) (*ssh.Session, error) {
	type opened struct {
		session *ssh.Session
		err     error
	}
	result := make(chan opened, 1)
	go func() {
		session, err := client.NewSession()
		result <- opened{session, err}
	}()
	ended := make(chan struct{})
	go func() {
		client.Wait()
		close(ended)
	}()
	var err error
	select {
	case o := <-result:
		return o.session, o.err
	case <-ctx.Done():
		client.Close()
		err = context.Cause(ctx)
	case <-ended:
		err = fmt.Errorf("open a session: %w", net.ErrClosed)
	}
	// One that comes late is nobody's.
	go func() {
		if o := <-result; o.err == nil {
			o.session.Close()
		}
	}()
	return nil, err
}

// answerTimeout bounds the answer to a request that everybody answers.
const answerTimeout = 30 * time.Second

// Alive reports whether the other end of a connection answers, if only that it does not know what it is asked. A connection
// without an answer ends.
func Alive(ctx context.Context, client *ssh.Client) bool {
	return answers(ctx, client, answerTimeout)
}

// Watch ends a connection whose other end does not answer any more, as when the way to it is lost without a word. It asks once in
// every while, and the answer has to come within patience, which is the time to send all that may be under way before. It
// ends with the connection.
func Watch(client *ssh.Client, every, patience time.Duration) {
	ended := make(chan struct{})
	go func() {
		client.Wait()
		close(ended)
	}()
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			if !answers(context.Background(), client, patience) {
				return
			}
		}
	}()
}

func answers(ctx context.Context, client *ssh.Client, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
	return err == nil
}
