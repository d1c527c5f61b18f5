package custody

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/zalando/go-keyring"
	"golang.org/x/crypto/ssh"
)

const (
	keyringService = "vast-ssh"
	keyringUser    = "id_ed25519"
	// keyringWait is long for a keyring that works, and short for a person who waits for one that does not.
	keyringWait = 3 * time.Second
)

// keyringStore keeps the key in the Secret Service (Linux) or the login keychain (macOS), as the text of an OpenSSH
// private key.
type keyringStore struct {
	slot string
	lock string // path of the lock that makes look-then-store one step
	wait time.Duration
	get  func(service, user string) (string, error)
	set  func(service, user, value string) error
	del  func(service, user string) error
}

func newKeyring(lock string) *keyringStore {
	return &keyringStore{lock: lock, wait: keyringWait, get: keyring.Get, set: keyring.Set, del: keyring.Delete}
}

func (s *keyringStore) in(slot string) *keyringStore {
	there := *s
	there.slot = slot
	return &there
}

func (s *keyringStore) Name() string         { return "keyring" }
func (s *keyringStore) Next() Store          { return s.in(next) }
func (s *keyringStore) Previous() Store      { return s.in(previous) }
func (s *keyringStore) at(slot string) slots { return s.in(slot) }
func (s *keyringStore) user() string         { return keyringUser + s.slot }
func (s *keyringStore) lockPath() string     { return s.lock }

func (s *keyringStore) where() string {
	if s.slot == current {
		return `private key in the keyring (custody = "keyring")`
	}
	return fmt.Sprintf(`private key %q in the keyring (custody = "keyring")`, s.user())
}

func (s *keyringStore) Public(ctx context.Context) (ssh.PublicKey, error) {
	text, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	data := []byte(text)
	defer clear(data)
	return publicHalf(data, s.where())
}

func (s *keyringStore) Load(ctx context.Context, passphrase func() ([]byte, error)) (*Key, error) {
	text, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	data := []byte(text)
	defer clear(data)
	return load(data, s.where(), passphrase)
}

// Save returns a *KeyringError also when the answer to storing came too late. The key may then be stored all the
// same, once the keyring is unlocked.
func (s *keyringStore) Save(ctx context.Context, key ed25519.PrivateKey, comment string, passphrase []byte) error {
	text, err := marshal(key, comment, passphrase)
	if err != nil {
		return err
	}
	defer clear(text)
	// The keyring itself can only store over what is there.
	unlock, err := lockSlots(ctx, s.lock)
	if err != nil {
		return err
	}
	defer unlock()
	var none *MissingError
	if _, err := s.read(ctx); err == nil {
		return &ExistsError{s.where()}
	} else if !errors.As(err, &none) {
		return err
	}
	return s.write(ctx, string(text))
}

func (s *keyringStore) read(ctx context.Context) (string, error) {
	text, err := s.call(ctx, func() (string, error) { return s.get(keyringService, s.user()) })
	if errors.Is(err, keyring.ErrNotFound) {
		return "", missing(s.where(), s.slot)
	}
	return text, err
}

// write stores text, over what is there. The lock is held.
func (s *keyringStore) write(ctx context.Context, text string) error {
	_, err := s.call(ctx, func() (string, error) { return "", s.set(keyringService, s.user(), text) })
	if err != nil {
		return err
	}
	stored, err := s.read(ctx)
	if err != nil {
		return err
	}
	if stored != text {
		return &KeyringError{Reason: "did not give back what was stored"}
	}
	return nil
}

func (s *keyringStore) Promote(ctx context.Context, public ssh.PublicKey) error {
	return promote(ctx, s.in(current), public)
}

func (s *keyringStore) keep(ctx context.Context) error { return s.copy(ctx, current, previous) }

func (s *keyringStore) replace(ctx context.Context) error { return s.copy(ctx, next, current) }

func (s *keyringStore) copy(ctx context.Context, from, to string) error {
	text, err := s.in(from).read(ctx)
	if err != nil {
		return err
	}
	return s.in(to).write(ctx, text)
}

func (s *keyringStore) Remove(ctx context.Context) error { return remove(ctx, s, s.slot) }

func (s *keyringStore) remove(ctx context.Context) error {
	_, err := s.call(ctx, func() (string, error) { return "", s.del(keyringService, s.user()) })
	if errors.Is(err, keyring.ErrNotFound) {
		return nil
	}
	return err
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
