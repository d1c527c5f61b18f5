package agent

import (
	"bytes"
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
	return key, nil
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
