package agent

import (
	"errors"
	"fmt"
	"testing"
	"time"

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
	e.agent.refusals.add(refusal{Reason: Forwarded, Instance: 7, peer: unixsock.Peer{PID: 1}}, time.Now())
	for range 1000 {
		e.agent.refusals.add(refusal{Reason: NoWitness, peer: unixsock.Peer{PID: 2}}, time.Now())
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

// TestWithdrawTellsWhatWasRefused relates refusals to the login that they were about.
func TestWithdrawTellsWhatWasRefused(t *testing.T) {
	e := newEnv(t)
	e.agent.refuse(refusal{Reason: OtherUser, Instance: instance + 7, hostKey: e.host.PublicKey()})

	fine := e.witnessed()
	e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(fine)))
	if r := e.agent.Withdraw(fine.witness()); r != nil {
		t.Errorf("a login that went well is told %+v", r)
	}
	if r := e.agent.Withdraw(fine.witness()); r != nil {
		t.Errorf("the second time it is told %+v", r)
	}

	other := e.witnessed()
	refuse(e, e.login(other, func(l *login) { l.User = "admin" }))
	if r := e.agent.Withdraw(other.witness()); r == nil || r.Reason != string(OtherUser) || r.Instance != instance {
		t.Errorf("another user is told %+v", r)
	}

	silent := e.witnessed()
	if r := e.agent.Withdraw(silent.witness()); r == nil || r.Reason != string(Unused) {
		t.Errorf("a login without a request is told %+v", r)
	}

	// What the agent cannot relate to an instance it relates to the client.
	e = newEnv(t)
	poisoned := e.session()
	w := poisoned.witness()
	w.Client = testPeer.PID
	if err := e.agent.Witness(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	e.connect().want(msgExtensionFailure, bindRequest(poisoned, 1))
	if r := e.agent.Withdraw(w); r == nil || r.Reason != string(Forwarded) {
		t.Errorf("a client of its own is told %+v", r)
	}
}

// TestUnusedSaysWhatToDo is what people meet first: an instance that was rented before the key was made.
func TestUnusedSaysWhatToDo(t *testing.T) {
	e := newEnv(t)
	s := e.witnessed()
	r := e.agent.Withdraw(s.witness())
	if r == nil || r.Reason != string(Unused) || r.Hint != "vast-ssh key attach 1234567" {
		t.Errorf("told %+v", r)
	}
	if d := e.log.decisions(NotWanted); len(d) != 1 || d[0].Reason != Unused {
		t.Errorf("recorded as %+v", d)
	}
}

func TestLockedIsTheReasonOfTheControlSocket(t *testing.T) {
	if string(Locked) != ipc.KeyLocked {
		t.Errorf("%q is not %q", Locked, ipc.KeyLocked)
	}
}
