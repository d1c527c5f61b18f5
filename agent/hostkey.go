package agent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// Limits on what a peer may call a host key, a signature or a session id, in bytes. The largest real host key and
// signature are those of RSA with 16384 bits.
const (
	maxKeyBlob   = 8 << 10
	maxSignature = 8 << 10
)

// signatureFormats are the signature algorithms that count as proof of possession, by key type. The session id is the
// signed text, so SHA-1 (ssh-rsa as a signature algorithm) would let a collision stand for another session.
var signatureFormats = map[string][]string{
	ssh.KeyAlgoED25519:  {ssh.KeyAlgoED25519},
	ssh.KeyAlgoECDSA256: {ssh.KeyAlgoECDSA256},
	ssh.KeyAlgoECDSA384: {ssh.KeyAlgoECDSA384},
	ssh.KeyAlgoECDSA521: {ssh.KeyAlgoECDSA521},
	ssh.KeyAlgoRSA:      {ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512},
}

// parseHostKey parses a public key blob of a plain type. Certificates and types that cannot be verified are errors.
func parseHostKey(blob []byte) (ssh.PublicKey, error) {
	if len(blob) > maxKeyBlob {
		return nil, fmt.Errorf("host key of %d bytes", len(blob))
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, errors.New("host key does not parse")
	}
	if signatureFormats[key.Type()] == nil {
		return nil, fmt.Errorf("host key of type %q", key.Type())
	}
	// Pins compare keys and sessions compare blobs: with one encoding for a key the two are the same.
	if !bytes.Equal(key.Marshal(), blob) {
		return nil, errors.New("host key in an unusual encoding")
	}
	if key.Type() == ssh.KeyAlgoED25519 && smallOrder([ed25519.PublicKeySize]byte(blob[len(blob)-ed25519.PublicKeySize:])) {
		return nil, errors.New("host key that proves nothing: one signature of it fits any text")
	}
	return key, nil
}

// smallOrderKeys are the encodings of the points of edwards25519 whose order divides 8, without the sign bit: y is 0, 1, -1
// or a root of order 8, and 0 and 1 again as p and p+1. The server chooses its key, and under one of these a single
// signature verifies over any session id: a witness with it would stand for every session there is. RFC 8032 leaves
// their refusal to the caller.
var smallOrderKeys = map[string]bool{
	"0000000000000000000000000000000000000000000000000000000000000000": true,
	"0100000000000000000000000000000000000000000000000000000000000000": true,
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": true,
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05": true,
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a": true,
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": true,
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": true,
}

func smallOrder(point [ed25519.PublicKeySize]byte) bool {
	point[len(point)-1] &= 0x7f
	return smallOrderKeys[hex.EncodeToString(point[:])]
}

// parseSignature parses a signature blob and checks that its algorithm is one that key may use.
func parseSignature(key ssh.PublicKey, blob []byte) (*ssh.Signature, error) {
	if len(blob) > maxSignature {
		return nil, fmt.Errorf("signature of %d bytes", len(blob))
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(blob, &sig); err != nil {
		return nil, errors.New("signature does not parse")
	}
	if len(sig.Rest) > 0 {
		return nil, errors.New("signature with trailing bytes")
	}
	for _, format := range signatureFormats[key.Type()] {
		if sig.Format == format {
			return &sig, nil
		}
	}
	return nil, fmt.Errorf("signature algorithm %q for a host key of type %q", sig.Format, key.Type())
}

// checkSessionID accepts the lengths that an exchange hash has with SHA-256, SHA-384 and SHA-512.
func checkSessionID(id []byte) error {
	switch len(id) {
	case 32, 48, 64:
		return nil
	}
	return fmt.Errorf("session id of %d bytes", len(id))
}
