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
	damaged     = "is damaged"
)

// ParseImport reads an existing private key: a file made by ssh-keygen that holds one Ed25519 key. Its second result
// is the comment in the file; an encrypted file does not show its own, and DefaultComment takes its place.
//
// passphrase is called once if the key is encrypted and otherwise acceptable, and what it returned is zeroed. Its
// error is returned as it is. Other errors are a *KeyError, one that wraps ErrPassphrase, and a *PassphraseError if
// passphrase is nil.
func ParseImport(data []byte, passphrase func() ([]byte, error)) (ed25519.PrivateKey, string, error) {
	private, comment, err := parsePrivate(data, importWhere, passphrase)
	if err != nil {
		return nil, "", err
	}
	key, err := newPair(private, importWhere)
	if err != nil {
		clear(private)
		return nil, "", err
	}
	key.Destroy()
	return private, comment, nil
}

// load returns the key in data, which stays the caller's to zero.
func load(data []byte, where string, passphrase func() ([]byte, error)) (*Key, error) {
	private, _, err := parsePrivate(data, where, passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(private)
	return newPair(private, where)
}

// newPair returns the key of private, if its halves belong together. With the wrong public half, a signature made the
// common way gives the private half away, and the file is not what ssh-keygen wrote.
func newPair(private ed25519.PrivateKey, where string) (*Key, error) {
	key, err := newKey((*[ed25519.SeedSize]byte)(private[:ed25519.SeedSize]))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(key.secret.public[:], private[ed25519.SeedSize:]) {
		key.Destroy()
		return nil, &KeyError{Where: where, Reason: damaged}
	}
	return key, nil
}

// publicHalf returns the public half of the key in data, where it is encrypted as the file says it.
func publicHalf(data []byte, where string) (ssh.PublicKey, error) {
	key, err := load(data, where, nil)
	var encrypted *PassphraseError
	if errors.As(err, &encrypted) {
		return encrypted.public, nil
	}
	if err != nil {
		return nil, err
	}
	defer key.Destroy()
	return key.PublicKey(), nil
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

// parsePrivate returns the key in data as its seed and its public half, which are not compared, in a buffer of its own.
//
// It judges the outer layer first, which is readable also where the key is encrypted, so that nobody is asked for the
// passphrase of a key that is refused anyway. Errors of the decoders are left out of its own errors, because they can
// quote the file.
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
		return refuse(damaged, "")
	}
	var outer struct {
		Type string
		Rest []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(c.Public, &outer) != nil {
		return refuse(damaged, "")
	}
	if outer.Type != ssh.KeyAlgoED25519 {
		return refuse(otherType(outer.Type))
	}
	public, err := ssh.ParsePublicKey(bytes.Clone(c.Public)) // what it returns refers to its input
	if err != nil {
		return refuse(damaged, "")
	}

	var private ed25519.PrivateKey
	comment := DefaultComment
	if c.Cipher == "none" {
		private, comment, ok = c.plain()
	} else {
		if reason := c.undecryptable(); reason != "" {
			return refuse(reason, "ssh-keygen -p encrypts a key anew in the common way")
		}
		if passphrase == nil {
			return nil, "", &PassphraseError{Where: where, public: public}
		}
		private, ok, err = decrypt(data, passphrase)
		if errors.Is(err, ErrPassphrase) {
			err = fmt.Errorf("%w for the %s", err, where)
		}
		if err != nil {
			return nil, "", err
		}
	}
	if !ok || len(c.Rest) > 0 || !bytes.Equal(public.Marshal(), publicOf(private).Marshal()) {
		clear(private)
		return refuse(damaged, "")
	}
	return private, comment, nil
}

// plain returns a copy of the unencrypted key. What it reads is taken apart in place: x/crypto, which decodes the
// encrypted ones, would leave a copy of everything on the heap.
func (c *container) plain() (private ed25519.PrivateKey, comment string, ok bool) {
	var inner struct {
		Check1, Check2  uint32
		Type            string
		Public, Private []byte
		Comment         string
		Pad             []byte `ssh:"rest"`
	}
	if c.KDF != "none" || len(c.KDFOptions) > 0 || ssh.Unmarshal(c.Private, &inner) != nil ||
		inner.Check1 != inner.Check2 || inner.Type != ssh.KeyAlgoED25519 || len(inner.Private) != ed25519.PrivateKeySize ||
		!bytes.Equal(inner.Public, inner.Private[ed25519.SeedSize:]) {
		return nil, "", false
	}
	for i, b := range inner.Pad {
		if b != byte(i+1) {
			return nil, "", false
		}
	}
	return bytes.Clone(inner.Private), cleanComment(inner.Comment), true
}

// decrypt returns the encrypted key in data, or not ok if it is damaged. Its error is that of passphrase, or
// ErrPassphrase.
func decrypt(data []byte, passphrase func() ([]byte, error)) (private ed25519.PrivateKey, ok bool, err error) {
	pass, err := passphrase()
	defer clear(pass)
	if err != nil {
		return nil, false, err
	}
	if len(pass) == 0 {
		return nil, false, ErrPassphrase
	}
	raw, err := ssh.ParseRawPrivateKeyWithPassphrase(data, pass)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, false, ErrPassphrase
	}
	key, ok := raw.(*ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, false, nil
	}
	return *key, true, nil
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
		return damaged
	}
	if options.Rounds > maxRounds {
		return fmt.Sprintf("is encrypted with %d rounds, more than %d", options.Rounds, maxRounds)
	}
	return ""
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
