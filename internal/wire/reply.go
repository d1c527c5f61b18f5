package wire

import (
	"bytes"
	"encoding/binary"
)

// maxBlob bounds the host key and the signature. An RSA key of 16384 bits, the largest OpenSSH takes, needs 2 KiB.
const maxBlob = 8 << 10

// Reply is the server's last message of the first key exchange: RFC 4253 section 8, RFC 5656 section 4 and the hybrid
// methods made like it, RFC 4419 section 3. Nothing in it is verified: the signature is over the exchange hash, which
// only the two ends can compute.
type Reply struct {
	Method           string // the key exchange method, such as "curve25519-sha256"
	HostKeyAlgorithm string // such as "ssh-ed25519" or "rsa-sha2-512"
	HostKey          []byte // K_S: a public key blob whose type name is the one of HostKeyAlgorithm
	Signature        []byte // a signature blob: HostKeyAlgorithm and the signature proper, both as strings
}

func parseReply(payload []byte, a *agreement) (*Reply, error) {
	r := reader{b: payload}
	r.bytes(1)
	key := r.string(maxBlob)
	if a.method.mpint {
		r.mpint(a.method.size)
	} else if public := r.string(a.method.size); len(public) != a.method.size {
		r.failed = true
	}
	signature := r.string(maxBlob)
	r.end()

	// What follows the type name depends on it and is for the pins to judge, byte for byte.
	k := reader{b: key}
	keyType := k.string(maxName)
	s := reader{b: signature}
	format := s.string(maxName)
	proper := s.string(maxBlob)
	s.end()
	if r.failed || k.failed || len(k.b) == 0 || s.failed || len(proper) == 0 {
		return nil, parseError("a malformed KEX reply")
	}
	if string(keyType) != a.keyType {
		return nil, parseErrorf("a host key of type %q where %q was agreed", keyType, a.keyType)
	}
	if string(format) != a.hostKey {
		return nil, parseErrorf("a signature of format %q where %q was agreed", format, a.hostKey)
	}
	return &Reply{
		Method:           a.name,
		HostKeyAlgorithm: a.hostKey,
		HostKey:          bytes.Clone(key),
		Signature:        bytes.Clone(signature),
	}, nil
}

// parseGroup checks the message of RFC 4419 section 3 that comes before the reply: the modulus and the generator.
func parseGroup(payload []byte) error {
	size := mpintSize(8192)
	r := reader{b: payload}
	r.bytes(1)
	r.mpint(size)
	r.mpint(size)
	r.end()
	if r.failed {
		return parseError("a malformed group")
	}
	return nil
}

// reader takes the types of RFC 4251 section 5 off b. After a failure it yields nothing but zero values.
type reader struct {
	b      []byte
	failed bool
}

// bytes returns n bytes, even after a failure.
func (r *reader) bytes(n int) []byte {
	if r.failed || len(r.b) < n {
		r.failed = true
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.bytes(4)) }

// string reads a string of at most limit bytes.
func (r *reader) string(limit int) []byte {
	n := r.uint32()
	if r.failed || n > uint32(limit) {
		r.failed = true
		return nil
	}
	return r.bytes(int(n))
}

// mpint reads a positive mpint of at most limit bytes, encoded as short as it can be.
func (r *reader) mpint(limit int) {
	b := r.string(limit)
	if len(b) == 0 || b[0] >= 0x80 || b[0] == 0 && (len(b) == 1 || b[1] < 0x80) {
		r.failed = true
	}
}

func (r *reader) nameList() []string {
	names, ok := splitNames(r.string(maxPacket))
	if !ok {
		r.failed = true
	}
	return names
}

// end fails unless all was read.
func (r *reader) end() {
	if len(r.b) > 0 {
		r.failed = true
	}
}
