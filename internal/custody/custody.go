// Package custody keeps the private key: in a file of OpenSSH's format, or in the keyring of the operating system.
//
// Which of the two is the user's choice, custody in the configuration, and neither stands in for the other: a key
// that turns up somewhere else than where its owner put it is a surprise, and a fallback would hide a locked keyring.
// Errors name the choice.
package custody

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// Store keeps one Ed25519 key.
type Store interface {
	// Name returns the choice in the configuration: "file" or "keyring".
	Name() string
	// Signer returns the key for signing. Errors are a *MissingError, a *KeyError, a *PassphraseError, a
	// *KeyringError, the errors of the file system, and that of ctx.
	Signer(ctx context.Context) (ssh.Signer, error)
	// Save stores key and never overwrites one, whatever it is: that is an *ExistsError, of which any number of
	// concurrent calls gets all but one.
	Save(ctx context.Context, key ed25519.PrivateKey, comment string) error
}

// Open returns the store that custody names. path is the file of the private key; for the keyring, which has no
// file, the directory of path holds a lock.
func Open(custody, path string) (Store, error) {
	switch custody {
	case "file":
		return &fileStore{path: path}, nil
	case "keyring":
		return newKeyring(filepath.Join(filepath.Dir(path), ".keyring.lock")), nil
	}
	return nil, fmt.Errorf("custody %q is neither \"file\" nor \"keyring\"", custody)
}

// Generate returns a new key.
func Generate() ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	defer clear(seed)
	rand.Read(seed) // never fails
	return ed25519.NewKeyFromSeed(seed)
}

// ErrPassphrase is the error of ParseImport for a wrong passphrase.
var ErrPassphrase = errors.New("wrong passphrase")

// MissingError says that the store has no key.
type MissingError struct {
	Where string // which key, for people: private key in … (custody = …)
}

func (e *MissingError) Error() string { return "there is no " + e.Where }

// Hint returns the command that makes a key.
func (e *MissingError) Hint() string { return "vast-ssh key init" }

// ExistsError says that the store has a key already. Nothing was changed.
type ExistsError struct {
	Where string
}

func (e *ExistsError) Error() string { return "there is already a " + e.Where }

// KeyError says that a key, or the file that it is in, is not used. Reason completes the sentence "the key …".
type KeyError struct {
	Where  string
	Reason string

	hint string
}

func (e *KeyError) Error() string { return fmt.Sprintf("the %s %s", e.Where, e.Reason) }

// Hint returns a command or advice, or nothing.
func (e *KeyError) Hint() string { return e.hint }

// PassphraseError says that a key is encrypted and nobody can be asked for the passphrase.
type PassphraseError struct {
	Where string
}

func (e *PassphraseError) Error() string { return fmt.Sprintf("the %s is encrypted", e.Where) }

// Hint says how a key is protected without a passphrase in its file.
func (e *PassphraseError) Hint() string {
	return `take the passphrase off with ssh-keygen -p, or have the key in the keyring with custody = "keyring"`
}

// KeyringError says that the keyring is locked, does not answer or is not there.
type KeyringError struct {
	Reason string
	// Err is context.DeadlineExceeded when no answer came in time, else what the keyring said, or nil.
	Err error
}

func (e *KeyringError) Error() string { return "the keyring (custody = \"keyring\") " + e.Reason }

func (e *KeyringError) Unwrap() error { return e.Err }

// Hint names the other choice.
func (e *KeyringError) Hint() string {
	return `unlock the login keyring and try again; where there is none, set custody = "file"`
}
