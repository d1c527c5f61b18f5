package e2e

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"vast-ssh/internal/wire"
)

// signer is the user's key in other hands. Its sign returns nil for no signature.
type signer struct {
	key  ssh.PublicKey
	sign func(data []byte) *ssh.Signature
}

func (s *signer) PublicKey() ssh.PublicKey { return s.key }

func (s *signer) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	if sig := s.sign(data); sig != nil {
		return sig, nil
	}
	return nil, errors.New("no signature is wanted")
}

// inside opens a session with the instance, as anybody can who reaches it, and calls sign in it with what was seen of
// it, its id, and what the user would have to sign.
func (v *victim) inside(in *Instance, sign func(reply *wire.Reply, id, data []byte) *ssh.Signature) error {
	s := &signer{key: v.key}
	return v.straightWith(in, func(reply *wire.Reply) {
		s.sign = func(data []byte) *ssh.Signature {
			var session struct {
				ID   []byte
				Rest []byte `ssh:"rest"`
			}
			if err := ssh.Unmarshal(data, &session); err != nil {
				v.t.Error(err)
				return nil
			}
			return sign(reply, session.ID, data)
		}
	}, func() ([]ssh.Signer, error) { return []ssh.Signer{s}, nil })
}

// sign has the agent sign the data, on a connection of its own, and returns nil if it does not.
func (v *victim) sign(data []byte) *ssh.Signature {
	v.t.Helper()
	c, err := net.Dial("unix", v.Dirs.AgentSocket())
	if err != nil {
		v.t.Error(err)
		return nil
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(attackTimeout))
	sig, err := sshagent.NewClient(c).Sign(v.key, data)
	if err != nil {
		return nil
	}
	return sig
}

// A session gets one signature, however many ask for it at once, and however often it is witnessed.
func TestAttackOneSession(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	const clients = 16
	var seen *wire.Reply
	var asked []byte
	v.spends(1, []string{"already-signed"}, func() {
		if err := v.inside(v.first, func(reply *wire.Reply, _, data []byte) *ssh.Signature {
			seen, asked = reply, data
			for range 3 {
				if reason := v.witness(v.first.ID, v.first.User(), reply); reason != "" {
					t.Errorf("the witness was refused with %q", reason)
				}
			}
			given := make(chan *ssh.Signature, clients)
			var asking sync.WaitGroup
			for range clients {
				asking.Go(func() {
					if sig := v.sign(data); sig != nil {
						given <- sig
					}
				})
			}
			asking.Wait()
			if len(given) != 1 {
				t.Fatalf("of %d clients %d got a signature for the one session", clients, len(given))
			}
			return <-given
		}); err != nil {
			t.Errorf("the session that was witnessed: %v", err)
		}
	})
	for _, again := range []bool{false, true} {
		v.refuses(func() {
			if again {
				v.witness(v.first.ID, v.first.User(), seen)
			}
			v.asks(nil, [][]byte{ssh.Marshal(signRequest{Key: v.key.Marshal(), Data: asked})}, agentFailure)
		}, "already-signed")
	}
	v.login(v.first)
}
