package agent

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestParseUserauth(t *testing.T) {
	host := newSession(t, newKey(t, ssh.KeyAlgoRSA), 64)
	blob := newKey(t, ssh.KeyAlgoED25519).PublicKey().Marshal()
	other := newKey(t, ssh.KeyAlgoED25519).PublicKey().Marshal()
	tests := []struct {
		name   string
		change func(*login)
		ok     bool
	}{
		{"plain", func(l *login) {}, true},
		{"host-bound", hostBound(host), true},
		{"sha-256", func(l *login) { l.SessionID = make([]byte, 32) }, true},
		{"sha-384", func(l *login) { l.SessionID = make([]byte, 48) }, true},
		{"any user", func(l *login) { l.User = "\x00\n\"" }, true},
		{"sha-1", func(l *login) { l.SessionID = make([]byte, 20) }, false},
		{"long session id", func(l *login) { l.SessionID = make([]byte, 128) }, false},
		{"no session id", func(l *login) { l.SessionID = nil }, false},
		{"message 49", func(l *login) { l.Message = 49 }, false},
		{"message 0", func(l *login) { l.Message = 0 }, false},
		{"no user", func(l *login) { l.User = "" }, false},
		{"service in capitals", func(l *login) { l.Service = "SSH-CONNECTION" }, false},
		{"service with a byte more", func(l *login) { l.Service += "\x00" }, false},
		{"no service", func(l *login) { l.Service = "" }, false},
		{"password", func(l *login) { l.Method = "password" }, false},
		{"host-bound, another version", func(l *login) { l.Method = "publickey-hostbound-v01@openssh.com" }, false},
		{"no method", func(l *login) { l.Method = "" }, false},
		{"no signature", func(l *login) { l.Sig = 0 }, false},
		{"signature 255", func(l *login) { l.Sig = 255 }, false},
		{"certificate", func(l *login) { l.Algorithm = ssh.CertAlgoED25519v01 }, false},
		{"rsa", func(l *login) { l.Algorithm = ssh.KeyAlgoRSA }, false},
		{"no algorithm", func(l *login) { l.Algorithm = "" }, false},
		{"other key", func(l *login) { l.Key = other }, false},
		{"key with a byte more", func(l *login) { l.Key = append(bytes.Clone(blob), 0) }, false},
		{"no key", func(l *login) { l.Key = nil }, false},
		{"plain with a byte more", func(l *login) { l.Rest = []byte{0} }, false},
		{"host-bound with a byte more", func(l *login) { hostBound(host)(l); l.Rest = []byte{0} }, false},
		{"host-bound without a host key", func(l *login) { l.Method = methodHostBound }, false},
		{"plain with a host key", func(l *login) { l.Rest = ssh.Marshal(struct{ K []byte }{host.hostKey()}) }, false},
		{"two requests", func(l *login) { rest := l.marshal(); l.Rest = rest }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			data := loginText(host, blob, test.change)
			got, err := parseUserauth(data, blob)
			if (err == nil) != test.ok {
				t.Fatalf("error %v, want it accepted: %v", err, test.ok)
			}
			if test.ok {
				checkUserauth(t, got, data, blob)
			} else if got != nil {
				t.Error("a result with an error")
			}
		})
	}
}

// TestParseUserauthQuotes shows that what a peer wrote cannot act on a terminal.
func TestParseUserauthQuotes(t *testing.T) {
	blob := newKey(t, ssh.KeyAlgoED25519).PublicKey().Marshal()
	s := &session{id: make([]byte, 32)}
	for _, change := range []func(*login){
		func(l *login) { l.Service = "a\x1b[2Jb" },
		func(l *login) { l.Method = "a\x1b[2Jb" },
		func(l *login) { l.Algorithm = "a\x1b[2Jb" },
	} {
		_, err := parseUserauth(loginText(s, blob, change), blob)
		if err == nil || strings.ContainsRune(err.Error(), '\x1b') || !strings.Contains(err.Error(), `\x1b[2J`) {
			t.Errorf("error %q", err)
		}
	}
}

// checkUserauth holds that data is exactly what u says, and that no shorter or longer text is the same request.
func checkUserauth(t *testing.T, u *userauth, data, blob []byte) {
	t.Helper()
	again := loginText(&session{id: u.sessionID}, blob, func(l *login) {
		l.User = u.user
		if u.hostKey != nil {
			l.Method, l.HostKey = methodHostBound, u.hostKey
		}
	})
	if !bytes.Equal(again, data) {
		t.Fatalf("accepted %x, which says %x", data, again)
	}
	if _, err := parseUserauth(append(bytes.Clone(data), 0), blob); err == nil {
		t.Fatal("accepted with a trailing byte")
	}
	for n := range data {
		if _, err := parseUserauth(data[:n], blob); err == nil {
			t.Fatalf("accepted the first %d of %d bytes", n, len(data))
		}
	}
	if _, err := parseUserauth(data, append(bytes.Clone(blob), 0)); err == nil {
		t.Fatal("accepted for another key")
	}
}

func FuzzParseUserauth(f *testing.F) {
	blob := seededKey(f, 1).PublicKey().Marshal()
	for _, size := range []int{20, 32, 48, 64} {
		s := &session{host: seededKey(f, 2), id: bytes.Repeat([]byte{7}, size)}
		f.Add(loginText(s, blob))
		f.Add(loginText(s, blob, hostBound(s)))
		f.Add(loginText(s, blob, func(l *login) { l.Rest = []byte{0} }))
	}
	f.Add([]byte("SSHSIG\x00\x00\x00\x03git"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := parseUserauth(data, blob)
		if err != nil {
			if u != nil {
				t.Fatal("a result with an error")
			}
			return
		}
		checkUserauth(t, u, data, blob)
	})
}
