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

// greeter serves a listener: it greets whoever it serves, and keeps him until he goes.
func greeter(t *testing.T, l *Listener, limit int) {
	served := make(chan error, 1)
	go func() {
		served <- Serve(context.Background(), l, limit, func(_ context.Context, c *Conn) {
			defer c.Close()
			c.Write([]byte("x"))
			io.Copy(io.Discard, c)
		})
	}()
	t.Cleanup(func() {
		l.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// welcome dials and tells whether it was greeted. The connection ends with the test.
func welcome(t *testing.T, path string) (net.Conn, bool) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	switch _, err := io.ReadFull(c, make([]byte, 1)); {
	case err == nil:
		return c, true
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return c, false
	default:
		t.Fatal(err)
		return nil, false
	}
}

// TestServePerPeer has one process take all that it may have, and more.
func TestServePerPeer(t *testing.T) {
	const limit, perPeer = 4, 2
	path := filepath.Join(newDir(t), "s")
	l := listen(t, path)
	l.PerPeer = perPeer
	greeter(t, l, limit)

	var mine []net.Conn
	for i := range perPeer {
		c, ok := welcome(t, path)
		if !ok {
			t.Fatalf("connection %d was turned away", i)
		}
		mine = append(mine, c)
	}
	turnedAway := func() {
		t.Helper()
		for range 2 * limit { // more than there are places, if each took one
			if _, ok := welcome(t, path); ok {
				t.Fatal("one more than it may have was served")
			}
		}
	}
	turnedAway()
	mine[0].Close()
	freed := time.Now().Add(10 * time.Second)
	for {
		if _, ok := welcome(t, path); ok {
			break
		}
		if time.Now().After(freed) {
			t.Fatal("a place that was given back cannot be had")
		}
	}
	turnedAway()
	l.Close()
	for _, c := range mine {
		c.Close()
	}
}

// TestServePerPeerLeavesRoomForOthers fills a listener up to its last place, which a second process gets.
func TestServePerPeerLeavesRoomForOthers(t *testing.T) {
	const limit, perPeer = 3, 2
	path := filepath.Join(newDir(t), "s")
	l := listen(t, path)
	l.PerPeer = perPeer
	served := make(chan error, 1)
	peers := make(chan Peer, limit)
	go func() {
		served <- Serve(context.Background(), l, limit, func(_ context.Context, c *Conn) {
			defer c.Close()
			peers <- c.Peer
			if c.Peer.PID != os.Getpid() {
				c.Write([]byte("the answer"))
				return
			}
			io.Copy(io.Discard, c)
		})
	}()
	for range 2 * limit {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	out, err := inRole(t, "connect", path).Output()
	if err != nil || string(out) != `got "the answer"` {
		t.Errorf("another process %s, %v", out, err)
	}
	l.Close()
	for range perPeer {
		if p := <-peers; p.PID != os.Getpid() || p.Start == 0 {
			t.Errorf("peer %+v", p)
		}
	}
	if p := <-peers; p.PID == os.Getpid() || p.Start == 0 {
		t.Errorf("peer %+v", p)
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
