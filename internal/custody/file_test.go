package custody

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/testenv"
)

// newStore returns a file store in a directory of its own that does not exist yet.
func newStore(t *testing.T) *fileStore {
	t.Helper()
	s, err := Open("file", filepath.Join(t.TempDir(), "vast-ssh", "id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	return s.(*fileStore)
}

// put makes data the key file of s.
func put(t *testing.T, s *fileStore, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.base), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.base, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// signs fails the test unless signer signs as key.
func signs(t *testing.T, signer ssh.Signer, key ed25519.PrivateKey) {
	t.Helper()
	sig, err := signer.Sign(rand.Reader, []byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := publicOf(key).Verify([]byte("data"), sig); err != nil {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	for _, name := range []string{"file", "keyring"} {
		s, err := Open(name, "/x/id_ed25519")
		if err != nil {
			t.Fatal(err)
		}
		if s.Name() != name {
			t.Errorf("Open(%q).Name() = %q", name, s.Name())
		}
	}
	if _, err := Open("vault", "/x/id_ed25519"); err == nil {
		t.Error("opened a store that there is not")
	}
}

func TestFileStore(t *testing.T) {
	s := newStore(t)
	var missing *MissingError
	if _, err := s.Load(t.Context(), nil); !errors.As(err, &missing) || !strings.Contains(err.Error(), s.base) {
		t.Fatalf("err = %v, want a *MissingError with the path", err)
	}
	key := Generate()
	if err := s.Save(t.Context(), key, "a comment", nil); err != nil {
		t.Fatal(err)
	}
	signer, err := s.Load(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	signs(t, signer, key)
	info, err := os.Stat(s.base)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v, want -rw-------", info.Mode())
	}

	before, err := os.ReadFile(s.base)
	if err != nil {
		t.Fatal(err)
	}
	var exists *ExistsError
	if err := s.Save(t.Context(), Generate(), "", nil); !errors.As(err, &exists) {
		t.Errorf("err = %v, want an *ExistsError", err)
	}
	if after, err := os.ReadFile(s.base); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key was overwritten: %v", err)
	}
	onlyFile(t, s.base)
}

// onlyFile fails the test if the directory of path holds anything else but the lock.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) && e.Name() != lockName {
			t.Errorf("%q remains", e.Name())
		}
	}
}

func TestSaveNeverReplaces(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"other content":          func(path string) error { return os.WriteFile(path, []byte("mine"), 0o600) },
		"empty file":             func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"directory":              func(path string) error { return os.Mkdir(path, 0o700) },
		"symbolic link":          func(path string) error { return os.Symlink("/dev/null", path) },
		"dangling symbolic link": func(path string) error { return os.Symlink(path+".none", path) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if err := os.Mkdir(filepath.Dir(s.base), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := make(s.base); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(s.base)
			if err != nil {
				t.Fatal(err)
			}
			var exists *ExistsError
			if err := s.Save(t.Context(), Generate(), "", nil); !errors.As(err, &exists) {
				t.Errorf("err = %v, want an *ExistsError", err)
			}
			after, err := os.Lstat(s.base)
			if err != nil || !os.SameFile(before, after) || before.Size() != after.Size() {
				t.Errorf("it was replaced: %v", err)
			}
			onlyFile(t, s.base)
		})
	}
}

func TestOneOfManySavesWins(t *testing.T) {
	s := newStore(t)
	saveRace(t, func() Store { return s })
	onlyFile(t, s.base)
}

// saveRace saves from 20 goroutines at once, and fails the test unless one wins and its key is the one stored.
func saveRace(t *testing.T, open func() Store) {
	t.Helper()
	var mu sync.Mutex
	var won []ed25519.PrivateKey
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 20 {
		wg.Go(func() {
			s, key := open(), Generate()
			<-start
			err := s.Save(t.Context(), key, "", nil)
			var exists *ExistsError
			switch {
			case err == nil:
				mu.Lock()
				won = append(won, key)
				mu.Unlock()
			case !errors.As(err, &exists):
				t.Errorf("err = %v, want an *ExistsError", err)
			}
		})
	}
	close(start)
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d calls stored a key", len(won))
	}
	signer, err := open().Load(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	signs(t, signer, won[0])
}

func TestSaveFailureLeavesNothing(t *testing.T) {
	s := newStore(t)
	if out, err := child(t, "full disk", s.base).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Lstat(s.base); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a key is there: %v", err)
	}
	onlyFile(t, s.base)
}

// saveOnAFullDisk is the child of TestSaveFailureLeavesNothing: the limit is for all of its process.
func saveOnAFullDisk(base string) error {
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 100, Max: 100}); err != nil {
		return err
	}
	if err := newFile(base).Save(context.Background(), Generate(), "", nil); !errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("a write over the limit: %w", err)
	}
	return nil
}

func TestSaveRefusesAnOpenDirectory(t *testing.T) {
	s := newStore(t)
	if err := os.Mkdir(filepath.Dir(s.base), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(s.base), 0o755); err != nil {
		t.Fatal(err)
	}
	var open *atomicfile.DirError
	if err := s.Save(t.Context(), Generate(), "", nil); !errors.As(err, &open) {
		t.Errorf("err = %v, want a *DirError", err)
	}
	if _, err := os.Lstat(s.base); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key was stored: %v", err)
	}
}

func TestLoadRefusesAnUntrustedFile(t *testing.T) {
	chmod := func(path string, mode fs.FileMode) func(*testing.T, *fileStore) {
		return func(t *testing.T, s *fileStore) {
			if err := os.Chmod(filepath.Join(filepath.Dir(s.base), path), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		prep   func(t *testing.T, s *fileStore)
		reason string
	}{
		{"group may read", chmod("id_ed25519", 0o640), "mode 0640"},
		{"others may execute", chmod("id_ed25519", 0o601), "mode 0601"},
		{"others may write", chmod("id_ed25519", 0o602), "mode 0602"},
		{"open directory", chmod(".", 0o710), "mode 0710"},
		{"symbolic link", func(t *testing.T, s *fileStore) {
			if err := os.Rename(s.base, s.base+".real"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(s.base+".real", s.base); err != nil {
				t.Fatal(err)
			}
		}, "regular file"},
		{"FIFO", func(t *testing.T, s *fileStore) {
			if err := os.Remove(s.base); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(s.base, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "regular file"},
		{"owner", func(t *testing.T, s *fileStore) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			if err := os.Chown(s.base, 12345, -1); err != nil {
				t.Fatal(err)
			}
		}, "another user"},
		{"too large", func(t *testing.T, s *fileStore) { put(t, s, make([]byte, maxKey+1)) }, "too large"},
		{"empty", func(t *testing.T, s *fileStore) { put(t, s, nil) }, notPrivate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			if err := s.Save(t.Context(), Generate(), "", nil); err != nil {
				t.Fatal(err)
			}
			tt.prep(t, s)
			_, public := s.Public(t.Context())
			_, load := s.Load(t.Context(), neverAsked(t))
			for what, err := range map[string]error{"Public": public, "Load": load} {
				var bad *KeyError
				var dir *atomicfile.DirError
				if !errors.As(err, &bad) && !errors.As(err, &dir) {
					t.Fatalf("%s: err = %v, want a *KeyError or a *DirError", what, err)
				}
				if !strings.Contains(err.Error(), tt.reason) {
					t.Errorf("%s: err = %q, want %q", what, err, tt.reason)
				}
			}
		})
	}
}

func TestFileStoreKeepsTheContext(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Save(ctx, Generate(), "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Save: %v", err)
	}
	if _, err := s.Load(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Load: %v", err)
	}
}

// TestOpenSSHReadsTheFile has ssh-keygen read what Save wrote.
func TestOpenSSHReadsTheFile(t *testing.T) {
	keygen := testenv.NeedProgram(t, "ssh-keygen")
	for _, passphrase := range []string{"", "a passphrase"} {
		s := newStore(t)
		key := Generate()
		var secret []byte
		if passphrase != "" {
			secret = []byte(passphrase)
		}
		if err := s.Save(t.Context(), key, "some comment", secret); err != nil {
			t.Fatal(err)
		}
		if string(secret) != passphrase {
			t.Error("Save changed the passphrase, which is its caller's")
		}
		out, err := exec.Command(keygen, "-y", "-P", passphrase, "-f", s.base).Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := PublicLine(publicOf(key), "some comment"); !bytes.Equal(out, want) {
			t.Errorf("ssh-keygen -y prints %q, want %q", out, want)
		}
		if passphrase != "" && exec.Command(keygen, "-y", "-P", "another", "-f", s.base).Run() == nil {
			t.Error("ssh-keygen reads it with another passphrase")
		}
	}
}
