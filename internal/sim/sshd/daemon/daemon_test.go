package daemon

import (
	"errors"
	"net"
	"slices"
	"testing"
)

// A server that moves must not draw the port where it was, and no other test the port of a server that is stopped.
func TestPortsAreDrawnOnce(t *testing.T) {
	seen := make(map[string]bool)
	for range 200 {
		addrs, err := withPorts([]string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:17"})
		if err != nil {
			t.Fatal(err)
		}
		if addrs[3] != "127.0.0.1:17" {
			t.Fatalf("drew %v", addrs)
		}
		for _, addr := range addrs[:3] {
			if seen[addr] {
				t.Fatalf("%s was drawn before", addr)
			}
			seen[addr] = true
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				t.Fatal(err)
			}
			if c, err := net.ListenPacket("udp", net.JoinHostPort("127.0.0.1", port)); err == nil {
				c.Close()
				t.Fatalf("another process could claim %s", addr)
			}
		}
	}
}

// A port that somebody holds while its server is away is waited for, and an end comes when he keeps it.
func TestATakenPortIsTriedAgain(t *testing.T) {
	addrs, err := withPorts([]string{"127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	taken := errors.New("taken")
	for name, c := range map[string]struct {
		failures, tries int
		err             error
	}{
		"for a moment": {1, 2, nil},
		"for ever":     {portAttempts, portAttempts, taken},
	} {
		tries := 0
		given, err := Listen(addrs, func(got []string) error {
			if !slices.Equal(got, addrs) {
				t.Errorf("%s: tried %v instead of %v", name, got, addrs)
			}
			if tries++; tries <= c.failures {
				return taken
			}
			return nil
		})
		if !errors.Is(err, c.err) || tries != c.tries || err == nil && !slices.Equal(given, addrs) {
			t.Errorf("%s: %v, %v after %d tries", name, given, err, tries)
		}
	}
}
