package custody

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/testenv"
)

func encode(block *pem.Block) []byte { return pem.EncodeToMemory(block) }

// neverAsked is the passphrase callback of tests in which there must be no question.
func neverAsked(t *testing.T) func() ([]byte, error) {
	return func() ([]byte, error) {
		t.Error("asked for a passphrase")
		return nil, errors.New("asked")
	}
}

// keygen runs ssh-keygen and returns the files that it made, private and public.
func keygen(t *testing.T, passphrase string, args ...string) (private, public []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	cmd := exec.Command(testenv.NeedProgram(t, "ssh-keygen"), append(args, "-q", "-N", passphrase, "-f", path)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
	private, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	public, err = os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func TestImportFromSSHKeygen(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		private, public := keygen(t, "", "-t", "ed25519", "-C", "me@home")
		key, comment, err := ParseImport(private, neverAsked(t))
		if err != nil {
			t.Fatal(err)
		}
		if got := PublicLine(publicOf(key), comment); !bytes.Equal(got, public) {
			t.Errorf("got %q, want %q", got, public)
		}
	})
	for _, cipher := range []string{"aes256-ctr", "aes256-cbc"} {
		t.Run(cipher, func(t *testing.T) {
			private, public := keygen(t, "secret", "-t", "ed25519", "-C", DefaultComment, "-a", "2", "-Z", cipher)
			var asked [][]byte
			key, comment, err := ParseImport(private, func() ([]byte, error) {
				asked = append(asked, []byte("secret"))
				return asked[len(asked)-1], nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := PublicLine(publicOf(key), comment); !bytes.Equal(got, public) {
				t.Errorf("got %q, want %q", got, public)
			}
			if len(asked) != 1 || !bytes.Equal(asked[0], make([]byte, 6)) {
				t.Errorf("asked %d times; the passphrase is left as %q", len(asked), asked)
			}
			wrong := []byte("wrong")
			if _, _, err := ParseImport(private, func() ([]byte, error) { return wrong, nil }); !errors.Is(err, ErrPassphrase) {
				t.Errorf("err = %v, want ErrPassphrase", err)
			}
			if !bytes.Equal(wrong, make([]byte, 5)) {
				t.Errorf("a wrong passphrase is left as %q", wrong)
			}
			if _, _, err := ParseImport(private, func() ([]byte, error) { return nil, nil }); !errors.Is(err, ErrPassphrase) {
				t.Errorf("no passphrase: err = %v, want ErrPassphrase", err)
			}
			aborted := errors.New("aborted")
			if _, _, err := ParseImport(private, func() ([]byte, error) { return nil, aborted }); err != aborted {
				t.Errorf("err = %v, want that of the callback", err)
			}
			var encrypted *PassphraseError
			if _, _, err := ParseImport(private, nil); !errors.As(err, &encrypted) {
				t.Errorf("err = %v, want a *PassphraseError", err)
			}
		})
	}
	for _, tt := range []struct {
		name   string
		pass   string
		args   []string
		reason string
	}{
		{"RSA", "", []string{"-t", "rsa", "-b", "2048"}, `"ssh-rsa"`},
		{"encrypted RSA", "secret", []string{"-t", "rsa", "-b", "2048", "-a", "2"}, `"ssh-rsa"`},
		{"ECDSA", "", []string{"-t", "ecdsa"}, `"ecdsa-sha2-nistp256"`},
		{"RSA in PEM", "", []string{"-t", "rsa", "-b", "2048", "-m", "PEM"}, `"rsa"`},
		{"encrypted RSA in PEM", "secret", []string{"-t", "rsa", "-b", "2048", "-m", "PEM"}, `"rsa"`},
		{"ECDSA in PEM", "", []string{"-t", "ecdsa", "-m", "PEM"}, `"ec"`},
		{"PKCS#8", "", []string{"-t", "ecdsa", "-m", "PKCS8"}, "PKCS#8"},
		{"encrypted PKCS#8", "secret", []string{"-t", "ecdsa", "-m", "PKCS8"}, "PKCS#8"},
		{"other cipher", "secret", []string{"-t", "ed25519", "-Z", "aes256-gcm@openssh.com"}, "aes256-gcm@openssh.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			private, public := keygen(t, tt.pass, tt.args...)
			refused(t, private, tt.reason)
			refused(t, public, "public key")
		})
	}
}

// refused fails the test unless data is a *KeyError that tells reason and nothing of data, and nobody is asked.
func refused(t *testing.T, data []byte, reason string) {
	t.Helper()
	_, _, err := ParseImport(data, neverAsked(t))
	var bad *KeyError
	if !errors.As(err, &bad) {
		t.Fatalf("err = %v, want a *KeyError", err)
	}
	if !strings.Contains(bad.Reason, reason) {
		t.Errorf("reason %q, want %q", bad.Reason, reason)
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); len(line) > 40 && strings.Contains(err.Error()+bad.Hint(), line) {
			t.Errorf("%q quotes the file", err)
		}
	}
}

func TestImportRefusesCertificate(t *testing.T) {
	program := testenv.NeedProgram(t, "ssh-keygen")
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	for _, args := range [][]string{
		{"-q", "-t", "ed25519", "-N", "", "-f", path},
		{"-q", "-s", path, "-I", "id", path + ".pub"},
	} {
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
		}
	}
	cert, err := os.ReadFile(path + "-cert.pub")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, cert, "certificate")
}

// TestImportFromPuTTY also runs the command of the hint.
func TestImportFromPuTTY(t *testing.T) {
	puttygen := testenv.NeedProgram(t, "puttygen")
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(puttygen, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("puttygen %q: %v\n%s", args, err, out)
		}
	}
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	original := Generate()
	data, err := marshal(original, "from putty", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "original"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	run("original", "-O", "private", "-o", "key.ppk")
	_, _, err = ParseImport(read("key.ppk"), neverAsked(t))
	var bad *KeyError
	if !errors.As(err, &bad) || !strings.Contains(bad.Reason, "PuTTY") {
		t.Fatalf("err = %v, want a *KeyError that names PuTTY", err)
	}
	const command = "puttygen key.ppk -O private-openssh -o key"
	if !strings.Contains(bad.Hint(), command) {
		t.Fatalf("hint %q lacks %q", bad.Hint(), command)
	}
	run(strings.Fields(command)[1:]...)
	key, comment, err := ParseImport(read("key"), neverAsked(t))
	if err != nil || !key.Equal(original) || comment != "from putty" {
		t.Errorf("the converted key: comment %q, err = %v", comment, err)
	}
}

// open returns the outer layer of data.
func open(t *testing.T, data []byte) container {
	t.Helper()
	block, _ := pem.Decode(data)
	var c container
	if err := ssh.Unmarshal(bytes.TrimPrefix(block.Bytes, []byte(magic)), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c container) file() []byte {
	return encode(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: append([]byte(magic), ssh.Marshal(c)...)})
}

func TestImportRefuses(t *testing.T) {
	key := Generate()
	plain, err := marshal(key, "c", nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "c", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	encrypted := encode(block)
	change := func(data []byte, f func(*container)) []byte {
		c := open(t, data)
		f(&c)
		return c.file()
	}
	if _, _, err := ParseImport(change(plain, func(*container) {}), neverAsked(t)); err != nil {
		t.Fatalf("an unchanged key: %v", err)
	}
	ofType := func(typ string) func(*container) {
		return func(c *container) {
			c.Public = ssh.Marshal(struct {
				Type string
				Rest []byte `ssh:"rest"`
			}{typ, []byte("whatever")})
		}
	}
	mixed := ed25519.PrivateKey(bytes.Clone(key))
	copy(mixed[ed25519.SeedSize:], Generate().Public().(ed25519.PublicKey))
	wrongHalf, err := marshal(mixed, "c", nil)
	if err != nil {
		t.Fatal(err)
	}
	rounds := func(n uint32) func(*container) {
		return func(c *container) {
			c.KDFOptions = ssh.Marshal(struct {
				Salt   []byte
				Rounds uint32
			}{make([]byte, 16), n})
		}
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaBlock, err := ssh.MarshalPrivateKey(rsaKey, "")
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}

	// inside changes what the encryption would cover, of an unencrypted key.
	type private struct {
		Check1, Check2  uint32
		Type            string
		Public, Private []byte
		Comment         string
		Pad             []byte `ssh:"rest"`
	}
	inside := func(f func(*private)) []byte {
		return change(plain, func(c *container) {
			var p private
			if err := ssh.Unmarshal(c.Private, &p); err != nil {
				t.Fatal(err)
			}
			f(&p)
			c.Private = ssh.Marshal(p)
		})
	}
	if _, _, err := ParseImport(inside(func(*private) {}), neverAsked(t)); err != nil {
		t.Fatalf("an unchanged key: %v", err)
	}

	for _, tt := range []struct {
		name   string
		data   []byte
		reason string
	}{
		{"nothing", nil, notPrivate},
		{"text", []byte("hello\n"), notPrivate},
		{"too large", append(bytes.Clone(plain), make([]byte, maxKey)...), "too large"},
		{"PEM of something else", encode(&pem.Block{Type: "CERTIFICATE", Bytes: der}), notPrivate},
		{"PKCS#8", encode(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "PKCS#8"},
		{"SEC 1", encode(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ecDER}), `"ec"`},
		{"SSH2 public key", []byte("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----\n"), "public key"},
		{"RSA", encode(rsaBlock), `"ssh-rsa"`},
		{"security key", change(plain, ofType(ssh.KeyAlgoSKED25519)), "security key"},
		{"ECDSA security key", change(encrypted, ofType(ssh.KeyAlgoSKECDSA256)), "security key"},
		{"certificate", change(plain, ofType(ssh.CertAlgoED25519v01)), "certificates"},
		{"unknown type", change(plain, ofType("x\n\x1b[2J")), `"x\n\x1b[2J"`},
		{"RSA under the public half of another type", change(encode(rsaBlock), func(c *container) {
			c.Public = publicOf(key).Marshal()
		}), "damaged"},
		{"no magic", encode(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte("openssh-key-v2\x00")}), "damaged"},
		{"no public half", change(plain, func(c *container) { c.Public = nil }), "damaged"},
		{"two keys", change(plain, func(c *container) { c.Keys = 2 }), "damaged"},
		{"bytes after the key", change(plain, func(c *container) { c.Rest = []byte{0} }), "damaged"},
		{"cut off", change(plain, func(c *container) { c.Private = c.Private[:len(c.Private)-64] }), "damaged"},
		{"another public half outside", change(plain, func(c *container) {
			c.Public = publicOf(Generate()).Marshal()
		}), "damaged"},
		{"another public half inside", wrongHalf, "damaged"},
		{"two check numbers", inside(func(p *private) { p.Check2++ }), "damaged"},
		{"another type inside", inside(func(p *private) { p.Type = "ssh-rsa" }), "damaged"},
		{"long private half", inside(func(p *private) { p.Private = append(p.Private, 0) }), "damaged"},
		{"short private half", inside(func(p *private) { p.Private = p.Private[:32] }), "damaged"},
		{"another public half before the private one", inside(func(p *private) {
			p.Public = Generate().Public().(ed25519.PublicKey)
		}), "damaged"},
		{"padding", inside(func(p *private) { p.Pad = []byte{1, 2, 4} }), "damaged"},
		{"KDF without a cipher", change(plain, func(c *container) { c.KDF = "bcrypt" }), "damaged"},
		{"KDF options without a KDF", change(plain, func(c *container) { c.KDFOptions = []byte{0} }), "damaged"},
		{"short public half", change(plain, func(c *container) { c.Public = c.Public[:len(c.Public)-1] }), "damaged"},
		{"unknown KDF", change(encrypted, func(c *container) { c.KDF = "scrypt" }), "scrypt"},
		{"no KDF options", change(encrypted, func(c *container) { c.KDFOptions = nil }), "damaged"},
		{"no rounds", change(encrypted, rounds(0)), "damaged"},
		{"too many rounds", change(encrypted, rounds(maxRounds+1)), "4097 rounds"},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, tt.data, tt.reason) })
	}
	t.Run("damaged behind the passphrase", func(t *testing.T) {
		data := change(encrypted, func(c *container) { c.Public = publicOf(Generate()).Marshal() })
		_, _, err := ParseImport(data, func() ([]byte, error) { return []byte("secret"), nil })
		var bad *KeyError
		if !errors.As(err, &bad) {
			t.Errorf("err = %v, want a *KeyError", err)
		}
	})
}

// FuzzParseImport looks for a key that ParseImport accepts and that would not be read again as the same.
func FuzzParseImport(f *testing.F) {
	plain, err := marshal(Generate(), "a comment", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte("PuTTY-User-Key-File-3: ssh-ed25519\n"))
	f.Add(PublicLine(publicOf(Generate()), ""))
	block, err := ssh.MarshalPrivateKeyWithPassphrase(Generate(), "", []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encode(block))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, comment, err := ParseImport(data, func() ([]byte, error) { return nil, errors.New("not asked here") })
		if err != nil {
			return
		}
		// The decoder is as strict as that of x/crypto.
		raw, err := ssh.ParseRawPrivateKey(data)
		if other, ok := raw.(*ed25519.PrivateKey); err != nil || !ok || !other.Equal(key) {
			t.Fatalf("x/crypto does not read it, or another key: %v", err)
		}
		again, err := marshal(key, comment, nil)
		if err != nil {
			t.Fatal(err)
		}
		key2, comment2, err := ParseImport(again, nil)
		if err != nil || !key2.Equal(key) || comment2 != comment {
			t.Fatalf("read back as comment %q, want %q; err = %v", comment2, comment, err)
		}
	})
}
