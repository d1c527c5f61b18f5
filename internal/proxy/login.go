package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"vast-ssh/internal/unixsock"
)

// Login logs in over c as the user of its Config, in this process, with the key of the agent at the socket agentSocket. The
// signature goes the way of every client: the agent gives it for the witness that c brought. The host key is compared
// with the pins a second time, as the client sees it. ctx bounds the login and not what comes after it.
func Login(ctx context.Context, c *Conn, agentSocket string) (*ssh.Client, error) {
	sock, err := unixsock.Dial(ctx, agentSocket)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("reach the agent: %w", err)
	}
	defer sock.Close()
	defer context.AfterFunc(ctx, func() { sock.Close() })()
	return LoginBy(ctx, c, ssh.PublicKeysCallback(agent.NewClient(sock).Signers))
}

// LoginBy is Login by another method than the agent, as for a key that the agent does not serve. The host key is checked in
// the same two places, and the Witness of the connection's Config is called all the same: it may do nothing.
func LoginBy(ctx context.Context, c *Conn, auth ssh.AuthMethod) (*ssh.Client, error) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	conn, channels, requests, err := ssh.NewClientConn(c, c.Name(), &ssh.ClientConfig{
		User: c.cfg.User,
		Auth: []ssh.AuthMethod{auth},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			return c.cfg.Pins.Check(c.cfg.Instance, key)
		},
		HostKeyAlgorithms: hostKeyAlgorithms(c),
	})
	ended := !stop()
	if err != nil || ended {
		c.Close()
		// A refused connection shows up in the client as a broken one: the reason is with the connection.
		switch cause := c.failure(); {
		case cause != nil && !errors.Is(cause, net.ErrClosed):
			return nil, cause
		case ended:
			return nil, ctx.Err()
		}
		return nil, err
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// LoginRefused reports whether a login ended because the server wants another key. x/crypto has no type for that, and a message
// of the server stands behind other words.
func LoginRefused(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if strings.HasPrefix(err.Error(), "ssh: unable to authenticate") {
			return true
		}
	}
	return false
}

// hostKeyAlgorithms asks for a key that is pinned. An error leaves the choice to the library: the check decides.
func hostKeyAlgorithms(c *Conn) []string {
	pins, err := c.cfg.Pins.Of(c.cfg.Instance)
	if err != nil {
		return nil
	}
	var algorithms []string
	for _, p := range pins {
		if p.Key.Type() == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		algorithms = append(algorithms, p.Key.Type())
	}
	return algorithms
}

func (c *Conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
