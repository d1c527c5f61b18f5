package resolve

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/vast"
)

const (
	maxEntryFile  = 64 << 10
	maxLabelsFile = 1 << 20

	// labels names the files of the account's labels, as an id names those of an instance.
	labels = "labels"
)

// read decodes the file of an instance. A file that is missing, damaged or not of this version is no entry, as is
// any file in a directory that others can write to: they could choose the address of a first contact.
func (r *Resolver) read(id uint64) (entry, bool) {
	data, err := r.readFile(formatID(id), maxEntryFile)
	if err != nil {
		return entry{}, false
	}
	e, err := decodeEntry(data, id, r.cfg.Now())
	return e, err == nil
}

// readListing decodes labels.json under the rules of read. The zero listing is older than anything.
func (r *Resolver) readListing() listing {
	data, err := r.readFile(labels, maxLabelsFile)
	if err != nil {
		return listing{}
	}
	l, err := decodeListing(data, r.cfg.Now())
	if err != nil {
		return listing{}
	}
	return l
}

func (r *Resolver) readFile(name string, limit int64) ([]byte, error) {
	if err := atomicfile.CheckDir(r.cfg.CacheDir); err != nil {
		return nil, err
	}
	return atomicfile.Read(r.path(name), limit)
}

func (r *Resolver) path(name string) string { return filepath.Join(r.cfg.CacheDir, name+".json") }

// write stores an entry. When that fails and the entry says that there is no address, the old file goes: an
// address that the API has taken back must not come to life when the API is down.
func (r *Resolver) write(e entry) error {
	err := r.writeFile(formatID(e.ID), e, maxEntryFile)
	if err != nil && !e.usable() {
		os.Remove(r.path(formatID(e.ID)))
	}
	return err
}

func (r *Resolver) writeFile(name string, v any, limit int) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if data = append(data, '\n'); len(data) > limit {
		return fmt.Errorf("write %q: %w", r.path(name), atomicfile.ErrTooLarge)
	}
	if err := atomicfile.EnsureDir(r.cfg.CacheDir); err != nil {
		return err
	}
	return atomicfile.Write(r.path(name), data)
}

// lock makes this process the only one that asks the API for name. Without a writable cache there is nothing to
// share and nothing to lock: free does nothing then, and the error says why.
func (r *Resolver) lock(ctx context.Context, name string) (free func(), err error) {
	if err := atomicfile.EnsureDir(r.cfg.CacheDir); err != nil {
		return func() {}, err
	}
	unlock, err := atomicfile.Lock(ctx, filepath.Join(r.cfg.CacheDir, name+".lock"))
	if err != nil {
		return func() {}, err
	}
	return unlock, nil
}

// Remember stores what a listing of the whole account says, for Resolve by label and for Known. Instances that it
// does not name are gone and leave the cache. An error means that not everything was stored.
func (r *Resolver) Remember(all []vast.Instance) error {
	asked := r.cfg.Now()
	entries := entriesAt(all, asked)
	return r.remember(entries, newListing(entries, asked))
}

func entriesAt(all []vast.Instance, asked time.Time) []entry {
	var entries []entry
	for _, inst := range all {
		if inst.ID == 0 {
			continue
		}
		e := newEntry(inst)
		e.At = asked.UTC()
		entries = append(entries, e)
	}
	return entries
}

// remember writes the instances first and the labels last, so that a fresh label leads to a fresh instance. It
// takes no instance's lock: an answer to a question asked later stays, and in the moment between the look and the
// rename two true answers replace one another.
func (r *Resolver) remember(entries []entry, l listing) error {
	var errs []error
	listed := make(map[uint64]bool)
	for _, e := range entries {
		listed[e.ID] = true
		if old, ok := r.read(e.ID); !ok || !old.At.After(l.At) {
			errs = append(errs, r.write(e))
		}
	}
	known, err := r.entries()
	errs = append(errs, err)
	for _, e := range known {
		if !listed[e.ID] && !e.At.After(l.At) {
			errs = append(errs, r.Forget(e.ID))
		}
	}
	errs = append(errs, r.writeFile(labels, l, maxLabelsFile))
	return errors.Join(errs...)
}

// Forget drops what the cache holds of an instance, as after destroying it. Nothing there is not an error.
func (r *Resolver) Forget(id uint64) error {
	if err := os.Remove(r.path(formatID(id))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Known returns the instances in the cache by ascending id, however old and whether running or not. Those that do
// not run have no endpoints. An account that was never looked at has none.
func (r *Resolver) Known() ([]Target, error) {
	entries, err := r.entries()
	if err != nil {
		return nil, err
	}
	since := r.cfg.Now().Add(-r.cfg.Fresh)
	var targets []Target
	for _, e := range entries {
		source := StaleCache
		if e.At.After(since) {
			source = Cache
		}
		if !e.Gone {
			targets = append(targets, e.target(source, nil))
		}
	}
	return targets, nil
}

// entries reads all instance files, by ascending id.
func (r *Resolver) entries() ([]entry, error) {
	if err := atomicfile.CheckDir(r.cfg.CacheDir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	files, err := os.ReadDir(r.cfg.CacheDir)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue
		}
		if id, ok := parseID(name); ok {
			if e, ok := r.read(id); ok {
				entries = append(entries, e)
			}
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.ID, b.ID) })
	return entries, nil
}
