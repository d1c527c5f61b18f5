package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// firstPause is the wait before the first new connection, which doubles up to lastPause.
	firstPause = 250 * time.Millisecond
	lastPause  = 5 * time.Second
	// maxDrops is how many connections in a row may be lost without anything having moved on them.
	maxDrops = 20
	// dialTimeout bounds one attempt to connect and log in. Somebody may have to be asked for consent.
	dialTimeout = 2 * time.Minute
	// A connection without an answer to a keepalive for aliveTimeout is dead. It is long enough for what is on the way
	// before it on a slow line.
	aliveInterval = 15 * time.Second
	aliveTimeout  = time.Minute
)

// CutOffError says that a connection could not be had for too long.
type CutOffError struct {
	For time.Duration
	Err error // the last failure
}

func (e *CutOffError) Error() string {
	return fmt.Sprintf("cut off from the instance, for %v without a connection: %v", e.For.Round(time.Second), e.Err)
}

func (e *CutOffError) Unwrap() error { return e.Err }

// droppedError is the end of a connection, after which a step is done again.
type droppedError struct{ error }

func (e *droppedError) Unwrap() error { return e.error }

// link is a connection that is made again when it is lost.
type link struct {
	cfg    *Config
	client *ssh.Client
	once   bool // there was a connection
	// Since something moved last:
	drops int           // connections that were lost
	out   time.Duration // without a connection, but for the time since lost
	lost  time.Time     // when the connection was lost; zero while there is one
	pause time.Duration
}

// do calls f with a connection, and again with another one whenever it returns a droppedError. f must be able to go on
// where it was, and calls moved when it got further.
func (l *link) do(ctx context.Context, f func(*ssh.Client) error) error {
	for {
		client, err := l.connect(ctx)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { client.Close() })
		err = f(client)
		if !stop() {
			l.close()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			l.moved()
			return nil
		}
		var said *RemoteError
		if errors.As(err, &said) {
			return err // and the connection is as good as before
		}
		l.close()
		var dropped *droppedError
		if !errors.As(err, &dropped) {
			return err
		}
		if l.drops++; l.drops > maxDrops {
			return &CutOffError{l.out, err}
		}
		if err := l.cut(ctx, err); err != nil {
			return err
		}
	}
}

// moved says that the connection is of use.
func (l *link) moved() { l.drops, l.out, l.pause = 0, 0, 0 }

// cut tells of a lost connection and waits, or returns an error when there was none for too long.
func (l *link) cut(ctx context.Context, err error) error {
	if l.lost.IsZero() {
		l.lost = time.Now()
	}
	out := l.out + time.Since(l.lost)
	left := l.cfg.CutOff - out
	if left <= 0 {
		return &CutOffError{out, err}
	}
	l.cfg.Progress(Event{Step: Cut, Err: err})
	l.pause = min(max(2*l.pause, firstPause), lastPause)
	timer := time.NewTimer(min(l.pause, left))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *link) connect(ctx context.Context) (*ssh.Client, error) {
	for l.client == nil {
		dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
		client, err := l.cfg.Dial(dialCtx)
		cancel()
		switch {
		case err == nil:
			if l.once {
				l.cfg.Progress(Event{Step: Back})
			}
			l.client, l.once = client, true
			if !l.lost.IsZero() {
				l.out, l.lost = l.out+time.Since(l.lost), time.Time{}
			}
			go keepalive(client)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !l.once, l.cfg.Final(err):
			return nil, err
		default:
			if err := l.cut(ctx, err); err != nil {
				return nil, err
			}
		}
	}
	return l.client, nil
}

func (l *link) close() error {
	if l.client == nil {
		return nil
	}
	err := l.client.Close()
	l.client = nil
	return err
}

// keepalive closes a connection whose other end has gone without a word.
func keepalive(client *ssh.Client) {
	ended := make(chan struct{})
	go func() {
		client.Wait()
		close(ended)
	}()
	ticker := time.NewTicker(aliveInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ticker.C:
		}
		dead := time.AfterFunc(aliveTimeout, func() { client.Close() })
		_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
		dead.Stop()
		if err != nil {
			client.Close()
			return
		}
	}
}
