package rotate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/custody"
)

// Phase is how far a rotation is.
type Phase string

// The phases. None is that of a user without a rotation.
const (
	None      Phase = "none"
	Attaching Phase = "attaching"
	Swapping  Phase = "swapping"
	Detaching Phase = "detaching"
	Left      Phase = "left"
	Aborting  Phase = "aborting"
	Done      Phase = "done"
	Aborted   Phase = "aborted"
)

// Stage is how far an instance is.
type Stage string

// The stages, in their order. Gone is behind each of them.
const (
	Seen     Stage = "seen"
	Attached Stage = "attached" // the API has the new key for it
	Verified Stage = "verified" // it has taken a signature of the new key
	Detached Stage = "detached" // the API has the old key for it no longer
	Rotated  Stage = "done"     // it refuses the old key and takes the new one
	Gone     Stage = "gone"     // the account has no such instance any more
)

// AccountKeys is which of the two keys the account's list has.
type AccountKeys string

// The states of the account's list. Empty is not known.
const (
	AccountNeither AccountKeys = "neither"
	AccountOld     AccountKeys = "old"
	AccountBoth    AccountKeys = "both"
	AccountNew     AccountKeys = "new"
)

// Report is a rotation as it is shown and recorded. Keys are named by their SHA256 fingerprints.
type Report struct {
	Phase     Phase       `json:"phase"`
	Old       string      `json:"old"`
	New       string      `json:"new,omitempty"`
	Started   time.Time   `json:"started,omitzero"`
	Swapped   time.Time   `json:"swapped,omitzero"`
	Ended     time.Time   `json:"ended,omitzero"`
	Account   AccountKeys `json:"account_keys,omitempty"`
	Instances []Instance  `json:"instances"` // by ascending id
}

// Instance is the state of one instance in a rotation.
type Instance struct {
	ID        uint64    `json:"id"`
	Label     string    `json:"label,omitempty"` // of the API
	Stage     Stage     `json:"stage"`
	Left      bool      `json:"left_behind,omitempty"`
	Forgotten bool      `json:"forgotten,omitempty"` // left behind, and the old key with it
	At        time.Time `json:"at,omitzero"`         // when it came to its stage
	Problem   string    `json:"problem,omitempty"`   // why it is no further; may quote text of peers
}

// tookNew reports whether the instance has taken the new key.
func (in *Instance) tookNew() bool { return order(in.Stage) >= order(Verified) }

var stages = []Stage{Seen, Attached, Verified, Detached, Rotated, Gone}

func order(s Stage) int { return slices.Index(stages, s) }

func (rep Report) clone() Report {
	rep.Instances = append([]Instance{}, rep.Instances...)
	return rep
}

// entry returns the entry of an instance, which it makes if there is none.
func (rep *Report) entry(id uint64) *Instance {
	i, found := slices.BinarySearchFunc(rep.Instances, id, func(in Instance, id uint64) int {
		switch {
		case in.ID < id:
			return -1
		case in.ID > id:
			return 1
		}
		return 0
	})
	if !found {
		rep.Instances = slices.Insert(rep.Instances, i, Instance{ID: id, Stage: Seen})
	}
	return &rep.Instances[i]
}

// journal is the file of a rotation under way. It holds nothing secret.
type journal struct {
	Version int    `json:"version"`
	OldKey  string `json:"old_key"` // as in authorized_keys, without a comment
	NewKey  string `json:"new_key"`
	Report

	oldKey, newKey ssh.PublicKey
}

const (
	journalVersion = 1
	// maxJournal has room for thousands of instances.
	maxJournal = 4 << 20
	maxRecord  = 16 << 20
	maxProblem = 512 // characters
)

func newJournal(phase Phase, old, new ssh.PublicKey, now time.Time) *journal {
	return &journal{
		Version: journalVersion, OldKey: line(old), NewKey: line(new), oldKey: old, newKey: new,
		Report: Report{
			Phase: phase, Old: ssh.FingerprintSHA256(old), New: ssh.FingerprintSHA256(new),
			Started: now.UTC().Truncate(time.Second), Instances: []Instance{},
		},
	}
}

func line(key ssh.PublicKey) string {
	return strings.TrimSpace(string(custody.PublicLine(key, custody.DefaultComment)))
}

// JournalError says that the journal cannot be read.
type JournalError struct {
	Path   string
	Reason string
}

func (e *JournalError) Error() string {
	return fmt.Sprintf("the journal of the rotation %q cannot be used: %s", e.Path, e.Reason)
}

// Hint says how to go on without it.
func (e *JournalError) Hint() string {
	return "move the file away and run: vast-ssh key rotate (custody tells the most of it)"
}

func (e *Engine) journalPath() string { return filepath.Join(e.cfg.Dir, "rotation.json") }

func (e *Engine) recordPath() string { return filepath.Join(e.cfg.Dir, "rotations.jsonl") }

// loadJournal reads the journal. Without one the error is fs.ErrNotExist.
func (e *Engine) loadJournal() (*journal, error) {
	data, err := atomicfile.Read(e.journalPath(), maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, &JournalError{e.journalPath(), err.Error()}
	}
	j, err := decodeJournal(data)
	if err != nil {
		return nil, &JournalError{e.journalPath(), err.Error()}
	}
	return j, nil
}

// decodeJournal accepts what save writes, and nothing else: a rotation that goes on from a wrong state could take off the
// wrong key.
func decodeJournal(data []byte) (*journal, error) {
	var j journal
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("data behind the end")
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("unknown version %d", j.Version)
	}
	if !slices.Contains([]Phase{Attaching, Swapping, Detaching, Left, Aborting}, j.Phase) {
		return nil, fmt.Errorf("unknown phase %q", j.Phase)
	}
	var err error
	if j.oldKey, err = parseKey(j.OldKey, j.Old); err != nil {
		return nil, fmt.Errorf("old key: %w", err)
	}
	if j.newKey, err = parseKey(j.NewKey, j.New); err != nil {
		return nil, fmt.Errorf("new key: %w", err)
	}
	if same(j.oldKey, j.newKey) {
		return nil, errors.New("the old key and the new one are the same")
	}
	last := uint64(0)
	for _, in := range j.Instances {
		if in.ID <= last {
			return nil, errors.New("instances out of order")
		}
		if order(in.Stage) < 0 {
			return nil, fmt.Errorf("unknown stage %q", in.Stage)
		}
		last = in.ID
	}
	return &j, nil
}

func parseKey(text, print string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	switch {
	case err != nil || len(options) > 0 || len(rest) > 0 || line(key) != text || key.Type() != ssh.KeyAlgoED25519:
		return nil, errors.New("not a line of authorized_keys")
	case ssh.FingerprintSHA256(key) != print:
		return nil, errors.New("not the key of its fingerprint")
	}
	return key, nil
}

// save replaces the journal. mu must be free. Its error is a *fatalError: what is not written down must not go on.
func (r *run) save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.write()
}

// write is save with mu held.
func (r *run) write() error {
	data, err := json.MarshalIndent(r.j, "", "  ")
	if err != nil {
		return err
	}
	if len(data) >= maxJournal {
		return &fatalError{fmt.Errorf("write %q: %w", r.journalPath(), atomicfile.ErrTooLarge)}
	}
	if err := r.files.write(r.journalPath(), append(data, '\n')); err != nil {
		return &fatalError{fmt.Errorf("write the journal of the rotation: %w", err)}
	}
	return nil
}

func (r *run) enter(phase Phase) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.j.Phase = phase
	return r.write()
}

// mark writes down that an instance has come to a stage.
func (r *run) mark(id uint64, stage Stage) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	en := r.j.entry(id)
	en.Stage, en.At, en.Problem = stage, r.cfg.Now().UTC().Truncate(time.Second), ""
	return r.write()
}

// stage is how far an instance is.
func (r *run) stage(id uint64) Stage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.j.entry(id).Stage
}

// setAccount writes down which keys the account has.
func (r *run) setAccount(keys AccountKeys) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.j.Account == keys {
		return nil
	}
	r.j.Account = keys
	return r.write()
}

// removeJournal ends the journal. What it held is in the record.
func (e *Engine) removeJournal() error {
	if err := os.Remove(e.journalPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// appendRecord adds a rotation to the record, or replaces what the record says of it. A new key is made for one rotation,
// so that it names it.
func (e *Engine) appendRecord(rep Report) error {
	data, err := atomicfile.Read(e.recordPath(), maxRecord)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the record of rotations: %w", err)
	}
	added, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for old := range bytes.Lines(data) {
		var known struct {
			New string `json:"new"`
		}
		if json.Unmarshal(old, &known) == nil && known.New == rep.New {
			continue
		}
		out.Write(bytes.TrimRight(old, "\n"))
		out.WriteByte('\n')
	}
	out.Write(append(added, '\n'))
	kept := out.Bytes()
	for len(kept) > maxRecord { // the oldest go first
		_, kept, _ = bytes.Cut(kept, []byte("\n"))
	}
	return e.files.write(e.recordPath(), kept)
}
