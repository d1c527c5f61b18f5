package known

import (
	"bufio"
	"bytes"
	"context"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
)

// newFile returns a File in a directory of its own that does not exist yet.
func newFile(t testing.TB) *File {
	return Open(filepath.Join(t.TempDir(), "vast-ssh", "known_hosts"))
}

// put gives f the content data without any check.
func put(t testing.TB, f *File, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func content(t testing.TB, f *File) string {
	t.Helper()
	data, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCheck(t *testing.T) {
	f := newFile(t)
	a, b, c := newKey(t), newECDSA(t, elliptic.P256()), newKey(t)
	if err := f.Replace(t.Context(), 1, []Pin{tofu(1, a), tofu(1, b)}); err != nil {
		t.Fatal(err)
	}
	if err := f.Replace(t.Context(), 2, []Pin{tofu(2, c)}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []ssh.PublicKey{a, b} {
		if err := f.Check(1, key); err != nil {
			t.Errorf("pinned key: %v", err)
		}
	}
	for _, tt := range []struct {
		name string
		id   uint64
		got  ssh.PublicKey
		want []Pin
	}{
		{"another key of a pinned type", 1, c, []Pin{tofu(1, a), tofu(1, b)}},
		{"a type that is not pinned", 2, b, []Pin{tofu(2, c)}},
		{"a type that cannot be pinned", 2, &ssh.Certificate{Key: c, SignatureKey: c, Signature: &ssh.Signature{}},
			[]Pin{tofu(2, c)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mismatch *MismatchError
			if err := f.Check(tt.id, tt.got); !errors.As(err, &mismatch) {
				t.Fatalf("err = %v, want a *MismatchError", err)
			}
			if want := (&MismatchError{tt.id, tt.got, tt.want}); !reflect.DeepEqual(mismatch, want) {
				t.Errorf("got %+v, want %+v", mismatch, want)
			}
		})
	}
	var unknown *UnknownError
	if err := f.Check(3, a); !errors.As(err, &unknown) || unknown.Instance != 3 || !sameKey(unknown.Key, a) {
		t.Errorf("err = %v, want an *UnknownError", err)
	}
}

func TestMissingFileHoldsNoPins(t *testing.T) {
	f := newFile(t)
	if pins, err := f.Pins(); err != nil || len(pins) != 0 {
		t.Errorf("Pins = %v, %v", pins, err)
	}
	if pins, err := f.Of(1); err != nil || len(pins) != 0 {
		t.Errorf("Of = %v, %v", pins, err)
	}
	if pins, err := f.Remove(t.Context(), 1); err != nil || len(pins) != 0 {
		t.Errorf("Remove = %v, %v", pins, err)
	}
	if _, err := os.Lstat(filepath.Dir(f.path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading made the directory: %v", err)
	}
}

func TestReturnedPinsAreCopies(t *testing.T) {
	f := newFile(t)
	f.settle = -time.Hour
	if err := f.Replace(t.Context(), 1, []Pin{tofu(1, newKey(t))}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		all, err := f.Pins()
		if err != nil {
			t.Fatal(err)
		}
		of, err := f.Of(1)
		if err != nil {
			t.Fatal(err)
		}
		if all[0].Instance != 1 || of[0].Instance != 1 {
			t.Fatal("a caller changed what the file holds")
		}
		all[0].Instance, of[0].Instance = 2, 2
	}
}

// every runs each method of f and hands its error to check.
func every(t *testing.T, f *File, check func(method string, err error)) {
	key := newKey(t)
	_, err := f.Pins()
	check("Pins", err)
	_, err = f.Of(1)
	check("Of", err)
	check("Check", f.Check(1, key))
	check("Replace", f.Replace(t.Context(), 1, []Pin{tofu(1, key)}))
	_, err = f.Remove(t.Context(), 1)
	check("Remove", err)
	_, err = f.Introduce(t.Context(), 1, func(context.Context) ([]Pin, error) {
		t.Error("Introduce meets an instance although it cannot read the pins")
		return []Pin{tofu(1, key)}, nil
	})
	check("Introduce", err)
}

func TestCorruptFileIsAnErrorAndNeverRewritten(t *testing.T) {
	pin := tofu(1, newKey(t)).line()
	for name, data := range map[string]string{
		"not the wanted instance": pin + strings.Replace(goodLine, "AAAAC3", "AAAAC4", 1),
		"wanted instance":         strings.Replace(pin, "via=tofu", "via=", 1),
		"cut off":                 strings.TrimSuffix(pin, "\n"),
		"too large":               strings.Repeat("#\n", maxFile/2) + pin,
		"other content":           "{}\n",
		"zeros after a crash":     strings.Repeat("\x00", len(pin)),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t)
			put(t, f, data)
			every(t, f, func(method string, err error) {
				var bad *FileError
				if !errors.As(err, &bad) || bad.Path != f.path || bad.Reason == "" || bad.Hint() == "" {
					t.Errorf("%s: err = %v, want a *FileError", method, err)
				}
			})
			if content(t, f) != data {
				t.Error("the file was changed")
			}
		})
	}
}

func TestUntrustedFile(t *testing.T) {
	line := tofu(1, newKey(t)).line()
	for _, tt := range []struct {
		name string
		prep func(t *testing.T, f *File)
		hint string
	}{
		{"group may write", func(t *testing.T, f *File) { chmod(t, f.path, 0o620) }, "chmod 600 '"},
		{"others may write", func(t *testing.T, f *File) { chmod(t, f.path, 0o602) }, "chmod 600 '"},
		{"open directory", func(t *testing.T, f *File) { chmod(t, filepath.Dir(f.path), 0o770) }, "chmod 700 '"},
		{"symbolic link", func(t *testing.T, f *File) {
			other := f.path + ".other"
			if err := os.Rename(f.path, other); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(other, f.path); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"FIFO", func(t *testing.T, f *File) {
			if err := os.Remove(f.path); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(f.path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"directory in its place", func(t *testing.T, f *File) {
			if err := os.Remove(f.path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(f.path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"owner", func(t *testing.T, f *File) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			if err := os.Chown(f.path, 12345, -1); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"unreadable", func(t *testing.T, f *File) {
			if os.Geteuid() == 0 {
				t.Skip("root reads every file")
			}
			chmod(t, f.path, 0)
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFile(t)
			put(t, f, line)
			tt.prep(t, f)
			before, err := os.Lstat(f.path)
			if err != nil {
				t.Fatal(err)
			}
			every(t, f, func(method string, err error) {
				var bad *FileError
				if !errors.As(err, &bad) || bad.Path != f.path {
					t.Fatalf("%s: err = %v, want a *FileError", method, err)
				}
				if !strings.HasPrefix(bad.Hint(), tt.hint) {
					t.Errorf("%s: hint %q, want %q…", method, bad.Hint(), tt.hint)
				}
			})
			after, err := os.Lstat(f.path)
			if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() {
				t.Errorf("the file was replaced: %v, %v", after, err)
			}
		})
	}
	t.Run("others may read", func(t *testing.T) {
		f := newFile(t)
		put(t, f, line)
		chmod(t, f.path, 0o644)
		if pins, err := f.Of(1); err != nil || len(pins) != 1 {
			t.Errorf("Of = %v, %v", pins, err)
		}
	})
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestWritesKeepEveryOtherByte(t *testing.T) {
	ctx := t.Context()
	a, b, c := newKey(t), newECDSA(t, elliptic.P384()), newRSA(t)
	one := "vast-1\t" + a.Type() + "  " + b64(a) + " at=2026-11-23T20:00:00Z\tvia=two-path \n"
	head, two, tail := "# ümlaut\n\n", tofu(2, b).line(), "  # end\n"
	f := newFile(t)
	put(t, f, head+one+two+tofu(1, c).line()+tail)

	if err := f.Replace(ctx, 1, []Pin{tofu(1, b), tofu(1, a)}); err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, f), head+tofu(1, b).line()+tofu(1, a).line()+two+tail; got != want {
		t.Errorf("after Replace:\n%s\nwant:\n%s", got, want)
	}
	if err := f.Replace(ctx, 3, []Pin{tofu(3, c)}); err != nil {
		t.Fatal(err)
	}
	removed, err := f.Remove(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Pin{tofu(1, b), tofu(1, a)}; !reflect.DeepEqual(removed, want) {
		t.Errorf("Remove = %v, want %v", removed, want)
	}
	if got, want := content(t, f), head+two+tail+tofu(3, c).line(); got != want {
		t.Errorf("after Remove:\n%s\nwant:\n%s", got, want)
	}
	before, err := os.Stat(f.path)
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := f.Remove(ctx, 1); err != nil || removed != nil {
		t.Errorf("second Remove = %v, %v", removed, err)
	}
	if err := f.Replace(ctx, 3, []Pin{tofu(3, c)}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(f.path); err != nil || !os.SameFile(before, after) {
		t.Errorf("a change of nothing wrote the file: %v", err)
	}
	if before.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o", before.Mode().Perm())
	}
}

func TestInvalidPinsAreNotWritten(t *testing.T) {
	f := newFile(t)
	if err := f.Replace(t.Context(), 1, []Pin{tofu(2, newKey(t))}); err == nil {
		t.Error("Replace wrote a pin of another instance")
	}
	bad := func(context.Context) ([]Pin, error) { return nil, nil }
	if _, err := f.Introduce(t.Context(), 1, bad); err == nil {
		t.Error("Introduce took no pins for an answer")
	}
	if _, err := os.Stat(f.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file exists: %v", err)
	}
}

func TestFileDoesNotOutgrowItsLimit(t *testing.T) {
	f := newFile(t)
	full := strings.Repeat("#\n", maxFile/2)
	put(t, f, full)
	if err := f.Replace(t.Context(), 1, []Pin{tofu(1, newKey(t))}); err == nil {
		t.Error("wrote a file too large to be read again")
	}
	if content(t, f) != full {
		t.Error("the file was changed")
	}
}

func TestFailedWriteKeepsOldFile(t *testing.T) {
	if !testenv.Alone(t) {
		return
	}
	f := newFile(t)
	old := tofu(1, newKey(t))
	if err := f.Replace(t.Context(), 1, []Pin{old}); err != nil {
		t.Fatal(err)
	}
	data := content(t, f)
	key := newKey(t)
	pins := func(id uint64) []Pin { return []Pin{tofu(id, key)} }

	// A file-size limit is a full disk that any user can make.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	full := limit
	full.Cur = uint64(len(data))
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	_, introduceErr := f.Introduce(t.Context(), 2, func(context.Context) ([]Pin, error) { return pins(2), nil })
	replaceErr := f.Replace(t.Context(), 3, pins(3))
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if introduceErr == nil || replaceErr == nil {
		t.Errorf("Introduce: %v, Replace: %v; want errors", introduceErr, replaceErr)
	}
	if content(t, f) != data {
		t.Error("the file was changed")
	}
	var unknown *UnknownError
	if err := f.Check(2, key); !errors.As(err, &unknown) {
		t.Errorf("a key that could not be pinned: err = %v, want an *UnknownError", err)
	}
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name != "known_hosts" && !strings.HasSuffix(name, ".lock") {
			t.Errorf("%q remains", name)
		}
	}
}

func TestIntroduce(t *testing.T) {
	ctx := t.Context()
	a, b, c := newKey(t), newECDSA(t, elliptic.P256()), newKey(t)
	meet := func(pins ...Pin) func(context.Context) ([]Pin, error) {
		return func(context.Context) ([]Pin, error) { return pins, nil }
	}
	t.Run("first contact", func(t *testing.T) {
		f := newFile(t)
		met := tofu(1, a)
		met.At = met.At.Add(time.Millisecond).In(time.FixedZone("", 3600))
		got, err := f.Introduce(ctx, 1, meet(met, tofu(1, b)))
		if err != nil {
			t.Fatal(err)
		}
		if want := []Pin{tofu(1, a), tofu(1, b)}; !reflect.DeepEqual(got, want) {
			t.Errorf("Introduce = %v, want %v", got, want)
		}
		if pins, err := f.Pins(); err != nil || !reflect.DeepEqual(pins, got) {
			t.Errorf("Pins = %v, %v", pins, err)
		}
	})
	t.Run("known already", func(t *testing.T) {
		f := newFile(t)
		put(t, f, tofu(1, a).line())
		got, err := f.Introduce(ctx, 1, func(context.Context) ([]Pin, error) {
			t.Error("met a known instance")
			return nil, nil
		})
		if want := []Pin{tofu(1, a)}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Introduce = %v, %v, want %v", got, err, want)
		}
	})
	t.Run("meet fails", func(t *testing.T) {
		f := newFile(t)
		failure := errors.New("no route")
		_, err := f.Introduce(ctx, 1, func(context.Context) ([]Pin, error) { return []Pin{tofu(1, a)}, failure })
		if err != failure {
			t.Errorf("err = %v, want %v", err, failure)
		}
		if pins, err := f.Pins(); err != nil || len(pins) != 0 {
			t.Errorf("Pins = %v, %v", pins, err)
		}
		if _, err := f.Introduce(ctx, 1, meet(tofu(1, a))); err != nil {
			t.Errorf("the next one: %v", err)
		}
	})
	t.Run("others were pinned meanwhile", func(t *testing.T) {
		for _, tt := range []struct {
			name          string
			present, met  []Pin
			contradiction ssh.PublicKey
		}{
			{"the same", []Pin{tofu(1, a), tofu(1, b)}, []Pin{tofu(1, b), tofu(1, a)}, nil},
			{"more than were met", []Pin{tofu(1, a), tofu(1, b)}, []Pin{tofu(1, a)}, nil},
			{"fewer than were met", []Pin{tofu(1, a)}, []Pin{tofu(1, a), tofu(1, b)}, b},
			{"others", []Pin{tofu(1, c)}, []Pin{tofu(1, a)}, a},
		} {
			t.Run(tt.name, func(t *testing.T) {
				f := newFile(t)
				got, err := f.Introduce(ctx, 1, func(ctx context.Context) ([]Pin, error) {
					return tt.met, f.Replace(ctx, 1, tt.present)
				})
				if tt.contradiction == nil {
					if err != nil || !reflect.DeepEqual(got, tt.present) {
						t.Errorf("Introduce = %v, %v, want %v", got, err, tt.present)
					}
				} else {
					want := &MismatchError{1, tt.contradiction, tt.present}
					if !reflect.DeepEqual(err, error(want)) {
						t.Errorf("err = %v, want %v", err, want)
					}
				}
				if pins, err := f.Pins(); err != nil || !reflect.DeepEqual(pins, tt.present) {
					t.Errorf("Pins = %v, %v, want %v", pins, err, tt.present)
				}
			})
		}
	})
	t.Run("waits no longer than its context", func(t *testing.T) {
		f := newFile(t)
		short, cancel := context.WithCancel(ctx)
		_, err := f.Introduce(ctx, 1, func(context.Context) ([]Pin, error) {
			cancel()
			if _, err := f.Introduce(short, 1, meet(tofu(1, c))); !errors.Is(err, context.Canceled) {
				t.Errorf("err = %v, want canceled", err)
			}
			// Another instance is not held up.
			if _, err := f.Introduce(ctx, 2, meet(tofu(2, b))); err != nil {
				t.Error(err)
			}
			return []Pin{tofu(1, a)}, nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestIntroduceFromManyProcesses starts processes that introduce the same two instances at once, from many
// goroutines each, 200 in all: for each instance one meets and all return its pins.
func TestIntroduceFromManyProcesses(t *testing.T) {
	const processes, each = 8, 25
	if path := os.Getenv("KNOWN_TEST_INTRODUCE"); path != "" {
		introduceBoth(t, path, each)
		return
	}
	f := newFile(t)
	put(t, f, "# mine\n"+goodLine)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start, started, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmds := make([]*exec.Cmd, processes)
	outs := make([]bytes.Buffer, processes)
	for i := range cmds {
		cmds[i] = exec.CommandContext(t.Context(), exe, "-test.run=^TestIntroduceFromManyProcesses$", "-test.v")
		cmds[i].Env = append(os.Environ(), "KNOWN_TEST_INTRODUCE="+f.path)
		cmds[i].Stdin, cmds[i].Stdout, cmds[i].Stderr = start, &outs[i], &outs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	// The end of their standard input is the starting shot.
	start.Close()
	started.Close()
	met := make(map[string]int)
	saw := make(map[string][]string)
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("process %d: %v\n%s", i, err, outs[i].String())
		}
		lines := bufio.NewScanner(&outs[i])
		for lines.Scan() {
			var event, name, fp string
			if n, _ := fmt.Sscan(lines.Text(), &event, &name, &fp); n != 3 {
				continue
			}
			switch event {
			case "met":
				met[name]++
			case "got":
				saw[name] = append(saw[name], fp)
			}
		}
	}
	pins, err := f.Pins()
	if err != nil {
		t.Fatal(err)
	}
	if len(pins) != 3 || !strings.HasPrefix(content(t, f), "# mine\n"+goodLine) {
		t.Fatalf("the file holds:\n%s", content(t, f))
	}
	for _, p := range pins[1:] {
		name := Name(p.Instance)
		if met[name] != 1 {
			t.Errorf("%s was met %d times", name, met[name])
		}
		if len(saw[name]) != processes*each {
			t.Errorf("%d calls for %s returned, want %d", len(saw[name]), name, processes*each)
		}
		fp := ssh.FingerprintSHA256(p.Key)
		if slices.ContainsFunc(saw[name], func(s string) bool { return s != fp }) {
			t.Errorf("not every call for %s returned the pinned key", name)
		}
	}
}

// introduceBoth is the child of TestIntroduceFromManyProcesses.
func introduceBoth(t *testing.T, path string, each int) {
	f := Open(path)
	if _, err := os.Stdin.Read(make([]byte, 1)); err == nil {
		t.Fatal("standard input is not at its end")
	}
	var out sync.Mutex
	say := func(event string, id uint64, key ssh.PublicKey) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(event, Name(id), ssh.FingerprintSHA256(key))
	}
	var wg sync.WaitGroup
	for range each {
		wg.Go(func() {
			for _, id := range []uint64{1, 2} {
				pins, err := f.Introduce(t.Context(), id, func(context.Context) ([]Pin, error) {
					key := newKey(t)
					say("met", id, key)
					return []Pin{tofu(id, key)}, nil
				})
				if err != nil || len(pins) != 1 {
					t.Errorf("Introduce = %v, %v", pins, err)
					return
				}
				say("got", id, pins[0].Key)
			}
		})
	}
	wg.Wait()
}

func TestCacheSeesEveryChange(t *testing.T) {
	f := newFile(t)
	f.settle = -time.Hour // keep what was read however young the file is
	a, b := newKey(t), newKey(t)
	if err := f.Replace(t.Context(), 1, []Pin{tofu(1, a)}); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(1, a); err != nil {
		t.Fatal(err)
	}
	first := f.cache.Load()
	if err := f.Check(1, a); err != nil || f.cache.Load() != first {
		t.Fatalf("an unchanged file was read again: %v", err)
	}
	// Another process: same size, another inode.
	if err := Open(f.path).Replace(t.Context(), 1, []Pin{tofu(1, b)}); err != nil {
		t.Fatal(err)
	}
	var mismatch *MismatchError
	if err := f.Check(1, a); !errors.As(err, &mismatch) {
		t.Errorf("err = %v, want a *MismatchError", err)
	}
	if err := f.Check(1, b); err != nil {
		t.Error(err)
	}
	chmod(t, f.path, 0o666)
	var bad *FileError
	if err := f.Check(1, b); !errors.As(err, &bad) {
		t.Errorf("writable by others: err = %v, want a *FileError", err)
	}
	chmod(t, f.path, 0o600)
	if err := os.WriteFile(f.path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(1, b); !errors.As(err, &bad) {
		t.Errorf("corrupt: err = %v, want a *FileError", err)
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	var unknown *UnknownError
	if err := f.Check(1, b); !errors.As(err, &unknown) {
		t.Errorf("removed: err = %v, want an *UnknownError", err)
	}
}

// A file written a moment ago may be written again with the same size, inode and clock tick, so it is not kept.
func TestCacheDoesNotKeepAYoungFile(t *testing.T) {
	f := newFile(t)
	f.settle = time.Hour
	a, b := newKey(t), newKey(t)
	for range 100 {
		for _, key := range []ssh.PublicKey{a, b} {
			put(t, f, tofu(1, key).line())
			if err := f.Check(1, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if f.cache.Load() != nil {
		t.Error("a young file is kept")
	}
	if Open("x").settle < 2*time.Second {
		t.Error("a file is kept before the coarsest file system clock has ticked")
	}
}

// TestOpenSSHReadsTheSame compares with ssh-keygen, which shares its reader of known_hosts with ssh.
func TestOpenSSHReadsTheSame(t *testing.T) {
	keygen := testenv.NeedProgram(t, "ssh-keygen")
	f := newFile(t)
	want := map[uint64][]ssh.PublicKey{
		1: {newKey(t), newECDSA(t, elliptic.P256()), newECDSA(t, elliptic.P384()), newECDSA(t, elliptic.P521()),
			newRSA(t)},
		12:        {newKey(t)},
		1<<64 - 1: {newKey(t)},
	}
	put(t, f, "# a comment\n\n")
	for id, keys := range want {
		var pins []Pin
		for _, key := range keys {
			pins = append(pins, tofu(id, key))
		}
		if err := f.Replace(t.Context(), id, pins); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		out, err := exec.Command(keygen, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	listing := run("-l", "-f", f.path)
	if n := strings.Count(listing, "\n"); n != 7 {
		t.Errorf("ssh-keygen -l lists %d keys, want 7:\n%s", n, listing)
	}
	for id, keys := range want {
		found := run("-F", Name(id), "-l", "-f", f.path)
		if n := strings.Count(found, "SHA256:"); n != len(keys) {
			t.Errorf("ssh-keygen -F %s finds %d keys, want %d:\n%s", Name(id), n, len(keys), found)
		}
		for _, key := range keys {
			if fp := ssh.FingerprintSHA256(key); !strings.Contains(found, fp) || !strings.Contains(listing, fp) {
				t.Errorf("ssh-keygen does not find %s of %s", fp, Name(id))
			}
		}
	}
	if out, err := exec.Command(keygen, "-F", "vast-2", "-f", f.path).CombinedOutput(); err == nil {
		t.Errorf("ssh-keygen finds keys of vast-2:\n%s", out)
	}
}

func BenchmarkCheck(b *testing.B) {
	f := newFile(b)
	f.settle = -time.Hour
	var data strings.Builder
	var key ssh.PublicKey
	for id := range uint64(1000) {
		key = newKey(b)
		data.WriteString(tofu(id+1, key).line())
	}
	put(b, f, data.String())
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f.Check(1000, key); err != nil {
				b.Error(err)
			}
		}
	})
}
