package custody

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/zalando/go-keyring"
)

// memory is a keyring that works, in place of the real one.
type memory map[string]string

func (m memory) get(service, user string) (string, error) {
	if text, ok := m[service+"/"+user]; ok {
		return text, nil
	}
	return "", keyring.ErrNotFound
}

func (m memory) set(service, user, text string) error {
	m[service+"/"+user] = text
	return nil
}

// newKeyringOn returns a store on functions that stand in for the keyring, of which no call goes to a real one.
func newKeyringOn(t *testing.T, get func(service, user string) (string, error),
	set func(service, user, value string) error) *keyringStore {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
	return &keyringStore{
		lock: filepath.Join(t.TempDir(), "vast-ssh", ".key.lock"), wait: time.Minute, get: get, set: set,
	}
}

func noSet(t *testing.T) func(service, user, value string) error {
	return func(string, string, string) error {
		t.Error("something was stored")
		return nil
	}
}

func TestKeyringStore(t *testing.T) {
	m := memory{}
	s := newKeyringOn(t, m.get, m.set)
	var missing *MissingError
	if _, err := s.Load(t.Context(), nil); !errors.As(err, &missing) || !strings.Contains(err.Error(), `"keyring"`) {
		t.Fatalf("err = %v, want a *MissingError that names the choice", err)
	}
	key := Generate()
	if err := s.Save(t.Context(), key, "", nil); err != nil {
		t.Fatal(err)
	}
	signer, err := s.Load(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	signs(t, signer, key)
	if text := m["vast-ssh/id_ed25519"]; len(m) != 1 || !strings.HasPrefix(text, "-----BEGIN OPENSSH PRIVATE KEY-----\n") {
		t.Error("the key is not stored as vast-ssh/id_ed25519 in OpenSSH's format")
	}
}

func TestKeyringSaveNeverReplaces(t *testing.T) {
	m := memory{"vast-ssh/id_ed25519": "something else"}
	s := newKeyringOn(t, m.get, noSet(t))
	var exists *ExistsError
	if err := s.Save(t.Context(), Generate(), "", nil); !errors.As(err, &exists) {
		t.Errorf("err = %v, want an *ExistsError", err)
	}
	var bad *KeyError
	if _, err := s.Load(t.Context(), nil); !errors.As(err, &bad) || strings.Contains(err.Error(), "something else") {
		t.Errorf("err = %v, want a *KeyError that does not quote", err)
	}
	t.Run("in a race", func(t *testing.T) {
		m := memory{}
		s := newKeyringOn(t, m.get, m.set)
		saveRace(t, func() Store { return s })
	})
}

// The keyring has no way to store only what is new, so processes look and store under a lock.
func TestKeyringSaveHoldsTheLock(t *testing.T) {
	m := memory{}
	var s *keyringStore
	held := func() {
		l := flock.New(s.lock)
		defer l.Close()
		if ok, err := l.TryLock(); ok || err != nil {
			t.Errorf("the lock is free: %v, %v", ok, err)
		}
	}
	s = newKeyringOn(t, func(service, user string) (string, error) {
		held()
		return m.get(service, user)
	}, func(service, user, text string) error {
		held()
		return m.set(service, user, text)
	})
	if err := s.Save(t.Context(), Generate(), "", nil); err != nil {
		t.Fatal(err)
	}
}

func TestKeyringThatFails(t *testing.T) {
	m := memory{}
	failure := errors.New("no such\ncollection")
	fail := func(string, string) (string, error) { return "", failure }
	for _, tt := range []struct {
		name   string
		get    func(service, user string) (string, error)
		set    func(service, user, value string) error
		reason string
	}{
		{"get", fail, noSet(t), `refuses: "no such\ncollection"`},
		{"set", m.get, func(string, string, string) error { return failure }, `refuses: "no such\ncollection"`},
		{"set does nothing", func() func(string, string) (string, error) {
			calls := 0
			return func(string, string) (string, error) {
				if calls++; calls == 1 {
					return "", keyring.ErrNotFound
				}
				return "stale", nil
			}
		}(), func(string, string, string) error { return nil }, "give back"},
		{"panic", func(string, string) (string, error) { panic("no signal") }, noSet(t), "broke"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newKeyringOn(t, tt.get, tt.set)
			err := s.Save(t.Context(), Generate(), "", nil)
			var failed *KeyringError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), tt.reason) {
				t.Fatalf("err = %v, want a *KeyringError with %q", err, tt.reason)
			}
			if text := err.Error(); !strings.Contains(text, `custody = "keyring"`) || strings.Contains(text, "\n") {
				t.Errorf("error %q", text)
			}
			if !strings.Contains(failed.Hint(), `custody = "file"`) {
				t.Errorf("hint %q", failed.Hint())
			}
		})
	}
}

func TestKeyringThatDoesNotAnswer(t *testing.T) {
	asked := make(chan struct{})
	release := make(chan struct{})
	m := memory{}
	s := newKeyringOn(t, func(service, user string) (string, error) {
		asked <- struct{}{}
		<-release
		return m.get(service, user)
	}, m.set)
	s.wait = time.Millisecond
	late := func(err error) {
		t.Helper()
		var failed *KeyringError
		if !errors.As(err, &failed) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want a *KeyringError that is DeadlineExceeded", err)
		}
	}
	result := make(chan error)
	for held := false; !held; {
		go func() {
			_, err := s.Load(t.Context(), nil)
			result <- err
		}()
		select {
		case <-asked:
			held = true
			late(<-result)
		case err := <-result: // the time was over before the keyring was asked
			late(err)
		}
	}
	// The call left behind keeps the turn: no second one is started.
	_, err := s.Load(t.Context(), nil)
	late(err)
	select {
	case <-asked:
		t.Error("a second call went to a keyring that does not answer")
	default:
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Load(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want canceled", err)
	}
	close(release)
	// Whoever gets the turn knows that the call left behind has ended.
	keyringTurn <- struct{}{}
	<-keyringTurn
	s.get, s.wait = m.get, time.Minute
	var missing *MissingError
	if _, err := s.Load(t.Context(), nil); !errors.As(err, &missing) {
		t.Errorf("the keyring answers again: err = %v, want a *MissingError", err)
	}
	if got := newKeyring("").wait; got != 3*time.Second {
		t.Errorf("people wait %v", got)
	}
}

func TestEmptyLockDirectoryIsMade(t *testing.T) {
	m := memory{}
	s := newKeyringOn(t, m.get, m.set)
	if err := s.Save(t.Context(), Generate(), "", nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Dir(s.lock))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info, err)
	}
}
