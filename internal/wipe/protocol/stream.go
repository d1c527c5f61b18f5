package protocol

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ErrLine reports a line that is no value of the conversation, or too long. It wraps no text of the peer.
var ErrLine = errors.New("a line that is not of the conversation")

// Writer sends values, one a line. It may be used by several goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Send writes one value.
func (w *Writer) Send(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.w.Write(append(line, '\n'))
	return err
}

// Reader receives values.
type Reader struct{ s *bufio.Scanner }

// NewReader returns a Reader of r that takes lines of MaxLine bytes at most.
func NewReader(r io.Reader) *Reader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), MaxLine)
	return &Reader{s: s}
}

// Receive reads one value into v. It returns io.EOF at the end, and an error that wraps ErrLine for what cannot be read.
func (r *Reader) Receive(v any) error {
	if !r.s.Scan() {
		switch err := r.s.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return fmt.Errorf("%w: it is longer than %d bytes", ErrLine, MaxLine)
		case err != nil:
			return err
		}
		return io.EOF
	}
	if values(r.s.Bytes()) > maxValues {
		return fmt.Errorf("%w: it has more than %d values", ErrLine, maxValues)
	}
	if err := json.Unmarshal(r.s.Bytes(), v); err != nil {
		return ErrLine
	}
	return nil
}

// maxValues bounds the values of a line, which take up to forty times the memory of their text. A request has most.
const maxValues = 5 * MaxRules

// values counts the commas of a line that are in no string: one less than it has values at most.
func values(line []byte) int {
	n, quoted := 0, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			n++
		}
	}
	return n
}
