package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
)

// TestOneSignatureForASession asks from many connections at once.
func TestOneSignatureForASession(t *testing.T) {
	const clients = 64
	e := newEnv(t)
	for range 5 { // others in the list, which must not be spent
		e.witnessed()
	}
	s := e.witnessed()
	request := signRequest(e.keyBlob(), e.login(s))
	var conns [clients]*client
	for i := range conns {
		conns[i] = e.connect()
	}
	var answers [clients][]byte
	start := make(chan struct{})
	var asking sync.WaitGroup
	for i, c := range conns {
		asking.Go(func() {
			<-start
			answers[i], _ = c.try(request)
		})
	}
	close(start)
	asking.Wait()
	signatures := 0
	for i, answer := range answers {
		switch {
		case len(answer) > 0 && answer[0] == msgSignResponse:
			signatures++
		case !slices.Equal(answer, []byte{msgFailure}):
			t.Errorf("client %d: answer %x", i, answer)
		}
	}
	if signatures != 1 {
		t.Errorf("%d signatures for one session", signatures)
	}
	e.wantSignatures(1)
	st := e.agent.Status(t.Context())
	if st.Signatures != 1 || st.Refused != clients-1 || st.Witnesses != 5 {
		t.Errorf("status: %d signatures, %d refused, %d witnesses", st.Signatures, st.Refused, st.Witnesses)
	}
	for _, r := range st.Refusals {
		if r.Reason != string(AlreadySigned) {
			t.Errorf("refused as %q", r.Reason)
		}
	}
}

// TestManySessionsAtOnce has each of many clients ask for its own session.
func TestManySessionsAtOnce(t *testing.T) {
	e := newEnv(t)
	var asking sync.WaitGroup
	for range MaxWitnesses {
		s, c := e.witnessed(), e.connect()
		asking.Go(func() {
			if answer, err := c.try(signRequest(e.keyBlob(), e.login(s))); err != nil || answer[0] != msgSignResponse {
				t.Errorf("answer %x, %v", answer, err)
			}
		})
	}
	asking.Wait()
	e.wantSignatures(MaxWitnesses)
}

// TestWitnessWaitsForRoom fills the agent. What ends the wait of one more is the test.
func TestWitnessWaitsForRoom(t *testing.T) {
	const life = time.Minute
	tests := []struct {
		name string
		// free makes room, or ends the context by cancel.
		free func(e *env, first *session, cancel func())
		want error
		live int
	}{
		{"one is spent", func(e *env, first *session, _ func()) {
			e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(first)))
		}, nil, MaxWitnesses},
		{"they expire", func(*env, *session, func()) { time.Sleep(life + expirePoll) }, nil, 1},
		{"the context ends", func(_ *env, _ *session, cancel func()) { cancel() }, context.Canceled, MaxWitnesses},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t)
				e.settle(Policy{WitnessLife: life})
				first := e.witnessed()
				for range MaxWitnesses - 1 {
					e.witnessed()
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := e.session()
				result := make(chan error, 1)
				go func() { result <- e.agent.Witness(ctx, s.witness()) }()
				time.Sleep(life / 2)
				synctest.Wait()
				select {
				case err := <-result:
					t.Fatalf("there was room: %v", err)
				default:
				}
				test.free(e, first, cancel)
				synctest.Wait()
				select {
				case err := <-result:
					var refused *ipc.RefusedError
					busy := errors.As(err, &refused) && refused.Reason == ipc.Busy
					if (test.want != nil) != busy {
						t.Errorf("got %v, want %v", err, test.want)
					}
				default:
					t.Fatal("it still waits")
				}
				if live := e.agent.witnesses.live(); live != test.live {
					t.Errorf("%d live, want %d", live, test.live)
				}
				want := byte(msgSignResponse)
				if test.want != nil {
					want = msgFailure
				}
				e.connect().want(want, signRequest(e.keyBlob(), e.login(s)))
			})
		})
	}
}

// TestWitnessExpires asks just before the end of a witness's life, and at its end.
func TestWitnessExpires(t *testing.T) {
	const life = 7 * time.Second
	for _, test := range []struct {
		age  time.Duration
		want byte
	}{
		{0, msgSignResponse},
		{life - 1, msgSignResponse},
		{life, msgFailure},
		{life + 1, msgFailure},
		{time.Hour, msgFailure},
	} {
		var mu sync.Mutex
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		e := newEnv(t, func(c *Config) {
			c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		})
		e.settle(Policy{WitnessLife: life})
		s := e.witnessed()
		mu.Lock()
		now = now.Add(test.age)
		mu.Unlock()
		if live := e.agent.witnesses.live(); live != 1 && test.age < life || live != 0 && test.age >= life {
			t.Errorf("after %v: %d live", test.age, live)
		}
		e.connect().want(test.want, signRequest(e.keyBlob(), e.login(s)))
		if test.want == msgFailure {
			if got := e.lastRefusal().Reason; got != string(NoWitness) {
				t.Errorf("after %v: refused as %q", test.age, got)
			}
		}
	}
}

// anyKey is a host key that signs everything, to fill the memory with.
type anyKey struct{ ssh.PublicKey }

func (anyKey) Verify([]byte, *ssh.Signature) error { return nil }

// TestSignedSessionsAreRemembered fills the memory of signed sessions: it is bounded, and forgets the oldest first.
func TestSignedSessionsAreRemembered(t *testing.T) {
	ws := newWitnesses(time.Now)
	take := func(i int) (*witness, bool) {
		if err := ws.add(t.Context(), &witness{hostKey: anyKey{}}, time.Hour); err != nil {
			t.Fatal(err)
		}
		w, already := ws.take(claim{sessionID: fmt.Append(nil, i)})
		if already {
			ws.mu.Lock()
			ws.list = nil
			ws.mu.Unlock()
		}
		return w, already
	}
	for i := range maxSigned + 1 {
		if w, already := take(i); w == nil || already {
			t.Fatalf("session %d was not signed", i)
		}
	}
	if len(ws.signed) != maxSigned || len(ws.order) != maxSigned {
		t.Errorf("%d and %d sessions are remembered, want %d", len(ws.signed), len(ws.order), maxSigned)
	}
	for _, i := range []int{1, 2, maxSigned / 2, maxSigned} {
		if _, already := take(i); !already {
			t.Errorf("session %d is forgotten", i)
		}
	}
	if _, already := take(0); already {
		t.Error("the oldest session is remembered")
	}
}

// TestDrain stops the agent while a signature is made. What is in flight ends when its answer has been read.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		release := make(chan struct{})
		e.keys.sign = func(data []byte) (*ssh.Signature, error) {
			<-release
			return e.keys.key.Sign(nil, data)
		}
		s, late := e.witnessed(), e.witnessed()
		c, other := e.connect(), e.connect()
		if _, err := c.Write(frame(signRequest(e.keyBlob(), e.login(s)))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()

		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := e.agent.Drain(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Drain returned %v before the signature was made", err)
		}
		drained := make(chan error, 2)
		for range cap(drained) { // two at once: each has to see the end
			go func() { drained <- e.agent.Drain(t.Context()) }()
		}
		other.want(msgFailure, signRequest(e.keyBlob(), e.login(late)))
		if got := e.lastRefusal().Reason; got != string(Stopping) {
			t.Errorf("a request after Drain was refused as %q", got)
		}
		if n := other.listed(); n != 1 {
			t.Errorf("%d keys were listed", n)
		}

		close(release)
		synctest.Wait()
		if len(drained) > 0 {
			t.Error("Drain returned before the answer was read")
		}
		answer, err := readAnswer(c)
		if err != nil || answer[0] != msgSignResponse {
			t.Fatalf("answer %x, %v", answer, err)
		}
		for range cap(drained) {
			if err := <-drained; err != nil {
				t.Error(err)
			}
		}
		e.wantSignatures(1)
	})
}

// TestDrainAfterAVanishedClient must not wait for a reader who left.
func TestDrainAfterAVanishedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		c := e.connect()
		c.Write(frame(signRequest(e.keyBlob(), e.login(e.witnessed()))))
		c.Close()
		if err := e.agent.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.ErrClosedPipe {
			t.Error(err)
		}
	})
}

// TestWitnessExpiresDuringTheCheck lets the end of the witness's life come while its signature is verified.
func TestWitnessExpiresDuringTheCheck(t *testing.T) {
	const life = time.Second
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := []time.Time{start, start, start.Add(life - 1), start.Add(life)} // two for add, two for take
	ws := newWitnesses(func() time.Time {
		now := clock[0]
		clock = clock[1:]
		return now
	})
	if err := ws.add(t.Context(), &witness{hostKey: anyKey{}}, life); err != nil {
		t.Fatal(err)
	}
	if w, already := ws.take(claim{sessionID: make([]byte, 32)}); w != nil || already {
		t.Errorf("got %v, %v from a witness that has expired", w, already)
	}
}
