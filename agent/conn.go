package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/unixsock"
)

// Message numbers of RFC 9987 section 6.1.
const (
	msgFailure           = 5
	msgSuccess           = 6
	msgRequestIdentities = 11
	msgIdentitiesAnswer  = 12
	msgSignRequest       = 13
	msgSignResponse      = 14
	msgExtension         = 27
	msgExtensionFailure  = 28
)

// MaxMessage bounds a message in bytes without its length prefix, as OpenSSH's agent does.
const MaxMessage = 256 << 10

// frameTimeout bounds the time from the first byte of a message to its last, and the writing of an answer.
const frameTimeout = 10 * time.Second

// state is how far a connection has come. It only ever moves down this list.
type state int

const (
	fresh     state = iota // nothing is known of the client's session
	forwarded              // one binding was verified: that of a login through which the connection came
	bound                  // the binding of the client's own session was verified
	signed                 // a bound connection has had its one signature
	poisoned               // refused for good
)

// conn is one connection to the agent socket.
type conn struct {
	agent *Agent
	nc    net.Conn
	r     *bufio.Reader
	peer  unixsock.Peer
	state state
	via   *hopStart // of a connection that came through a login, in forwarded and later
	bound binding   // valid in bound and signed
	// used is set by the first signature request: a session cannot be described after the fact.
	used bool
}

// Serve speaks the agent protocol on c until the peer closes it, breaks the framing, has been refused too often, or ctx
// ends, and then closes c. A fault in the handling of a request ends this connection only.
func (a *Agent) Serve(ctx context.Context, c net.Conn, peer unixsock.Peer) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	co := &conn{agent: a, nc: c, r: bufio.NewReader(c), peer: peer}
	defer func() {
		if r := recover(); r != nil {
			// The value may hold parts of a message, so only its type is told.
			co.refuse(refusal{Reason: Internal, detail: fmt.Sprintf("%T", r)})
		}
	}()
	for {
		msg, err := co.read()
		if err != nil {
			if errors.Is(err, errFrameLength) {
				co.refuse(refusal{Reason: BadRequest, detail: err.Error()})
			}
			return
		}
		if !a.peers.mayAsk(peer) {
			co.refuse(refusal{Reason: TooMany})
			return
		}
		if err := co.answer(ctx, msg); err != nil {
			return
		}
	}
}

// answer handles one message and writes the answer. A signature request is in flight until its answer is written: what
// waits for Drain closes the connections next.
func (c *conn) answer(ctx context.Context, msg []byte) error {
	if msg[0] == msgSignRequest {
		if !c.agent.begin() {
			c.refuse(refusal{Reason: Stopping})
			return c.write([]byte{msgFailure})
		}
		defer c.agent.end()
	}
	return c.write(c.handle(ctx, msg))
}

func (c *conn) write(answer []byte) error {
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(answer)), uint32(len(answer)))
	c.nc.SetWriteDeadline(time.Now().Add(frameTimeout))
	_, err := c.nc.Write(append(frame, answer...))
	return err
}

var errFrameLength = errors.New("message with a bad length")

// idleTimeout bounds the wait for a message. A client is there to log in, for which a server gives it two minutes, and
// whoever holds connections open for longer keeps others out.
const idleTimeout = 2 * time.Minute

// read waits for a message and, once it has begun, gives it frameTimeout.
func (c *conn) read() ([]byte, error) {
	c.nc.SetReadDeadline(time.Now().Add(idleTimeout))
	if _, err := c.r.Peek(1); err != nil {
		return nil, err
	}
	c.nc.SetReadDeadline(time.Now().Add(frameTimeout))
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > MaxMessage {
		return nil, errFrameLength
	}
	// The buffer grows with what arrives, so that a length alone costs no memory.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, c.r, int64(n)); err != nil {
		return nil, err
	}
	return body.Bytes(), nil
}

// attend returns a context that ends when the client closes the connection. The client has nothing to say while its
// request is worked on; what it says all the same is kept for the next read, and more than fits into the buffer, behind
// which its end could not be seen, is taken for the end. stop must be called before the next read.
func (c *conn) attend(ctx context.Context) (attended context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	c.nc.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n = c.r.Buffered() + 1 {
			if _, err := c.r.Peek(n); err != nil {
				cancel()
				return
			}
		}
	}()
	return ctx, func() {
		c.nc.SetReadDeadline(time.Unix(1, 0))
		<-done
		cancel()
	}
}

// handle answers one message. Only three are parsed; the others are refused by their number.
func (c *conn) handle(ctx context.Context, msg []byte) []byte {
	switch msg[0] {
	case msgRequestIdentities:
		return c.list(ctx, msg)
	case msgSignRequest:
		return c.sign(ctx, msg)
	case msgExtension:
		return c.extension(msg)
	}
	c.refuse(refusal{Reason: Unsupported, detail: fmt.Sprintf("message %d", msg[0])})
	return []byte{msgFailure}
}

func (c *conn) refuse(r refusal) {
	r.peer = c.peer
	if r.hostKey == nil {
		r.hostKey = c.bound.hostKey
	}
	c.agent.peers.refused(c.peer)
	c.agent.refuse(r)
}

func (c *conn) poison(r refusal) {
	c.state = poisoned
	c.refuse(r)
}

// list shows the key to a connection that may still use it, and nothing to the others.
func (c *conn) list(ctx context.Context, msg []byte) []byte {
	if len(msg) != 1 {
		c.refuse(refusal{Reason: BadRequest, detail: "list with trailing bytes"})
		return []byte{msgFailure}
	}
	type answer struct {
		Count uint32 `sshtype:"12"`
		Rest  []byte `ssh:"rest"`
	}
	if c.agent.keys.Locked() || !c.mayList() {
		return ssh.Marshal(answer{})
	}
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	key, err := c.agent.keys.PublicKey(ctx)
	if err != nil {
		c.refuse(*keyRefusal(err))
		return ssh.Marshal(answer{})
	}
	return ssh.Marshal(answer{Count: 1, Rest: ssh.Marshal(struct {
		Blob    []byte
		Comment string
	}{key.Marshal(), c.agent.comment})})
}

func (c *conn) mayList() bool {
	switch c.state {
	case fresh:
		return true
	case bound, signed:
		instances, err := c.agent.pins.Instances(c.bound.hostKey)
		switch {
		case err != nil:
			c.refuse(refusal{Reason: NotPinned, detail: err.Error()})
		case len(instances) == 0:
			c.refuse(refusal{Reason: NotPinned})
		default:
			return true
		}
	}
	return false
}

// extension serves session-bind and nothing else. Being locked changes nothing about it: a connection that was bound in
// the meantime must not look like a fresh one afterwards.
func (c *conn) extension(msg []byte) []byte {
	var ext struct {
		Name string `sshtype:"27"`
		Body []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(msg, &ext); err != nil {
		c.refuse(refusal{Reason: BadRequest, detail: "extension does not parse"})
		return []byte{msgFailure}
	}
	if ext.Name != extSessionBind {
		c.refuse(refusal{Reason: Unsupported, detail: fmt.Sprintf("extension %.64q", ext.Name)})
		return []byte{msgFailure}
	}
	if !c.bind(ext.Body) {
		return []byte{msgExtensionFailure}
	}
	return []byte{msgSuccess}
}
