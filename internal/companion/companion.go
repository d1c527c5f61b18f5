// Package companion is the process beside the agent that holds no key. The agent shuts itself in before it loads a key:
// it starts no program and looks into no other process. What needs that is done here: naming processes, asking people
// through an askpass program, and showing desktop notifications.
//
// Agent and companion are the two ends of a socketpair. A message is a big-endian uint32 length and that many bytes of
// JSON. Requests are answered in any order, each reply with the id of its request, so that a question that waits for a
// person delays nobody. The companion ends when the agent's end closes.
package companion

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxMessage bounds a message in bytes, without its length prefix. Every text in it has a bound of its own that keeps
// it far below.
const maxMessage = 64 << 10

// maxText bounds a text for people in bytes.
const maxText = 4096

// What is at work at a time in the companion. More is refused at once with ErrBusy.
const (
	maxRequests = 1024
	maxPrompts  = 4
)

// ErrGone is returned by every call to a companion that has ended.
var ErrGone = errors.New("the companion process has ended")

// ErrBusy is returned for what is more than the companion does at a time.
var ErrBusy = errors.New("too many requests to the companion process at once")

// Process is a process for people to read about. It is never to decide on: a pid can be used again, and every process
// of the user can run any program under the name of another.
type Process struct {
	PID     int    `json:"pid"`
	Program string `json:"program,omitempty"` // path of the executable as term.Safe makes it, or empty
}

// Question is what a person is asked to allow. Line breaks in Text are kept, so whoever writes it makes every part that
// comes from elsewhere one line with term.Safe. Title and Text together are at most 4 KiB: what a person could not see
// in whole is not asked.
type Question struct {
	Title string `json:"title"`
	Text  string `json:"text"`
}

// Notification is shown and needs no answer. Line breaks in Body are kept. What is too long is cut.
type Notification struct {
	Summary string `json:"summary"`
	Body    string `json:"body"`
}

type op string

const (
	opHello   op = "hello" // is answered when the companion is ready
	opChain   op = "chain"
	opConfirm op = "confirm"
	opNotify  op = "notify"
	opCancel  op = "cancel" // ends the request with the same id; has no reply of its own
)

type request struct {
	ID           uint64        `json:"id"`
	Op           op            `json:"op"`
	PID          int           `json:"pid,omitempty"`
	Question     *Question     `json:"question,omitempty"`
	Notification *Notification `json:"notification,omitempty"`
}

type reply struct {
	ID    uint64    `json:"id"`
	Error string    `json:"error,omitempty"`
	Busy  bool      `json:"busy,omitempty"`
	Chain []Process `json:"chain,omitempty"`
	Yes   bool      `json:"yes,omitempty"`
}

func frame(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > maxMessage {
		return nil, fmt.Errorf("companion message of %d bytes is over the limit of %d", len(body), maxMessage)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), nil
}

var errFrame = errors.New("companion message with a bad length")

// readMessage returns io.EOF only where no message has begun.
func readMessage(r *bufio.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxMessage {
		return errFrame
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return json.Unmarshal(body, v)
}
