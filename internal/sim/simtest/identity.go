package simtest

import (
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Identity is the key of a client.
type Identity struct {
	Signer ssh.Signer
	// File holds the private key for ssh, without a passphrase.
	File string
	// Line is for authorized_keys.
	Line string
}

// NewIdentity makes a key. Its file ends with the test.
func NewIdentity(t testing.TB) Identity {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return Identity{Signer: signer, File: file, Line: string(ssh.MarshalAuthorizedKey(signer.PublicKey()))}
}

// Dial logs in with the identity. Without algorithms, the client prefers host keys as x/crypto does.
func (id Identity) Dial(addr, user string, host ssh.HostKeyCallback, algorithms ...string) (*ssh.Client, error) {
	return ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(id.Signer)}, HostKeyCallback: host,
		HostKeyAlgorithms: algorithms, Timeout: 2 * time.Minute,
	})
}
