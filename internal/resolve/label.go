package resolve

import (
	"context"
	"fmt"
	"slices"
)

// byLabel follows a stored listing to the instance, or lists the account once.
func (r *Resolver) byLabel(ctx context.Context, label string, d demand) (Target, error) {
	since := d.fresh
	follow := func(l listing) (t Target, done bool, err error) {
		ids := l.Labels[label]
		switch {
		case l.At.After(d.called):
			id, err := only(label, ids)
			if err != nil {
				return Target{}, true, err
			}
			t, err = r.byID(ctx, id, d)
			return t, true, err
		case len(ids) == 1 && l.At.After(since):
			if t, err = r.byID(ctx, ids[0], d); err == nil && t.Label == label {
				return t, true, nil
			}
			// The label may be on another instance by now. Only a listing newer than the call can tell.
			since = d.called
		}
		if old := r.labelled(l, label); old.usable() && l.FailedAt.After(d.spared) {
			return old.target(StaleCache, l.problem()), true, nil
		}
		return Target{}, false, nil
	}

	l := r.readListing()
	if t, done, err := follow(l); done {
		return t, err
	}
	old := r.labelled(l, label)
	ask, cancel := r.bound(ctx, old.usable())
	defer cancel()
	free, problem := r.lock(ask, labels)
	defer free()
	if problem != nil && ask.Err() != nil {
		return fallback(ctx, old, fmt.Errorf("wait for another process that lists the instances: %w", problem))
	}
	l = r.readListing()
	if t, done, err := follow(l); done {
		return t, err
	}

	asked := r.cfg.Now()
	api, err := r.cfg.API()
	if err != nil {
		return fallback(ctx, r.labelled(l, label), err)
	}
	all, err := api.Instances(ask)
	if err != nil {
		return r.failedListing(ctx, label, err)
	}
	entries := entriesAt(all, asked)
	l = newListing(entries, asked)
	if err := r.remember(entries, l); problem == nil {
		problem = err
	}
	id, err := only(label, l.Labels[label])
	if err != nil {
		return Target{}, err
	}
	e := entries[slices.IndexFunc(entries, func(e entry) bool { return e.ID == id })]
	if err := e.refusal(); err != nil {
		return Target{}, err
	}
	return e.target(Fetched, problem), nil
}

// failedListing does for a listing what failedInstance does for an instance.
func (r *Resolver) failedListing(ctx context.Context, label string, err error) (Target, error) {
	l := r.readListing()
	old := r.labelled(l, label)
	if old.usable() && !cancelled(ctx) {
		l.failure = failed(r.cfg.Now(), err)
		// Without the note the others ask for themselves.
		_ = r.writeFile(labels, l, maxLabelsFile)
	}
	return fallback(ctx, old, err)
}

// labelled returns what is stored of the one instance that l knows by the label, or the zero entry.
func (r *Resolver) labelled(l listing, label string) entry {
	ids := l.Labels[label]
	if len(ids) != 1 {
		return entry{}
	}
	if e, ok := r.read(ids[0]); ok && e.Label == label {
		return e
	}
	return entry{}
}

// only returns the id of a label that must be on one instance.
func only(label string, ids []uint64) (uint64, error) {
	switch len(ids) {
	case 0:
		return 0, &NotFoundError{Name: label}
	case 1:
		return ids[0], nil
	}
	return 0, &AmbiguousError{Label: label, IDs: ids}
}
