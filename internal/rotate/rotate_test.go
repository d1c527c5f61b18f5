package rotate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"vast-ssh/internal/custody"
)

var all = []uint64{11, 12, 13}

// rotated runs a rotation that has to succeed.
func (w *world) rotated(opts Options) Report {
	w.t.Helper()
	rep, err := w.engine().Rotate(w.t.Context(), opts)
	if err != nil {
		w.t.Fatalf("%v\nafter %v", err, w.trace)
	}
	return rep
}

// paused runs a rotation that has to stop at the instances ids.
func (w *world) paused(opts Options, ids ...uint64) *PausedError {
	w.t.Helper()
	_, err := w.engine().Rotate(w.t.Context(), opts)
	var paused *PausedError
	if !errors.As(err, &paused) {
		w.t.Fatalf("got %v, want a pause", err)
	}
	var got []uint64
	for _, p := range paused.Pending {
		got = append(got, p.ID)
	}
	if !slices.Equal(got, ids) {
		w.t.Fatalf("paused at %v, want %v: %v", got, ids, paused.Details())
	}
	return paused
}

func TestRotate(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*world)
	}{
		{"as it is", func(*world) {}},
		{"keys take 20 seconds", func(w *world) { w.delay = 20 * time.Second }},
		{"the API lists the account's keys with the instances", func(w *world) {
			w.bornListed = true
			w.rent(12, "")
		}},
		{"the key has a passphrase", (*world).protect},
		{"the account has not the key", func(w *world) {
			w.account = slices.Delete(w.account, 1, 2)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.set(w)
			old := w.key()
			_, plain := w.store.Load(t.Context(), nil) // an error if there is a passphrase
			rep := w.rotated(Options{})
			if err := w.clean(old, all...); err != nil {
				t.Error(err)
			}
			if want := AccountNew; rep.Account != want && len(w.account) > 2 {
				t.Errorf("account %s, want %s", rep.Account, want)
			}
			if rep.Phase != Done || len(rep.Instances) != 3 || rep.Instances[0].Label != "train" {
				t.Errorf("report %+v", rep)
			}
			for _, in := range rep.Instances {
				if in.Stage != Rotated || in.At.IsZero() {
					t.Errorf("instance %+v", in)
				}
			}
			if _, err := w.store.Load(t.Context(), nil); (err == nil) != (plain == nil) {
				t.Errorf("the old key: %v, the new one: %v", plain, err)
			}
			if key, err := w.store.Load(t.Context(), secret); err != nil {
				t.Error(err)
			} else {
				key.Destroy()
			}
			if n := slices.IndexFunc(w.trace, func(s string) bool { return s == "detach" || s == "account delete" }); n <
				slices.Index(w.trace, "promote") {
				t.Errorf("something was taken off before the swap: %v", w.trace)
			}
		})
	}
}

// protect gives the current key of all instances a passphrase.
func (w *world) protect() {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.dir, "id")); err != nil {
		w.t.Fatal(err)
	}
	pass, _ := secret()
	if err := w.store.Save(w.t.Context(), custody.Generate(), "", pass); err != nil {
		w.t.Fatal(err)
	}
	key := w.key()
	if err := custody.WritePublic(w.publicPath(), key, ""); err != nil {
		w.t.Fatal(err)
	}
	w.account[1].PublicKey = line(key)
	for id := range w.boxes {
		if _, err := w.AttachKey(w.t.Context(), id, line(key)); err != nil {
			w.t.Fatal(err)
		}
	}
	w.step, w.trace = 0, nil
}

// The process dies at every step, before and after its effect. Whatever it leaves, each instance lets in a key that custody
// holds, the agent's key is let in, and the next run completes the rotation.
func TestKilledAtEveryStep(t *testing.T) {
	for _, delay := range []time.Duration{0, 20 * time.Second} {
		for _, late := range []bool{false, true} {
			whole := newWorld(t)
			whole.delay = delay
			whole.rotated(Options{})
			if whole.step < 50 {
				t.Errorf("only %d steps", whole.step)
			}
			for step := range whole.step {
				step++
				w := newWorld(t)
				w.delay = delay
				old := w.key()
				w.breaks = func(n int, _ string) *breakage {
					if n != step {
						return nil
					}
					return &breakage{err: errDead, late: late, dies: true}
				}
				_, err := w.engine().Rotate(t.Context(), Options{})
				where := fmt.Sprintf("killed at step %d, %s (late %v, delay %v)", step, w.trace[len(w.trace)-1], late, delay)
				if err == nil {
					if w.step >= step {
						t.Fatalf("%s: no error", where)
					}
					continue // what runs at a time makes a few steps more or less
				}
				if err := w.safe(all, all); err != nil {
					t.Errorf("%s: %v", where, err)
				}
				w.breaks = nil
				w.step, w.trace = 0, nil
				if _, err := w.engine().Rotate(t.Context(), Options{}); err != nil {
					t.Fatalf("%s: the next run: %v", where, err)
				}
				if err := w.clean(old, all...); err != nil {
					t.Errorf("%s: after the next run: %v", where, err)
				}
			}
		}
	}
}
