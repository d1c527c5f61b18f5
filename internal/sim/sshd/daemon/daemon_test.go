package daemon

import "testing"

// A server that moves must not draw the port where it was.
func TestPortsAreDrawnOnce(t *testing.T) {
	seen := make(map[string]bool)
	for range 500 {
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
		}
	}
}
