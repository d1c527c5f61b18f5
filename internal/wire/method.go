package wire

import "strings"

// method is the form of a key exchange method's messages from the server.
//
// There is none with SHA-1: the session id would be a SHA-1 hash, and the agent's proof of where a signature goes is
// a signature over that hash.
type method struct {
	gex   bool // group exchange, RFC 4419
	mpint bool // the server's public value is an mpint, else a string
	size  int  // bytes of the public value: exactly so for a string, at most for an mpint
}

// reply is the number of the message that carries the host key.
func (m method) reply() byte {
	if m.gex {
		return msgGexReply
	}
	return msgKexReply
}

// The sizes of what the public values are made of: curve points as RFC 8731 and RFC 5656 have them (uncompressed, as
// all do), and the ciphertexts of the key encapsulations that precede a point in the hybrid methods.
const (
	x25519   = 32
	nistp256 = 1 + 2*32
	nistp384 = 1 + 2*48
	nistp521 = 1 + 2*66

	sntrup761 = 1039
	mlkem768  = 1088
	mlkem1024 = 1568
)

var methods = map[string]method{
	"curve25519-sha256":            {size: x25519},
	"curve25519-sha256@libssh.org": {size: x25519},

	"ecdh-sha2-nistp256": {size: nistp256},
	"ecdh-sha2-nistp384": {size: nistp384},
	"ecdh-sha2-nistp521": {size: nistp521},

	"sntrup761x25519-sha512":             {size: sntrup761 + x25519},
	"sntrup761x25519-sha512@openssh.com": {size: sntrup761 + x25519},

	// draft-ietf-sshm-mlkem-hybrid-kex. OpenSSH has the first two, PuTTY all three.
	"mlkem768x25519-sha256":    {size: mlkem768 + x25519},
	"mlkem768nistp256-sha256":  {size: mlkem768 + nistp256},
	"mlkem1024nistp384-sha384": {size: mlkem1024 + nistp384},

	// RFC 8268.
	"diffie-hellman-group14-sha256": group(2048),
	"diffie-hellman-group15-sha512": group(3072),
	"diffie-hellman-group16-sha512": group(4096),
	"diffie-hellman-group17-sha512": group(6144),
	"diffie-hellman-group18-sha512": group(8192),

	// RFC 4419 allows groups of up to 8192 bits.
	"diffie-hellman-group-exchange-sha256": {gex: true, mpint: true, size: mpintSize(8192)},
}

func group(bits int) method { return method{mpint: true, size: mpintSize(bits)} }

// mpintSize is the longest mpint of so many bits: with a zero byte before the highest bit, RFC 4251 section 5.
func mpintSize(bits int) int { return bits/8 + 1 }

// keyTypes maps a host key algorithm to the type name in the host key. The two differ for RSA only, RFC 8332.
var keyTypes = map[string]string{
	"ssh-ed25519":         "ssh-ed25519",
	"ecdsa-sha2-nistp256": "ecdsa-sha2-nistp256",
	"ecdsa-sha2-nistp384": "ecdsa-sha2-nistp384",
	"ecdsa-sha2-nistp521": "ecdsa-sha2-nistp521",
	"rsa-sha2-256":        "ssh-rsa",
	"rsa-sha2-512":        "ssh-rsa",
}

func whyNotMethod(name string) string {
	if strings.HasSuffix(name, "-sha1") || strings.Contains(name, "-sha1-") {
		return "the session id would be a SHA-1 hash"
	}
	return "it is not known here"
}

func whyNotHostKey(name string) string {
	switch {
	case strings.Contains(name, "-cert-v"):
		return "host keys are pinned, not certified"
	case name == "ssh-rsa" || name == "ssh-dss":
		return "it signs a SHA-1 hash"
	}
	return "it is not known here"
}
