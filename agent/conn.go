package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/subtle"
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
	fresh    state = iota // nothing is known of the client's session
	bound                 // a binding was verified
	signed                // a bound connection has had its one signature
	poisoned              // refused for good
)

// conn is one connection to the agent socket.
type conn struct {
	agent *Agent
	peer  unixsock.Peer
	state state
	bound binding // valid in bound and signed
	// used is set by the first signature request: a session cannot be described after the fact.
	used bool
}

// Serve speaks the agent protocol on c until the peer closes it, breaks the framing, or ctx ends, and then closes c.
// A fault in the handling of a request ends this connection only.
func (a *Agent) Serve(ctx context.Context, c net.Conn, peer unixsock.Peer) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	co := &conn{agent: a, peer: peer}
	defer func() {
		if r := recover(); r != nil {
			// The value may hold parts of a message, so only its type is told.
			co.refuse(refusal{Reason: Internal, detail: fmt.Sprintf("%T", r)})
		}
	}()
	r := bufio.NewReader(c)
	for {
		msg, err := readFrame(c, r)
		if err != nil {
			if errors.Is(err, errFrameLength) {
				co.refuse(refusal{Reason: BadRequest, detail: err.Error()})
			}
			return
		}
		if err := co.answer(ctx, c, msg); err != nil {
			return
		}
	}
}

// answer handles one message and writes the answer. A signature request is in flight until its answer is written: what
// waits for Drain closes the connections next.
func (c *conn) answer(ctx context.Context, nc net.Conn, msg []byte) error {
	if msg[0] == msgSignRequest {
		if !c.agent.begin() {
			c.refuse(refusal{Reason: Stopping})
			return writeFrame(nc, []byte{msgFailure})
		}
		defer c.agent.end()
	}
	return writeFrame(nc, c.handle(ctx, msg))
}

func writeFrame(c net.Conn, answer []byte) error {
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(answer)), uint32(len(answer)))
	c.SetWriteDeadline(time.Now().Add(frameTimeout))
	_, err := c.Write(append(frame, answer...))
	return err
}

var errFrameLength = errors.New("message with a bad length")

// idleTimeout bounds the wait for a message. A client is there to log in, for which a server gives it two minutes, and
// whoever holds connections open for longer keeps others out.
const idleTimeout = 2 * time.Minute

// readFrame waits for a message and, once it has begun, gives it frameTimeout.
func readFrame(c net.Conn, r *bufio.Reader) ([]byte, error) {
	c.SetReadDeadline(time.Now().Add(idleTimeout))
	if _, err := r.Peek(1); err != nil {
		return nil, err
	}
	c.SetReadDeadline(time.Now().Add(frameTimeout))
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > MaxMessage {
		return nil, errFrameLength
	}
	// The buffer grows with what arrives, so that a length alone costs no memory.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(n)); err != nil {
		return nil, err
	}
	return body.Bytes(), nil
}

// handle answers one message. Only three are parsed; the others are refused by their number.
func (c *conn) handle(ctx context.Context, msg []byte) []byte {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
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
	c.agent.refusals.add(r)
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
	if !c.mayList() {
		return ssh.Marshal(answer{})
	}
	key, err := c.agent.keys.PublicKey(ctx)
	if err != nil {
		c.refuse(refusal{Reason: KeyUnavailable, detail: err.Error()})
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

// extension serves session-bind and nothing else.
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

// bind moves a fresh connection to bound. Whatever else it meets poisons the connection: a client that is not sure of its
// session gets no signature.
func (c *conn) bind(body []byte) bool {
	if c.state == poisoned {
		c.refuse(refusal{Reason: Poisoned})
		return false
	}
	b, forwarded, err := parseBinding(body)
	switch {
	case err != nil:
		c.poison(refusal{Reason: BadBinding, hostKey: b.hostKey, detail: err.Error()})
	case forwarded:
		c.poison(refusal{Reason: Forwarded, hostKey: b.hostKey})
	case c.state != fresh || c.used:
		c.poison(refusal{Reason: SecondBinding, hostKey: b.hostKey})
	default:
		c.state, c.bound = bound, b
		return true
	}
	return false
}

// sign answers a signature request.
func (c *conn) sign(ctx context.Context, msg []byte) []byte {
	c.used = true
	sig, r := c.decide(ctx, msg)
	if r != nil {
		// A bound connection is for one session: what was refused there will not get better.
		if c.state == bound || c.state == signed {
			c.state = poisoned
		}
		c.refuse(*r)
		return []byte{msgFailure}
	}
	if c.state == bound {
		c.state = signed
	}
	c.agent.signed.Add(1)
	return ssh.Marshal(struct {
		Signature []byte `sshtype:"14"`
	}{ssh.Marshal(sig)})
}

// decide is the policy. Every path to a signature passes every check of it.
func (c *conn) decide(ctx context.Context, msg []byte) (*ssh.Signature, *refusal) {
	var req struct {
		Key   []byte `sshtype:"13"`
		Data  []byte
		Flags uint32 // for RSA only, RFC 9987 section 6.6.1
	}
	if err := ssh.Unmarshal(msg, &req); err != nil {
		return nil, &refusal{Reason: BadRequest, detail: "signature request does not parse"}
	}
	switch c.state {
	case poisoned:
		return nil, &refusal{Reason: Poisoned}
	case signed:
		return nil, &refusal{Reason: AlreadySigned}
	}
	key, err := c.agent.keys.PublicKey(ctx)
	if err != nil {
		return nil, &refusal{Reason: KeyUnavailable, detail: err.Error()}
	}
	blob := key.Marshal()
	if !bytes.Equal(req.Key, blob) {
		return nil, &refusal{Reason: OtherKey}
	}
	auth, err := parseUserauth(req.Data, blob)
	if err != nil {
		r := &refusal{Reason: NotUserauth}
		if !errors.Is(err, errNotUserauth) { // whose text the reason has already
			r.detail = err.Error()
		}
		return nil, r
	}
	if c.state == bound && subtle.ConstantTimeCompare(c.bound.sessionID, auth.sessionID) != 1 {
		return nil, &refusal{Reason: OtherSession}
	}
	w, already := c.agent.witnesses.take(auth.sessionID)
	switch {
	case already:
		return nil, &refusal{Reason: AlreadySigned}
	case w == nil:
		return nil, &refusal{Reason: NoWitness}
	}
	// From here on the witness is spent, whatever the outcome.
	switch {
	case c.state == bound && !w.agrees(c.bound.blob):
		return nil, &refusal{Reason: OtherHostKey, Instance: w.instance, hostKey: w.hostKey}
	case auth.hostKey != nil && !w.agrees(auth.hostKey):
		return nil, &refusal{Reason: OtherHostKey, Instance: w.instance, hostKey: w.hostKey}
	case auth.user != w.user:
		return nil, &refusal{Reason: OtherUser, Instance: w.instance, hostKey: w.hostKey,
			detail: fmt.Sprintf("%.64q, not %q", auth.user, w.user)}
	}
	if err := c.agent.pins.Check(w.instance, w.hostKey); err != nil {
		return nil, &refusal{Reason: NotPinned, Instance: w.instance, hostKey: w.hostKey, detail: err.Error()}
	}
	return c.signature(ctx, w, key, req.Data)
}

func (c *conn) signature(ctx context.Context, w *witness, key ssh.PublicKey, data []byte) (*ssh.Signature, *refusal) {
	unavailable := func(detail string) *refusal {
		return &refusal{Reason: KeyUnavailable, Instance: w.instance, hostKey: w.hostKey, detail: detail}
	}
	signer, err := c.agent.keys.Signer(ctx)
	if err != nil {
		return nil, unavailable(err.Error())
	}
	if !bytes.Equal(signer.PublicKey().Marshal(), key.Marshal()) {
		return nil, unavailable(errNoPair.Error())
	}
	sig, err := signer.Sign(nil, data)
	if err != nil {
		return nil, unavailable("signing failed")
	}
	return sig, nil
}
