package agentcmd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"vast-ssh/agent"
	"vast-ssh/config"
	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/logind"
	"vast-ssh/known"
)

// slowStore is held up while it loads a key.
type slowStore struct {
	custody.Store
	loading chan struct{} // gets a value when a key is being loaded
	release chan struct{} // which goes on when it is closed
	loaded  *custody.Key
}

func (s *slowStore) Load(ctx context.Context, passphrase func() ([]byte, error)) (*custody.Key, error) {
	s.loading <- struct{}{}
	<-s.release
	key, err := s.Store.Load(ctx, passphrase)
	s.loaded = key
	return key, err
}

// TestLockWhileUnlocking: a lock that comes while the passphrase is being tried is the later word.
func TestLockWhileUnlocking(t *testing.T) {
	k := newTestKeys(t, "")
	slow := &slowStore{Store: k.store, loading: make(chan struct{}), release: make(chan struct{})}
	k.store = slow
	result := make(chan error, 1)
	go func() { result <- k.Unlock(context.Background(), nil) }()
	<-slow.loading
	k.Lock()
	close(slow.release)
	if err := <-result; !refusedFor(err, ipc.KeyLocked) {
		t.Errorf("Unlock says %v", err)
	}
	k.wantLock(t, ipc.Locked)
	if _, err := slow.loaded.Sign(nil, []byte("x")); !errors.Is(err, custody.ErrDestroyed) {
		t.Errorf("the key that was loaded is in memory still: %v", err)
	}
}

// TestLockWhileWaitingToUnlock: it is the same with an unlock that waits for another one.
func TestLockWhileWaitingToUnlock(t *testing.T) {
	k := newTestKeys(t, "")
	result := make(chan error, 1)
	k.unlocking <- struct{}{}
	begun := make(chan struct{})
	go func() {
		result <- k.Unlock(signalling{context.Background(), sync.OnceFunc(func() { close(begun) })}, nil)
	}()
	<-begun
	k.Lock()
	<-k.unlocking
	if err := <-result; !refusedFor(err, ipc.KeyLocked) {
		t.Errorf("Unlock says %v", err)
	}
	k.wantLock(t, ipc.Locked)
}

// signalling tells when somebody begins to wait for it.
type signalling struct {
	context.Context
	waiting func()
}

func (s signalling) Done() <-chan struct{} { s.waiting(); return s.Context.Done() }

// newTestDaemon is a daemon with a key in memory, a configuration and a log, and no sockets.
func newTestDaemon(t *testing.T, passphrase, settings string) *daemon {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	getenv := func(string) string { return "" }
	cfg, err := config.Load(path, getenv)
	if err != nil {
		t.Fatal(err)
	}
	log, err := chainlog.Open(filepath.Join(dir, "decisions"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	d := &daemon{env: &Env{Config: cfg}, policies: &policies{path: path, getenv: getenv}, keys: newTestKeys(t, passphrase)}
	d.recorder = &recorder{log: log, policies: d.policies}
	d.agent, err = agent.New(agent.Config{Keys: d.keys, Pins: pins{known.Open(filepath.Join(dir, "pins"))}, Log: d.recorder})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.keys.Unlock(t.Context(), []byte(passphrase)); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestLocksOutliveTheConfiguration breaks the file: what it said last, or else the default, holds on.
func TestLocksOutliveTheConfiguration(t *testing.T) {
	d := newTestDaemon(t, "right", `idle_lock = "1m"`)
	idleLock := d.env.Config.IdleLock
	idleLock = d.lockIdle(time.Now(), idleLock)
	d.keys.wantLock(t, ipc.Unlocked)
	if err := os.WriteFile(d.policies.path, []byte("idle_lock = 1 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.policies.Config(); err == nil {
		t.Fatal("the file is not broken")
	}
	d.lockIdle(time.Now().Add(time.Hour), idleLock)
	d.keys.wantLock(t, ipc.Locked)

	if err := d.keys.Unlock(t.Context(), []byte("right")); err != nil {
		t.Fatal(err)
	}
	d.left(logind.ScreenLocked)
	d.keys.wantLock(t, ipc.Locked)
}

// TestScreenLock locks what the configuration wants locked.
func TestScreenLock(t *testing.T) {
	for _, test := range []struct {
		passphrase, settings string
		want                 ipc.Lock
	}{
		{"right", "", ipc.Locked},
		{"right", `screen_lock = "off"`, ipc.Unlocked},
		{"", "", ipc.Unlocked},
	} {
		d := newTestDaemon(t, test.passphrase, test.settings)
		d.left(logind.ScreenLocked)
		d.keys.wantLock(t, test.want)
	}
}

// TestIdleCountsSleep: the clock of a program stands still while the computer sleeps, and the one on the wall does not.
func TestIdleCountsSleep(t *testing.T) {
	k := newTestKeys(t, "")
	k.wantLock(t, ipc.Unlocked)
	now := time.Now()
	k.used = now.Add(-time.Hour)
	// A time.Time that was read from a clock has the monotonic reading in its second word.
	type reading struct {
		wall      uint64
		monotonic int64
		loc       *time.Location
	}
	(*reading)(unsafe.Pointer(&k.used)).monotonic = (*reading)(unsafe.Pointer(&now)).monotonic
	if slept := now.Sub(k.used); slept != 0 {
		t.Fatalf("%v without a sleep", slept)
	}
	if idle, held := k.Idle(now); !held || idle < time.Hour {
		t.Errorf("idle for %v", idle)
	}
	// A clock that is set back takes nothing away.
	k.used = now.Add(-time.Hour)
	if idle, held := k.Idle(now); !held || idle != time.Hour {
		t.Errorf("idle for %v", idle)
	}
}

// TestSignalBeforeTheWatch: a signal that comes while the agent starts is not lost.
func TestSignalBeforeTheWatch(t *testing.T) {
	d := newTestDaemon(t, "", "")
	told := make(chan os.Signal, 1)
	told <- syscall.SIGUSR1
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.watchLocks(ctx, told)
	}()
	for !d.keys.Locked() && ctx.Err() == nil {
		runtime.Gosched()
	}
	d.keys.wantLock(t, ipc.Locked)
	cancel()
	<-done
}
