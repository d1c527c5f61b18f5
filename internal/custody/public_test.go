package custody

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
)

func TestPublicLineIsOneLine(t *testing.T) {
	key := publicOf(Generate())
	plain := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
	for comment, want := range map[string]string{
		"":                         DefaultComment,
		"me@home":                  "me@home",
		"two words":                "two words",
		"a\nssh-ed25519 AAAA":      DefaultComment,
		"a\rb":                     DefaultComment,
		"\x1b[2J":                  DefaultComment,
		"grün":                     DefaultComment,
		strings.Repeat("x", 128):   strings.Repeat("x", 128),
		strings.Repeat("x", 129):   DefaultComment,
		"tab\tseparated":           DefaultComment,
		"nul\x00":                  DefaultComment,
		"command=\"x\" ssh-ed2551": "command=\"x\" ssh-ed2551",
	} {
		if got := string(PublicLine(key, comment)); got != plain+" "+want+"\n" {
			t.Errorf("PublicLine(%q) = %q", comment, got)
		}
	}
}

func TestPublicFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vast-ssh", "id_ed25519.pub")
	if _, err := ReadPublic(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("err = %v, want not exist", err)
	}
	for range 2 {
		key := publicOf(Generate())
		if err := WritePublic(path, key, "c"); err != nil {
			t.Fatal(err)
		}
		got, err := ReadPublic(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Marshal()) != string(key.Marshal()) {
			t.Error("read another key than was written")
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v, want -rw-------", info.Mode())
	}

	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ssh.NewPublicKey(ecKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	line := string(PublicLine(publicOf(Generate()), ""))
	for name, tt := range map[string]struct {
		data string
		mode fs.FileMode
	}{
		"empty":            {"", 0o600},
		"text":             {"hello\n", 0o600},
		"two keys":         {line + line, 0o600},
		"options":          {"no-pty " + line, 0o600},
		"others may write": {line, 0o606},
		"too large":        {line + strings.Repeat("#", maxKey), 0o600},
		"ECDSA":            {string(PublicLine(other, "")), 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			var bad *KeyError
			if _, err := ReadPublic(path); !errors.As(err, &bad) || !strings.Contains(err.Error(), path) {
				t.Errorf("err = %v, want a *KeyError with the path", err)
			}
		})
	}
	t.Run("others may read", func(t *testing.T) {
		if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPublic(path); err != nil {
			t.Error(err)
		}
	})
	t.Run("open directory", func(t *testing.T) {
		if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		var open *atomicfile.DirError
		if _, err := ReadPublic(path); !errors.As(err, &open) {
			t.Errorf("ReadPublic: %v, want a *DirError", err)
		}
		if err := WritePublic(path, publicOf(Generate()), ""); !errors.As(err, &open) {
			t.Errorf("WritePublic: %v, want a *DirError", err)
		}
	})
}
