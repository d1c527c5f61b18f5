package daemon

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// NewHostKey makes a host key of the type "ed25519", "ecdsa" (P-256) or "rsa" (2048 bits), and returns the text of its
// private file with it.
func NewHostKey(kind string) (ssh.PublicKey, []byte, error) {
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(nil)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, nil, fmt.Errorf("no host key type %q", kind)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, nil, fmt.Errorf("host key: %w", err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("host key: %w", err)
	}
	return public, pem.EncodeToMemory(block), nil
}

// AuthorizedKeys is the text of an authorized_keys file.
func AuthorizedKeys(lines []string) []byte {
	var text strings.Builder
	for _, line := range lines {
		fmt.Fprintln(&text, strings.TrimSpace(line))
	}
	return []byte(text.String())
}

// SameKey reports whether two lines of authorized_keys without options are about one key, whatever their comments.
func SameKey(a, b string) bool { return blob(a) == blob(b) }

// blob returns the second word of a line: the key itself.
func blob(line string) string {
	if words := strings.Fields(line); len(words) > 1 {
		return words[1]
	}
	return line
}
