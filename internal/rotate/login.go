package rotate

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/vast"
	"vast-ssh/known"
)

// Wire makes Logins over the network, at the addresses that the API has just given.
type Wire struct {
	// Config is the proxy's configuration for a login.
	Config func(resolve.Target) (proxy.Config, error)
	// Pins are those of Config.
	Pins *known.File
	// Agent returns when an agent is running, and AgentSocket is where.
	Agent       func(context.Context) error
	AgentSocket string
}

// RefusedError says that an instance does not let a key in.
type RefusedError struct {
	ID  uint64
	Key string // SHA256 fingerprint, or "the agent's"
}

func (e *RefusedError) Error() string { return fmt.Sprintf("it does not let the key %s in", e.Key) }

// UnpinnedError says that an instance was never met, so that nobody knows its host keys.
type UnpinnedError struct{ ID uint64 }

func (e *UnpinnedError) Error() string {
	return fmt.Sprintf("it has no pinned host key; meet it with: vast-ssh %d", e.ID)
}

// Ready implements Logins.
func (w *Wire) Ready(in vast.Instance) error {
	if _, err := resolve.Endpoints(in); err != nil {
		return err
	}
	pins, err := w.Pins.Of(in.ID)
	if err == nil && len(pins) == 0 {
		err = &UnpinnedError{in.ID}
	}
	return err
}

// open connects to an instance that was met before.
func (w *Wire) open(ctx context.Context, in vast.Instance, change func(*proxy.Config)) (*proxy.Conn, error) {
	if err := w.Ready(in); err != nil {
		return nil, err
	}
	endpoints, err := resolve.Endpoints(in)
	if err != nil {
		return nil, err
	}
	cfg, err := w.Config(resolve.Target{ID: in.ID, Label: in.Label, Machine: in.MachineID, Endpoints: endpoints})
	if err != nil {
		return nil, err
	}
	cfg.Least, cfg.Ask = known.Manual, nil // should the pins go meanwhile, nobody is met
	change(&cfg)
	return proxy.Open(ctx, cfg)
}

// By implements Logins.
func (w *Wire) By(ctx context.Context, in vast.Instance, key ssh.Signer) error {
	s := &watched{Signer: key}
	err := w.try(ctx, in, s)
	if err == nil && !s.asked {
		return errors.New("it lets everybody in and asks for no key")
	}
	return err
}

// Accepts implements Logins.
func (w *Wire) Accepts(ctx context.Context, in vast.Instance, key ssh.PublicKey) (bool, error) {
	s := &watched{Signer: mute{key}}
	err := w.try(ctx, in, s)
	var refused *RefusedError
	switch {
	case s.asked, err == nil:
		return true, nil
	case errors.As(err, &refused):
		return false, nil
	}
	return false, err
}

// try logs in with a key that the agent has no part in, so that no witness is wanted.
func (w *Wire) try(ctx context.Context, in vast.Instance, s *watched) error {
	conn, err := w.open(ctx, in, func(cfg *proxy.Config) {
		cfg.Witness = func(context.Context, ipc.Witness) error { return nil }
		cfg.Withdraw = nil // which the agent does not know
	})
	if err != nil {
		return err
	}
	client, err := proxy.LoginBy(ctx, conn, ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
		s.offered = true
		return []ssh.Signer{s}, nil
	}))
	if err != nil {
		if s.offered && proxy.LoginRefused(err) {
			return &RefusedError{in.ID, ssh.FingerprintSHA256(s.PublicKey())}
		}
		return err
	}
	return client.Close()
}

// ByAgent implements Logins.
func (w *Wire) ByAgent(ctx context.Context, in vast.Instance) error {
	if err := w.Agent(ctx); err != nil {
		return err
	}
	conn, err := w.open(ctx, in, func(*proxy.Config) {})
	if err != nil {
		return err
	}
	client, err := proxy.Login(ctx, conn, w.AgentSocket)
	if err == nil {
		return client.Close()
	}
	var witness *proxy.WitnessError
	refused := conn.Refusal()
	switch {
	case errors.As(err, &witness):
		return &fatalError{err} // an agent that is locked or without its key, which is no matter of the instance
	case proxy.LoginRefused(err):
		return &RefusedError{in.ID, "of the agent"}
	case refused != nil:
		return fmt.Errorf("the agent refused the login: %s", refused.Sentence)
	}
	return err
}

// watched is a key that knows whether it was wanted.
type watched struct {
	ssh.Signer
	offered bool // the server was asked about it
	asked   bool // the server would take a signature, or has taken one
}

// Sign implements ssh.Signer.
func (w *watched) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	w.asked = true
	return w.Signer.Sign(rand, data)
}

// mute is a key without its private half.
type mute struct{ key ssh.PublicKey }

func (m mute) PublicKey() ssh.PublicKey { return m.key }

var errMute = errors.New("nothing is signed")

func (m mute) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, errMute }
