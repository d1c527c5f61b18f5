package custody

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
)

// DefaultComment is the comment of a key that has none, or one that is not a line of at most 128 printable ASCII
// characters.
const DefaultComment = "vast-ssh"

// cleanComment keeps a comment from adding a line, and so a key, to somebody's authorized_keys.
func cleanComment(comment string) string {
	if comment == "" || len(comment) > 128 {
		return DefaultComment
	}
	for _, c := range []byte(comment) {
		if c < ' ' || c > '~' {
			return DefaultComment
		}
	}
	return comment
}

// publicOf returns the public half of key.
func publicOf(key ed25519.PrivateKey) ssh.PublicKey {
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		panic(err) // unreachable: an ed25519.PublicKey is a public key
	}
	return public
}

// PublicLine returns key as a line of authorized_keys (sshd(8)), newline included.
func PublicLine(key ssh.PublicKey, comment string) []byte {
	line := bytes.TrimSuffix(ssh.MarshalAuthorizedKey(key), []byte("\n"))
	return fmt.Appendf(line, " %s\n", cleanComment(comment))
}

// WritePublic writes the public key file at path, replacing the one that is there. ssh needs it to choose the key of
// the agent, and listing the key needs no private one. Its mode is 0600, because ssh tries a public key file as a
// private one when the agent lacks the key, and then would warn of an unprotected private key.
func WritePublic(path string, key ssh.PublicKey, comment string) error {
	if err := atomicfile.EnsureDir(filepath.Dir(path)); err != nil {
		return err
	}
	return atomicfile.Write(path, PublicLine(key, comment))
}

// ReadPublic reads the public key file at path. Errors are a *KeyError for content or a file that is not trusted, and
// those of the file system: fs.ErrNotExist when there is none.
func ReadPublic(path string) (ssh.PublicKey, error) {
	where := fmt.Sprintf("public key in file %q", path)
	data, err := readOwned(path, where, 0o022)
	if err != nil {
		return nil, err
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey(data)
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return nil, &KeyError{Where: where, Reason: "is not one line of the form: ssh-ed25519 AAAA… comment"}
	}
	if key.Type() != ssh.KeyAlgoED25519 {
		reason, hint := otherType(key.Type())
		return nil, &KeyError{Where: where, Reason: reason, hint: hint}
	}
	return key, nil
}
