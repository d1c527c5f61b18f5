package sshsession

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// server accepts logins and handles each connection.
func server(t *testing.T, handle func(net.Conn, <-chan ssh.NewChannel)) string {
	t.Helper()
	return listen(t, func(conn net.Conn, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
		go ssh.DiscardRequests(requests)
		handle(conn, channels)
	})
}

// serverOf accepts logins and handles the requests of each connection.
func serverOf(t *testing.T, handle func(<-chan *ssh.Request)) string {
	t.Helper()
	return listen(t, func(_ net.Conn, _ <-chan ssh.NewChannel, requests <-chan *ssh.Request) { handle(requests) })
}

func listen(t *testing.T, handle func(net.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request)) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, channels, requests, err := ssh.NewServerConn(conn, config)
				if err != nil {
					return
				}
				handle(conn, channels, requests)
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, addr string) *ssh.Client {
	t.Helper()
	client, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s: it waits for ever", what)
	}
}

func TestOpen(t *testing.T) {
	client := dial(t, server(t, func(_ net.Conn, channels <-chan ssh.NewChannel) {
		for c := range channels {
			if _, requests, err := c.Accept(); err == nil {
				go ssh.DiscardRequests(requests)
			}
		}
	}))
	session, err := Open(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	session.Close()
}

// TestOpenRefused gives the server's word.
func TestOpenRefused(t *testing.T) {
	client := dial(t, server(t, func(_ net.Conn, channels <-chan ssh.NewChannel) {
		for c := range channels {
			c.Reject(ssh.Prohibited, "no")
		}
	}))
	var refused *ssh.OpenChannelError
	if _, err := Open(t.Context(), client); !errors.As(err, &refused) || refused.Message != "no" {
		t.Errorf("err = %v", err)
	}
}

// TestOpenEndsWithItsContext has a server that never answers.
func TestOpenEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{})
	client := dial(t, server(t, func(_ net.Conn, channels <-chan ssh.NewChannel) {
		<-channels
		close(asked)
		for range channels {
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := Open(ctx, client); !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v", err)
		}
	}()
	<-asked
	cancel()
	within(t, "a context that ends", done)
	ended := make(chan struct{})
	go func() {
		client.Wait()
		close(ended)
	}()
	within(t, "the connection", ended)
}

// TestOpenOnAConnectionThatEnds cuts connections at every moment around a request for a session.
func TestOpenOnAConnectionThatEnds(t *testing.T) {
	addr := server(t, func(conn net.Conn, channels <-chan ssh.NewChannel) {
		conn.(*net.TCPConn).CloseWrite() // so that the other end can write still
		for range channels {
		}
	})
	for range 1500 {
		client := dial(t, addr)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if session, err := Open(t.Context(), client); err == nil {
				session.Close()
				t.Error("a session of a connection that has ended")
			}
		}()
		within(t, "a connection that ends", done)
		client.Close()
	}
}

func TestWatchEndsASilentConnection(t *testing.T) {
	// A busy machine may take its time for an answer.
	for name, patience := range map[string]time.Duration{"silent": 500 * time.Millisecond, "answering": time.Minute} {
		answers := name == "answering"
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 100)
			client := dial(t, serverOf(t, func(requests <-chan *ssh.Request) {
				for r := range requests {
					if answers {
						r.Reply(false, nil)
					}
					asked <- struct{}{}
				}
			}))
			ended := make(chan struct{})
			go func() {
				client.Wait()
				close(ended)
			}()
			Watch(client, time.Millisecond, patience)
			<-asked
			if !answers {
				within(t, "a silent connection", ended)
				return
			}
			for range 20 {
				select {
				case <-asked:
				case <-ended:
					t.Fatal("it has ended")
				}
			}
			client.Close()
			within(t, "a connection that is closed", ended)
		})
	}
}
