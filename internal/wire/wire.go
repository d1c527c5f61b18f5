// Package wire reads the plaintext start of an SSH connection that somebody else relays: both identification lines
// (RFC 4253 section 4.2), both KEXINITs (section 7.1), and the first key exchange: the server's part up to its reply,
// which carries the host key K_S and the signature over the exchange hash, and the client's up to its NEWKEYS. It holds
// the reply back, so that the relay can judge K_S before the client sees it. It does no I/O and no cryptography.
//
// # Why a strict parser
//
// The server is an adversary, and it wins if a client takes another packet for the reply than this package does.
// Everything on which known clients differ is therefore refused, so that what remains has one reading:
//
//   - Lines before the identification may hold no NUL, and every packet that fits into what is allowed there begins
//     with one, as its length is less than 2^24. So no packet can pass as a line, wherever a client breaks long lines.
//   - A line that begins with "SSH-" is the identification or an error, and CR is allowed only before LF.
//   - Name-lists have no empty name and at most 40 names, as OpenSSH stops reading a server's list at either. The
//     method and the host key algorithm that follow are then the ones the client finds, by the one rule of section 7.1.
//   - A server that announces a guessed packet (first_kex_packet_follows) is refused. The client speaks first in every
//     method here, so there is nothing to guess, and of the clients some skip the packet after a wrong guess, some
//     compare the lists differently, and paramiko takes it for the reply.
//   - Between KEXINIT and the reply only the message that is due may come, and in a key exchange that is not strict
//     (OpenSSH PROTOCOL section 1.9) IGNORE, DEBUG and UNIMPLEMENTED, which no client takes for anything else.
//   - Message 31 is the reply of all methods but group exchange, where it is the group and 33 the reply. A group is
//     passed on only if it is exactly two positive, minimal mpints. A host key blob is no such mpint: it begins with
//     two zero bytes of its type name's length.
//
// If a difference is left all the same, it can only pass a wrong host key to a client that checks none itself. It
// cannot mislead the agent, which verifies the signature from the reply over the session id that the client computed.
//
// # Memory
//
// An Exchange keeps no more than 64 KiB of the server's bytes and 35,000 of the client's between calls, not counting
// the slice given to the last call; the parsed KEXINITs are of the size of a packet.
package wire

// Exchange follows one connection until the server's KEX reply and the client's NEWKEYS. It is not safe for concurrent use. After an error it
// stays failed: every call returns that error, and nothing more may be passed on in either direction.
type Exchange struct {
	client, server side
	agreed         *agreement // nil until both KEXINITs were read
	group          bool       // the group of a group exchange was read
	reply          *Reply
	clientDone     bool // the client's NEWKEYS was read
	err            error
}

// New returns an Exchange for a connection on which nothing was said yet.
func New() *Exchange {
	return &Exchange{client: side{who: FromClient}, server: side{who: FromServer}}
}

// Client takes bytes that the client sent, cut anywhere, and returns how many of them belong to the plaintext start: all
// until the client's NEWKEYS is complete, and from there on none. Those may go on to the server.
//
// NEWKEYS matters because a client sends nothing in cipher before it has verified the signature in the reply over its
// own exchange hash. What it sends between KEXINIT and NEWKEYS decides nothing; only its frame is read.
func (x *Exchange) Client(p []byte) (n int, err error) {
	if x.err != nil || x.clientDone {
		return 0, x.err
	}
	x.client.write(p)
	for more := true; more && x.err == nil && !x.clientDone; {
		more, x.err = x.nextOfClient()
	}
	if x.err != nil {
		return 0, x.err
	}
	if !x.clientDone {
		return len(p), nil
	}
	// What was held before this call belonged to the packet that p has completed.
	n = len(p) - x.client.held()
	x.client.buf, x.client.off = nil, 0
	return n, nil
}

// nextOfClient reads one thing the client sent, and reports whether to try for another.
func (x *Exchange) nextOfClient() (more bool, err error) {
	if !x.ClientReady() {
		if more, err = x.client.open(); x.ClientReady() {
			x.agree()
			err = x.err
		}
		return more, err
	}
	payload, ok, err := x.client.packet()
	if !ok {
		return false, err
	}
	switch number := payload[0]; {
	case number == msgNewKeys && x.reply != nil && len(payload) == 1:
		x.clientDone = true
		return false, nil
	case number >= msgKexFirst && number <= msgKexLast:
		return true, nil
	default:
		return true, x.client.transport(number)
	}
}

// ClientDone reports whether the client's NEWKEYS is complete: what it sends next is in cipher.
func (x *Exchange) ClientDone() bool { return x.clientDone }

// Server takes bytes that the server sent, cut anywhere, and returns those of the bytes it holds that may go on to the
// client now. With an empty p it looks again at what it holds, which is of use once after ClientReady has turned true:
// until then everything behind the server's KEXINIT is held.
//
// The result is valid until the next call of Server. Once Reply is not nil the server's part is over, and Server is no
// longer to be called: it returns an error and changes nothing.
func (x *Exchange) Server(p []byte) (pass []byte, err error) {
	if x.err != nil {
		return nil, x.err
	}
	if x.reply != nil {
		return nil, errOver
	}
	x.server.write(p)
	for more := true; more && x.err == nil; {
		more, x.err = x.next()
	}
	if x.err == nil && x.reply == nil && x.server.held() > maxHeld {
		x.err = x.server.errorf("more than %d bytes before the client has sent its KEXINIT", maxHeld)
	}
	if x.err != nil {
		return nil, x.err
	}
	return x.server.taken(), nil
}

// ClientReady reports whether the client's KEXINIT is complete.
func (x *Exchange) ClientReady() bool { return x.client.init != nil }

// ServerReady reports whether the server's KEXINIT is complete. A server has nothing to add to it before the client has
// sent its own.
func (x *Exchange) ServerReady() bool { return x.server.init != nil }

// ServerVersion returns the server's identification without its line end, such as "SSH-2.0-OpenSSH_9.2p1", and whether
// it has been read. It is printable ASCII.
func (x *Exchange) ServerVersion() (version string, ok bool) {
	return x.server.version, x.server.version != ""
}

// Reply returns the server's KEX reply, or nil while it is not complete.
func (x *Exchange) Reply() *Reply { return x.reply }

// Rest returns the bytes of the server that were not passed: the packet of the reply and all that came behind it. It
// is nil while Reply is.
func (x *Exchange) Rest() []byte {
	if x.reply == nil {
		return nil
	}
	return x.server.rest()
}

// next reads one thing the server sent, and reports whether to try for another.
func (x *Exchange) next() (more bool, err error) {
	switch {
	case x.reply != nil:
		return false, nil
	case x.server.init == nil:
		if more, err = x.server.open(); x.server.init != nil {
			x.agree()
			err = x.err
		}
		return more, err
	case x.agreed == nil:
		return false, nil
	}
	before := x.server.off
	payload, ok, err := x.server.packet()
	if !ok {
		return false, err
	}
	switch number := payload[0]; {
	case number == msgGexGroup && x.agreed.method.gex && !x.group:
		x.group = true
		return true, x.server.wrap(parseGroup(payload))
	case number == x.agreed.method.reply() && x.group == x.agreed.method.gex:
		reply, err := parseReply(payload, x.agreed)
		if err != nil {
			return false, x.server.wrap(err)
		}
		x.server.off = before
		x.reply = reply
		return false, nil
	case x.agreed.strict && number != msgDisconnect:
		return false, x.server.errorf("message %d in a strict key exchange", number)
	default:
		return true, x.server.transport(number)
	}
}

// agree settles the method and the host key algorithm when both KEXINITs are there.
func (x *Exchange) agree() {
	if x.client.init == nil || x.server.init == nil {
		return
	}
	if x.agreed, x.err = negotiate(x.client.init, x.server.init); x.err != nil {
		return
	}
	for _, s := range []*side{&x.client, &x.server} {
		if x.agreed.strict && !s.initFirst {
			x.err = s.errorf("KEXINIT is not the first packet of a strict key exchange")
			return
		}
	}
}
