package known

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func public(t testing.TB, pub crypto.PublicKey) ssh.PublicKey {
	t.Helper()
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public(t, pub)
}

func newECDSA(t testing.TB, curve elliptic.Curve) ssh.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public(t, key.Public())
}

var rsa2048 = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newRSA(t testing.TB) ssh.PublicKey {
	t.Helper()
	key, err := rsa2048()
	if err != nil {
		t.Fatal(err)
	}
	return public(t, key.Public())
}

var someTime = time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)

func tofu(id uint64, key ssh.PublicKey) Pin {
	return Pin{Instance: id, Key: key, Via: Tofu, At: someTime, Machine: 4711}
}

func TestViaAtLeast(t *testing.T) {
	order := [][]Via{{"", "other", "TOFU"}, {Tofu}, {TwoPath}, {Log, Manual}}
	for i, vs := range order {
		for j, mins := range order {
			for _, v := range vs {
				for _, least := range mins {
					if want := j > 0 && i >= j; v.AtLeast(least) != want {
						t.Errorf("%q.AtLeast(%q) = %v", v, least, !want)
					}
				}
			}
		}
	}
}

func TestParseName(t *testing.T) {
	for _, id := range []uint64{1, 1234567, 1<<64 - 1} {
		if got, ok := ParseName(Name(id)); !ok || got != id {
			t.Errorf("ParseName(%q) = %d, %v", Name(id), got, ok)
		}
	}
	for _, name := range []string{
		"", "vast-", "vast-0", "vast-01", "vast-+1", "vast--1", "vast- 1", "vast-1 ", "vast-1_0", "Vast-1", "1",
		"vast-1x", "vast-18446744073709551616", "vast-1,vast-2", "vast-*", "[vast-1]:22", "vast-\u0661",
	} {
		if id, ok := ParseName(name); ok || id != 0 {
			t.Errorf("ParseName(%q) = %d, %v", name, id, ok)
		}
	}
}

func TestShared(t *testing.T) {
	a, b, c := newKey(t), newKey(t), newKey(t)
	got := Shared([]Pin{tofu(3, a), tofu(1, a), tofu(1, b), tofu(2, c), tofu(2, c)})
	if want := map[string][]uint64{ssh.FingerprintSHA256(a): {1, 3}}; !reflect.DeepEqual(got, want) {
		t.Errorf("Shared = %v, want %v", got, want)
	}
	if got := Shared(nil); len(got) != 0 {
		t.Errorf("Shared(nil) = %v", got)
	}
}

func TestErrorsShowFingerprintsOnOneLine(t *testing.T) {
	a, b := newKey(t), newECDSA(t, elliptic.P256())
	mismatch := &MismatchError{Instance: 7, Got: a, Want: []Pin{tofu(7, b)}}
	unknown := &UnknownError{Instance: 7, Key: a}
	for _, tt := range []struct {
		err  error
		keys []ssh.PublicKey
	}{{mismatch, []ssh.PublicKey{a, b}}, {unknown, []ssh.PublicKey{a}}} {
		text := tt.err.Error()
		if strings.Contains(text, "\n") || !strings.Contains(text, "vast-7") {
			t.Errorf("%T: %q", tt.err, text)
		}
		for _, key := range tt.keys {
			if !strings.Contains(text, key.Type()+" "+ssh.FingerprintSHA256(key)) {
				t.Errorf("%T does not show the %s key: %q", tt.err, key.Type(), text)
			}
		}
	}
}

func BenchmarkParse(b *testing.B) {
	var data strings.Builder
	keys := []ssh.PublicKey{newKey(b), newECDSA(b, elliptic.P256()), newRSA(b)}
	for id := range uint64(1000) {
		for _, key := range keys {
			fmt.Fprint(&data, tofu(id+1, key).line())
		}
	}
	for b.Loop() {
		if _, err := parse([]byte(data.String())); err != nil {
			b.Fatal(err)
		}
	}
}
