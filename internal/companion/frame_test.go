package companion

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func raw(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// TestBadRequests sends the companion what no agent sends. It ends, or answers with an error and goes on.
func TestBadRequests(t *testing.T) {
	tests := []struct {
		name  string
		input []byte
		want  string // in the error of the reply; empty is an end
	}{
		{"no length", raw(""), ""},
		{"over the limit", binary.BigEndian.AppendUint32(nil, maxMessage+1), ""},
		{"far over the limit", []byte{255, 255, 255, 255}, ""},
		{"no JSON", raw("chain"), ""},
		{"two of JSON", raw(`{"id":1,"op":"hello"}{"id":2,"op":"hello"}`), ""},
		{"another type", raw(`{"id":1,"op":7}`), ""},
		{"a negative id", raw(`{"id":-1,"op":"hello"}`), ""},
		{"deep", raw(strings.Repeat("[", 60000)), ""},
		{"unknown", raw(`{"id":1,"op":"sign\u001b"}`), `unknown request "sign\x1b"`},
		{"in capitals", raw(`{"id":1,"op":"HELLO"}`), `unknown request`},
		{"no question", raw(`{"id":1,"op":"confirm"}`), `unknown request`},
		{"no notification", raw(`{"id":1,"op":"notify"}`), `unknown request`},
		{"no pid", raw(`{"id":1,"op":"chain"}`), `no process`},
		{"a negative pid", raw(`{"id":1,"op":"chain","pid":-1}`), `no process`},
		{"a long question", raw(`{"id":1,"op":"confirm","question":{"text":"` + strings.Repeat("x", maxText+1) + `"}}`), "over the limit"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			near, far := connected(t)
			served := make(chan error, 1)
			go func() { served <- Serve(t.Context(), far, nil) }()
			go near.Write(test.input)
			near.SetReadDeadline(time.Now().Add(2 * time.Minute))
			r := bufio.NewReader(near)
			var rep reply
			err := readMessage(r, &rep)
			if test.want == "" {
				if err != io.EOF {
					t.Errorf("got %+v, %v, want the end", rep, err)
				}
				if err := <-served; err == nil {
					t.Error("it ended as if the agent had")
				}
				return
			}
			if err != nil || rep.ID != 1 || rep.Yes || !strings.Contains(rep.Error, test.want) {
				t.Errorf("got %+v, %v", rep, err)
			}
			near.Write(raw(`{"id":1,"op":"cancel"}`)) // of what is over
			near.Write(raw(`{"id":2,"op":"hello"}`))
			if err := readMessage(r, &rep); err != nil || rep.ID != 2 {
				t.Errorf("it does not go on: %v", err)
			}
			near.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSameID uses an id that is in use.
func TestSameID(t *testing.T) {
	askpass := script(t, waiting)
	t.Setenv("SSH_ASKPASS", askpass)
	near, far := connected(t)
	served := make(chan error, 1)
	go func() { served <- Serve(t.Context(), far, nil) }()
	near.Write(raw(`{"id":1,"op":"confirm","question":{"title":"?"}}`))
	p := pids(t, askpass, 1)
	near.Write(raw(`{"id":1,"op":"hello"}`))
	if err := <-served; err == nil {
		t.Error("it goes on")
	}
	ended(t, p[0])
}

// TestTooManyRequests fills the companion with requests that it cannot finish.
func TestTooManyRequests(t *testing.T) {
	s := &server{work: make(map[uint64]context.CancelFunc)}
	var last func()
	for id := range uint64(maxRequests) {
		_, done, err := s.begin(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		last = done
	}
	if _, _, err := s.begin(t.Context(), maxRequests); err != ErrBusy {
		t.Errorf("got %v", err)
	}
	last()
	if _, _, err := s.begin(t.Context(), maxRequests); err != nil {
		t.Error(err)
	}
}

// TestBadReplies has a companion that answers what none answers. No call gets a yes from it.
func TestBadReplies(t *testing.T) {
	for name, answer := range map[string][]byte{
		"nothing":        nil,
		"half a length":  {0, 0},
		"no length":      raw(""),
		"over the limit": binary.BigEndian.AppendUint32(nil, maxMessage+1),
		"half a reply":   raw(`{"id":1,"yes":true}`)[:12],
		"no JSON":        raw("yes"),
		"another type":   raw(`{"id":1,"yes":"true"}`),
		"another id":     raw(`{"id":2,"yes":true}`),
		"an id of old":   raw(`{"id":0,"yes":true}`),
	} {
		t.Run(name, func(t *testing.T) {
			near, far := connected(t)
			c := newClient(near)
			go func() {
				readMessage(bufio.NewReader(far), &request{})
				far.Write(answer)
				far.Close()
			}()
			if yes, err := c.Confirm(t.Context(), Question{Title: "?"}); yes || err != ErrGone {
				t.Errorf("got %v, %v", yes, err)
			}
		})
	}
	for name, answer := range map[string]string{
		"an error": `{"id":1,"yes":true,"error":"no"}`,
		"busy":     `{"id":1,"yes":true,"busy":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			near, far := connected(t)
			c := newClient(near)
			go func() {
				readMessage(bufio.NewReader(far), &request{})
				far.Write(raw(answer))
			}()
			if yes, err := c.Confirm(t.Context(), Question{Title: "?"}); yes || err == nil || errors.Is(err, ErrGone) {
				t.Errorf("got %v, %v", yes, err)
			}
		})
	}
}

// TestLateYes answers a call that has given up. The answer is nobody's, and the next call gets its own.
func TestLateYes(t *testing.T) {
	near, far := connected(t)
	c := newClient(near)
	ctx, cancel := context.WithCancel(t.Context())
	r := bufio.NewReader(far)
	go func() {
		var req request
		readMessage(r, &req)
		cancel()
		readMessage(r, &req) // cancel
		if req.ID != 1 || req.Op != opCancel {
			t.Errorf("got %+v", req)
		}
		far.Write(raw(`{"id":1,"yes":true}`))
		readMessage(r, &req)
		far.Write(raw(`{"id":2}`))
	}()
	if yes, err := c.Confirm(ctx, Question{Title: "?"}); yes || err != context.Canceled {
		t.Errorf("got %v, %v", yes, err)
	}
	if yes, err := c.Confirm(t.Context(), Question{Title: "?"}); yes || err != nil {
		t.Errorf("got %v, %v", yes, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) > 0 {
		t.Errorf("%d calls are waited for", len(c.waiting))
	}
}

// TestLargestMessages has texts that grow the most on the wire, and a chain of long names.
func TestLargestMessages(t *testing.T) {
	worst := strings.Repeat("\x01", 2*maxText)
	if _, err := frame(request{ID: 1<<64 - 1, Op: opNotify, Notification: &Notification{cut(worst), cut(worst)}}); err != nil {
		t.Error(err)
	}
	q := Question{worst[:maxText/2], worst[:maxText/2]}
	if err := q.check(); err != nil {
		t.Error(err)
	}
	if _, err := frame(request{Op: opConfirm, Question: &q}); err != nil {
		t.Error(err)
	}
	rep := reply{ID: 1<<64 - 1}
	for _, program := range []string{worst, strings.Repeat("<", maxText), strings.Repeat("\U000e0001", maxText), strings.Repeat("ﷺ", maxText)} {
		for len(rep.Chain) < maxChain {
			rep.Chain = append(rep.Chain, named(1<<31-1, process{program: program}))
		}
		if _, err := frame(rep); err != nil {
			t.Error(err)
		}
	}
}

// FuzzServe feeds the companion: no fault, it ends when the input does, and at most one reply comes to a request.
func FuzzServe(f *testing.F) {
	for _, body := range []string{
		`{"id":1,"op":"hello"}`, `{"id":2,"op":"chain","pid":1}`, `{"id":3,"op":"cancel"}`, `null`, `{}`,
		`{"id":4,"op":"confirm","question":{"title":"a","text":"b"}}`, `{"id":5,"op":"notify","notification":{"summary":"a"}}`,
	} {
		f.Add(raw(body))
		f.Add(append(raw(`{"id":1,"op":"hello"}`), raw(body)...))
	}
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, input []byte) {
		c := &spoken{input: bytes.NewReader(input)}
		Serve(t.Context(), c, nil)
		r := bufio.NewReader(&c.output)
		replies := 0
		for ; ; replies++ {
			var rep reply
			if err := readMessage(r, &rep); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if rep.Yes {
				t.Error("yes, without a program to ask with")
			}
		}
		if most := len(input) / (4 + len("{}")); replies > most {
			t.Errorf("%d replies to %d bytes", replies, len(input))
		}
	})
}

// spoken is a connection whose agent says everything at once and then ends.
type spoken struct {
	net.Conn
	input  *bytes.Reader
	output bytes.Buffer
}

func (s *spoken) Read(p []byte) (int, error)  { return s.input.Read(p) }
func (s *spoken) Write(p []byte) (int, error) { return s.output.Write(p) }
func (s *spoken) Close() error                { return nil }
func (s *spoken) SetDeadline(time.Time) error { return nil }
