package agent

import (
	"errors"
	"fmt"
	"testing"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/unixsock"
)

// TestWithdraw ends connections in every state of their witness.
func TestWithdraw(t *testing.T) {
	e := newEnv(t)
	used, open, ended := e.witnessed(), e.witnessed(), e.witnessed()
	e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(used)))
	e.agent.Withdraw(used.witness())
	if kept, refused := e.agent.refusals.last(); len(kept) != 0 || refused != 0 {
		t.Errorf("a login that went well is told as %+v", kept)
	}

	e.agent.Withdraw(ended.witness())
	refuse(e, e.login(ended))
	if last := e.lastRefusal(); last.Reason != string(NoWitness) {
		t.Errorf("a login behind its connection's end was refused as %q", last.Reason)
	}
	e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(open)))
	e.agent.Withdraw(ipc.Witness{Instance: 1, HostKey: []byte("junk"), Signature: []byte("junk")})
	e.wantSignatures(2)
}

// TestLikeRefusalsAreMerged has one peer ask a thousand times, after another was refused once.
func TestLikeRefusalsAreMerged(t *testing.T) {
	e := newEnv(t)
	e.agent.refusals.add(refusal{Reason: Forwarded, Instance: 7, peer: unixsock.Peer{PID: 1}})
	for range 1000 {
		e.agent.refusals.add(refusal{Reason: NoWitness, peer: unixsock.Peer{PID: 2}})
	}
	kept, total := e.agent.refusals.last()
	if len(kept) != 2 || kept[0].Reason != string(Forwarded) || kept[0].Count != 1 || kept[1].Count != 1000 || total != 1001 {
		t.Errorf("%d refusals in all, kept %+v", total, kept)
	}
}

type hinted struct{ error }

func (hinted) Hint() string { return "chmod 600 key" }

// TestKeyHintReachesTheProxy carries the advice of the place that holds the key.
func TestKeyHintReachesTheProxy(t *testing.T) {
	e := newEnv(t)
	e.keys.signerErr = fmt.Errorf("wrapped: %w", hinted{errors.New("open to others")})
	var refused *ipc.RefusedError
	if err := e.agent.Witness(t.Context(), e.session().witness()); !errors.As(err, &refused) || refused.Hint() != "chmod 600 key" {
		t.Errorf("got %v", err)
	}
}
