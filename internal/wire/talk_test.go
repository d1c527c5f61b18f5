package wire

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
)

// talk is a connection to feed to an Exchange. The tests change one thing of one that is good.
type talk struct {
	clientText string
	clientPre  [][]byte // payloads before KEXINIT
	clientInit []byte
	clientPost [][]byte

	serverText string
	serverPre  [][]byte
	serverInit []byte
	serverPost [][]byte
	raw        []byte // behind all packets of the server
}

func goodTalk() *talk {
	return &talk{
		clientText: "SSH-2.0-client\r\n",
		clientInit: initPayload("curve25519-sha256", "ssh-ed25519", 0),
		clientPost: [][]byte{{30}},
		serverText: "SSH-2.0-server\r\n",
		serverInit: initPayload("curve25519-sha256", "ssh-ed25519", 0),
		serverPost: [][]byte{replyPayload(), {21}},
	}
}

// agree makes both sides list one method and one host key algorithm.
func (c *talk) agree(method, hostKey string) {
	c.clientInit = initPayload(method, hostKey, 0)
	c.serverInit = initPayload(method, hostKey, 0)
}

// strict makes both sides ask for a strict key exchange.
func (c *talk) strict() {
	c.clientInit = initPayload("curve25519-sha256,"+strictClient, "ssh-ed25519", 0)
	c.serverInit = initPayload("curve25519-sha256,"+strictServer, "ssh-ed25519", 0)
}

func (c *talk) client() []byte {
	return slices.Concat([]byte(c.clientText), packets(c.clientPre...), packets(c.clientInit), packets(c.clientPost...))
}

func (c *talk) server() []byte {
	return slices.Concat([]byte(c.serverText),
		packets(c.serverPre...), packets(c.serverInit), packets(c.serverPost...), c.raw)
}

func packets(payloads ...[]byte) []byte {
	var b []byte
	for _, p := range payloads {
		if p == nil {
			continue
		}
		padding := 8 - (5+len(p))%8
		if padding < 4 {
			padding += 8
		}
		b = binary.BigEndian.AppendUint32(b, uint32(1+len(p)+padding))
		b = append(b, byte(padding))
		b = append(b, p...)
		b = append(b, make([]byte, padding)...)
	}
	return b
}

func str[T string | []byte](s T) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

// initPayload is a KEXINIT whose other lists are like real ones.
func initPayload(methods, hostKeys string, follows byte) []byte {
	b := append([]byte{msgKexInit}, make([]byte, 16)...)
	for _, list := range []string{
		methods, hostKeys, "aes128-ctr", "aes128-ctr", "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", "",
	} {
		b = append(b, str(list)...)
	}
	return append(b, follows, 0, 0, 0, 0)
}

func replyPayload() []byte {
	return anyReply(msgKexReply, keyBlob("ssh-ed25519"), make([]byte, x25519), sigBlob("ssh-ed25519"))
}

func anyReply(number byte, key, public, sig []byte) []byte {
	return slices.Concat([]byte{number}, str(key), str(public), str(sig))
}

func keyBlob(keyType string) []byte { return append(str(keyType), str(strings.Repeat("k", 32))...) }
func sigBlob(format string) []byte  { return append(str(format), str(strings.Repeat("s", 64))...) }

func groupPayload(p, g []byte) []byte { return slices.Concat([]byte{msgGexGroup}, str(p), str(g)) }

// outcome is all that a caller sees.
type outcome struct {
	x      *Exchange
	passed []byte
	fed    int // bytes of the server that were fed
	err    error
}

// cut yields b in pieces whose lengths size returns.
func cut(b []byte, size func() int) (pieces [][]byte) {
	for len(b) > 0 {
		n := min(max(size(), 1), len(b))
		pieces = append(pieces, b[:n])
		b = b[n:]
	}
	return pieces
}

func whole() int   { return 1 << 30 }
func oneByte() int { return 1 }

// run feeds all of the client, then the server.
func run(client, server []byte, size func() int) outcome {
	o := outcome{x: New()}
	for _, p := range cut(client, size) {
		if _, o.err = o.x.Client(p); o.err != nil {
			return o
		}
	}
	for _, p := range cut(server, size) {
		if !o.server(p) {
			break
		}
	}
	return o
}

// mixed feeds both in the order and the pieces that rnd chooses, as a relay would see them.
func mixed(client, server []byte, rnd *rand.Rand) outcome {
	o := outcome{x: New()}
	size := func() int { return rnd.IntN(1 << rnd.IntN(14)) }
	c, s := cut(client, size), cut(server, size)
	for len(c)+len(s) > 0 {
		if len(c) > 0 && (len(s) == 0 || rnd.IntN(2) == 0) {
			ready := o.x.ClientReady()
			if _, o.err = o.x.Client(c[0]); o.err != nil {
				return o
			}
			c = c[1:]
			if !ready && o.x.ClientReady() && !o.server(nil) {
				return o
			}
			continue
		}
		if !o.server(s[0]) {
			return o
		}
		s = s[1:]
	}
	return o
}

// server feeds p and reports whether to go on.
func (o *outcome) server(p []byte) bool {
	o.fed += len(p)
	var pass []byte
	if pass, o.err = o.x.Server(p); o.err != nil {
		return false
	}
	o.passed = append(o.passed, pass...)
	return o.x.Reply() == nil
}
