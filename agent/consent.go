package agent

import (
	"context"
	"errors"
	"sync"
)

// consents asks people, and remembers what they have agreed to.
type consents struct {
	approver Approver

	mu    sync.Mutex // protects the following
	given map[consentFor]*consent
}

// consentFor is what one answer to ConfirmFirst stands for.
type consentFor struct {
	instance, from uint64
	user           string
	proof          Proof // a login of vast-ssh is not one of whoever holds the socket
}

// consent is a question that is open, or was answered with yes.
type consent struct {
	answered chan struct{} // closed when it was
	err      error         // valid then
}

func newConsents(a Approver) *consents {
	return &consents{approver: a, given: make(map[consentFor]*consent)}
}

var errNobody = errors.New("there is nobody to ask")

// ask returns nil if a person agrees to d, or has agreed to what is like d where that counts. Questions about different
// things wait for each other in no way; those about the same share an answer under ConfirmFirst.
func (cs *consents) ask(ctx context.Context, when Confirm, d Decision) error {
	if cs.approver == nil {
		return errNobody
	}
	if when != ConfirmFirst {
		return cs.approver.Approve(ctx, d)
	}
	what := consentFor{d.Instance, d.From, d.User, d.Proof}
	for {
		cs.mu.Lock()
		open := cs.given[what]
		if open == nil {
			open = &consent{answered: make(chan struct{})}
			cs.given[what] = open
			cs.mu.Unlock()
			return cs.settle(ctx, what, open, d)
		}
		cs.mu.Unlock()
		select {
		case <-open.answered:
		case <-ctx.Done():
			return ctx.Err()
		}
		// A question that ended with its client was not answered by anybody.
		if !errors.Is(open.err, context.Canceled) {
			return open.err
		}
	}
}

// settle gets the answer to an open question and keeps it if it is yes.
func (cs *consents) settle(ctx context.Context, what consentFor, open *consent, d Decision) error {
	open.err = context.Canceled // for those who wait, if the approver panics
	defer func() {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		if open.err != nil && cs.given[what] == open {
			delete(cs.given, what)
		}
		close(open.answered)
	}()
	open.err = cs.approver.Approve(ctx, d)
	if err := ctx.Err(); err != nil {
		open.err = err
	}
	return open.err
}

// forget drops every consent that was given. Questions that are open are answered for those who wait, and not kept.
func (cs *consents) forget() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	clear(cs.given)
}
