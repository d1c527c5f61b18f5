package sshd

import (
	"bufio"
	"io"
	"strings"
	"sync"
)

// output is the log of a server, over all its restarts.
type output struct {
	mu   sync.Mutex
	kept strings.Builder
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept.String()
}

// follow reads r to its end, keeps the first maxLog bytes of all that is read, and calls each with every line.
func (o *output) follow(r io.Reader, each func(line string)) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		raw, err := lines.ReadSlice('\n')
		line := strings.TrimRight(string(raw), "\r\n")
		if line != "" {
			o.mu.Lock()
			if o.kept.Len()+len(line) < maxLog {
				o.kept.WriteString(line)
				o.kept.WriteByte('\n')
			}
			o.mu.Unlock()
			each(line)
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}
