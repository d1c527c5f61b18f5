package ipc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Handler answers the requests of the control socket. Its methods are called from many goroutines. An error that is a
// *RefusedError keeps its reason on the wire.
type Handler interface {
	// Witness stores w, waiting until ctx ends if there are too many live ones.
	Witness(ctx context.Context, w Witness) error
	// Withdraw forgets w if it is live still, since its connection has ended, and returns what the login was refused, or nil.
	Withdraw(w Witness) *Refusal
	// Lock forgets the private key and refuses all logins until Unlock.
	Lock()
	// Unlock ends a lock. The passphrase is empty for a key without one. It must not be kept.
	Unlock(ctx context.Context, passphrase []byte) error
	Status(ctx context.Context) Status
	// Stop begins the end of the agent and returns at once.
	Stop()
}

// Serve answers the requests on conn until the peer closes it, breaks the protocol, or stays silent for Timeout, and
// then closes conn. A connection that asked to stop stays open until ctx ends, so that its closing tells the peer
// that the agent's work is over. When ctx ends a request that has been read is answered still.
func Serve(ctx context.Context, conn net.Conn, h Handler) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		conn.SetDeadline(time.Now().Add(Timeout))
		if ctx.Err() != nil { // the line above may have undone the end
			return
		}
		var req request
		if err := readMessage(conn, &req); err != nil {
			return
		}
		rep := dispatch(ctx, req, h)
		conn.SetWriteDeadline(time.Now().Add(Timeout))
		if err := writeMessage(conn, rep); err != nil {
			return
		}
		if req.Op == opStop {
			h.Stop()
			<-ctx.Done()
			return
		}
	}
}

// dispatch has h answer req. A fault in h is told without its value, which may hold parts of a request.
func dispatch(ctx context.Context, req request, h Handler) (rep reply) {
	ctx, cancel := context.WithTimeout(ctx, Timeout/2)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			rep = failure(fmt.Errorf("the agent met a fault of its own (%T)", r))
		}
	}()
	switch {
	case req.Op == opWitness && req.Witness != nil:
		return failure(h.Witness(ctx, *req.Witness))
	case req.Op == opWithdraw && req.Witness != nil:
		return reply{Refusal: h.Withdraw(*req.Witness)}
	case req.Op == opLock:
		h.Lock()
		return reply{}
	case req.Op == opUnlock:
		defer clear(req.Passphrase)
		return failure(h.Unlock(ctx, req.Passphrase))
	case req.Op == opStatus:
		st := h.Status(ctx)
		return reply{Status: &st}
	case req.Op == opStop:
		return reply{}
	}
	return failure(fmt.Errorf("unknown request %.64q", string(req.Op)))
}

func failure(err error) reply {
	if err == nil {
		return reply{}
	}
	rep := reply{Error: cmp.Or(err.Error(), "the agent refuses, and does not say why")} // without a text it would be success
	if re := (*RefusedError)(nil); errors.As(err, &re) {
		rep.Reason = re.Reason
	}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		rep.Hint = hint.Hint()
	}
	return rep
}
