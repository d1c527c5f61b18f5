package resolve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"vast-ssh/internal/vast"
)

const (
	entryVersion  = 1
	labelsVersion = 1

	maxEndpoints = 8
	maxWord      = 256 // actual_status, intended_status, image_runtype
	maxFailure   = 512 // the text of a failure kept for other processes
)

// entry is what the cache remembers of one instance, and the content of its file. It holds endpoints only while
// the instance runs, so an answer that it does not run takes the old address away.
type entry struct {
	Version   int        `json:"version"`
	ID        uint64     `json:"id"`
	Gone      bool       `json:"gone,omitempty"` // the account has no such instance
	Label     string     `json:"label"`          // empty for none, and for one that cannot be typed
	Machine   uint64     `json:"machine"`
	Status    string     `json:"status"`
	Intended  string     `json:"intended"`
	Runtype   string     `json:"runtype"`
	Endpoints []Endpoint `json:"endpoints"`
	At        time.Time  `json:"at"` // when the API was asked, not when it answered
	failure

	message string // status_msg, which may say anything and is not kept
}

// failure is the last refresh that failed since At. It spares the processes that waited for that refresh from
// repeating it.
type failure struct {
	FailedAt time.Time `json:"failed_at,omitzero"`
	Reason   string    `json:"failure,omitempty"`
}

func failed(at time.Time, err error) failure {
	return failure{FailedAt: at.UTC(), Reason: plain(err.Error(), maxFailure)}
}

func (f failure) problem() error { return errors.New("asked a moment ago: " + f.Reason) }

// newEntry reads an answer of the API. The caller adds the time.
func newEntry(inst vast.Instance) entry {
	e := entry{
		Version:  entryVersion,
		ID:       inst.ID,
		Machine:  inst.MachineID,
		Status:   plain(inst.ActualStatus, maxWord),
		Intended: plain(inst.IntendedStatus, maxWord),
		Runtype:  plain(inst.ImageRuntype, maxWord),
		message:  inst.StatusMsg,
	}
	// A label is kept whole or not at all: a mended one would match a name that is not its own.
	if labelFault(inst.Label) == "" {
		e.Label = inst.Label
	}
	if e.running() {
		e.Endpoints = addresses(inst)
	}
	return e
}

func (e *entry) running() bool { return e.Status == "running" && e.hasSSH() }

// hasSSH reports whether Vast.ai starts an ssh server. A missing run type is unknown and not a reason to refuse.
func (e *entry) hasSSH() bool {
	return e.Runtype == "" || strings.Contains(e.Runtype, "ssh") || strings.Contains(e.Runtype, "jupyter")
}

// usable reports whether the entry has an address to try, of whatever age. The zero entry has none.
func (e *entry) usable() bool { return len(e.Endpoints) > 0 }

// refusal returns the typed error of an instance that cannot be reached, by what the API said of it. What cannot
// change comes first: starting an instance that has no ssh would cost money for nothing.
func (e *entry) refusal() error {
	switch {
	case e.Gone:
		return &NotFoundError{Name: formatID(e.ID)}
	case !e.hasSSH():
		return &NoSSHError{ID: e.ID, Runtype: e.Runtype}
	case !e.running():
		return &NotRunningError{ID: e.ID, Label: e.Label, Status: e.Status, Intended: e.Intended, Message: e.message}
	case !e.usable():
		return &NoAddressError{ID: e.ID}
	}
	return nil
}

func (e *entry) target(source Source, problem error) Target {
	return Target{ID: e.ID, Label: e.Label, Machine: e.Machine, Endpoints: e.Endpoints, At: e.At, Source: source,
		Problem: problem}
}

// decodeEntry parses the file of instance id. Anything that this version would not have written is an error,
// as is a time after now.
func decodeEntry(data []byte, id uint64, now time.Time) (entry, error) {
	var e entry
	if err := decode(data, &e); err != nil {
		return entry{}, err
	}
	switch {
	case e.Version != entryVersion:
		return entry{}, errors.New("unknown version")
	case e.ID != id || id == 0:
		return entry{}, errors.New("another instance")
	case e.Label != "" && labelFault(e.Label) != "":
		return entry{}, errors.New("bad label")
	case len(e.Endpoints) > maxEndpoints:
		return entry{}, errors.New("too many endpoints")
	case len(e.Endpoints) > 0 && (e.Gone || !e.running()):
		return entry{}, errors.New("endpoints of an instance that is not running")
	}
	for _, word := range []string{e.Status, e.Intended, e.Runtype} {
		if word != plain(word, maxWord) {
			return entry{}, errors.New("bad word")
		}
	}
	for _, p := range e.Endpoints {
		if (p.Route != Direct && p.Route != Gateway) || !validHost(p.Host) || p.Port == 0 {
			return entry{}, errors.New("bad endpoint")
		}
	}
	if err := checkTimes(&e.At, &e.failure, now); err != nil {
		return entry{}, err
	}
	return e, nil
}

// listing is what the cache remembers of the account, and the content of labels.json: which instances carry
// which label, whatever their status.
type listing struct {
	Version int                 `json:"version"`
	Labels  map[string][]uint64 `json:"labels"` // ids ascending
	At      time.Time           `json:"at"`
	failure
}

func newListing(entries []entry, asked time.Time) listing {
	l := listing{Version: labelsVersion, Labels: make(map[string][]uint64), At: asked.UTC()}
	for _, e := range entries {
		if e.Label != "" {
			l.Labels[e.Label] = append(l.Labels[e.Label], e.ID)
		}
	}
	// A list that comes in pages can show an instance twice.
	for label, ids := range l.Labels {
		slices.Sort(ids)
		l.Labels[label] = slices.Compact(ids)
	}
	return l
}

// decodeListing parses labels.json as strictly as decodeEntry does its file.
func decodeListing(data []byte, now time.Time) (listing, error) {
	var l listing
	if err := decode(data, &l); err != nil {
		return listing{}, err
	}
	if l.Version != labelsVersion {
		return listing{}, errors.New("unknown version")
	}
	for label, ids := range l.Labels {
		if labelFault(label) != "" {
			return listing{}, errors.New("bad label")
		}
		if len(ids) == 0 || ids[0] == 0 {
			return listing{}, errors.New("bad ids")
		}
		for i := range ids[1:] {
			if ids[i] >= ids[i+1] {
				return listing{}, errors.New("ids out of order")
			}
		}
	}
	if err := checkTimes(&l.At, &l.failure, now); err != nil {
		return listing{}, err
	}
	return l, nil
}

func decode(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("data behind the end")
	}
	return nil
}

// checkTimes refuses an answer from the future, whose age cannot be told once the clock has been set back. A
// failure from the future is only dropped: its one use is to save a call.
func checkTimes(at *time.Time, f *failure, now time.Time) error {
	if at.Unix() <= 0 || at.After(now) {
		return fmt.Errorf("bad time %v", *at)
	}
	*at = at.UTC()
	if f.FailedAt.Unix() <= 0 || f.FailedAt.After(now) || f.Reason != plain(f.Reason, maxFailure) {
		*f = failure{}
	}
	f.FailedAt = f.FailedAt.UTC()
	return nil
}

// plain makes text of a peer fit for a file of ours: valid UTF-8 without control characters, at most limit of
// them.
func plain(s string, limit int) string {
	clean := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
	n := 0
	for i := range clean {
		if n++; n > limit {
			return clean[:i]
		}
	}
	return clean
}
