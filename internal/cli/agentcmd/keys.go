package agentcmd

import (
	"bytes"
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/custody"
	"vast-ssh/known"
)

// keys gives the agent its key: the public one from its file, the private one from custody when it is first needed.
type keys struct {
	store custody.Store
	path  string // of the public key file

	mu     sync.Mutex // protects the following
	seen   *fileState // of the public key file when public was read; nil if it may be other by now
	public ssh.PublicKey
	signer ssh.Signer
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

func stateOf(path string) (fileState, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return fileState{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return fileState{uint64(st.Dev), st.Ino, st.Size, changeTime(st)}, nil
}

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
	if now.Sub(time.Unix(state.changed.Unix())) > settled {
		k.seen = &state
	}
	return k.public, nil
}

// Signer loads the private key again when the public key file names another one than the key in memory.
func (k *keys) Signer(ctx context.Context) (ssh.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	public, err := k.publicKey()
	if err != nil {
		return nil, err
	}
	if k.signer != nil && bytes.Equal(k.signer.PublicKey().Marshal(), public.Marshal()) {
		return k.signer, nil
	}
	signer, err := k.store.Signer(ctx)
	if err != nil {
		return nil, err
	}
	k.signer = signer
	return signer, nil
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
