package agentcmd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/agent"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/ipc"
	"vast-ssh/known"
)

// keys gives the agent its key: the public one from its file, the private one from custody when it is first needed. A
// locked key is not in memory, and is not loaded before Unlock.
type keys struct {
	store custody.Store
	path  string // of the public key file

	unlocking chan struct{} // holds the one who tries a passphrase
	failures  int           // passphrases that were wrong in a row; for that one

	mu      sync.Mutex // protects the following
	seen    *fileState // of the public key file when public was read; nil if it may be other by now
	public  ssh.PublicKey
	key     *custody.Key // nil if it is not in memory
	lock    ipc.Lock
	locks   uint64 // calls of Lock
	guarded bool   // the key that was loaded last has a passphrase
	used    time.Time
}

func newKeys(store custody.Store, path string) *keys {
	return &keys{store: store, path: path, unlocking: make(chan struct{}, 1)}
}

// fileState tells one state of a file from another. Every way to change a file gives it another inode or ctime.
type fileState struct {
	dev, ino uint64
	size     int64
	changed  syscall.Timespec
}

// settled is how old a change must be before the state is believed: within a tick of the file system's clock a second
// change could look the same.
const settled = 2 * time.Second

// stateOf looks at the file at path, through a symbolic link.
func stateOf(path string) (fileState, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return fileState{uint64(st.Dev), st.Ino, st.Size, changeTime(st)}, nil
}

// old reports whether a state that was seen at now cannot be confused with one to come.
func (s fileState) old(now time.Time) bool { return now.Sub(time.Unix(s.changed.Unix())) > settled }

// lockedError says that a person has to unlock the key.
type lockedError struct{ why string }

func (e *lockedError) Error() string { return e.why }

func (e *lockedError) Is(target error) bool { return target == agent.ErrLocked }

// Hint returns the command that unlocks it.
func (e *lockedError) Hint() string { return "vast-agent unlock" }

var (
	errLocked     = &lockedError{"the key is locked"}
	errPassphrase = &lockedError{"its passphrase has not been given since the agent started"}
)

func (k *keys) PublicKey(context.Context) (ssh.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.publicKey()
}

// publicKey reads the file if it has changed. mu is held.
func (k *keys) publicKey() (ssh.PublicKey, error) {
	// The state is taken before the content: content that changes in between belongs to a state that is not met again.
	now := time.Now()
	state, err := stateOf(k.path)
	if err == nil && k.seen != nil && *k.seen == state {
		return k.public, nil
	}
	k.seen = nil
	if k.public, err = custody.ReadPublic(k.path); err != nil {
		return nil, err
	}
	if state.old(now) {
		k.seen = &state
	}
	return k.public, nil
}

// Locked reports whether the key waits for Unlock.
func (k *keys) Locked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lock != ipc.Unlocked
}

// Signer loads the private key again when the public key file names another one than the key in memory.
func (k *keys) Signer(ctx context.Context) (ssh.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	public, err := k.publicKey()
	if err != nil {
		return nil, err
	}
	k.used = time.Now()
	if k.key != nil && same(k.key.PublicKey(), public) {
		return k.key, nil
	}
	switch k.lock {
	case ipc.Locked:
		return nil, errLocked
	case ipc.NeedsPassphrase:
		return nil, errPassphrase
	}
	key, err := k.load(ctx, public, nil)
	if needs := (*custody.PassphraseError)(nil); errors.As(err, &needs) {
		k.forget(ipc.NeedsPassphrase)
		k.guarded = true
		return nil, errPassphrase
	}
	if err != nil {
		return nil, err
	}
	k.hold(key, false)
	return key, nil
}

// load loads the private key of public, which may be nil. A rotation makes the next key the current one before it writes
// the public key file: should it end between the two, the key of that file is in the previous slot.
func (k *keys) load(ctx context.Context, public ssh.PublicKey, passphrase func() ([]byte, error)) (*custody.Key, error) {
	key, err := k.store.Load(ctx, passphrase)
	if err != nil || public == nil || same(key.PublicKey(), public) {
		return key, err
	}
	before, err := k.store.Previous().Load(ctx, passphrase)
	if err != nil {
		return key, nil // which is not the one of the file, as is told when it is used
	}
	if !same(before.PublicKey(), public) {
		before.Destroy()
		return key, nil
	}
	key.Destroy()
	return before, nil
}

func same(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// hold takes key for the one in memory. mu is held.
func (k *keys) hold(key *custody.Key, guarded bool) {
	if k.key != nil {
		k.key.Destroy()
	}
	k.key, k.guarded, k.lock, k.used = key, guarded, ipc.Unlocked, time.Now()
}

// forget zeroes the key in memory. mu is held.
func (k *keys) forget(lock ipc.Lock) {
	if k.key != nil {
		k.key.Destroy()
		k.key = nil
	}
	k.lock = lock
}

// Lock zeroes the key and keeps it out of memory until Unlock. It reports whether it was unlocked before.
func (k *keys) Lock() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.lock
	k.locks++
	k.forget(ipc.Locked)
	return was == ipc.Unlocked
}

// A wrong passphrase makes the next attempt wait, longer each time. The key derivation of the file is the rest of the
// brake.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 3 * time.Second
)

// Unlock loads the key. Errors are an *ipc.RefusedError with the reason ipc.KeyLocked where a passphrase is missing and
// ipc.WrongPassphrase where it is wrong, and those of custody. A Lock that comes meanwhile holds: ipc.KeyLocked again.
func (k *keys) Unlock(ctx context.Context, passphrase []byte) error {
	k.mu.Lock()
	locks := k.locks
	k.mu.Unlock()
	select {
	case k.unlocking <- struct{}{}:
		defer func() { <-k.unlocking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if k.failures > 0 && len(passphrase) > 0 {
		pause := min(firstPause<<min(k.failures, 5), longestPause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	public, _ := k.PublicKey(ctx) // without the file, the key that is the current one
	asked := false
	key, err := k.load(ctx, public, func() ([]byte, error) {
		asked = true
		if len(passphrase) == 0 {
			return nil, &ipc.RefusedError{Reason: ipc.KeyLocked, Sentence: "the key has a passphrase", Next: errPassphrase.Hint()}
		}
		return bytes.Clone(passphrase), nil
	})
	if errors.Is(err, custody.ErrPassphrase) {
		k.failures++
		return &ipc.RefusedError{Reason: ipc.WrongPassphrase, Sentence: "the passphrase is wrong", Next: "vast-agent unlock"}
	}
	if err != nil {
		return err
	}
	k.failures = 0
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks != locks { // while this was on its way: the lock is the later word
		key.Destroy()
		return &ipc.RefusedError{Reason: ipc.KeyLocked, Sentence: "the key was locked meanwhile", Next: errLocked.Hint()}
	}
	k.hold(key, asked)
	return nil
}

// Idle returns how long the key has been in memory without being used, or false if it is not there.
func (k *keys) Idle(now time.Time) (time.Duration, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// The clock of the machine stands still while it sleeps, and that on the wall can be set back.
	return max(now.Sub(k.used), now.Round(0).Sub(k.used.Round(0))), k.key != nil
}

// Guarded reports whether unlocking takes a passphrase.
func (k *keys) Guarded() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.guarded
}

// Describe adds what is to be told of the key to st.
func (k *keys) Describe(st *ipc.Status) {
	k.mu.Lock()
	defer k.mu.Unlock()
	st.Custody = k.store.Name()
	st.Locked = k.lock
	if k.key == nil {
		return
	}
	st.Memory = "locked"
	if err := k.key.MemoryLocked(); err != nil {
		st.Memory = err.Error()
	}
}

// pins gives the agent the file of pins.
type pins struct{ *known.File }

func (p pins) Instances(key ssh.PublicKey) ([]uint64, error) {
	all, err := p.Pins()
	if err != nil {
		return nil, err
	}
	blob := key.Marshal()
	var ids []uint64
	for _, pin := range all {
		if bytes.Equal(pin.Key.Marshal(), blob) {
			ids = append(ids, pin.Instance)
		}
	}
	return ids, nil
}
