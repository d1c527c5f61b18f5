package companion

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/term"
)

// inheritedFD is the companion's end of the socketpair.
const inheritedFD = 3

// Inherited returns the connection to the agent that started this process. No program that this process starts
// inherits it.
func Inherited() (net.Conn, error) {
	// Before it is known for a socket it is not touched: it may belong to the Go runtime.
	kind, err := unix.GetsockoptInt(inheritedFD, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return nil, errors.New("this process was not started by the agent")
	}
	f := os.NewFile(inheritedFD, "agent")
	defer f.Close()
	return net.FileConn(f) // a copy that is closed on exec
}

// server is the companion's side of one connection.
type server struct {
	conn    net.Conn
	stderr  *os.File // for the programs it starts; may be nil
	chains  chains
	pace    pace
	prompts chan struct{} // holds those that are open

	writing sync.Mutex

	mu   sync.Mutex // protects the following
	work map[uint64]context.CancelFunc
}

// Serve answers the requests on conn and closes it. It returns when the agent has closed its end, breaks the protocol,
// or ctx ends; every program that it started for a request has ended by then. stderr is given to those programs and
// may be nil.
func Serve(ctx context.Context, conn net.Conn, stderr *os.File) error {
	s := &server{
		conn:    conn,
		stderr:  stderr,
		prompts: make(chan struct{}, maxPrompts),
		work:    make(map[uint64]context.CancelFunc),
	}
	defer conn.Close()
	var working sync.WaitGroup
	defer working.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	r := bufio.NewReader(conn)
	for {
		var req request
		if err := readMessage(r, &req); err == io.EOF || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		if req.Op == opCancel {
			s.cancel(req.ID)
			continue
		}
		ctx, done, err := s.begin(ctx, req.ID)
		if errors.Is(err, ErrBusy) {
			err = s.reply(reply{ID: req.ID, Busy: true})
		}
		if err != nil {
			return err
		}
		if done == nil {
			continue
		}
		working.Go(func() {
			rep, err := s.answer(ctx, req)
			rep.ID = req.ID
			if errors.Is(err, ErrBusy) {
				rep.Busy = true
			} else if err != nil {
				rep.Error = term.SafeN(err.Error(), 1000)
			}
			done()
			// If it does not arrive, the reads fail too.
			_ = s.reply(rep)
		})
	}
}

// begin makes the request id one that can be cancelled, until done is called.
func (s *server) begin(ctx context.Context, id uint64) (_ context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work[id] != nil {
		return nil, nil, fmt.Errorf("two requests with the id %d", id)
	}
	if len(s.work) >= maxRequests {
		return nil, nil, ErrBusy
	}
	ctx, cancel := context.WithCancel(ctx)
	s.work[id] = cancel
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.work, id)
	}, nil
}

func (s *server) cancel(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.work[id]; cancel != nil {
		cancel()
	}
}

// reply waits for an agent that does not read. One that was stopped for a while finds its replies then, and one that
// has ended makes the write fail.
func (s *server) reply(rep reply) error {
	b, err := frame(rep)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if _, err := s.conn.Write(b); err != nil {
		s.conn.Close()
		return err
	}
	return nil
}

func (s *server) answer(ctx context.Context, req request) (reply, error) {
	switch {
	case req.Op == opHello:
		return reply{}, nil
	case req.Op == opChain:
		chain, err := s.chains.get(req.PID)
		return reply{Chain: chain}, err
	case req.Op == opConfirm && req.Question != nil:
		yes, err := s.confirm(ctx, *req.Question)
		return reply{Yes: yes}, err
	case req.Op == opNotify && req.Notification != nil:
		return reply{}, s.pace.notify(ctx, *req.Notification)
	}
	return reply{}, fmt.Errorf("unknown request %q", req.Op)
}

func (s *server) confirm(ctx context.Context, q Question) (bool, error) {
	select {
	case s.prompts <- struct{}{}:
	default:
		return false, ErrBusy
	}
	defer func() { <-s.prompts }()
	if err := q.check(); err != nil {
		return false, err
	}
	return confirm(ctx, q.prompt(), s.stderr)
}
