package custody

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

const (
	maxKey = 64 << 10
	// maxRounds bounds what a passphrase may cost: some forty times the most that people ask of ssh-keygen -a.
	maxRounds = 4096

	importWhere = "key to import"
)

// ParseImport reads an existing private key: a file made by ssh-keygen that holds one Ed25519 key. Its second result
// is the comment in the file; an encrypted file does not show its own, and DefaultComment takes its place.
//
// passphrase is called once if the key is encrypted and otherwise acceptable, and what it returned is zeroed. Its
// error is returned as it is. Other errors are a *KeyError, ErrPassphrase, and a *PassphraseError if passphrase is nil.
func ParseImport(data []byte, passphrase func() ([]byte, error)) (ed25519.PrivateKey, string, error) {
	return parsePrivate(data, importWhere, passphrase)
}

// signer returns the key in data, which must not be encrypted.
func signer(data []byte, where string) (ssh.Signer, error) {
	key, _, err := parsePrivate(data, where, nil)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}

// container is the outer layer of a private key in OpenSSH's PROTOCOL.key, behind magic.
type container struct {
	Cipher     string
	KDF        string
	KDFOptions []byte
	Keys       uint32
	Public     []byte
	Private    []byte
	Rest       []byte `ssh:"rest"` // the tag of an authenticated cipher
}

const magic = "openssh-key-v1\x00"

// parsePrivate judges the outer layer first, which is readable also where the key is encrypted, so that nobody is
// asked for the passphrase of a key that is refused anyway. Errors of the decoders are left out of its own errors,
// because they can quote the file.
func parsePrivate(data []byte, where string, passphrase func() ([]byte, error)) (ed25519.PrivateKey, string, error) {
	refuse := func(reason, hint string) (ed25519.PrivateKey, string, error) {
		return nil, "", &KeyError{Where: where, Reason: reason, hint: hint}
	}
	if len(data) > maxKey {
		return refuse("is too large", "")
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "OPENSSH PRIVATE KEY" {
		return refuse(otherFormat(data, block))
	}
	defer clear(block.Bytes)
	var c container
	inner, ok := bytes.CutPrefix(block.Bytes, []byte(magic))
	if !ok || ssh.Unmarshal(inner, &c) != nil || c.Keys != 1 {
		return refuse("is damaged", "")
	}
	var public struct {
		Type string
		Rest []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(c.Public, &public) != nil {
		return refuse("is damaged", "")
	}
	if public.Type != ssh.KeyAlgoED25519 {
		return refuse(otherType(public.Type))
	}

	var raw any
	var err error
	comment := DefaultComment
	if c.Cipher == "none" {
		raw, err = ssh.ParseRawPrivateKey(data)
		comment = c.comment()
	} else {
		if reason := c.undecryptable(); reason != "" {
			return refuse(reason, "ssh-keygen -p encrypts a key anew in the common way")
		}
		if passphrase == nil {
			return nil, "", &PassphraseError{where}
		}
		raw, err = decrypt(data, passphrase)
		if err != nil {
			return nil, "", err
		}
	}
	key, ok := raw.(*ed25519.PrivateKey)
	// The public half goes into each signature: with a wrong one, a signature would give the private half away.
	if err != nil || !ok || len(c.Rest) > 0 || !key.Equal(ed25519.NewKeyFromSeed(key.Seed())) ||
		!bytes.Equal(c.Public, publicOf(*key).Marshal()) {
		return refuse("is damaged", "")
	}
	return *key, comment, nil
}

func decrypt(data []byte, passphrase func() ([]byte, error)) (any, error) {
	pass, err := passphrase()
	defer clear(pass)
	if err != nil {
		return nil, err
	}
	if len(pass) == 0 {
		return nil, ErrPassphrase
	}
	raw, err := ssh.ParseRawPrivateKeyWithPassphrase(data, pass)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, nil
	}
	return raw, nil
}

// undecryptable returns why the key cannot be decrypted with any passphrase, or nothing.
func (c *container) undecryptable() string {
	if c.KDF != "bcrypt" || c.Cipher != "aes256-ctr" && c.Cipher != "aes256-cbc" {
		return fmt.Sprintf("is encrypted with %q and %q, which is not supported", c.Cipher, c.KDF)
	}
	var options struct {
		Salt   []byte
		Rounds uint32
	}
	if ssh.Unmarshal(c.KDFOptions, &options) != nil || options.Rounds == 0 {
		return "is damaged"
	}
	if options.Rounds > maxRounds {
		return fmt.Sprintf("is encrypted with %d rounds, more than %d", options.Rounds, maxRounds)
	}
	return ""
}

// comment returns the comment of an unencrypted Ed25519 key.
func (c *container) comment() string {
	var private struct {
		Check1, Check2  uint32
		Type            string
		Public, Private []byte
		Comment         string
		Pad             []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(c.Private, &private) != nil {
		return DefaultComment
	}
	return cleanComment(private.Comment)
}

// otherType says why a key of type typ, which the file gives, is refused.
func otherType(typ string) (reason, hint string) {
	switch {
	case strings.HasPrefix(typ, "sk-"):
		return fmt.Sprintf("is of type %q: its secret stays in a security key and cannot be kept here", typ),
			"vast-ssh key init"
	case strings.Contains(typ, "-cert-"):
		return fmt.Sprintf("is of type %q: only plain keys are used, no certificates", typ), "vast-ssh key init"
	}
	return fmt.Sprintf("is of type %q: only %s is used, which is small and has one algorithm, "+
		"without the flags that let an RSA key sign in weaker ways", typ, ssh.KeyAlgoED25519), "vast-ssh key init"
}

// otherFormat says what data is instead of an OpenSSH private key. block is its first PEM block, if any.
func otherFormat(data []byte, block *pem.Block) (reason, hint string) {
	if block != nil {
		if kind, ok := strings.CutSuffix(block.Type, " PRIVATE KEY"); ok {
			switch kind {
			case "RSA", "DSA", "EC":
				return otherType(strings.ToLower(kind))
			}
		}
		if block.Type == "PRIVATE KEY" || block.Type == "ENCRYPTED PRIVATE KEY" {
			return "is in the PKCS#8 format: only OpenSSH's own format is read", "vast-ssh key init"
		}
		return notPrivate, ""
	}
	if bytes.HasPrefix(data, []byte("PuTTY-User-Key-File-")) {
		return "is in PuTTY's format (.ppk)",
			"convert it with puttygen key.ppk -O private-openssh -o key (on Windows: PuTTYgen, Conversions, " +
				"Export OpenSSH key), and import the result"
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
		if strings.Contains(public.Type(), "-cert-") {
			return "is a certificate, which holds no private key", "the private key is in the file without -cert.pub"
		}
		return "is a public key", "the private key is in the file without .pub"
	}
	if bytes.HasPrefix(data, []byte("---- BEGIN SSH2 PUBLIC KEY ----")) {
		return "is a public key", "the private key is in another file"
	}
	return notPrivate, ""
}

const notPrivate = "is not an OpenSSH private key"
