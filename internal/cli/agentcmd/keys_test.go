package agentcmd

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/custody"
)

// countingStore counts how often the private key is asked for.
type countingStore struct {
	custody.Store
	asked int
}

func (s *countingStore) Load(ctx context.Context, passphrase func() ([]byte, error)) (*custody.Key, error) {
	s.asked++
	return s.Store.Load(ctx, passphrase)
}

func TestKeysFollowTheFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "id.pub")
	store := &countingStore{}
	k := newKeys(store, path)
	if _, err := k.PublicKey(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	replace := func() ssh.PublicKey {
		t.Helper()
		var err error
		if store.Store, err = custody.Open("file", filepath.Join(t.TempDir(), "keys", "id")); err != nil {
			t.Fatal(err)
		}
		if err := store.Save(t.Context(), custody.Generate(), "x", nil); err != nil {
			t.Fatal(err)
		}
		public, err := store.Public(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := custody.WritePublic(path, public, "x"); err != nil {
			t.Fatal(err)
		}
		return public
	}
	check := func(want ssh.PublicKey) {
		t.Helper()
		signer, err := k.Signer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		public, err := k.PublicKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range []ssh.PublicKey{public, signer.PublicKey()} {
			if !bytes.Equal(got.Marshal(), want.Marshal()) {
				t.Error("the key of another file")
			}
		}
	}
	began := time.Now()
	first := replace()
	check(first)
	check(first)
	if store.asked != 1 || k.seen != nil && time.Since(began) < settled {
		t.Errorf("asked %d times, and a file of just now is believed: %v", store.asked, k.seen)
	}

	// A file whose change is old is believed, until it is another.
	state, err := stateOf(path)
	if err != nil {
		t.Fatal(err)
	}
	k.seen = &state
	check(first)
	check(replace())
	if store.asked != 2 {
		t.Errorf("asked %d times", store.asked)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	k.seen = &state
	if _, err := k.PublicKey(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is gone: %v", err)
	}
	if settled < time.Second {
		t.Error("some file systems count whole seconds")
	}
}
