package agent

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// questions counts what a person is asked.
type questions struct {
	mu    sync.Mutex // protects the following
	asked []Decision
}

func (q *questions) add(d Decision) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = append(q.asked, d)
}

func (q *questions) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.asked)
}

// TestConfirm asks as often as the policy wants, and tells what for.
func TestConfirm(t *testing.T) {
	for when, want := range map[Confirm]int{ConfirmNever: 0, ConfirmFirst: 1, ConfirmAlways: 3} {
		e := newEnv(t)
		e.settle(Policy{Confirm: when})
		var q questions
		e.asks(func(_ context.Context, d Decision) error { q.add(d); return nil })
		for range 3 {
			s := e.session()
			w := s.witness()
			w.Label = "trainbox"
			if err := e.agent.Witness(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
		}
		if got := q.count(); got != want {
			t.Errorf("%q: asked %d times, want %d", when, got, want)
		}
		for _, d := range q.asked {
			if d.Instance != instance || d.Label != "trainbox" || d.User != user || d.Route != "direct" ||
				d.Proof != ByWitness || d.Peer.PID != testPeer.PID {
				t.Errorf("asked for %+v", d)
			}
		}
	}
}

// TestConfirmFirst asks again for what was not agreed to: another user, another instance, a new start.
func TestConfirmFirst(t *testing.T) {
	e := newEnv(t)
	e.pins.add(secondID, e.host.PublicKey())
	e.settle(Policy{Confirm: ConfirmFirst, Users: func(uint64, string) bool { return true }})
	var q questions
	answer := errors.New("no")
	e.asks(func(_ context.Context, d Decision) error { q.add(d); return answer })
	login := func(id uint64, user string) byte {
		s := e.session()
		w := s.witness()
		w.Instance = id
		if err := e.agent.Witness(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		return e.connect().ask(signRequest(e.keyBlob(), e.login(s, func(l *login) { l.User = user })))[0]
	}
	steps := []struct {
		id    uint64
		user  string
		yes   bool
		asked int // in all
	}{
		{instance, "root", false, 1},
		{instance, "root", true, 2}, // a no is no answer for the next time
		{instance, "root", false, 2},
		{instance, "ubuntu", false, 3},
		{secondID, "root", false, 4},
	}
	for i, step := range steps {
		answer = nil
		if !step.yes {
			answer = errors.New("no")
		}
		want := byte(msgFailure)
		if step.yes || i == 2 {
			want = msgSignResponse
		}
		if got := login(step.id, step.user); got != want || q.count() != step.asked {
			t.Errorf("step %d: answer %d, asked %d times", i, got, q.count())
		}
	}
	e.agent.ForgetConsent()
	if got := login(instance, "root"); got != msgFailure || q.count() != 5 {
		t.Errorf("after all was forgotten: answer %d, asked %d times", got, q.count())
	}
}

// TestQuestionHoldsUpNobody leaves a question open while others log in.
func TestQuestionHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.pins.add(secondID, e.host.PublicKey())
		e.settle(Policy{Confirm: ConfirmFirst})
		release := make(chan struct{})
		var q questions
		e.asks(func(_ context.Context, d Decision) error {
			q.add(d)
			if d.Instance == instance {
				<-release
			}
			return nil
		})
		slow := []*client{e.connect(), e.connect(), e.connect()}
		for _, c := range slow {
			if _, err := c.Write(frame(signRequest(e.keyBlob(), e.login(e.witnessed())))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		s := e.session()
		w := s.witness()
		w.Instance = secondID
		if err := e.agent.Witness(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		c := e.connect()
		if c.listed() != 1 {
			t.Error("no key is listed")
		}
		c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
		close(release)
		for _, c := range slow {
			if answer, err := readAnswer(c); err != nil || answer[0] != msgSignResponse {
				t.Errorf("answer %x, %v", answer, err)
			}
		}
		if got := q.count(); got != 2 {
			t.Errorf("asked %d times about two instances", got)
		}
	})
}

// TestQuestionEndsWithItsClient: what it was about is refused, and another who waits for the same answer is asked himself.
func TestQuestionEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.settle(Policy{Confirm: ConfirmFirst})
		var q questions
		e.asks(func(ctx context.Context, d Decision) error {
			q.add(d)
			if q.count() == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		gone, waiting := e.connect(), e.connect()
		for _, c := range []*client{gone, waiting} {
			if _, err := c.Write(frame(signRequest(e.keyBlob(), e.login(e.witnessed())))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		gone.Close()
		<-gone.done
		if answer, err := readAnswer(waiting); err != nil || answer[0] != msgSignResponse {
			t.Errorf("answer %x, %v", answer, err)
		}
		if got := q.count(); got != 2 {
			t.Errorf("asked %d times", got)
		}
		e.wantSignatures(1)
	})
}

// TestQuestionHasADeadline ends with a refusal when nobody answers, and the connection is good for its next message.
func TestQuestionHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.settle(Policy{Confirm: ConfirmAlways})
		e.asks(func(ctx context.Context, d Decision) error { <-ctx.Done(); return ctx.Err() })
		c := e.connect()
		start := time.Now()
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(e.witnessed())))
		if took := time.Since(start); took != consentTimeout {
			t.Errorf("it took %v", took)
		}
		if c.listed() != 1 {
			t.Error("no key is listed")
		}
	})
}

// TestMessageBehindTheQuestion sends the next request before the question is answered: it is not lost.
func TestMessageBehindTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.settle(Policy{Confirm: ConfirmAlways})
		release := make(chan struct{})
		e.asks(func(ctx context.Context, d Decision) error { <-release; return ctx.Err() })
		c := e.connect()
		both := append(frame(signRequest(e.keyBlob(), e.login(e.witnessed()))), frame([]byte{msgRequestIdentities})...)
		go c.Write(both)
		synctest.Wait()
		close(release)
		for _, want := range []byte{msgSignResponse, msgIdentitiesAnswer} {
			if answer, err := readAnswer(c); err != nil || answer[0] != want {
				t.Errorf("answer %x, %v; want %d", answer, err, want)
			}
		}
	})
}

// TestDrainEndsQuestions stops the agent while a person is asked: nobody waits for the answer.
func TestDrainEndsQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.settle(Policy{Confirm: ConfirmAlways})
		e.asks(func(ctx context.Context, d Decision) error { <-ctx.Done(); return ctx.Err() })
		c := e.connect()
		if _, err := c.Write(frame(signRequest(e.keyBlob(), e.login(e.witnessed())))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- e.agent.Drain(t.Context()) }()
		start := time.Now()
		if answer, err := readAnswer(c); err != nil || answer[0] != msgFailure {
			t.Errorf("answer %x, %v", answer, err)
		}
		if err := <-drained; err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		e.wantSignatures(0)
	})
}

// TestNobodyToAsk refuses where there is no way to ask.
func TestNobodyToAsk(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Approver = nil })
	e.settle(Policy{Confirm: ConfirmFirst})
	refuse(e, e.login(e.witnessed()))
	if got := e.lastRefusal(); got.Reason != string(Declined) {
		t.Errorf("refused as %q", got.Reason)
	}
	e.wantSignatures(0)
}

// TestConfirmPanics has the way to a person break: the connection ends, and nobody waits for ever.
func TestConfirmPanics(t *testing.T) {
	e := newEnv(t)
	e.settle(Policy{Confirm: ConfirmFirst})
	e.asks(func(context.Context, Decision) error { panic("the canary") })
	for range 2 {
		c := e.connect()
		if answer, err := c.try(signRequest(e.keyBlob(), e.login(e.witnessed()))); err == nil {
			t.Errorf("answered with %x", answer)
		}
		<-c.done
	}
	e.wantSignatures(0)
}

// TestHopIsConfirmedAsOne asks about a way with both its ends.
func TestHopIsConfirmedAsOne(t *testing.T) {
	h := newHops(newEnv(t))
	h.settle(Policy{Confirm: ConfirmFirst, Hops: []Hop{{instance, secondID}}})
	var q questions
	h.asks(func(_ context.Context, d Decision) error { q.add(d); return nil })
	hop := func() {
		c := h.forwarded(h.first)
		s := newSession(t, h.second, 32)
		c.want(msgSuccess, bindRequest(s, 0))
		if got := h.signFor(c, s); got != msgSignResponse {
			t.Fatalf("answered with %d", got)
		}
	}
	hop()
	hop()
	s := newSession(t, h.second, 32)
	h.witnessAt(secondID, s)
	h.connect().want(msgSignResponse, signRequest(h.keyBlob(), h.login(s)))
	if q.count() != 2 || q.asked[0].From != instance || q.asked[1].From != 0 {
		t.Errorf("asked for %+v", q.asked)
	}
}
