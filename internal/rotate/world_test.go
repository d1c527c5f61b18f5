package rotate

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/custody"
	"vast-ssh/internal/vast"
)

// TestMain keeps the files of the tests in memory where it can: there are tens of thousands, and each is synced.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("/dev/shm", "rotate")
	if err == nil {
		os.Setenv("TMPDIR", dir)
	}
	code := m.Run()
	if err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// world is an account with instances, the user's files, and a clock, all without waiting. Each thing that the engine does to
// it is a step, at which it can break.
type world struct {
	t     *testing.T
	dir   string
	store custody.Store

	mu      sync.Mutex // protects the following
	now     time.Time
	boxes   map[uint64]*box
	account []vast.SSHKey
	lastID  uint64
	events  []Event

	step  int
	trace []string
	// breaks is asked at each step what goes wrong there.
	breaks func(step int, what string) *breakage
	dead   bool
	// delay is how long a key takes to an instance, or off it.
	delay time.Duration
	// bornListed lists the account keys of an instance's birth as its own.
	bornListed bool
	// swapped is what Config.Swapped does.
	swapped func() error
}

// breakage is what goes wrong at a step.
type breakage struct {
	err  error
	late bool // after the effect
	dies bool // and nothing works from here on
}

// box is an instance.
type box struct {
	vast.Instance
	keys   []vast.SSHKey
	lets   map[string]time.Time // by blob: from when on it lets the key in
	until  map[string]time.Time // by blob: from when on it does no longer
	wrong  error                // of every login, such as a wrong host key
	pinned bool
	// deaf ignores keys that are attached, and keeps those that are detached.
	deaf, keeps bool
	// forgets drops the new key when the old one is detached, as a broken host would.
	forgets bool
}

var errDead = errors.New("the process was killed")

func newKey(t testing.TB, comment string) (ssh.PublicKey, string) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + comment
}

// newWorld has a user with a key in the account, and three instances: one with the key attached to it, one that was born with
// the account's key, and one with both.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := custody.Open("file", filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, store: store, now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), boxes: make(map[uint64]*box),
		lastID: 100}
	key := custody.Generate()
	if err := store.Save(t.Context(), key, "", nil); err != nil {
		t.Fatal(err)
	}
	public, err := store.Public(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := custody.WritePublic(w.publicPath(), public, ""); err != nil {
		t.Fatal(err)
	}
	// A key of somebody else with the same comment must never be touched.
	_, foreign := newKey(t, custody.DefaultComment)
	_, other := newKey(t, "laptop")
	w.account = []vast.SSHKey{{ID: 1, PublicKey: foreign}, {ID: 2, PublicKey: line(public)}, {ID: 3, PublicKey: other}}
	w.rent(11, "train")
	w.rent(12, "")
	w.rent(13, "infer")
	w.boxes[11].keys = nil
	w.boxes[11].lets = make(map[string]time.Time)
	for _, k := range []string{foreign, line(public)} {
		if _, err := w.AttachKey(t.Context(), 11, k); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.AttachKey(t.Context(), 13, line(public)); err != nil {
		t.Fatal(err)
	}
	w.step, w.trace = 0, nil
	return w
}

func (w *world) publicPath() string { return filepath.Join(w.dir, "id.pub") }

// rent adds an instance, which lets the account's keys in.
func (w *world) rent(id uint64, label string) *box {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := &box{
		Instance: vast.Instance{ID: id, Label: label, ActualStatus: "running", IntendedStatus: "running",
			ImageRuntype: "ssh_direc ssh_proxy", SSHHost: "ssh1.vast.ai", SSHPort: 1000},
		lets: make(map[string]time.Time), until: make(map[string]time.Time), pinned: true,
	}
	for _, k := range w.account {
		b.lets[blob(k.PublicKey)] = w.now
		if w.bornListed {
			w.lastID++
			b.keys = append(b.keys, vast.SSHKey{ID: w.lastID, PublicKey: k.PublicKey})
		}
	}
	w.boxes[id] = b
	return b
}

func blob(line string) string { return strings.Fields(line)[1] }

func blobOf(key ssh.PublicKey) string { return blob(string(ssh.MarshalAuthorizedKey(key))) }

// admits reports whether the box lets a key in now. mu is held.
func (w *world) admits(b *box, blob string) bool {
	from, ok := b.lets[blob]
	if !ok || w.now.Before(from) {
		return false
	}
	until, ends := b.until[blob]
	return !ends || w.now.Before(until)
}

// does counts a step and runs effect unless the step breaks before it. mu is held.
func (w *world) does(what string, effect func() error) error {
	if w.dead {
		return errDead
	}
	w.step++
	w.trace = append(w.trace, what)
	var b *breakage
	if w.breaks != nil {
		b = w.breaks(w.step, what)
	}
	if b != nil && b.dies {
		w.dead = true
	}
	if b != nil && !b.late {
		return b.err
	}
	if err := effect(); err != nil && b == nil {
		return err
	}
	if b != nil {
		return b.err
	}
	return nil
}

func (w *world) do(what string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.does(what, effect)
}

func (w *world) Instances(context.Context) (list []vast.Instance, err error) {
	err = w.do("list", func() error {
		for _, b := range w.boxes {
			list = append(list, b.Instance)
		}
		slices.SortFunc(list, func(a, b vast.Instance) int { return int(a.ID) - int(b.ID) })
		return nil
	})
	return list, err
}

func (w *world) Instance(_ context.Context, id uint64) (in vast.Instance, err error) {
	err = w.do("show", func() error {
		b := w.boxes[id]
		if b == nil {
			return &vast.NotFoundError{ID: id}
		}
		in = b.Instance
		return nil
	})
	return in, err
}

func (w *world) InstanceKeys(_ context.Context, id uint64) (keys []vast.SSHKey, err error) {
	err = w.do("keys", func() error {
		b := w.boxes[id]
		if b == nil {
			return &vast.NotFoundError{ID: id}
		}
		keys = slices.Clone(b.keys)
		return nil
	})
	return keys, err
}

func (w *world) AttachKey(_ context.Context, id uint64, key string) (already bool, err error) {
	err = w.do("attach", func() error {
		b := w.boxes[id]
		if b == nil {
			return &vast.NotFoundError{ID: id}
		}
		if slices.ContainsFunc(b.keys, func(k vast.SSHKey) bool { return blob(k.PublicKey) == blob(key) }) {
			already = true
			return nil
		}
		w.lastID++
		b.keys = append(b.keys, vast.SSHKey{ID: w.lastID, PublicKey: key})
		if b.deaf || w.admits(b, blob(key)) {
			return nil
		}
		delete(b.until, blob(key))
		b.lets[blob(key)] = w.now.Add(w.delay)
		return nil
	})
	return already, err
}

func (w *world) DetachKey(_ context.Context, id, keyID uint64) error {
	return w.do("detach", func() error {
		b := w.boxes[id]
		if b == nil {
			return &vast.NotFoundError{ID: id}
		}
		i := slices.IndexFunc(b.keys, func(k vast.SSHKey) bool { return k.ID == keyID })
		if i < 0 {
			return &vast.APIError{Endpoint: "DELETE", Status: 404, Code: "no_such_ssh_key"}
		}
		gone := blob(b.keys[i].PublicKey)
		b.keys = slices.Delete(b.keys, i, i+1)
		if !b.keeps {
			b.until[gone] = w.now.Add(w.delay)
		}
		if b.forgets {
			for k := range b.lets {
				b.until[k] = w.now
			}
		}
		return nil
	})
}

func (w *world) AccountKeys(context.Context) (keys []vast.SSHKey, err error) {
	err = w.do("account keys", func() error {
		keys = slices.Clone(w.account)
		return nil
	})
	return keys, err
}

func (w *world) AddAccountKey(_ context.Context, key string) (already bool, err error) {
	err = w.do("account add", func() error {
		if slices.ContainsFunc(w.account, func(k vast.SSHKey) bool { return blob(k.PublicKey) == blob(key) }) {
			already = true
			return nil
		}
		w.lastID++
		w.account = append(w.account, vast.SSHKey{ID: w.lastID, PublicKey: key})
		return nil
	})
	return already, err
}

func (w *world) DeleteAccountKey(_ context.Context, id uint64) error {
	return w.do("account delete", func() error {
		i := slices.IndexFunc(w.account, func(k vast.SSHKey) bool { return k.ID == id })
		if i < 0 {
			return &vast.APIError{Endpoint: "DELETE", Status: 400, Code: "no_ssh_key"}
		}
		w.account = slices.Delete(w.account, i, i+1)
		return nil
	})
}

func (w *world) Ready(in vast.Instance) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch b := w.boxes[in.ID]; {
	case in.ActualStatus != "running":
		return errors.New("it is not running")
	case b != nil && !b.pinned:
		return &UnpinnedError{in.ID}
	}
	return nil
}

func (w *world) login(what string, id uint64, key ssh.PublicKey) (admitted bool, err error) {
	err = w.do(what, func() error {
		b := w.boxes[id]
		if b == nil {
			return errors.New("nobody answers")
		}
		if b.wrong != nil {
			return b.wrong
		}
		admitted = w.admits(b, blobOf(key))
		return nil
	})
	return admitted, err
}

func (w *world) By(_ context.Context, in vast.Instance, key ssh.Signer) error {
	if _, err := key.Sign(rand.Reader, []byte("login")); err != nil {
		return err
	}
	admitted, err := w.login("login", in.ID, key.PublicKey())
	if err == nil && !admitted {
		return &RefusedError{in.ID, "new"}
	}
	return err
}

// served is the key that the agent uses: the one that the public key file names, from the current slot or the previous one.
func (w *world) served() (ssh.PublicKey, error) {
	public, err := custody.ReadPublic(w.publicPath())
	if err != nil {
		return nil, err
	}
	for _, slot := range []custody.Store{w.store, w.store.Previous()} {
		if key, err := slot.Public(w.t.Context()); err == nil && same(key, public) {
			return public, nil
		}
	}
	return nil, errors.New("the agent has not the key of the public key file")
}

func (w *world) ByAgent(_ context.Context, in vast.Instance) error {
	key, err := w.served()
	if err != nil {
		return &fatalError{err}
	}
	admitted, err := w.login("agent", in.ID, key)
	if err == nil && !admitted {
		return &RefusedError{in.ID, "agent"}
	}
	return err
}

func (w *world) Accepts(_ context.Context, in vast.Instance, key ssh.PublicKey) (bool, error) {
	return w.login("accepts", in.ID, key)
}

// breakable is custody with steps.
type breakable struct {
	custody.Store
	w *world
}

func (b breakable) Next() custody.Store     { return breakable{b.Store.Next(), b.w} }
func (b breakable) Previous() custody.Store { return breakable{b.Store.Previous(), b.w} }

func (b breakable) Save(ctx context.Context, key ed25519.PrivateKey, comment string, passphrase []byte) error {
	return b.w.do("save", func() error { return b.Store.Save(ctx, key, comment, passphrase) })
}

func (b breakable) Promote(ctx context.Context, public ssh.PublicKey) error {
	return b.w.do("promote", func() error { return b.Store.Promote(ctx, public) })
}

func (b breakable) Remove(ctx context.Context) error {
	return b.w.do("remove", func() error { return b.Store.Remove(ctx) })
}

// secret is the passphrase of the user who has one.
func secret() ([]byte, error) { return []byte("open sesame"), nil }

// engine is what a new process makes.
func (w *world) engine() *Engine {
	w.mu.Lock()
	w.dead, w.events = false, nil
	w.mu.Unlock()
	e := New(Config{
		Dir: filepath.Join(w.dir, "state"), PublicKey: w.publicPath(), API: w, Store: breakable{w.store, w}, Logins: w,
		Passphrase: secret,
		Swapped: func(context.Context) error {
			if w.swapped != nil {
				return w.swapped()
			}
			return nil
		},
		Progress: func(ev Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, ev)
		},
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now
		},
		Pause: func(ctx context.Context, d time.Duration) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.now = w.now.Add(d)
			return ctx.Err()
		},
	})
	// Whole as the real ones are, and without waiting for the disk.
	e.files.write = func(path string, data []byte) error {
		what := filepath.Base(path)
		return w.do(what, func() error {
			if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
				return err
			}
			return os.Rename(path+".tmp", path)
		})
	}
	write := e.files.writePublic
	e.files.writePublic = func(path string, key ssh.PublicKey, comment string) error {
		return w.do("public key", func() error { return write(path, key, comment) })
	}
	return e
}

// held are the keys that custody holds.
func (w *world) held() []ssh.PublicKey {
	w.t.Helper()
	var keys []ssh.PublicKey
	for _, slot := range []custody.Store{w.store, w.store.Next(), w.store.Previous()} {
		key, err := slot.Public(w.t.Context())
		var missing *custody.MissingError
		if errors.As(err, &missing) {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

// safe checks what must hold whenever the process ends: each instance of ids lets in a key that custody holds, and the key
// that the agent serves is let in by all of working.
func (w *world) safe(ids, working []uint64) error {
	held := w.held()
	served, err := w.served()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		b := w.boxes[id]
		if b != nil && !slices.ContainsFunc(held, func(k ssh.PublicKey) bool { return w.admits(b, blobOf(k)) }) {
			return fmt.Errorf("instance %d lets in no key that custody holds", id)
		}
	}
	for _, id := range working {
		if b := w.boxes[id]; b != nil && !w.admits(b, blobOf(served)) {
			return fmt.Errorf("instance %d does not let in the key that the agent serves", id)
		}
	}
	return nil
}

// clean checks the end of a rotation from old on the instances ids.
func (w *world) clean(old ssh.PublicKey, ids ...uint64) error {
	held := w.held()
	if len(held) != 1 || same(held[0], old) {
		return fmt.Errorf("custody holds %d keys", len(held))
	}
	served, err := w.served()
	if err != nil {
		return err
	}
	if !same(served, held[0]) {
		return errors.New("the agent serves another key")
	}
	if _, err := os.Stat(filepath.Join(w.dir, "state", "rotation.json")); err == nil {
		return errors.New("the journal is still there")
	}
	records, err := os.ReadFile(filepath.Join(w.dir, "state", "rotations.jsonl"))
	if err != nil {
		return err
	}
	for _, want := range []string{ssh.FingerprintSHA256(old), ssh.FingerprintSHA256(served), `"phase":"done"`} {
		if strings.Count(string(records), want) != 1 {
			return fmt.Errorf("the record has %q not once:\n%s", want, records)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		b := w.boxes[id]
		switch {
		case b == nil:
			return fmt.Errorf("no instance %d", id)
		case !w.admits(b, blobOf(served)):
			return fmt.Errorf("instance %d does not let the new key in", id)
		case w.admits(b, blobOf(old)):
			return fmt.Errorf("instance %d lets the old key in", id)
		}
		if err := listed(b.keys, served, old); err != nil {
			return fmt.Errorf("instance %d: %w", id, err)
		}
	}
	if len(w.account) > 2 { // else the key was not there
		if err := listed(w.account, served, old); err != nil {
			return fmt.Errorf("account: %w", err)
		}
	}
	return w.foreign()
}

func listed(keys []vast.SSHKey, served, old ssh.PublicKey) error {
	n := 0
	for _, k := range keys {
		switch blob(k.PublicKey) {
		case blobOf(old):
			return errors.New("the old key is listed")
		case blobOf(served):
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("the new key is listed %d times", n)
	}
	return nil
}

// foreign checks that the keys of others are where they were. mu is held.
func (w *world) foreign() error {
	if w.account[0].ID != 1 || !slices.ContainsFunc(w.account, func(k vast.SSHKey) bool { return k.ID == 3 }) {
		return errors.New("the account has lost somebody else's key")
	}
	b := w.boxes[11]
	if b != nil && (blob(b.keys[0].PublicKey) != blob(w.account[0].PublicKey) || !w.admits(b, blob(w.account[0].PublicKey))) {
		return errors.New("instance 11 has lost somebody else's key")
	}
	return nil
}

// key is the current key.
func (w *world) key() ssh.PublicKey {
	w.t.Helper()
	key, err := w.store.Public(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}
