// Package daemon is what every sshd of the tests has in common, wherever it runs: its host keys, its configuration,
// its ports, and the log that says when it listens.
package daemon

import (
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
const StartTimeout = time.Minute

const portAttempts = 10

// Listen calls try with the addresses, every port 0 replaced by a free one, and returns those that it succeeded with.
// When the try fails and a port was drawn, somebody else may have taken that port meanwhile: others are drawn.
func Listen(addrs []string, try func(addrs []string) error) ([]string, error) {
	free := slices.ContainsFunc(addrs, func(addr string) bool { return strings.HasSuffix(addr, ":0") })
	for attempt := 1; ; attempt++ {
		given, err := withPorts(addrs)
		if err != nil {
			return nil, err
		}
		err = try(given)
		if err == nil {
			return given, nil
		}
		if !free || attempt == portAttempts {
			return nil, fmt.Errorf("listen on %v: %w", given, err)
		}
	}
}

// drawn are the ports that this process has drawn. None is drawn again soon: a server that moves is to be found elsewhere, and
// one that is stopped may come back to its own.
var drawn struct {
	mu    sync.Mutex
	ports map[int]bool
}

// portsKept is how many are remembered, of the 12000 that there are.
const portsKept = 6000

// draw returns a port that was not drawn before.
func draw() int {
	drawn.mu.Lock()
	defer drawn.mu.Unlock()
	if len(drawn.ports) >= portsKept || drawn.ports == nil {
		drawn.ports = make(map[int]bool)
	}
	for {
		if port := 20000 + mathrand.IntN(12000); !drawn.ports[port] {
			drawn.ports[port] = true
			return port
		}
	}
}

// withPorts returns addrs with every port 0 replaced by a port that was free just now. The ports are drawn from
// below the ranges that kernels use for outgoing connections, so that a port freed by a stop stays free.
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
			candidate := strconv.Itoa(draw())
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
