package agentcmd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vast-ssh/agent"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/ipc"
)

// newTestKeys makes a key in a file, with a passphrase or without.
func newTestKeys(t *testing.T, passphrase string) *keys {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys", "id")
	store, err := custody.Open("file", path)
	if err != nil {
		t.Fatal(err)
	}
	var secret []byte
	if passphrase != "" {
		secret = []byte(passphrase)
	}
	if err := store.Save(t.Context(), custody.Generate(), "x", secret); err != nil {
		t.Fatal(err)
	}
	public, err := store.Public(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k := newKeys(store, path+".pub")
	if err := custody.WritePublic(k.path, public, "x"); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keys) wantLock(t *testing.T, want ipc.Lock) {
	t.Helper()
	_, err := k.Signer(t.Context())
	var st ipc.Status
	k.Describe(&st)
	if st.Locked != want || k.Locked() != (want != ipc.Unlocked) || errors.Is(err, agent.ErrLocked) != (want != ipc.Unlocked) {
		t.Errorf("it is %q, Signer says %v; want %q", st.Locked, err, want)
	}
	if (want == ipc.Unlocked) != (st.Memory != "") {
		t.Errorf("memory %q while %q", st.Memory, want)
	}
}

func TestLockAndUnlock(t *testing.T) {
	k := newTestKeys(t, "")
	k.wantLock(t, ipc.Unlocked)
	held := k.key
	if !k.Lock() || k.Lock() {
		t.Error("Lock does not tell whether it was unlocked")
	}
	if _, err := held.Sign(nil, []byte("x")); err == nil {
		t.Error("a key that was locked away signs")
	}
	k.wantLock(t, ipc.Locked)
	if err := k.Unlock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	k.wantLock(t, ipc.Unlocked)
	if k.Guarded() {
		t.Error("a key without a passphrase is told to have one")
	}
}

func TestPassphrase(t *testing.T) {
	k := newTestKeys(t, "right")
	k.wantLock(t, ipc.NeedsPassphrase)
	for passphrase, reason := range map[string]string{"": ipc.KeyLocked, "wrong": ipc.WrongPassphrase} {
		if err := k.Unlock(t.Context(), []byte(passphrase)); !refusedFor(err, reason) {
			t.Errorf("%q: %v", passphrase, err)
		}
	}
	k.wantLock(t, ipc.NeedsPassphrase)
	given := []byte("right")
	if err := k.Unlock(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	k.wantLock(t, ipc.Unlocked)
	if !k.Guarded() {
		t.Error("a key with a passphrase is told to have none")
	}
	k.Lock()
	k.wantLock(t, ipc.Locked)
	// A key that stays in memory is not given up for a wrong passphrase.
	if err := k.Unlock(t.Context(), []byte("right")); err != nil {
		t.Fatal(err)
	}
	if err := k.Unlock(t.Context(), []byte("wrong")); !refusedFor(err, ipc.WrongPassphrase) {
		t.Error(err)
	}
	k.wantLock(t, ipc.Unlocked)
}

// wrongStore says of every passphrase that it is wrong, at once.
type wrongStore struct{ custody.Store }

func (wrongStore) Load(_ context.Context, passphrase func() ([]byte, error)) (*custody.Key, error) {
	if _, err := passphrase(); err != nil {
		return nil, err
	}
	return nil, custody.ErrPassphrase
}

// TestGuessing waits longer after each wrong passphrase, also where many guess at once.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys(wrongStore{}, "")
		start := time.Now()
		var guessing sync.WaitGroup
		for range 8 {
			guessing.Go(func() {
				if err := k.Unlock(t.Context(), []byte("guess")); !refusedFor(err, ipc.WrongPassphrase) {
					t.Error(err)
				}
			})
		}
		guessing.Wait()
		// 0 + 0.2 + 0.4 + 0.8 + 1.6 + 3 + 3 + 3
		if took := time.Since(start); took != 12*time.Second {
			t.Errorf("eight guesses took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := k.Unlock(ctx, []byte("guess")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a guess that does not wait: %v", err)
		}
	})
}

// unlocker is an agent's side of unlock.
type unlocker struct {
	ipc.Handler
	right string

	tried []string
}

func (u *unlocker) Unlock(_ context.Context, passphrase []byte) error {
	u.tried = append(u.tried, string(passphrase))
	switch string(passphrase) {
	case u.right:
		return nil
	case "":
		return &ipc.RefusedError{Reason: ipc.KeyLocked}
	}
	return &ipc.RefusedError{Reason: ipc.WrongPassphrase}
}

// TestUnlockAsks asks for a passphrase where there is one, three times at most.
func TestUnlockAsks(t *testing.T) {
	errNo := errors.New("nobody answers")
	for _, test := range []struct {
		name    string
		right   string
		answers []string
		askErr  error
		tried   int
		ok      bool
	}{
		{"none", "", nil, nil, 1, true},
		{"at once", "open", []string{"open"}, nil, 2, true},
		{"at last", "open", []string{"a", "b", "open"}, nil, 4, true},
		{"never", "open", []string{"a", "b", "c"}, nil, 4, false},
		{"nobody", "open", nil, errNo, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := &unlocker{right: test.right}
			client := serveControl(t, u)
			asked := 0
			err := unlock(t.Context(), client, func(context.Context, string) ([]byte, error) {
				asked++
				if test.askErr != nil {
					return nil, test.askErr
				}
				return []byte(test.answers[asked-1]), nil
			})
			if (err == nil) != test.ok || len(u.tried) != test.tried {
				t.Errorf("%v after %q", err, u.tried)
			}
		})
	}
}

// serveControl returns a client of a control socket with h behind it.
func serveControl(t *testing.T, h ipc.Handler) *ipc.Client {
	t.Helper()
	path := filepath.Join(shortDir(t), "c")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		ipc.Serve(context.Background(), conn, h)
	}()
	client, err := ipc.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); l.Close(); <-done })
	return client
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "va")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
