package daemon

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

const maxLog = 1 << 20

// Log is what sshd has written to its stderr, over all its restarts: at most the first MiB. The zero Log is empty.
type Log struct {
	mu    sync.Mutex
	kept  strings.Builder
	watch func(line string)
}

// Text returns what has been kept so far.
func (l *Log) Text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept.String()
}

// Follow reads r to its end.
func (l *Log) Follow(r io.Reader) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		raw, err := lines.ReadSlice('\n')
		if line := strings.TrimRight(string(raw), "\r\n"); line != "" {
			l.add(line)
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

func (l *Log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept.Len()+len(line) < maxLog {
		l.kept.WriteString(line)
		l.kept.WriteByte('\n')
	}
	if l.watch != nil {
		l.watch(line)
	}
}

// Unusable begins the line with which a starter of sshd reports that it did not start, beside sshd's own lines.
const Unusable = "sshd does not start"

// Listening watches what comes from now on. The channel gets nil when sshd has named all of addrs, or the error that
// kept it from one of them.
func (l *Log) Listening(addrs []string) <-chan error {
	ready := make(chan error, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch = listening(addrs, ready)
	return ready
}

// listening returns a function to be called with each line of the log, which reports on ready once.
func listening(addrs []string, ready chan<- error) func(line string) {
	waiting := make(map[string]bool)
	for _, addr := range addrs {
		host, port, _ := net.SplitHostPort(addr)
		waiting[fmt.Sprintf("Server listening on %s port %s.", host, port)] = true
	}
	return func(line string) {
		if waiting == nil {
			return
		}
		delete(waiting, line)
		switch {
		case strings.HasPrefix(line, "Bind to port "), strings.HasPrefix(line, Unusable):
			ready <- fmt.Errorf("%s", line)
		case len(waiting) == 0:
			ready <- nil
		default:
			return
		}
		waiting = nil
	}
}
