// Package chainlog is the agent's account of its decisions: one line of JSON each, chained by hashes, in files of
// bounded size and number.
//
// # Lines
//
// A line is a JSON object of at most MaxLine bytes with its newline. Everything in it that is not printable is
// escaped, so that a line is safe to show. Its last two members are "prev" and "hash", both 64 lower-case hexadecimal
// digits:
//
//	{"seq":7,"at":"2026-07-31T12:00:00.123Z","verdict":"signed", … ,"prev":"<64>","hash":"<64>"}
//
// The body is the line up to its last 75 bytes, which are the text `,"hash":"<64>"}`. The hash is the SHA-256 of the
// 64 digits of prev followed by the body. prev is the hash of the line before, in whichever file that is; the first
// line of all has seq 1 and Genesis. seq counts without gaps. With s as a line without its newline, in Python:
//
//	s[-75:] == ',"hash":"' + sha256((prev + s[:-75]).encode()).hexdigest() + '"}'
//
// # Files
//
// The directory is owned by the user and closed to others. Lines are appended to log.jsonl; before it grows beyond 1
// MiB it is renamed to log.<seq>.jsonl, with the seq of its first line in twelve digits, so that `cat log.*` is the
// whole log in order. Sixteen files are kept. A reader takes no lock; the one writer holds the file lock.
//
// # What is promised
//
// A record is in the kernel, by one write, when Append returns: it survives the death of the agent. It is on the disk
// about a second later, for a decision does not wait for a disk: the last second can be lost with the power. A record
// that cannot be written is an error, on which the agent refuses.
//
// The exception are refusals, which anybody who reaches the agent's socket can cause at any rate. The first of those
// that are alike are written as they come; the others are counted, and told with their count once a minute and when
// the log is closed.
//
// What a crash leaves behind the last good record is moved to a file torn.<time>, and a record says so.
//
// Verify finds lines that were changed, removed, inserted or put in another order, and missing files. Two things it
// cannot find alone: that the end was cut off, which shows against the head that the running agent holds, and that
// this user, or a program of theirs, has written the whole log anew.
package chainlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxLine bounds a line in bytes, with its newline.
const MaxLine = 8 << 10

// Genesis is the prev of the first record of all.
const Genesis = "0000000000000000000000000000000000000000000000000000000000000000"

// The verdicts.
const (
	Signed   = "signed"
	Refused  = "refused"
	Unused   = "unused" // a login ended without asking for its signature
	Locked   = "locked"
	Unlocked = "unlocked"
	Started  = "started"
	Stopped  = "stopped"
	Key      = "key" // the key was made, replaced or removed
	Note     = "log" // about the log itself, written by this package
)

// Process is one process of a chain.
type Process struct {
	PID     int    `json:"pid"`
	Program string `json:"program"` // path or name of the executable
}

// Record is one decision. Append sets Seq, Prev and Hash, and At if that is zero. Texts may come from a peer: long
// ones are cut, and what is not UTF-8 is replaced.
type Record struct {
	Seq      uint64    `json:"seq"`
	At       time.Time `json:"at"` // UTC, in milliseconds
	Verdict  string    `json:"verdict"`
	Reason   string    `json:"reason,omitempty"`   // stable word, such as "no-witness"
	Sentence string    `json:"sentence,omitempty"` // for people
	Via      string    `json:"via,omitempty"`      // what proved the session: "witness", "bind" or "hop"
	Instance uint64    `json:"instance,omitempty"`
	From     uint64    `json:"from,omitempty"` // of a hop: the instance that the agent was forwarded to
	Label    string    `json:"label,omitempty"`
	User     string    `json:"user,omitempty"`
	HostKey  string    `json:"host_key,omitempty"` // SHA256 fingerprint
	Route    string    `json:"route,omitempty"`    // how the instance was reached
	PID      int       `json:"pid,omitempty"`      // who asked
	UID      int       `json:"uid"`                // means nothing without PID
	Program  string    `json:"program,omitempty"`
	Chain    []Process `json:"chain,omitempty"` // who asked and its ancestors, nearest first
	Count    int       `json:"count,omitempty"` // how many requests the record stands for; 0 means 1
	Prev     string    `json:"prev"`
	Hash     string    `json:"hash,omitempty"`
}

// The longest texts, in bytes of JSON. All together they stay below MaxLine.
const (
	maxWord     = 64
	maxSentence = 1024
	maxName     = 256
	maxProgram  = 512
	maxAncestor = 192
	maxChain    = 16
)

// mark ends a text that was cut, and a chain.
const mark = "…"

// fitted returns r with every text cut to its limit.
func (r Record) fitted() Record {
	for _, f := range []struct {
		text *string
		max  int
	}{
		{&r.Verdict, maxWord}, {&r.Reason, maxWord}, {&r.Sentence, maxSentence}, {&r.Via, maxWord}, {&r.Label, maxName},
		{&r.User, maxName}, {&r.HostKey, 2 * maxWord}, {&r.Route, maxName}, {&r.Program, maxProgram},
	} {
		*f.text = fit(*f.text, f.max)
	}
	if len(r.Chain) > 0 {
		r.Chain = fitChain(r.Chain)
	}
	r.At = r.At.UTC().Truncate(time.Millisecond)
	return r
}

func fitChain(chain []Process) []Process {
	fitted := make([]Process, 0, maxChain+1)
	for i, p := range chain {
		if i == maxChain {
			return append(fitted, Process{Program: mark})
		}
		fitted = append(fitted, Process{p.PID, fit(p.Program, maxAncestor)})
	}
	return fitted
}

// fit returns s as UTF-8 that takes at most max bytes in a line, cut between characters and marked if it is longer.
func fit(s string, max int) string {
	if plain(s) && 2*len(s) <= max {
		return s
	}
	s = strings.ToValidUTF8(s, "\ufffd")
	size, end := 0, 0 // bytes of JSON so far; bytes of s that leave room for the mark
	for i, r := range s {
		if size += width(r); size > max {
			return s[:end] + mark
		}
		if size+len(mark) <= max {
			end = i + utf8.RuneLen(r)
		}
	}
	return s
}

// plain tells whether all of s is printable ASCII, as nearly every text is.
func plain[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// width is the number of bytes that r takes in a line, or one that is not smaller.
func width(r rune) int {
	switch {
	case r == '"', r == '\\':
		return 2
	case unicode.IsPrint(r):
		return utf8.RuneLen(r)
	case r < 0x10000:
		return len(`\u0000`)
	}
	return len(`\u0000\u0000`)
}

// line is r as a line with its newline. Prev is set; the hash is returned besides.
func (r Record) line() (line []byte, hash string, err error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	r.Hash = ""
	if err := enc.Encode(r); err != nil {
		return nil, "", err
	}
	body := printable(bytes.TrimSuffix(b.Bytes(), []byte("}\n")))
	hash = sum(r.Prev, body)
	line = append(append(append(body, hashKey...), hash...), hashEnd...)
	if line = append(line, '\n'); len(line) > MaxLine {
		return nil, "", fmt.Errorf("record of %d bytes is over the limit of %d", len(line), MaxLine)
	}
	return line, hash, nil
}

// printable escapes what JSON lets stand and a terminal may act on. Such characters occur within strings only.
func printable(text []byte) []byte {
	if plain(text) {
		return text
	}
	var b []byte
	for _, r := range string(text) {
		switch {
		case r < 0x7f, unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			r -= 0x10000
			b = fmt.Appendf(b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return b
}

// The end of a line, without its newline.
const (
	hashKey  = `,"hash":"`
	hashEnd  = `"}`
	hashSize = 2 * sha256.Size
	tailSize = len(hashKey) + hashSize + len(hashEnd)
)

// sum is the hash of a line.
func sum(prev string, body []byte) string {
	h := sha256.New()
	h.Write([]byte(prev))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

var errNoRecord = errors.New("not a record")

// split parts a line without its newline into its body and its hash.
func split(line []byte) (body []byte, hash string, err error) {
	if len(line) < tailSize {
		return nil, "", errNoRecord
	}
	body, tail := line[:len(line)-tailSize], line[len(line)-tailSize:]
	hash = string(tail[len(hashKey) : len(hashKey)+hashSize])
	if string(tail) != hashKey+hash+hashEnd {
		return nil, "", errNoRecord
	}
	return body, hash, nil
}

// Parse reads a line without its newline. It checks its form and not its place in the chain.
func Parse(line []byte) (Record, error) {
	var r Record
	if _, _, err := split(line); err != nil {
		return r, err
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	return r, nil
}

// link is what a line says of its place in the chain.
type link struct {
	Seq   uint64 `json:"seq"`
	Prev  string `json:"prev"`
	hash  string
	whole bool // the hash is that of prev and the body
}

func parseLink(line []byte) (link, error) {
	body, hash, err := split(line)
	if err != nil {
		return link{}, err
	}
	l := link{hash: hash}
	if err := json.Unmarshal(line, &l); err != nil {
		return link{}, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	if l.Seq == 0 || len(l.Prev) != hashSize {
		return link{}, errNoRecord
	}
	l.whole = sum(l.Prev, body) == hash
	return l, nil
}
