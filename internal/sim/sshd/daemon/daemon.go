// Package daemon is what every sshd of the tests has in common, wherever it runs: its host keys, its configuration,
// its ports, and the log that says when it listens.
package daemon

import (
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// StartTimeout bounds everything that a starting sshd is waited for.
const StartTimeout = 3 * time.Minute

const portAttempts = 10

// portPause is the time between two tries with the same ports: there is no event for a port that is let go.
const portPause = 100 * time.Millisecond

// Listen calls try with the addresses, every port 0 replaced by a free one, and returns those that it succeeded with.
// When the try fails, somebody who is no test may have taken a port: others are drawn, and the ports of a server that comes
// back are tried again.
func Listen(addrs []string, try func(addrs []string) error) ([]string, error) {
	drawn := slices.ContainsFunc(addrs, func(addr string) bool { return strings.HasSuffix(addr, ":0") })
	for attempt := 1; ; attempt++ {
		given, err := withPorts(addrs)
		if err != nil {
			return nil, err
		}
		err = try(given)
		if err == nil {
			return given, nil
		}
		if attempt == portAttempts {
			return nil, fmt.Errorf("listen on %v: %w", given, err)
		}
		if !drawn {
			time.Sleep(portPause)
		}
	}
}

// claims are the ports that this process has drawn. Tests of other packages draw at the same time, and a server that is
// stopped may come back to its port: so a port is claimed from all of them with the UDP port of the same number, which no
// test uses otherwise. That ends with this process at the latest.
var claims struct {
	mu   sync.Mutex
	held []net.PacketConn
}

// claimsKept is how many are held, of the 12000 that there are. The oldest goes first.
const claimsKept = 1500

// draw returns a port that nobody has claimed, and claims it. The ports are below the ranges that kernels use for
// outgoing connections, so that a port freed by a stop stays free.
func draw() (int, error) {
	for range 1000 {
		port := 20000 + mathrand.IntN(12000)
		c, err := net.ListenPacket("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		claims.mu.Lock()
		defer claims.mu.Unlock()
		if len(claims.held) == claimsKept {
			claims.held[0].Close()
			claims.held = claims.held[1:]
		}
		claims.held = append(claims.held, c)
		return port, nil
	}
	return 0, errors.New("no port is to be had")
}

// withPorts returns addrs with every port 0 replaced by a port that was free just now, and that no other test draws.
func withPorts(addrs []string) ([]string, error) {
	out := make([]string, len(addrs))
	for i, addr := range addrs {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("address %q is not on loopback", addr)
		}
		for attempt := 0; port == "0"; attempt++ {
			if attempt == 1000 {
				return nil, fmt.Errorf("no free port on %q", host)
			}
			drawn, err := draw()
			if err != nil {
				return nil, err
			}
			candidate := strconv.Itoa(drawn)
			l, err := net.Listen("tcp", net.JoinHostPort(host, candidate))
			if err != nil {
				continue
			}
			l.Close()
			port = candidate
		}
		out[i] = net.JoinHostPort(host, port)
	}
	return out, nil
}
