package job

import (
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/ssh"
)

// answering is a connection to a server that gives every command to run, and then goes on as it likes.
func answering(t *testing.T, run func(conn net.Conn, channel ssh.Channel)) *ssh.Client {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	check(t, err)
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, channels, requests, err := ssh.NewServerConn(conn, config)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		for c := range channels {
			channel, requests, err := c.Accept()
			if err != nil {
				return
			}
			for r := range requests {
				r.Reply(r.Type == "exec", nil)
				run(conn, channel)
			}
		}
	}()
	client, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(signer.PublicKey()), Timeout: time.Minute})
	check(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

// succeed sends what OpenSSH may send before the last of the output.
func succeed(channel ssh.Channel) {
	channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
}

// TestAStatusBeforeTheOutput tells a connection that was cut between the status of a script and its output from a script that
// says too little.
func TestAStatusBeforeTheOutput(t *testing.T) {
	r, err := New(Config{ID: NewID()})
	check(t, err)
	cut := answering(t, func(conn net.Conn, channel ssh.Channel) {
		succeed(channel)
		conn.Close()
	})
	var dropped *droppedError
	if err := r.once(t.Context(), cut, call{script: "probe", read: (*lines).end}); !errors.As(err, &dropped) {
		t.Errorf("a connection that was cut: %v", err)
	}
	short := answering(t, func(_ net.Conn, channel ssh.Channel) {
		succeed(channel)
		channel.Close()
	})
	var wrong *ProtocolError
	if err := r.once(t.Context(), short, call{script: "probe", read: (*lines).end}); !errors.As(err, &wrong) {
		t.Errorf("a script that says too little: %v", err)
	}
}

// TestErrorsOfReadingAreTheConnections but for the end of a script's output.
func TestErrorsOfReadingAreTheConnections(t *testing.T) {
	var broken *connectionError
	if _, err := (connection{iotest.ErrReader(errors.New("write: broken pipe"))}).Read(make([]byte, 1)); !errors.As(err, &broken) {
		t.Errorf("err = %v", err)
	}
	if _, err := (connection{iotest.ErrReader(io.EOF)}).Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("err = %v", err)
	}
}
