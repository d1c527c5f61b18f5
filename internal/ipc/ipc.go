// Package ipc is the control socket of the agent: one set of request and reply types, their framing and limits, a
// client, and the dispatch of requests to a Handler. It is a socket of its own, which no ssh ever forwards.
//
// A message is a big-endian uint32 length and that many bytes of JSON, at most MaxMessage. A connection carries
// requests and replies in turn.
package ipc

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxMessage bounds a message in bytes, without its length prefix.
const MaxMessage = 256 << 10

// Timeout bounds one request and its reply on either side.
const Timeout = 10 * time.Second

// Witness is what the proxy saw of a key exchange with an instance: the host key the server showed and its signature over the
// exchange hash H, which the proxy cannot know (RFC 4253 section 8). The agent checks the signature later against the H that
// a client asks it to sign.
type Witness struct {
	Instance  uint64 `json:"instance"`
	HostKey   []byte `json:"host_key"`  // public key blob, RFC 4253 section 6.6
	Signature []byte `json:"signature"` // signature blob of the KEX reply, same section
	User      string `json:"user"`      // login user that the session is for
	Route     string `json:"route"`     // how the instance was reached, for people
	Label     string `json:"label"`     // what the user calls the instance, for people
	Client    int    `json:"client"`    // pid of the ssh client that the connection is for, if known: a hint, and no more
}

// Refusal is a request that the agent refused, and why.
type Refusal struct {
	At       time.Time `json:"at"`
	Reason   string    `json:"reason"`         // stable word, such as "no-witness"
	Sentence string    `json:"sentence"`       // for people
	Hint     string    `json:"hint,omitempty"` // the next command to run
	Count    int       `json:"count"`          // how often; At is the last time
	Instance uint64    `json:"instance,omitempty"`
	HostKey  string    `json:"host_key,omitempty"` // SHA256 fingerprint
	PID      int       `json:"pid"`
	Program  string    `json:"program,omitempty"`
}

// Status is the state of a running agent.
type Status struct {
	PID        int       `json:"pid"`
	Version    string    `json:"version"`
	Started    time.Time `json:"started"`
	Custody    string    `json:"custody"`
	Key        string    `json:"key,omitempty"`       // SHA256 fingerprint of the key it serves
	KeyError   string    `json:"key_error,omitempty"` // why there is none
	Locked     Lock      `json:"locked,omitempty"`
	Memory     string    `json:"memory,omitempty"` // whether the key's memory is locked; empty while no key is in memory
	Sandbox    string    `json:"sandbox"`          // what the kernel keeps the agent to
	Accept     string    `json:"accept"`           // what it takes for a proof, as in the configuration
	Confirm    string    `json:"confirm"`          // when it asks a person, likewise
	Witnesses  int       `json:"witnesses"`        // live now
	Signatures uint64    `json:"signatures"`       // given since the start
	Refused    uint64    `json:"refused"`          // since the start
	Refusals   []Refusal `json:"refusals"`         // the last ones, oldest first
	LogSeq     uint64    `json:"log_seq"`          // number of the last record in the log
	LogHead    string    `json:"log_head"`         // hash of the last record in the log
}

// Lock says what keeps the key from being used.
type Lock string

const (
	Unlocked        Lock = ""
	Locked          Lock = "locked"           // until somebody unlocks it
	NeedsPassphrase Lock = "needs passphrase" // which has not been given since the start
)

// op names a request.
type op string

const (
	opWitness  op = "witness"
	opWithdraw op = "withdraw"
	opLock     op = "lock"
	opUnlock   op = "unlock"
	opStatus   op = "status"
	opStop     op = "stop"
)

type request struct {
	Op      op       `json:"op"`
	Witness *Witness `json:"witness,omitempty"`
	// Passphrase is of unlock; empty for a key without one. It is zeroed when the request has been answered.
	Passphrase []byte `json:"passphrase,omitempty"`
}

type reply struct {
	// Error is empty on success. Reason is the agent's word for a refusal, Hint the next command to run.
	Error   string   `json:"error,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Hint    string   `json:"hint,omitempty"`
	Status  *Status  `json:"status,omitempty"`
	Refusal *Refusal `json:"refusal,omitempty"`
}

// Reasons of a RefusedError that a caller can do something about.
const (
	// Busy may be another in a moment: the agent holds as many witnesses as it takes.
	Busy = "busy"
	// KeyLocked ends with Unlock.
	KeyLocked = "locked"
	// WrongPassphrase is of Unlock.
	WrongPassphrase = "wrong-passphrase"
)

// RefusedError is the agent's refusal of a request on the control socket.
type RefusedError struct {
	Reason   string
	Sentence string
	Next     string // the command to run, or empty
}

func (e *RefusedError) Error() string { return e.Sentence }

// Hint returns the next command to run, or nothing.
func (e *RefusedError) Hint() string { return e.Next }

func writeMessage(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	defer clear(body) // it may hold a passphrase
	if len(body) > MaxMessage {
		return fmt.Errorf("control message of %d bytes is over the limit of %d", len(body), MaxMessage)
	}
	frame := make([]byte, 4, 4+len(body))
	defer func() { clear(frame[:cap(frame)]) }()
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

var errFrame = errors.New("control message with a bad length")

func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > MaxMessage {
		return errFrame
	}
	body := make([]byte, n)
	defer clear(body)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}
