package known

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	goodKey   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
	goodNotes = " via=tofu at=2026-11-23T20:00:00Z machine=4711"
	goodLine  = "vast-1234567 " + goodKey + goodNotes + "\n"
)

func b64(key ssh.PublicKey) string { return base64.StdEncoding.EncodeToString(key.Marshal()) }

func TestParse(t *testing.T) {
	raw, err := base64.StdEncoding.DecodeString(strings.Fields(goodKey)[1])
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	full := Pin{Instance: 1234567, Key: key, Via: Tofu, At: at, Machine: 4711}
	bare := full
	bare.Machine = 0
	other := full
	other.Via = "new-way-2"
	last := full
	last.Instance = 1<<64 - 1
	for _, tt := range []struct {
		name, data string
		want       []Pin
	}{
		{"empty", "", nil},
		{"blank lines and comments", "\n  \t\n# über vast-1\n\t# x\n#\n", nil},
		{"one", goodLine, []Pin{full}},
		{"tabs and runs of spaces", " \tvast-1234567\t \t" + strings.Replace(goodKey, " ", "\t\t", 1) +
			strings.ReplaceAll(goodNotes, " ", "  \t") + " \t\n", []Pin{full}},
		{"notes in another order", "vast-1234567 " + goodKey + " at=2026-11-23T20:00:00Z via=tofu\n", []Pin{bare}},
		{"no machine", strings.Replace(goodLine, " machine=4711", "", 1), []Pin{bare}},
		{"a way not known yet", strings.Replace(goodLine, "tofu", "new-way-2", 1), []Pin{other}},
		{"greatest id", strings.Replace(goodLine, "1234567", "18446744073709551615", 1), []Pin{last}},
		{"several instances", "# a\n" + goodLine + "\n" + strings.Replace(goodLine, "1234567", "18446744073709551615", 1),
			[]Pin{full, last}},
		{"longest line", "#" + strings.Repeat("x", maxLine-1) + "\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, err := parse([]byte(tt.data))
			if err != nil {
				t.Fatal(err)
			}
			var got []Pin
			for _, e := range table.entries {
				got = append(got, e.Pin)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := public(t, short.Public())
	p256 := newECDSA(t, elliptic.P256())
	offCurve := bytes.Clone(p256.Marshal())
	offCurve[len(offCurve)-1] ^= 1
	ed := newKey(t)
	trailing := append(bytes.Clone(ed.Marshal()), 0)
	rsaKey := newRSA(t)
	padded := paddedRSA(rsaKey.(ssh.CryptoPublicKey).CryptoPublicKey().(*rsa.PublicKey))
	cert := &ssh.Certificate{Key: ed, CertType: ssh.HostCert, SignatureKey: ed, Signature: &ssh.Signature{}}
	dss := ssh.Marshal(struct {
		Name       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", big.NewInt(23), big.NewInt(11), big.NewInt(2), big.NewInt(4)})
	sk := ssh.Marshal(struct {
		Name string
		Key  []byte
		App  string
	}{ssh.KeyAlgoSKED25519, make([]byte, 32), "ssh:"})
	entry := func(typ string, blob []byte) string {
		return "vast-1 " + typ + " " + base64.StdEncoding.EncodeToString(blob) + goodNotes + "\n"
	}
	// The last letter before one "=" has two bits that belong to no byte.
	loose := []byte(b64(p256))
	loose[len(loose)-2]++
	var many strings.Builder
	for range maxPins + 1 {
		many.WriteString(tofu(1, newKey(t)).line())
	}
	replace := func(old, new string) string { return strings.Replace(goodLine, old, new, 1) }

	for _, tt := range []struct {
		name, data string
		line       int
		reason     string
	}{
		{"authority", "@cert-authority " + goodLine, 1, "marker"},
		{"revoked", goodLine + "\n@revoked " + goodLine, 3, "marker"},
		{"unknown marker", "@x " + goodLine, 1, "marker"},
		{"hashed name", replace("vast-1234567", knownhosts.HashHostname("vast-1234567")), 1, "hashed"},
		{"two names", replace("vast-1234567", "vast-1234567,vast-2"), 1, "name"},
		{"pattern", replace("vast-1234567", "vast-*"), 1, "name"},
		{"negation", replace("vast-1234567", "!vast-1234567"), 1, "name"},
		{"port", replace("vast-1234567", "[vast-1234567]:22"), 1, "name"},
		{"address", replace("vast-1234567", "1.2.3.4"), 1, "name"},
		{"leading zero", replace("1234567", "01"), 1, "name"},
		{"instance 0", replace("1234567", "0"), 1, "name"},
		{"upper case", replace("vast", "Vast"), 1, "name"},
		{"name alone", "vast-1\n", 1, "missing"},
		{"no key", "vast-1 ssh-ed25519\n", 1, "missing"},
		{"no notes", "vast-1 " + goodKey + "\n", 1, "missing"},
		{"no via", replace("via=tofu ", ""), 1, "missing"},
		{"no time", replace("at=2026-11-23T20:00:00Z ", ""), 1, "missing"},
		{"via twice", replace("via=tofu", "via=tofu via=log"), 1, "via=log"},
		{"time twice", replace("at=", "at=2026-11-23T20:00:00Z at="), 1, "at="},
		{"machine twice", replace("machine=4711", "machine=4711 machine=1"), 1, "machine=1"},
		{"empty via", replace("via=tofu", "via="), 1, "via="},
		{"upper case via", replace("tofu", "Tofu"), 1, "via="},
		{"long via", replace("tofu", "abcdefghijklmnopq"), 1, "via="},
		{"via starts with a digit", replace("tofu", "2path"), 1, "via="},
		{"no number", replace("4711", "x"), 1, "machine="},
		{"machine 0", replace("4711", "0"), 1, "machine="},
		{"local time", replace("00Z", "00+01:00"), 1, "at="},
		{"fraction of a second", replace("00Z", "00.5Z"), 1, "at="},
		{"no such day", replace("11-23", "11-31"), 1, "at="},
		{"before 1970", replace("2026", "1969"), 1, "at="},
		{"unknown note", replace(" via", " note=x via"), 1, "note=x"},
		{"free text", replace("\n", " root@box\n"), 1, "root@box"},
		{"type is not the blob's", replace("ssh-ed25519", "ssh-rsa"), 1, "called"},
		{"old type", entry("ssh-dss", dss), 1, "cannot be pinned"},
		{"security key", entry(ssh.KeyAlgoSKED25519, sk), 1, "cannot be pinned"},
		{"certificate", entry(ssh.CertAlgoED25519v01, cert.Marshal()), 1, "cannot be pinned"},
		{"certificate called a key", entry(ssh.KeyAlgoED25519, cert.Marshal()), 1, "key"},
		{"signature algorithm for a type", entry(ssh.KeyAlgoRSASHA256, rsaKey.Marshal()), 1, "cannot be pinned"},
		{"short RSA", entry(ssh.KeyAlgoRSA, weak.Marshal()), 1, "1024 bits"},
		{"padded RSA", entry(ssh.KeyAlgoRSA, padded), 1, "canonical"},
		{"point off the curve", entry(ssh.KeyAlgoECDSA256, offCurve), 1, "damaged"},
		{"bytes after the key", entry(ssh.KeyAlgoED25519, trailing), 1, "damaged"},
		{"cut-off key", entry(ssh.KeyAlgoED25519, ed.Marshal()[:40]), 1, "damaged"},
		{"no base64", replace("AAAAC3", "AAAA*3"), 1, "base64"},
		{"loose bits in base64", "vast-1 " + p256.Type() + " " + string(loose) + goodNotes + "\n", 1, "base64"},
		{"same key twice", goodLine + "#\n" + goodLine, 3, "twice"},
		{"too many keys", many.String(), maxPins + 1, "more than"},
		{"not ended", strings.TrimSuffix(goodLine, "\n"), 1, "cut off"},
		{"cut-off comment", goodLine + "# x", 2, "cut off"},
		{"CRLF", replace("\n", "\r\n"), 1, "0x0d"},
		{"CR in a comment", "# a\rvast-1\n", 1, "0x0d"},
		{"NUL", replace(" via", "\x00 via"), 1, "0x00"},
		{"vertical tab for a space", replace(" ssh", "\vssh"), 1, "0x0b"},
		{"escape sequence", "# \x1b[2J\n", 1, "0x1b"},
		{"wide space for a space", replace(" ssh", "\u00a0ssh"), 1, "ASCII"},
		{"byte order mark", "\ufeff" + goodLine, 1, "ASCII"},
		{"long line", "#" + strings.Repeat("x", maxLine) + "\n", 1, "longer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse([]byte(tt.data))
			var bad *lineError
			if !errors.As(err, &bad) {
				t.Fatalf("err = %v, want a *lineError", err)
			}
			if bad.line != tt.line || !strings.Contains(bad.reason, tt.reason) {
				t.Errorf("line %d: %q, want line %d: %q", bad.line, bad.reason, tt.line, tt.reason)
			}
		})
	}
}

// paddedRSA encodes a key with a needless zero byte before its modulus.
func paddedRSA(key *rsa.PublicKey) []byte {
	return ssh.Marshal(struct {
		Name string
		E    *big.Int
		N    []byte
	}{ssh.KeyAlgoRSA, big.NewInt(int64(key.E)), append([]byte{0, 0}, key.N.Bytes()...)})
}

func TestPinnable(t *testing.T) {
	for _, key := range []ssh.PublicKey{
		newKey(t), newECDSA(t, elliptic.P256()), newECDSA(t, elliptic.P384()), newECDSA(t, elliptic.P521()), newRSA(t),
	} {
		if err := Pinnable(key); err != nil {
			t.Errorf("%s: %v", key.Type(), err)
		}
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ed := newKey(t)
	cert := &ssh.Certificate{Key: ed, CertType: ssh.HostCert, SignatureKey: ed, Signature: &ssh.Signature{}}
	for _, key := range []ssh.PublicKey{cert, public(t, short.Public())} {
		if err := Pinnable(key); err == nil {
			t.Errorf("%s is pinnable", key.Type())
		}
	}
}

func TestValidate(t *testing.T) {
	key := newKey(t)
	good := tofu(1, key)
	change := func(f func(*Pin)) []Pin {
		p := good
		f(&p)
		return []Pin{p}
	}
	nine := make([]Pin, maxPins+1)
	for i := range nine {
		nine[i] = tofu(1, newKey(t))
	}
	for _, tt := range []struct {
		name string
		id   uint64
		pins []Pin
		ok   bool
	}{
		{"good", 1, []Pin{good}, true},
		{"most", 1, nine[:maxPins], true},
		{"too many", 1, nine, false},
		{"none", 1, nil, false},
		{"instance 0", 0, change(func(p *Pin) { p.Instance = 0 }), false},
		{"another instance", 2, []Pin{good}, false},
		{"twice", 1, []Pin{good, good}, false},
		{"no key", 1, change(func(p *Pin) { p.Key = nil }), false},
		{"no via", 1, change(func(p *Pin) { p.Via = "" }), false},
		{"line in via", 1, change(func(p *Pin) { p.Via = "a\nvast-2" }), false},
		{"no time", 1, change(func(p *Pin) { p.At = time.Time{} }), false},
		{"far time", 1, change(func(p *Pin) { p.At = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pins, err := validate(tt.id, tt.pins)
			if (err == nil) != tt.ok {
				t.Fatalf("err = %v", err)
			}
			for _, p := range pins {
				table, err := parse([]byte(p.line()))
				if err != nil {
					t.Fatal(err)
				}
				if got := table.entries[0].Pin; !reflect.DeepEqual(got, p) {
					t.Errorf("%v is read back as %v", p, got)
				}
			}
		})
	}
	local := good
	local.At = time.Date(2026, 11, 23, 21, 0, 0, 999, time.FixedZone("", 3600))
	if pins, err := validate(1, []Pin{local}); err != nil || pins[0].At != good.At {
		t.Errorf("validate = %v, %v; want time %v", pins, err, good.At)
	}
}

// FuzzParse holds parse to three things: nothing is lost, what is written is what was read, and whatever it accepts
// means the same to x/crypto's reader of the format.
func FuzzParse(f *testing.F) {
	f.Add([]byte(goodLine))
	f.Add([]byte("# c\n\n" + goodLine + "\tvast-2\t" + goodKey + " at=2026-11-23T20:00:00Z via=log\n"))
	f.Add([]byte("vast-9 " + ssh.KeyAlgoECDSA521 + " " + b64(newECDSA(f, elliptic.P521())) + goodNotes + "\n"))
	f.Add([]byte("vast-9 " + ssh.KeyAlgoRSA + " " + b64(newRSA(f)) + goodNotes + "\n"))
	f.Add([]byte("@revoked " + goodLine))
	f.Add([]byte("vast-1,vast-2 " + goodKey + goodNotes + "\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := parse(data)
		if err != nil {
			return
		}
		if got := table.with(0, nil); !bytes.Equal(got, data) {
			t.Fatalf("%q is marshalled as %q", data, got)
		}
		path := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		check, err := knownhosts.New(path)
		if err != nil {
			t.Fatalf("accepted %q, which x/crypto refuses: %v", data, err)
		}
		for _, e := range table.entries {
			if err := check(Name(e.Instance)+":22", noAddr{}, e.Key); err != nil {
				t.Fatalf("x/crypto finds no pin of %s in %q: %v", Name(e.Instance), data, err)
			}
			if want := len(table.of[e.Instance]); want > maxPins {
				t.Fatalf("%d pins of one instance", want)
			}
			again, err := parse([]byte(e.line()))
			if err != nil {
				t.Fatalf("%q, written as %q: %v", data, e.line(), err)
			}
			if !reflect.DeepEqual(again.entries[0].Pin, e.Pin) {
				t.Fatalf("%v is read back as %v", e.Pin, again.entries[0].Pin)
			}
		}
	})
}

type noAddr struct{}

func (noAddr) Network() string { return "tcp" }
func (noAddr) String() string  { return "192.0.2.1:22" }
