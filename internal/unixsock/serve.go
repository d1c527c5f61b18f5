package unixsock

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// acceptPause is the wait after a failed accept, such as one for want of file descriptors.
const acceptPause = 50 * time.Millisecond

// Serve hands each connection to handle in a goroutine of its own, at most limit at a time; more wait in the kernel's
// queue. It returns when l is closed, after all handlers have returned.
func Serve(ctx context.Context, l *Listener, limit int, handle func(context.Context, *Conn)) error {
	slots := make(chan struct{}, limit)
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		slots <- struct{}{}
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			<-slots
			select {
			case <-time.After(acceptPause):
				continue
			case <-ctx.Done():
				return err
			}
		}
		handlers.Go(func() {
			defer func() { <-slots }()
			handle(ctx, c)
		})
	}
}
