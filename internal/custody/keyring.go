package custody

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/zalando/go-keyring"
	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
)

const (
	keyringService = "vast-ssh"
	keyringUser    = "id_ed25519"
	keyringWhere   = `private key in the keyring (custody = "keyring")`
	// keyringWait is long for a keyring that works, and short for a person who waits for one that does not.
	keyringWait = 3 * time.Second
)

// keyringStore keeps the key in the Secret Service (Linux) or the login keychain (macOS), as the text of an OpenSSH
// private key.
type keyringStore struct {
	lock string // path of the lock that makes look-then-store one step
	wait time.Duration
	get  func(service, user string) (string, error)
	set  func(service, user, value string) error
}

func newKeyring(lock string) *keyringStore {
	return &keyringStore{lock: lock, wait: keyringWait, get: keyring.Get, set: keyring.Set}
}

func (s *keyringStore) Name() string { return "keyring" }

func (s *keyringStore) Signer(ctx context.Context) (ssh.Signer, error) {
	text, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	return signer([]byte(text), keyringWhere)
}

// Save returns a *KeyringError also when the answer to storing came too late. The key may then be stored all the
// same, once the keyring is unlocked.
func (s *keyringStore) Save(ctx context.Context, key ed25519.PrivateKey, comment string) error {
	text, err := marshal(key, comment)
	if err != nil {
		return err
	}
	// The keyring itself can only store over what is there.
	if err := atomicfile.EnsureDir(filepath.Dir(s.lock)); err != nil {
		return err
	}
	unlock, err := atomicfile.Lock(ctx, s.lock)
	if err != nil {
		return err
	}
	defer unlock()
	var missing *MissingError
	if _, err := s.load(ctx); err == nil {
		return &ExistsError{keyringWhere}
	} else if !errors.As(err, &missing) {
		return err
	}
	_, err = s.call(ctx, func() (string, error) {
		return "", s.set(keyringService, keyringUser, string(text))
	})
	if err != nil {
		return err
	}
	stored, err := s.load(ctx)
	if err != nil {
		return err
	}
	if stored != string(text) {
		return &KeyringError{Reason: "did not give back what was stored"}
	}
	return nil
}

func (s *keyringStore) load(ctx context.Context) (string, error) {
	text, err := s.call(ctx, func() (string, error) { return s.get(keyringService, keyringUser) })
	if errors.Is(err, keyring.ErrNotFound) {
		return "", &MissingError{keyringWhere}
	}
	return text, err
}

// keyringTurn is held by the one call to the keyring that this process may have under way.
var keyringTurn = make(chan struct{}, 1)

// call runs f, which asks the keyring, for as long as s.wait. A keyring that is locked asks its user and answers
// when it has been, if ever, and f cannot be interrupted: it is left behind then, at most one at a time.
func (s *keyringStore) call(ctx context.Context, f func() (string, error)) (string, error) {
	if err := sessionBus(); err != nil {
		return "", &KeyringError{Reason: "cannot be reached: " + err.Error(), Err: err}
	}
	late, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	expired := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return &KeyringError{
			Reason: fmt.Sprintf("did not answer within %v: it may be locked", s.wait),
			Err:    context.DeadlineExceeded,
		}
	}
	select {
	case keyringTurn <- struct{}{}:
	case <-late.Done():
		return "", expired()
	}
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		defer func() { <-keyringTurn }()
		var a answer
		a.text, a.err = guard(f)
		answers <- a
	}()
	select {
	case a := <-answers:
		if a.err != nil && !errors.Is(a.err, keyring.ErrNotFound) {
			a.err = &KeyringError{Reason: fmt.Sprintf("refuses: %q", a.err.Error()), Err: a.err}
		}
		return a.text, a.err
	case <-late.Done():
		return "", expired()
	}
}

// guard turns a panic into an error. The Secret Service client panics when the bus goes away while it waits for the
// user, which is what a logout does to a call left behind.
func guard(f func() (string, error)) (text string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("the connection to it broke")
		}
	}()
	return f()
}
