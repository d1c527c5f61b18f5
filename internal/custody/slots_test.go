package custody

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zalando/go-keyring"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
)

// folder is a keyring in a directory, which outlives the process that uses it.
type folder string

func (f folder) get(_, user string) (string, error) {
	data, err := os.ReadFile(filepath.Join(string(f), user))
	if errors.Is(err, fs.ErrNotExist) {
		return "", keyring.ErrNotFound
	}
	return string(data), err
}

func (f folder) set(_, user, text string) error {
	return atomicfile.Write(filepath.Join(string(f), user), []byte(text))
}

func (f folder) del(_, user string) error {
	err := os.Remove(filepath.Join(string(f), user))
	if errors.Is(err, fs.ErrNotExist) {
		return keyring.ErrNotFound
	}
	return err
}

// kinds are stores in a directory, each of whose changes step is told of before and after.
var kinds = map[string]func(dir string, step func()) Store{
	"file": func(dir string, step func()) Store {
		around := func(f func(from, to string) error) func(from, to string) error {
			return func(from, to string) error {
				step()
				defer step()
				return f(from, to)
			}
		}
		s := newFile(filepath.Join(dir, "id_ed25519"))
		s.link, s.rename = around(s.link), around(s.rename)
		return s
	},
	"keyring": func(dir string, step func()) Store {
		f := folder(dir)
		return &keyringStore{
			lock: filepath.Join(dir, lockName), wait: time.Minute, get: f.get,
			set: func(service, user, text string) error {
				step()
				defer step()
				return f.set(service, user, text)
			},
			del: func(service, user string) error {
				step()
				defer step()
				return f.del(service, user)
			},
		}
	},
}

// eachKind runs test with a store of each kind in a directory of its own.
func eachKind(t *testing.T, test func(t *testing.T, kind, dir string, s Store)) {
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent") // the keyring is a folder
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			test(t, kind, dir, open(dir, func() {}))
		})
	}
}

func save(t *testing.T, s Store) ssh.PublicKey {
	t.Helper()
	key := Generate()
	if err := s.Save(t.Context(), key, "", nil); err != nil {
		t.Fatal(err)
	}
	return publicOf(key)
}

// holds fails the test unless the key in s is want, and can be loaded. A nil want is no key.
func holds(t *testing.T, what string, s Store, want ssh.PublicKey) {
	t.Helper()
	key, err := s.Load(t.Context(), nil)
	var none *MissingError
	switch {
	case want == nil && errors.As(err, &none):
	case want == nil:
		t.Errorf("the %s slot: err = %v, want a *MissingError", what, err)
	case err != nil:
		t.Errorf("the %s slot: %v", what, err)
	case !same(key.PublicKey(), want):
		t.Errorf("the %s slot has another key", what)
	}
	if err == nil {
		key.Destroy()
	}
}

func TestSlots(t *testing.T) {
	eachKind(t, func(t *testing.T, kind, dir string, s Store) {
		old := save(t, s)
		var exists *ExistsError
		coming := save(t, s.Next())
		if err := s.Next().Save(t.Context(), Generate(), "", nil); !errors.As(err, &exists) ||
			!strings.Contains(err.Error(), "id_ed25519.next") {
			t.Errorf("err = %v, want an *ExistsError of the next slot", err)
		}
		// From every slot the others are the same.
		holds(t, "next", s.Previous().Next().Next(), coming)
		for range 2 {
			if err := s.Next().Promote(t.Context(), coming); err != nil {
				t.Fatal(err)
			}
			holds(t, "current", s, coming)
			holds(t, "previous", s.Previous(), old)
			holds(t, "next", s.Next(), nil)
		}

		// Another previous key is in the way until it is removed.
		third := save(t, s.Next())
		if err := s.Promote(t.Context(), third); !errors.As(err, &exists) ||
			!strings.Contains(err.Error(), "id_ed25519.previous") {
			t.Errorf("err = %v, want an *ExistsError of the previous slot", err)
		}
		holds(t, "current", s, coming)
		holds(t, "previous", s.Previous(), old)
		holds(t, "next", s.Next(), third)
		for range 2 {
			if err := s.Previous().Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			holds(t, "previous", s.Previous(), nil)
		}
		if err := s.Promote(t.Context(), third); err != nil {
			t.Fatal(err)
		}
		holds(t, "current", s, third)
		holds(t, "previous", s.Previous(), coming)

		var refused *KeyError
		if err := s.Remove(t.Context()); !errors.As(err, &refused) {
			t.Errorf("err = %v, want a *KeyError", err)
		}
		holds(t, "current", s, third)
	})
}

func TestPromoteRefuses(t *testing.T) {
	eachKind(t, func(t *testing.T, kind, dir string, s Store) {
		stranger := publicOf(Generate())
		var none *MissingError
		if err := s.Promote(t.Context(), stranger); !errors.As(err, &none) || none.Hint() != "" {
			t.Errorf("nothing at all: err = %v, want a *MissingError without a hint", err)
		}
		old := save(t, s)
		if err := s.Promote(t.Context(), stranger); !errors.As(err, &none) {
			t.Errorf("no next key: err = %v, want a *MissingError", err)
		}
		coming := save(t, s.Next())
		var other *KeyError
		if err := s.Promote(t.Context(), stranger); !errors.As(err, &other) {
			t.Errorf("another next key: err = %v, want a *KeyError", err)
		}
		holds(t, "current", s, old)
		holds(t, "next", s.Next(), coming)
		holds(t, "previous", s.Previous(), nil)

		// A previous key that cannot be read might be any key.
		if err := os.WriteFile(filepath.Join(dir, "id_ed25519.previous"), []byte("?"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Promote(t.Context(), coming); !errors.As(err, &other) {
			t.Errorf("a damaged previous key: err = %v, want a *KeyError", err)
		}
		holds(t, "current", s, old)
		holds(t, "next", s.Next(), coming)

		// A key that is current already is no business of a next one that is another.
		if err := s.Promote(t.Context(), old); err != nil {
			t.Error(err)
		}
		holds(t, "next", s.Next(), coming)
	})
}

// TestPromoteWithoutCurrent has somebody delete the current key in the middle of a rotation.
func TestPromoteWithoutCurrent(t *testing.T) {
	eachKind(t, func(t *testing.T, kind, dir string, s Store) {
		before := save(t, s.Previous())
		coming := save(t, s.Next())
		if err := s.Promote(t.Context(), coming); err != nil {
			t.Fatal(err)
		}
		holds(t, "current", s, coming)
		holds(t, "previous", s.Previous(), before)
		holds(t, "next", s.Next(), nil)
	})
}

// TestPromoteEncrypted moves a key whose passphrase nobody gives, into the current slot and out of it.
func TestPromoteEncrypted(t *testing.T) {
	encrypted, text := encryptedKey()
	eachKind(t, func(t *testing.T, kind, dir string, s Store) {
		if err := os.WriteFile(filepath.Join(dir, "id_ed25519.next"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Promote(t.Context(), publicOf(encrypted)); err != nil {
			t.Fatal(err)
		}
		third := save(t, s.Next())
		if err := s.Promote(t.Context(), third); err != nil {
			t.Fatal(err)
		}
		holds(t, "current", s, third)
		if got, err := os.ReadFile(filepath.Join(dir, "id_ed25519.previous")); err != nil || !bytes.Equal(got, text) {
			t.Errorf("the previous key is not what the current one was: %v", err)
		}
	})
}

func TestSlotsHoldTheLock(t *testing.T) {
	eachKind(t, func(t *testing.T, kind, dir string, s Store) {
		coming := save(t, s.Next())
		unlock, err := atomicfile.Lock(t.Context(), filepath.Join(dir, lockName))
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		for what, change := range map[string]func(context.Context) error{
			"Save":    func(ctx context.Context) error { return s.Save(ctx, Generate(), "", nil) },
			"Promote": func(ctx context.Context) error { return s.Promote(ctx, coming) },
			"Remove":  s.Next().Remove,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if err := change(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s with the lock held: %v", what, err)
			}
			cancel()
		}
		holds(t, "next", s.Next(), coming)
		holds(t, "current", s, nil)
	})
}

// crashPlan is the argument of the child that dies.
type crashPlan struct {
	Kind, Dir string
	Save      bool   // or else Promote
	Key       []byte // of Save, or the public key of Promote
	At        int    // which step is the last
}

// crash does what its plan says and is killed on the way.
func crash(arg string) error {
	var plan crashPlan
	if err := json.Unmarshal([]byte(arg), &plan); err != nil {
		return err
	}
	steps := 0
	s := kinds[plan.Kind](plan.Dir, func() {
		if steps == plan.At {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		steps++
	})
	if plan.Save {
		return s.Save(context.Background(), plan.Key, "", nil)
	}
	public, err := ssh.ParsePublicKey(plan.Key)
	if err != nil {
		return err
	}
	return s.Promote(context.Background(), public)
}

// killedAt runs the plan, and reports false if there were fewer steps.
func (plan crashPlan) killedAt(t *testing.T, step int) bool {
	t.Helper()
	plan.At = step
	arg, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	out, err := child(t, "crash", string(arg)).CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("step %d: %v\n%s", step, err, out)
	}
	return true
}

// TestPromoteKilled kills a process in Promote before and after each of its changes.
func TestPromoteKilled(t *testing.T) {
	for kind, steps := range map[string]int{"file": 4, "keyring": 6} {
		for step := range steps + 1 {
			t.Run(fmt.Sprintf("%s/%d", kind, step), func(t *testing.T) {
				t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
				dir := filepath.Join(t.TempDir(), "keys")
				s := kinds[kind](dir, func() {})
				old, coming := save(t, s), save(t, s.Next())
				plan := crashPlan{Kind: kind, Dir: dir, Key: coming.Marshal()}
				if killed := plan.killedAt(t, step); killed != (step < steps) {
					t.Fatalf("killed: %v, with %d steps in all", killed, steps)
				}

				// There is a current key at every moment, and none of the two is lost.
				now, err := s.Public(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if same(now, coming) {
					holds(t, "previous", s.Previous(), old)
				} else {
					holds(t, "current", s, old)
					holds(t, "next", s.Next(), coming)
				}

				if err := s.Promote(t.Context(), coming); err != nil {
					t.Fatal(err)
				}
				holds(t, "current", s, coming)
				holds(t, "previous", s.Previous(), old)
				holds(t, "next", s.Next(), nil)
			})
		}
	}
}

// TestSaveKilled kills a process in Save, and then saves another key.
func TestSaveKilled(t *testing.T) {
	for step := range 3 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			s := kinds["file"](dir, func() {})
			first := Generate()
			plan := crashPlan{Kind: "file", Dir: dir, Save: true, Key: first}
			if killed := plan.killedAt(t, step); killed != (step < 2) {
				t.Fatalf("killed: %v", killed)
			}
			left, err := filepath.Glob(filepath.Join(dir, unfinished+"*"))
			if err != nil || (len(left) > 0) != (step < 2) {
				t.Fatalf("left behind: %q, %v", left, err)
			}
			second := Generate()
			err = s.Save(t.Context(), second, "", nil)
			var exists *ExistsError
			if step == 0 && err == nil {
				holds(t, "current", s, publicOf(second))
			} else if step > 0 && errors.As(err, &exists) {
				holds(t, "current", s, publicOf(first))
			} else {
				t.Errorf("the second Save: %v", err)
			}
			onlyFile(t, filepath.Join(dir, "id_ed25519"))
		})
	}
}

// TestSaveSweepsOnlyItsOwn has files beside the key that look alike.
func TestSaveSweepsOnlyItsOwn(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.base)
	if err := os.MkdirAll(filepath.Join(dir, unfinished+"dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, unfinished+"link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new-key-1", "id_ed25519.pub", unfinished + "1"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save(t, s)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	const want = ".key.lock .new-key-dir .new-key-link id_ed25519 id_ed25519.pub new-key-1"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("after Save: %s, want %s", got, want)
	}
}
