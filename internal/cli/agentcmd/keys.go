package agentcmd

import (
	"bytes"
	"context"
	"sync"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/custody"
	"vast-ssh/known"
)

// keys gives the agent its key: the public one from its file, the private one from custody when it is first needed.
type keys struct {
	store  custody.Store
	public string // path of the public key file

	mu     sync.Mutex // protects the following
	signer ssh.Signer
}

func (k *keys) PublicKey(context.Context) (ssh.PublicKey, error) {
	return custody.ReadPublic(k.public)
}

// Signer loads the private key again when the public key file names another one than the key in memory.
func (k *keys) Signer(ctx context.Context) (ssh.Signer, error) {
	public, err := k.PublicKey(ctx)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
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
