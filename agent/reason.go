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
	OtherHop       Reason = "other-hop"
	NotHostBound   Reason = "not-host-bound"
	SecondBinding  Reason = "second-binding"
	OtherSession   Reason = "other-session"
	OtherHostKey   Reason = "other-host-key"
	AlreadySigned  Reason = "already-signed"
	Poisoned       Reason = "poisoned"
	Locked         Reason = "locked" // ipc.KeyLocked
	KeyUnavailable Reason = "key-unavailable"
	Declined       Reason = "declined"
	Unrecorded     Reason = "unrecorded"
	BadPolicy      Reason = "bad-configuration"
	TooMany        Reason = "too-many"
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
	OtherHop:       "the agent was forwarded to an instance, and hops in the configuration does not name the way on from there",
	NotHostBound:   "a login that vast-ssh did not open must name the host key that it is for, and the client's does not",
	SecondBinding:  "the connection tried to change the session that it is for",
	OtherSession:   "the request is for another session than the one the client described",
	OtherHostKey:   "the request names another host key than the one that was seen on the wire",
	AlreadySigned:  "the one request of this session has been answered already",
	Poisoned:       "the connection had been refused before, and stays refused",
	Locked:         "the key is locked",
	KeyUnavailable: "the private key could not be read",
	Declined:       "nobody agreed to the login",
	Unrecorded:     "the signature could not be recorded, so it was not given",
	BadPolicy:      "the configuration could not be read",
	TooMany:        "the process was refused too often in a short time, and is not listened to for a moment",
	BadRequest:     "the request could not be understood",
	BadWitness:     "the proxy described a key exchange that can not be verified",
	Unsupported:    "the request is one that this agent does not serve",
	Stopping:       "the agent is stopping",
	Unused:         "the login ended without asking for its signature: most often the instance does not let your key in yet",
	Internal:       "the agent met a fault of its own and ended the connection",
}

// refusal is a request that was refused. What is not known is empty.
type refusal struct {
	Reason   Reason
	Instance uint64
	From     uint64 // of a hop
	hostKey  ssh.PublicKey
	user     string
	route    string
	label    string
	proof    Proof
	detail   string // what exactly was wrong; peer text in it is quoted
	next     string // the command to run, or empty
	peer     unixsock.Peer
}

func (r *refusal) verdict() Verdict {
	if r.Reason == Unused {
		return NotWanted
	}
	return Refused
}

func (r *refusal) decision(at time.Time) Decision {
	return Decision{
		At: at, Verdict: r.verdict(), Reason: r.Reason, Sentence: cut(r.sentence(), maxSentence), Instance: r.Instance,
		From: r.From, Label: r.label, User: r.user, HostKey: r.hostKey, Route: r.route, Proof: r.proof, Peer: r.peer,
	}
}

func (r *refusal) sentence() string {
	if r.detail == "" {
		return sentences[r.Reason]
	}
	return fmt.Sprintf("%s (%s)", sentences[r.Reason], r.detail)
}

// hint returns the command to run next, or nothing.
func (r *refusal) hint() string {
	switch {
	case r.next != "":
		return r.next
	case r.Reason == Locked:
		return "vast-agent unlock"
	case r.Reason == Unused && r.Instance != 0:
		return fmt.Sprintf("vast-ssh key attach %d", r.Instance)
	case r.Reason == BadPolicy:
		return "vast-ssh config show"
	}
	return ""
}

// keepRefusals is how many refusals are kept for people to read.
const keepRefusals = 48

// Bounds on the texts of a status in bytes, so that it always fits in a control message: JSON takes up to six bytes for
// one of a text that somebody made up for it.
const (
	maxSentence = 384
	maxShort    = 128 // a route, a label
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
	mu    sync.Mutex // protects the following
	kept  []keptRefusal
	total uint64
}

type keptRefusal struct {
	ipc.Refusal
	at time.Time // to the last digit
}

// add keeps r. A refusal that is like one before replaces it, so that a peer that asks again and again does not drive out
// what others were refused.
func (rs *refusals) add(r refusal, at time.Time) {
	rec := keptRefusal{at: at, Refusal: ipc.Refusal{
		At:       at.UTC().Truncate(time.Second),
		Reason:   string(r.Reason),
		Sentence: cut(r.sentence(), maxSentence),
		Hint:     cut(r.hint(), maxShort),
		Instance: r.Instance,
		PID:      r.peer.PID,
	}}
	if r.hostKey != nil {
		rec.HostKey = ssh.FingerprintSHA256(r.hostKey)
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.verdict() == Refused {
		rs.total++
	}
	rec.Count = 1
	like := slices.IndexFunc(rs.kept, func(k keptRefusal) bool {
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

// since returns the newest refusal, no older than at, of a login at instance with that host key or of the process pid.
func (rs *refusals) since(at time.Time, instance uint64, hostKey ssh.PublicKey, pid int) *ipc.Refusal {
	fingerprint := ssh.FingerprintSHA256(hostKey)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range slices.Backward(rs.kept) {
		if !r.at.Before(at) &&
			(r.Instance == instance && r.HostKey == fingerprint || pid != 0 && r.PID == pid) {
			return &r.Refusal
		}
	}
	return nil
}

func (rs *refusals) last() ([]ipc.Refusal, uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	last := make([]ipc.Refusal, len(rs.kept))
	for i, r := range rs.kept {
		last[i] = r.Refusal
	}
	return last, rs.total
}
