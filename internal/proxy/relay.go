package proxy

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Relay moves bytes between the client at in and out and the connection, until either side ends or ctx does, and closes
// c. An ssh client keeps its end of the pipe open when the server has hung up, so waiting for both would hang.
//
// The error is nil when a side has ended, and otherwise tells why the connection was refused or broke.
func Relay(ctx context.Context, c *Conn, in, out *os.File) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	over, end, err := os.Pipe()
	if err != nil {
		return err
	}
	watched := make(chan struct{})
	defer func() { // out is the caller's again when this has returned
		end.Close()
		<-watched
	}()
	done := make(chan error, 3)
	go func() { done <- toServer(c, in) }()
	go func() { done <- toClient(c, out) }()
	go func() {
		defer close(watched)
		defer over.Close()
		if awaitGone(out, over) {
			done <- nil
		}
	}()
	select {
	case err = <-done:
	case <-ctx.Done(): // and a side that waits for its pipe stays behind: nothing of c wakes it
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// awaitGone waits until nobody is left who could read from out, and reports so: a server that takes and sends nothing
// would otherwise hold on to a client that is dead. It returns false when the other end of the pipe over is closed, and
// for an out that cannot tell.
func awaitGone(out, over *os.File) bool {
	info, err := out.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return false
	}
	client, ok := descriptor(out)
	watch, ok2 := descriptor(over)
	if !ok || !ok2 {
		return false
	}
	defer runtime.KeepAlive(out)
	// With no events asked for, poll(2) tells of an error or a hang-up only.
	fds := []unix.PollFd{{Fd: int32(client)}, {Fd: int32(watch)}}
	for {
		_, err := unix.Poll(fds, -1)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && fds[1].Revents == 0
		}
	}
}

// descriptor returns the descriptor of f, which keeps its mode, and whether f is open.
func descriptor(f *os.File) (fd int, ok bool) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(d uintptr) { fd = int(d) })
	return fd, err == nil
}

// relayBuffer is the size of a copy in user space, in bytes.
const relayBuffer = 64 << 10

// toServer copies from the client, watched until the handshake is over.
func toServer(c *Conn, in *os.File) error {
	buf := make([]byte, relayBuffer)
	for {
		if c.isWitnessed() {
			if handled, err := spliceToConn(c.net, in); handled {
				return c.ended(err)
			}
		}
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return c.ended(err)
			}
		}
		if err != nil {
			return c.ended(err)
		}
	}
}

// toClient copies from the server, which gives nothing behind its key exchange reply before that was judged.
func toClient(c *Conn, out *os.File) error {
	buf := make([]byte, relayBuffer)
	for {
		if c.isJudged() {
			if handled, err := spliceFromConn(out, c.net); handled {
				return c.ended(err)
			}
		}
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				return c.ended(err)
			}
		}
		if err != nil {
			return c.ended(err)
		}
	}
}

// ended turns the ways in which a side goes away into nil, and what breaks in a refused connection into the reason.
func (c *Conn) ended(err error) error {
	if cause := c.failure(); cause != nil {
		return cause
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET), errors.Is(err, os.ErrClosed):
		return nil
	}
	return err
}

// isWitnessed tells whether what the client sends needs no watch any more.
func (c *Conn) isWitnessed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.witnessed
}

// isJudged tells whether what the server sends needs no watch any more, and nothing of it is left to read.
func (c *Conn) isJudged() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reply != nil && len(c.readable) == 0
}
