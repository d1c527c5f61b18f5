// Package custody keeps the private key: in a file of OpenSSH's format, or in the keyring of the operating system; and
// in memory, as a Key, while it is in use.
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

// Store keeps one Ed25519 key. Beside it are two more slots, each a Store of its own: one for the key that is to
// become the current one, and one for the key that was.
//
// A key may be protected by a passphrase wherever it is stored: a file that is stolen, or a keyring that another
// program of the user reads, is of no use without it then.
//
// Errors of all methods are a *MissingError, a *KeyError, a *KeyringError, those of the file system, and that of ctx.
type Store interface {
	// Name returns the choice in the configuration: "file" or "keyring".
	Name() string
	// Public returns the public half. It needs no passphrase: of an encrypted key the half is what the file says.
	Public(ctx context.Context) (ssh.PublicKey, error)
	// Load returns the key for signing, which the caller ends with Destroy. passphrase is called once if the key is
	// encrypted and otherwise acceptable, and what it returned is zeroed; its error is returned as it is. A wrong
	// passphrase is an error that wraps ErrPassphrase. Where passphrase is nil, an encrypted key is a *PassphraseError.
	Load(ctx context.Context, passphrase func() ([]byte, error)) (*Key, error)
	// Save stores key, encrypted if passphrase is not nil. Both stay the caller's to zero. It never overwrites a key,
	// whatever it is: that is an *ExistsError, of which any number of concurrent calls gets all but one.
	Save(ctx context.Context, key ed25519.PrivateKey, comment string, passphrase []byte) error

	// Next is the slot of the key to come, and Previous that of the key before, from every slot.
	Next() Store
	Previous() Store
	// Promote makes public, the key in the next slot, the current one, and the current one the previous. It returns nil
	// if public is current already, so that after an interruption it is called again. At every moment the key that
	// was current is in one of the slots. A previous key that is another one is an *ExistsError until it is removed.
	Promote(ctx context.Context, public ssh.PublicKey) error
	// Remove deletes the key in the next or the previous slot, and returns nil if there is none. The current key is not
	// removed: that is a *KeyError.
	Remove(ctx context.Context) error
}

// Open returns the store that custody names. path is the file of the private key, and the other slots are beside it;
// for the keyring, which has no file, the directory of path holds a lock.
func Open(custody, path string) (Store, error) {
	switch custody {
	case "file":
		return newFile(path), nil
	case "keyring":
		return newKeyring(filepath.Join(filepath.Dir(path), lockName)), nil
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

// ErrPassphrase says that a passphrase is wrong.
var ErrPassphrase = errors.New("wrong passphrase")

// MissingError says that the store has no key.
type MissingError struct {
	Where string // which key, for people: private key in … (custody = …)

	hint string
}

func (e *MissingError) Error() string { return "there is no " + e.Where }

// Hint returns the command that makes a key, or nothing where none is expected.
func (e *MissingError) Hint() string { return e.hint }

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

// PassphraseError says that a key is encrypted and nobody could be asked for the passphrase.
type PassphraseError struct {
	Where string

	public ssh.PublicKey
}

func (e *PassphraseError) Error() string { return fmt.Sprintf("the %s needs its passphrase", e.Where) }

// Hint returns the command that asks for it.
func (e *PassphraseError) Hint() string { return "vast-agent unlock" }

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
