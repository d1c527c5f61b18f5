package rotate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/vast"
)

// at runs f once, before the first step called what.
func (w *world) at(what string, f func()) {
	done := false
	w.breaks = func(_ int, step string) *breakage {
		if step == what && !done {
			done = true
			w.mu.Unlock()
			f()
			w.mu.Lock()
		}
		return nil
	}
}

// An instance that cannot be shown to let the new key in stops the rotation before the swap, whatever keeps it. Put right,
// it is rotated.
func TestPausedBeforeTheSwap(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil, mend func(*box)
		why         string
	}{
		"stopped":   {func(b *box) { b.ActualStatus = "stopped" }, func(b *box) { b.ActualStatus = "running" }, "not running"},
		"never met": {func(b *box) { b.pinned = false }, func(b *box) { b.pinned = true }, "vast-ssh 12"},
		"another host key": {func(b *box) { b.wrong = errors.New("the host key is refused") }, func(b *box) { b.wrong = nil },
			"host key"},
		"ignores what is attached": {func(b *box) { b.deaf = true }, func(b *box) {
			b.deaf = false
			for _, k := range b.keys {
				b.lets[blob(k.PublicKey)] = time.Time{}
			}
		}, "does not let the key"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			old := w.key()
			tt.spoil(w.boxes[12])
			began := w.now
			for range 2 {
				paused := w.paused(Options{}, 12)
				if paused.Phase != Attaching || !strings.Contains(paused.Details()[0], tt.why) ||
					!strings.Contains(paused.Hint(), "--leave 12") {
					t.Errorf("%v: %v; hint %s", paused, paused.Details(), paused.Hint())
				}
			}
			if w.now.Sub(began) > 2*takeEffect {
				t.Errorf("waited for %v", w.now.Sub(began))
			}
			if !same(w.key(), old) || slices.Contains(w.trace, "detach") || slices.Contains(w.trace, "promote") {
				t.Errorf("the old key was touched: %v", w.trace)
			}
			if err := w.safe(all, all); err != nil {
				t.Error(err)
			}
			rep, err := w.engine().Status()
			if err != nil || rep.Phase != Attaching || !strings.Contains(rep.entry(12).Problem, tt.why) ||
				rep.entry(11).Stage != Verified {
				t.Errorf("status %+v, %v", rep, err)
			}
			tt.mend(w.boxes[12])
			w.rotated(Options{})
			if err := w.clean(old, all...); err != nil {
				t.Error(err)
			}
		})
	}
}

// What is left behind lets the old key in, which is kept for it, until it can be rotated or is given up or is gone.
func TestLeftBehind(t *testing.T) {
	for name, tt := range map[string]struct {
		end   func(*world) Options
		there []uint64
	}{
		"comes back":  {func(w *world) Options { w.boxes[12].ActualStatus = "running"; return Options{} }, all},
		"is gone":     {func(w *world) Options { delete(w.boxes, 12); return Options{} }, []uint64{11, 13}},
		"is given up": {func(*world) Options { return Options{Forget: []uint64{12}} }, []uint64{11, 13}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			old := w.key()
			w.boxes[12].ActualStatus = "stopped"
			w.paused(Options{}, 12)
			rep := w.rotated(Options{Leave: []uint64{12}})
			if rep.Phase != Left || !rep.entry(12).Left || rep.entry(11).Stage != Rotated {
				t.Errorf("report %+v", rep)
			}
			if err := w.safe(all, []uint64{11, 13}); err != nil {
				t.Error(err)
			}
			if before, err := w.store.Previous().Public(t.Context()); err != nil || !same(before, old) {
				t.Errorf("the old key is not kept: %v", err)
			}
			// No new rotation before this one is done with.
			if paused := w.paused(Options{}, 12); paused.Phase != Detaching {
				t.Errorf("phase %s", paused.Phase)
			}
			w.rotated(Options{Leave: []uint64{12}})
			if err := w.safe(all, []uint64{11, 13}); err != nil {
				t.Error(err)
			}
			rep = w.rotated(tt.end(w))
			if gone := rep.entry(12).Stage == Gone; gone != (name == "is gone") {
				t.Errorf("gone: %v", gone)
			}
			if err := w.clean(old, tt.there...); err != nil {
				t.Error(err)
			}
		})
	}
	w := newWorld(t)
	w.boxes[13].ActualStatus = "stopped"
	if rep := w.rotated(Options{Leave: []uint64{13}}); rep.Phase != Left {
		t.Errorf("left behind at once: %+v", rep)
	}
	var none *vast.NotFoundError
	_, err := newWorld(t).engine().Rotate(t.Context(), Options{Leave: []uint64{99}})
	if !errors.As(err, &none) || none.ID != 99 {
		t.Errorf("an instance that there is not: %v", err)
	}
	var nothing *NoRotationError
	if _, err := newWorld(t).engine().Rotate(t.Context(), Options{Forget: []uint64{11}}); !errors.As(err, &nothing) {
		t.Errorf("given up without a rotation: %v", err)
	}
}

// The API key is that of another account, in any phase: that looks as if all instances were gone, and they are not.
func TestAnotherAccount(t *testing.T) {
	for _, phase := range []string{"login", "promote", "detach"} {
		w := newWorld(t)
		old := w.key()
		w.breaks = func(_ int, what string) *breakage {
			if what == phase {
				return &breakage{err: errDead, dies: true}
			}
			return nil
		}
		if _, err := w.engine().Rotate(t.Context(), Options{}); err == nil {
			t.Fatal("not killed")
		}
		w.breaks = nil
		mine := w.boxes
		w.boxes = make(map[uint64]*box)
		w.rent(77, "of another account")
		var other *AccountError
		for _, again := range []func() (Report, error){
			func() (Report, error) { return w.engine().Rotate(t.Context(), Options{}) },
			func() (Report, error) { return w.engine().Abort(t.Context()) },
		} {
			var inUse *InUseError
			if _, err := again(); !errors.As(err, &inUse) && (!errors.As(err, &other) || !slices.Equal(other.IDs, all)) {
				t.Errorf("%s: %v", phase, err)
			}
			if len(w.boxes[77].keys) > 0 {
				t.Errorf("%s: another account's instance got a key", phase)
			}
		}
		if other.Hint() != "if they are destroyed: vast-ssh key rotate --forget 11 --forget 12 --forget 13" {
			t.Errorf("hint %s", other.Hint())
		}
		w.boxes = mine
		if err := w.safe(all, all); err != nil {
			t.Errorf("%s: %v", phase, err)
		}
		rep, err := w.engine().Rotate(t.Context(), Options{})
		if err != nil {
			t.Fatalf("%s: %v", phase, err)
		}
		if rep.Phase == Done {
			if err := w.clean(old, all...); err != nil {
				t.Errorf("%s: %v", phase, err)
			}
		}
	}
	// They are gone indeed.
	w := newWorld(t)
	old := w.key()
	w.boxes[12].ActualStatus = "stopped"
	w.paused(Options{}, 12)
	clear(w.boxes)
	w.rotated(Options{Forget: all})
	if err := w.clean(old); err != nil {
		t.Error(err)
	}
}

// A list that leaves an instance out does not make it gone.
func TestListWithAHole(t *testing.T) {
	w := newWorld(t)
	old := w.key()
	e := w.engine()
	holed := &holedAPI{world: w}
	e.cfg.API = holed
	if _, err := e.Rotate(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	if holed.lists < 5 {
		t.Errorf("only %d lists", holed.lists)
	}
	if err := w.clean(old, all...); err != nil {
		t.Error(err)
	}
}

// holedAPI leaves instance 13 out of all lists but the first two.
type holedAPI struct {
	*world
	lists int
}

func (a *holedAPI) Instances(ctx context.Context) ([]vast.Instance, error) {
	list, err := a.world.Instances(ctx)
	if a.lists++; a.lists > 2 {
		list = slices.DeleteFunc(list, func(in vast.Instance) bool { return in.ID == 13 })
	}
	return list, err
}

// Somebody has taken the new key out of custody before it was in use, and put another there.
func TestNewKeyLost(t *testing.T) {
	for _, another := range []bool{false, true} {
		w := newWorld(t)
		old := w.key()
		w.boxes[12].ActualStatus = "stopped"
		w.paused(Options{}, 12)
		w.boxes[12].ActualStatus = "running"
		if err := w.store.Next().Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if another {
			if err := w.store.Next().Save(t.Context(), custody.Generate(), "", nil); err != nil {
				t.Fatal(err)
			}
		}
		var lost *LostError
		if _, err := w.engine().Rotate(t.Context(), Options{}); !errors.As(err, &lost) {
			t.Errorf("got %v", err)
		}
		if _, err := w.engine().Abort(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := w.store.Next().Public(t.Context()); (err == nil) != another {
			t.Errorf("the key of somebody else: %v", err)
		}
		if another {
			if err := w.store.Next().Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.unchanged(old, 0)
	}
}

// Instances come and go at every step.
func TestInstancesComeAndGo(t *testing.T) {
	whole := newWorld(t)
	whole.rotated(Options{})
	for step := 1; step <= whole.step; step++ {
		w := newWorld(t)
		old := w.key()
		w.breaks = func(n int, _ string) *breakage {
			if n == step {
				w.mu.Unlock()
				w.rent(14, "new")
				w.mu.Lock()
				delete(w.boxes, 12)
			}
			return nil
		}
		_, err := w.engine().Rotate(t.Context(), Options{})
		if err == nil && w.step < step {
			continue
		}
		w.breaks = nil
		// The one that went away may be met as missing in the middle of its work, and is gone for the next run.
		if err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		there := []uint64{11, 13, 14}
		lists := 0
		for _, s := range w.trace[min(step, len(w.trace)-1):] {
			if s == "list" {
				lists++
			}
		}
		if lists == 0 { // rented after the last list, when the account had the new key only
			there = there[:2]
			if b := w.boxes[14]; w.admits(b, blobOf(old)) && !slices.Contains(w.trace[:step-1], "account delete") {
				t.Errorf("step %d: a late instance lets the old key in", step)
			}
		}
		if err := w.clean(old, there...); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		if err := w.safe([]uint64{11, 13, 14}, []uint64{11, 13, 14}); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
	}
}

// Somebody takes the new key off the account before the old one goes.
func TestAccountLosesTheNewKey(t *testing.T) {
	w := newWorld(t)
	old := w.key()
	w.at("promote", func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.account = w.account[:3]
	})
	w.rotated(Options{})
	if err := w.clean(old, all...); err != nil {
		t.Error(err)
	}
	// Nor is it added where the old one is not.
	w = newWorld(t)
	w.account = slices.Delete(w.account, 1, 2)
	if rep := w.rotated(Options{}); rep.Account != AccountNeither || len(w.account) != 2 {
		t.Errorf("account %v, %s", w.account, rep.Account)
	}
}

// Somebody takes the new key off an instance while the rotation waits for another one.
func TestInstanceLosesTheNewKey(t *testing.T) {
	w := newWorld(t)
	old := w.key()
	w.boxes[12].ActualStatus = "stopped"
	w.paused(Options{}, 12)
	b := w.boxes[11]
	if err := w.DetachKey(t.Context(), 11, b.keys[len(b.keys)-1].ID); err != nil {
		t.Fatal(err)
	}
	w.boxes[12].ActualStatus = "running"
	w.rotated(Options{})
	if err := w.clean(old, all...); err != nil {
		t.Error(err)
	}
}

// The host does not do what the API says.
func TestHostThatKeepsTheOldKey(t *testing.T) {
	w := newWorld(t)
	old := w.key()
	w.boxes[13].keeps = true
	for range 2 {
		paused := w.paused(Options{}, 13)
		if paused.Phase != Detaching || !strings.Contains(paused.Details()[0], "lets the old key in") {
			t.Errorf("%v: %v", paused, paused.Details())
		}
	}
	if err := w.safe(all, all); err != nil {
		t.Error(err)
	}
	if before, err := w.store.Previous().Public(t.Context()); err != nil || !same(before, old) {
		t.Errorf("the old key is gone: %v", err)
	}
	// It has taken the new key, so nothing is lost with the old one.
	if rep := w.rotated(Options{Leave: []uint64{13}}); rep.Phase != Left {
		t.Errorf("phase %s", rep.Phase)
	}
	if _, err := w.store.Previous().Public(t.Context()); err == nil {
		t.Error("the old key is kept for nobody")
	}
	w.boxes[13].keeps = false
	w.rotated(Options{})
	if err := w.clean(old, all...); err != nil {
		t.Error(err)
	}
}

func TestHostThatForgetsTheNewKey(t *testing.T) {
	w := newWorld(t)
	old := w.key()
	w.boxes[13].forgets = true
	paused := w.paused(Options{}, 13)
	if !strings.Contains(paused.Details()[0], "attached again") {
		t.Errorf("%v", paused.Details())
	}
	if err := w.safe(all, []uint64{11, 12}); err != nil {
		t.Error(err)
	}
	rep, err := w.engine().Status()
	if err != nil || rep.entry(13).Stage != Seen {
		t.Errorf("status %+v, %v", rep, err)
	}
	w.rotated(Options{Leave: []uint64{13}})
	if err := w.safe(all, []uint64{11, 12}); err != nil {
		t.Errorf("left behind: %v", err)
	}
	w.boxes[13].forgets = false
	w.boxes[13].keys = nil
	w.boxes[13].until = make(map[string]time.Time)
	w.rotated(Options{})
	if err := w.clean(old, all...); err != nil {
		t.Error(err)
	}
}

// An API that does not list the new key for an instance might drop it at any time, and one that gives no ids cannot remove.
func TestAPIThatListsTooLittle(t *testing.T) {
	for name, tt := range map[string]struct {
		list func([]vast.SSHKey) []vast.SSHKey
		why  string
	}{
		"nothing": {func([]vast.SSHKey) []vast.SSHKey { return nil }, "does not list the new key"},
		"no ids": {func(keys []vast.SSHKey) []vast.SSHKey {
			for i := range keys {
				keys[i].ID = 0
			}
			return keys
		}, "without an id"},
	} {
		w := newWorld(t)
		old := w.key()
		e := w.engine()
		e.cfg.API = shortAPI{w, tt.list}
		_, err := e.Rotate(t.Context(), Options{})
		var paused *PausedError
		if !errors.As(err, &paused) || len(paused.Pending) != 3 || !strings.Contains(paused.Details()[0], tt.why) {
			t.Errorf("%s: %v", name, err)
		}
		if slices.Contains(w.trace, "detach") {
			t.Errorf("%s: detached", name)
		}
		if err := w.safe(all, all); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		w.rotated(Options{})
		if err := w.clean(old, all...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type shortAPI struct {
	*world
	list func([]vast.SSHKey) []vast.SSHKey
}

func (a shortAPI) InstanceKeys(ctx context.Context, id uint64) ([]vast.SSHKey, error) {
	keys, err := a.world.InstanceKeys(ctx, id)
	return a.list(keys), err
}

// An agent that cannot use the key stops the run before anything is detached.
func TestLockedAgent(t *testing.T) {
	w := newWorld(t)
	old := w.key()
	locked := errors.New("locked")
	w.swapped = func() error { return locked }
	if _, err := w.engine().Rotate(t.Context(), Options{}); !errors.Is(err, locked) {
		t.Fatal(err)
	}
	if slices.Contains(w.trace, "detach") || slices.Contains(w.trace, "account delete") {
		t.Errorf("something was taken off: %v", w.trace)
	}
	w.swapped = nil
	w.rotated(Options{})
	if err := w.clean(old, all...); err != nil {
		t.Error(err)
	}
}

// Aborted at any step before the swap, also twice, everything is as it was.
func TestAbort(t *testing.T) {
	for step := 1; ; step++ {
		w := newWorld(t)
		old := w.key()
		swapped := false
		w.breaks = func(n int, what string) *breakage {
			swapped = swapped || what == "promote"
			if n != step {
				return nil
			}
			return &breakage{err: errDead, dies: true, late: true}
		}
		_, err := w.engine().Rotate(t.Context(), Options{})
		if err == nil {
			t.Fatal("no swap")
		}
		w.breaks = nil
		rep, err := w.engine().Abort(t.Context())
		var none *NoRotationError
		if errors.As(err, &none) && !slices.Contains(w.trace, "save") {
			continue
		}
		if rep.Phase == Swapping {
			var inUse *InUseError
			if !errors.As(err, &inUse) {
				t.Errorf("step %d: %v", step, err)
			}
			break
		}
		if err != nil || rep.Phase != Aborted {
			t.Fatalf("step %d: %v, phase %s", step, err, rep.Phase)
		}
		w.unchanged(old, step)
	}
}

// unchanged checks that only the old key is anywhere.
func (w *world) unchanged(old ssh.PublicKey, step int) {
	w.t.Helper()
	held := w.held()
	if len(held) != 1 || !same(held[0], old) {
		w.t.Errorf("step %d: custody holds %d keys", step, len(held))
	}
	if err := w.safe(all, all); err != nil {
		w.t.Errorf("step %d: %v", step, err)
	}
	if len(w.account) != 3 {
		w.t.Errorf("step %d: account %v", step, w.account)
	}
	for id, want := range map[uint64]int{11: 2, 12: 0, 13: 1} {
		if got := len(w.boxes[id].keys); got != want {
			w.t.Errorf("step %d: instance %d has %d keys, want %d", step, id, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "state", "rotation.json")); err == nil {
		w.t.Errorf("step %d: the journal is still there", step)
	}
}

// An abort that dies at any step is completed by the next run of either verb.
func TestAbortKilled(t *testing.T) {
	for _, again := range []func(*Engine) (Report, error){
		func(e *Engine) (Report, error) { return e.Abort(t.Context()) },
		func(e *Engine) (Report, error) { return e.Rotate(t.Context(), Options{}) },
	} {
		for _, late := range []bool{false, true} {
			for step := 1; ; step++ {
				w := newWorld(t)
				old := w.key()
				w.boxes[13].deaf = true
				w.paused(Options{}, 13)
				w.step = 0
				w.breaks = func(n int, _ string) *breakage {
					if n != step {
						return nil
					}
					return &breakage{err: errDead, dies: true, late: late}
				}
				if _, err := w.engine().Abort(t.Context()); err == nil {
					if step < 10 {
						t.Errorf("only %d steps", step)
					}
					break
				}
				if err := w.safe(all, all); err != nil {
					t.Errorf("step %d: %v", step, err)
				}
				w.breaks = nil
				if rep, _ := w.engine().Status(); rep.Phase != Aborting {
					continue // nothing was written down yet
				}
				if rep, err := again(w.engine()); err != nil || rep.Phase != Aborted {
					t.Fatalf("step %d: %v, %s", step, err, rep.Phase)
				}
				w.unchanged(old, step)
			}
		}
	}
}

// The journal is lost with the process, at every step: the slots of custody tell how far it was.
func TestJournalLost(t *testing.T) {
	whole := newWorld(t)
	whole.rotated(Options{})
	for step := 1; step <= whole.step; step++ {
		w := newWorld(t)
		old := w.key()
		w.breaks = func(n int, _ string) *breakage {
			if n != step {
				return nil
			}
			return &breakage{err: errDead, dies: true, late: true}
		}
		if _, err := w.engine().Rotate(t.Context(), Options{}); err == nil {
			continue
		}
		w.breaks = nil
		os.Remove(filepath.Join(w.dir, "state", "rotation.json"))
		os.Remove(filepath.Join(w.dir, "state", "rotations.jsonl"))
		if _, err := w.engine().Rotate(t.Context(), Options{}); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if err := w.clean(old, all...); err != nil && !strings.Contains(err.Error(), "the record") {
			t.Errorf("step %d: %v", step, err)
		}
	}
}

// Custody was interrupted inside of its promotion.
func TestPromotionHalfDone(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"the old key is copied": func(dir string) error {
			return os.Link(filepath.Join(dir, "id"), filepath.Join(dir, "id.previous"))
		},
		"the new key is moved": func(dir string) error {
			return errors.Join(os.Link(filepath.Join(dir, "id"), filepath.Join(dir, "id.previous")),
				os.Rename(filepath.Join(dir, "id.next"), filepath.Join(dir, "id")))
		},
	} {
		for _, lost := range []bool{false, true} {
			w := newWorld(t)
			old := w.key()
			w.breaks = func(_ int, what string) *breakage {
				if what == "promote" {
					return &breakage{err: errDead, dies: true}
				}
				return nil
			}
			if _, err := w.engine().Rotate(t.Context(), Options{}); !errors.Is(err, errDead) {
				t.Fatal(err)
			}
			if err := change(w.dir); err != nil {
				t.Fatal(err)
			}
			if err := w.safe(all, all); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			w.breaks = nil
			if lost {
				os.Remove(filepath.Join(w.dir, "state", "rotation.json"))
			}
			rep, err := w.engine().Abort(t.Context())
			var inUse *InUseError
			switch {
			case same(w.key(), old) && (err != nil || rep.Phase != Aborted):
				t.Errorf("%s: abort: %v", name, err)
			case same(w.key(), old):
				w.unchanged(old, 0)
				os.Remove(filepath.Join(w.dir, "state", "rotations.jsonl"))
			case !errors.As(err, &inUse):
				t.Errorf("%s: abort: %v", name, err)
			}
			w.rotated(Options{})
			if err := w.clean(old, all...); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// A copy that is left over is in nobody's way.
	w := newWorld(t)
	old := w.key()
	if err := os.Link(filepath.Join(w.dir, "id"), filepath.Join(w.dir, "id.previous")); err != nil {
		t.Fatal(err)
	}
	w.rotated(Options{})
	if err := w.clean(old, all...); err != nil {
		t.Error(err)
	}
}

// An instance that has lost the new key between two runs is found out before the swap.
func TestResumedBeforeTheSwap(t *testing.T) {
	w := newWorld(t)
	old := w.key()
	w.breaks = func(_ int, what string) *breakage {
		if what == "promote" {
			return &breakage{err: errDead, dies: true}
		}
		return nil
	}
	if _, err := w.engine().Rotate(t.Context(), Options{}); !errors.Is(err, errDead) {
		t.Fatal(err)
	}
	w.breaks = nil
	w.boxes[13].ActualStatus = "stopped"
	w.paused(Options{}, 13)
	if !same(w.key(), old) {
		t.Error("the new key is in use")
	}
	w.boxes[13].ActualStatus = "running"
	w.rotated(Options{})
	if err := w.clean(old, all...); err != nil {
		t.Error(err)
	}
}

func TestStrayKeys(t *testing.T) {
	w := newWorld(t)
	for _, slot := range []custody.Store{w.store.Next(), w.store.Previous()} {
		if err := slot.Save(t.Context(), custody.Generate(), "", nil); err != nil {
			t.Fatal(err)
		}
	}
	var stray *StrayError
	if _, err := w.engine().Rotate(t.Context(), Options{}); !errors.As(err, &stray) || len(w.trace) != 0 {
		t.Errorf("%v after %v", err, w.trace)
	}
}

// What is wrong from the start is told before anything is changed.
func TestNothingChanged(t *testing.T) {
	for name, tt := range map[string]struct {
		set  func(*world)
		want any
	}{
		"no key": {func(w *world) { os.Remove(filepath.Join(w.dir, "id")) }, new(*custody.MissingError)},
		"another public key": {func(w *world) {
			key, _ := newKey(w.t, "")
			if err := custody.WritePublic(w.publicPath(), key, ""); err != nil {
				w.t.Fatal(err)
			}
		}, new(*PairError)},
		"no permission for the account": {func(w *world) {
			w.breaks = func(_ int, what string) *breakage {
				if what == "account keys" {
					return &breakage{err: &vast.ForbiddenError{Scope: "user_read"}}
				}
				return nil
			}
		}, new(*vast.ForbiddenError)},
		"API down": {func(w *world) {
			w.breaks = func(int, string) *breakage { return &breakage{err: &vast.UnavailableError{}} }
		}, new(*vast.UnavailableError)},
	} {
		w := newWorld(t)
		tt.set(w)
		_, err := w.engine().Rotate(t.Context(), Options{})
		if !errors.As(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		for _, s := range w.trace {
			if s != "list" && s != "account keys" {
				t.Errorf("%s: %v", name, w.trace)
			}
		}
		if _, err := w.store.Next().Public(t.Context()); err == nil {
			t.Errorf("%s: there is a new key", name)
		}
	}
	w := newWorld(t)
	w.protect()
	e := w.engine()
	e.cfg.Passphrase = func() ([]byte, error) { return []byte("wrong"), nil }
	if _, err := e.Rotate(t.Context(), Options{}); !errors.Is(err, custody.ErrPassphrase) {
		t.Error(err)
	}
	e.cfg.Passphrase = nil
	var needs *custody.PassphraseError
	if _, err := e.Rotate(t.Context(), Options{}); !errors.As(err, &needs) {
		t.Error(err)
	}
	if slices.Contains(w.trace, "save") {
		t.Errorf("after %v", w.trace)
	}
}

func TestOneAtATime(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	if err := atomicfile.EnsureDir(e.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	unlock, err := atomicfile.Lock(t.Context(), filepath.Join(e.cfg.Dir, "rotation.lock"))
	if err != nil {
		t.Fatal(err)
	}
	var busy *BusyError
	if _, err := e.Rotate(t.Context(), Options{}); !errors.As(err, &busy) {
		t.Error(err)
	}
	if _, err := e.Abort(t.Context()); !errors.As(err, &busy) {
		t.Error(err)
	}
	unlock()
	w.rotated(Options{})
	// And the next one is a rotation of its own.
	first := w.key()
	w.rotated(Options{})
	if err := w.clean(first, all...); err != nil && !strings.Contains(err.Error(), "the record") {
		t.Error(err)
	}
	data, err := os.ReadFile(e.recordPath())
	if err != nil || strings.Count(string(data), "\n") != 2 {
		t.Errorf("record %q, %v", data, err)
	}
}

// The plan tells what there is to do, and nothing is done.
func TestPlan(t *testing.T) {
	w := newWorld(t)
	w.boxes[12].pinned = false
	w.rent(15, "no ssh").ImageRuntype = "args"
	rep, err := w.engine().Plan(t.Context())
	if err != nil || rep.Phase != None || rep.New != "" || rep.Account != AccountOld || len(rep.Instances) != 3 ||
		rep.Old != ssh.FingerprintSHA256(w.key()) || !strings.Contains(rep.entry(12).Problem, "vast-ssh 12") {
		t.Errorf("%+v, %v", rep, err)
	}
	w.paused(Options{}, 12)
	w.trace = nil
	delete(w.boxes, 13)
	rep, err = w.engine().Plan(t.Context())
	if err != nil || rep.Phase != Attaching || rep.Account != AccountBoth || rep.entry(13).Stage != Gone ||
		rep.entry(11).Stage != Verified || rep.entry(12).Problem == "" {
		t.Errorf("%+v, %v", rep, err)
	}
	if !slices.Equal(w.trace, []string{"list", "account keys"}) {
		t.Errorf("the plan did %v", w.trace)
	}
}
