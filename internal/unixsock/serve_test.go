package unixsock

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// keeper serves a listener: each connection until it goes. It tells of each as it begins.
func keeper(t *testing.T, l *Listener, limit int) (begun <-chan Peer, ended <-chan error) {
	peers, served := make(chan Peer, 8*limit), make(chan error, 1)
	go func() {
		served <- Serve(context.Background(), l, limit, func(_ context.Context, c *Conn) {
			defer c.Close()
			peers <- c.Peer
			c.Write([]byte("hello"))
			io.Copy(io.Discard, c)
		})
	}()
	t.Cleanup(func() { l.Close() })
	return peers, served
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// over waits for the end of a connection that nobody serves.
func over(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes, %v, want the end", n, err)
	}
}

// TestServePerPeer has one process come with more connections than it may have. They wait, others do not.
func TestServePerPeer(t *testing.T) {
	const limit, perPeer = 4, 2
	path := filepath.Join(newDir(t), "s")
	l := listen(t, path)
	l.PerPeer = perPeer
	begun, ended := keeper(t, l, limit)

	var mine []net.Conn
	for range 2 * limit {
		mine = append(mine, dial(t, path))
	}
	for range perPeer {
		if p := <-begun; p.PID != os.Getpid() {
			t.Errorf("peer %+v", p)
		}
	}
	over(t, dial(t, path)) // one more than is held for a process

	// Another process is served at once, though it came after all of these.
	other := inRole(t, "hold", path)
	begin(t, other)
	if p := <-begun; p.PID != other.Process.Pid {
		t.Errorf("peer %+v, want process %d", p, other.Process.Pid)
	}
	// Those who waited have their turn one by one, in their order.
	for i := perPeer; i < len(mine); i++ {
		if len(begun) > 0 {
			t.Error("one more than it may have was served")
		}
		mine[i-perPeer].Close()
		<-begun
		mine[i].SetDeadline(time.Now().Add(2 * time.Minute))
		if _, err := io.ReadFull(mine[i], make([]byte, len("hello"))); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	// The places that they held are free again.
	for _, c := range mine {
		c.Close()
	}
	for range perPeer {
		dial(t, path)
	}
	for range perPeer {
		<-begun
	}

	// With the listener ends who waits, and then who is served.
	waits := dial(t, path)
	l.Close()
	over(t, waits)
	if len(ended) > 0 {
		t.Error("Serve returned while connections were served")
	}
}

// TestServeHoldsABoundedNumber leaves what is beyond in the kernel's queue, whoever it comes from.
func TestServeHoldsABoundedNumber(t *testing.T) {
	const limit = 2
	path := filepath.Join(newDir(t), "s")
	l := listen(t, path)
	begun, _ := keeper(t, l, limit)
	var conns []net.Conn
	for range 8 * limit {
		conns = append(conns, dial(t, path))
	}
	for range limit {
		<-begun
	}
	for i, c := range conns {
		if len(begun) > 0 {
			t.Error("one was served without room")
		}
		c.Close()
		if i+limit < len(conns) {
			<-begun
		}
	}
}

// TestPeerStart tells processes apart, and says nothing of one that has ended: its pid may be another's by then.
func TestPeerStart(t *testing.T) {
	path := filepath.Join(newDir(t), "s")
	l := listen(t, path)
	accept := func() Peer {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.Peer
	}
	var mine [2]Peer
	for i := range mine {
		c, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		mine[i] = accept()
	}
	if mine[0] != mine[1] || mine[0].PID != os.Getpid() || mine[0].Start == 0 {
		t.Errorf("this process is %+v and %+v", mine[0], mine[1])
	}

	child := inRole(t, "hold", path)
	begin(t, child)
	if p := accept(); p.PID != child.Process.Pid || p.Start < mine[0].Start {
		t.Errorf("the child is %+v, this process %+v", p, mine[0])
	}

	if runtime.GOOS != "linux" {
		return // nothing tells that it has ended
	}
	gone := inRole(t, "knock", path)
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if p := accept(); p.PID != gone.Process.Pid || p.Start != 0 {
		t.Errorf("a process that has ended is %+v", p)
	}
}
