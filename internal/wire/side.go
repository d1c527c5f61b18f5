package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

const (
	// maxPacket is the size up to which RFC 4253 section 6.1 has every peer accept a packet, all of it counted.
	// Dropbear takes no larger one. Nothing before the reply comes near it.
	maxPacket = 35000

	// minLength is the least packet_length. It counts the padding's length, a payload of one byte at least and a
	// padding of four, and with the four bytes of its own it is a multiple of eight. OpenSSH, PuTTY and Dropbear agree;
	// x/crypto takes any length that holds a payload and its padding.
	minLength = 12

	// maxPackets is how many packets a side may send in plaintext. Four are needed.
	maxPackets = 64

	// maxHeld is how many bytes of the server wait for the client's KEXINIT. An honest server waits too.
	maxHeld = 64 << 10

	// Lines before the identification: OpenSSH's limits, and one for their sum, which OpenSSH lacks.
	maxLines  = 1024
	maxLine   = 8192
	maxBanner = 64 << 10

	// maxIdent is the longest identification line with its CR LF, RFC 4253 section 4.2.
	maxIdent = 255
)

// Message numbers of RFC 4253 section 12, RFC 5656 section 4 and RFC 4419 section 5.
const (
	msgDisconnect    = 1
	msgIgnore        = 2
	msgUnimplemented = 3
	msgDebug         = 4
	msgKexInit       = 20
	msgNewKeys       = 21
	msgKexFirst      = 30 // 30 to 49 are the messages of the key exchange methods
	msgKexLast       = 49
	msgKexReply      = 31
	msgGexGroup      = 31
	msgGexReply      = 33
)

// side reads what one of the two sent.
type side struct {
	who     Sender
	version string   // the identification, "" until it was read
	init    *kexInit // nil until it was read

	initFirst bool // no packet came before KEXINIT
	gone      bool // DISCONNECT was read

	lines, banner int // lines before the identification, and their bytes
	packets       int

	buf []byte
	off int // buf[:off] was read
}

// write adds p behind the bytes that were not read yet and forgets those that were.
func (s *side) write(p []byte) {
	if s.off > 0 {
		s.buf = s.buf[:copy(s.buf, s.buf[s.off:])]
		s.off = 0
	}
	s.buf = append(s.buf, p...)
}

func (s *side) taken() []byte { return s.buf[:s.off:s.off] }
func (s *side) rest() []byte  { return s.buf[s.off:] }
func (s *side) held() int     { return len(s.buf) - s.off }

// open reads one line or packet of what a side sends up to its KEXINIT, and reports whether it did.
func (s *side) open() (bool, error) {
	if s.version == "" {
		return s.ident()
	}
	payload, ok, err := s.packet()
	if !ok {
		return false, err
	}
	if number := payload[0]; number != msgKexInit {
		return true, s.transport(number)
	}
	s.initFirst = s.packets == 1
	s.init, err = parseKexInit(payload)
	return true, s.wrap(err)
}

// ident reads one line. The server's may be text for people, the client's first line is its identification.
func (s *side) ident() (bool, error) {
	b := s.rest()
	n := bytes.IndexByte(b, '\n') + 1
	if n > maxLine || n == 0 && len(b) >= maxLine {
		return false, s.errorf("a line of more than %d bytes before the identification", maxLine)
	}
	if n == 0 {
		return false, nil
	}
	s.off += n
	line := bytes.TrimSuffix(b[:n-1], []byte{'\r'})
	if bytes.ContainsAny(line, "\x00\r") {
		return false, s.errorf("a NUL or a bare CR before the identification is complete")
	}
	if !bytes.HasPrefix(line, []byte("SSH-")) && s.who == FromServer {
		s.lines++
		s.banner += n
		if s.lines > maxLines || s.banner > maxBanner {
			return false, s.errorf("more than %d lines or %d bytes before the identification", maxLines, maxBanner)
		}
		return true, nil
	}
	version := string(line)
	known := strings.HasPrefix(version, "SSH-2.0-") || s.who == FromServer && strings.HasPrefix(version, "SSH-1.99-")
	if !known || n > maxIdent || strings.ContainsFunc(version, func(r rune) bool { return r < ' ' || r > '~' }) {
		return false, s.errorf("the identification %.*q is not one of SSH 2.0", maxIdent, version)
	}
	if s.who == FromClient && strings.HasPrefix(version, libssh) {
		return false, &UnsupportedError{What: Client, Name: version,
			Reason: "it goes on in cipher, if only to say goodbye, when the host key did not verify"}
	}
	s.version = version
	return true, nil
}

// libssh begins the identification of a client library that sends NEWKEYS before it verifies the server's signature, and a
// DISCONNECT in cipher when that fails. What it sends in cipher proves nothing. (libssh2 is another library.)
const libssh = "SSH-2.0-libssh_"

// packet reads one packet of RFC 4253 section 6, without encryption and MAC, and returns its payload, which is not
// empty. ok is false with an error, and without one while the packet is incomplete.
func (s *side) packet() (payload []byte, ok bool, err error) {
	b := s.rest()
	if s.gone && len(b) > 0 {
		return nil, false, s.errorf("more bytes after DISCONNECT")
	}
	if len(b) < 4 {
		return nil, false, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n < minLength || n > maxPacket-4 || (n+4)%8 != 0 {
		return nil, false, s.errorf("a packet length of %d", n)
	}
	if uint32(len(b)-4) < n {
		return nil, false, nil
	}
	padding := uint32(b[4])
	if padding < 4 || padding > n-2 {
		return nil, false, s.errorf("a padding of %d in a packet of length %d", padding, n)
	}
	if s.packets++; s.packets > maxPackets {
		return nil, false, s.errorf("more than %d packets before it is done", maxPackets)
	}
	s.off += int(4 + n)
	return b[5 : 4+n-padding], true, nil
}

// transport accepts the messages that belong to no key exchange and may come before it ends.
func (s *side) transport(number byte) error {
	switch number {
	case msgIgnore, msgUnimplemented, msgDebug:
		return nil
	case msgDisconnect:
		s.gone = true
		return nil
	}
	return s.errorf("message %d is not due", number)
}

func (s *side) errorf(format string, args ...any) error {
	return &ProtocolError{Sender: s.who, Reason: fmt.Sprintf(format, args...)}
}

// wrap makes a parse error one of this side; typed errors and nil stay as they are.
func (s *side) wrap(err error) error {
	if reason, ok := err.(parseError); ok {
		return &ProtocolError{Sender: s.who, Reason: string(reason)}
	}
	return err
}
