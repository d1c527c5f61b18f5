package custody

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

const passphrase = "open sesame"

// encryptedKey returns a key and its text under passphrase. It makes one only, since that takes long.
var encryptedKey = sync.OnceValues(func() (ed25519.PrivateKey, []byte) {
	key := Generate()
	text, err := marshal(key, "", []byte(passphrase))
	if err != nil {
		panic(err)
	}
	return key, text
})

func TestLoadWithAPassphrase(t *testing.T) {
	eachKind(t, func(t *testing.T, kind, dir string, s Store) {
		private := Generate()
		if err := s.Save(t.Context(), private, "", []byte(passphrase)); err != nil {
			t.Fatal(err)
		}
		if public, err := s.Public(t.Context()); err != nil || !same(public, publicOf(private)) {
			t.Errorf("the public half: %v, %v", public, err)
		}
		var needed *PassphraseError
		if _, err := s.Load(t.Context(), nil); !errors.As(err, &needed) || needed.Hint() != "vast-agent unlock" ||
			!strings.Contains(err.Error(), `custody = "`+kind+`"`) {
			t.Errorf("err = %v, want a *PassphraseError that names the place", err)
		}

		asked := 0
		answer := func(text string) func() ([]byte, error) {
			return func() ([]byte, error) {
				asked++
				pass := []byte(text)
				t.Cleanup(func() {
					if !bytes.Equal(pass, make([]byte, len(pass))) {
						t.Errorf("the passphrase is left as %q", pass)
					}
				})
				return pass, nil
			}
		}
		key, err := s.Load(t.Context(), answer(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		signs(t, key, private)
		key.Destroy()
		for _, wrong := range []string{"open sesam", ""} {
			_, err := s.Load(t.Context(), answer(wrong))
			if !errors.Is(err, ErrPassphrase) || !strings.Contains(err.Error(), `custody = "`+kind+`"`) ||
				wrong != "" && strings.Contains(err.Error(), wrong) {
				t.Errorf("err = %v, want an ErrPassphrase that names the place", err)
			}
		}
		if asked != 3 {
			t.Errorf("asked %d times for 3 calls", asked)
		}
		aborted := errors.New("aborted")
		if _, err := s.Load(t.Context(), func() ([]byte, error) { return nil, aborted }); err != aborted {
			t.Errorf("err = %v, want that of the callback", err)
		}
	})
}

func TestSaveRefusesAnEmptyPassphrase(t *testing.T) {
	eachKind(t, func(t *testing.T, kind, dir string, s Store) {
		if err := s.Save(t.Context(), Generate(), "", []byte{}); err == nil {
			t.Error("stored a key unencrypted for which there was a passphrase")
		}
		holds(t, "current", s, nil)
	})
}

// TestLoadBoundsTheRounds has a key whose passphrase would take minutes to try.
func TestLoadBoundsTheRounds(t *testing.T) {
	eachKind(t, func(t *testing.T, kind, dir string, s Store) {
		_, text := encryptedKey()
		c := open(t, text)
		c.KDFOptions = ssh.Marshal(struct {
			Salt   []byte
			Rounds uint32
		}{make([]byte, 16), maxRounds + 1})
		if err := os.WriteFile(filepath.Join(dir, "id_ed25519"), c.file(), 0o600); err != nil {
			t.Fatal(err)
		}
		var bad *KeyError
		if _, err := s.Load(t.Context(), neverAsked(t)); !errors.As(err, &bad) || !strings.Contains(err.Error(), "rounds") {
			t.Errorf("err = %v, want a *KeyError about the rounds", err)
		}
	})
}
