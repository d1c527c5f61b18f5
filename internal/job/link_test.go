package job

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// deaf is a connection over which nothing is said. A request is answered unless it is mute.
type deaf struct {
	ssh.Conn
	once  sync.Once
	ended chan struct{}
	mute  bool
}

func (d *deaf) Close() error {
	d.once.Do(func() { close(d.ended) })
	return nil
}

func (d *deaf) Wait() error {
	<-d.ended
	return errors.New("ended")
}

func (d *deaf) SendRequest(string, bool, []byte) (bool, []byte, error) {
	if d.mute {
		return false, nil, d.Wait()
	}
	return false, nil, nil
}

func newLink(dial func(context.Context) (*ssh.Client, error)) *link {
	return &link{cfg: &Config{
		Dial: dial, CutOff: DefaultCutOff, Progress: func(Event) {}, Final: func(error) bool { return false },
	}}
}

var errDrop = &droppedError{errors.New("cut")}

// Connections that come and go without being of use are given up, however quickly they come.
func TestUselessConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(func(context.Context) (*ssh.Client, error) {
			return &ssh.Client{Conn: &deaf{ended: make(chan struct{})}}, nil
		})
		calls := 0
		err := l.do(t.Context(), func(*ssh.Client) error {
			if calls++; calls == 10 {
				l.moved()
			}
			return errDrop
		})
		if !errors.As(err, new(*CutOffError)) || calls != 10+maxDrops {
			t.Errorf("after %d connections: %v", calls, err)
		}
	})
}

// Only the time without a connection counts, until something moves.
func TestCutOffCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down time.Time
		dial := func(context.Context) (*ssh.Client, error) {
			if time.Now().Before(down) {
				return nil, errors.New("unreachable")
			}
			return &ssh.Client{Conn: &deaf{ended: make(chan struct{})}}, nil
		}
		l := newLink(dial)
		n := 0
		if err := l.do(t.Context(), func(*ssh.Client) error {
			if n++; n == 6 {
				return nil
			}
			if n == 4 {
				l.moved()
			}
			time.Sleep(3 * time.Hour) // as a quiet command does
			down = time.Now().Add(3 * time.Minute)
			return errDrop
		}); err != nil {
			t.Errorf("nine minutes of being cut off, twice: %v", err)
		}
		start := time.Now()
		err := l.do(t.Context(), func(*ssh.Client) error {
			down = time.Now().Add(time.Hour)
			return errDrop
		})
		if took := time.Since(start); !errors.As(err, new(*CutOffError)) || took < DefaultCutOff || took > DefaultCutOff+time.Second {
			t.Errorf("gave up after %v: %v", took, err)
		}
	})
}

// A connection whose other end is silent is closed.
func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answering, silent := &deaf{ended: make(chan struct{})}, &deaf{ended: make(chan struct{}), mute: true}
		go keepalive(&ssh.Client{Conn: answering})
		go keepalive(&ssh.Client{Conn: silent})
		start := time.Now()
		silent.Wait()
		if took := time.Since(start); took != aliveInterval+aliveTimeout {
			t.Errorf("closed after %v", took)
		}
		time.Sleep(time.Hour)
		select {
		case <-answering.ended:
			t.Error("a connection that answers was closed")
		default:
			answering.Close()
		}
	})
}
