package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/unixsock"
)

// Reason is the stable word for why a request was refused.
type Reason string

// The reasons. Each has one sentence for people in sentences.
const (
	NoWitness      Reason = "no-witness"
	NotUserauth    Reason = "not-userauth"
	OtherKey       Reason = "other-key"
	OtherUser      Reason = "other-user"
	NotPinned      Reason = "not-pinned"
	BadBinding     Reason = "bad-binding"
	Forwarded      Reason = "forwarded"
	SecondBinding  Reason = "second-binding"
	OtherSession   Reason = "other-session"
	OtherHostKey   Reason = "other-host-key"
	AlreadySigned  Reason = "already-signed"
	Poisoned       Reason = "poisoned"
	KeyUnavailable Reason = "key-unavailable"
	BadRequest     Reason = "bad-request"
	BadWitness     Reason = "bad-witness"
	Unsupported    Reason = "unsupported"
	Stopping       Reason = "stopping"
	Unused         Reason = "unused"
	Internal       Reason = "internal"
)

var sentences = map[Reason]string{
	NoWitness:      "no login that vast-ssh opened to one of your instances asked for this signature",
	NotUserauth:    "the request is not the login of an SSH session (a commit or file signature, for example)",
	OtherKey:       "the request asks for a key that this agent does not hold",
	OtherUser:      "the login is for a user that this instance is not used with",
	NotPinned:      "the host key is not pinned for the instance",
	BadBinding:     "the client described its session with a binding that does not verify",
	Forwarded:      "the agent was reached through agent forwarding",
	SecondBinding:  "the connection tried to change the session that it is for",
	OtherSession:   "the request is for another session than the one the client described",
	OtherHostKey:   "the request names another host key than the one that was seen on the wire",
	AlreadySigned:  "the one request of this session has been answered already",
	Poisoned:       "the connection had been refused before, and stays refused",
	KeyUnavailable: "the private key could not be read",
	BadRequest:     "the request could not be understood",
	BadWitness:     "the proxy described a key exchange that can not be verified",
	Unsupported:    "the request is one that this agent does not serve",
	Stopping:       "the agent is stopping",
	Unused:         "the login ended without asking for its signature: most often the instance does not let your key in yet",
	Internal:       "the agent met a fault of its own and ended the connection",
}

// refusal is a request that was refused.
type refusal struct {
	Reason   Reason
	Instance uint64        // 0 if not known
	hostKey  ssh.PublicKey // nil if not known
	detail   string        // what exactly was wrong; peer text in it is quoted
	next     string        // the command to run, or empty
	peer     unixsock.Peer
}

func (r *refusal) sentence() string {
	if r.detail == "" {
		return sentences[r.Reason]
	}
	return fmt.Sprintf("%s (%s)", sentences[r.Reason], r.detail)
}

// keepRefusals is how many refusals are kept for people to read.
const keepRefusals = 64

// Bounds on the texts of a status in bytes, so that it always fits in a control message: JSON takes up to six bytes for
// one of a text that somebody made up for it.
const (
	maxSentence = 384
	maxProgram  = 192
)

// cut shortens s to at most limit bytes, not in the middle of a character.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}

// refusals keeps the last refusals.
type refusals struct {
	now func() time.Time

	mu    sync.Mutex // protects the following
	kept  []ipc.Refusal
	total uint64
}

func newRefusals(now func() time.Time) *refusals { return &refusals{now: now} }

// add keeps r. A refusal that is like one before replaces it, so that a peer that asks again and again does not drive out
// what others were refused.
func (rs *refusals) add(r refusal) {
	rec := ipc.Refusal{
		At:       rs.now().UTC().Truncate(time.Second),
		Reason:   string(r.Reason),
		Sentence: cut(r.sentence(), maxSentence),
		Instance: r.Instance,
		PID:      r.peer.PID,
		Program:  cut(r.peer.Program, maxProgram),
	}
	if r.hostKey != nil {
		rec.HostKey = ssh.FingerprintSHA256(r.hostKey)
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.Reason != Unused { // which nobody was refused
		rs.total++
	}
	rec.Count = 1
	like := slices.IndexFunc(rs.kept, func(k ipc.Refusal) bool {
		return k.Reason == rec.Reason && k.PID == rec.PID && k.Instance == rec.Instance && k.HostKey == rec.HostKey
	})
	if like >= 0 {
		rec.Count += rs.kept[like].Count
		rs.kept = slices.Delete(rs.kept, like, like+1)
	} else if len(rs.kept) == keepRefusals {
		rs.kept = slices.Delete(rs.kept, 0, 1)
	}
	rs.kept = append(rs.kept, rec)
}

func (rs *refusals) last() ([]ipc.Refusal, uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return append([]ipc.Refusal{}, rs.kept...), rs.total
}
