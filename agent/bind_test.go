package agent

import (
	"bytes"
	"testing"

	"golang.org/x/crypto/ssh"
)

// bindBody is a session-bind without its message number and name.
func bindBody(s *session, forwarding byte) []byte {
	return bindRequest(s, forwarding)[1+4+len(extSessionBind):]
}

// TestParseBindingKeyTypes accepts every plain key type with every length of an exchange hash.
func TestParseBindingKeyTypes(t *testing.T) {
	for algo, formats := range signatureFormats {
		host := newKey(t, algo)
		for _, size := range []int{32, 48, 64} {
			for _, format := range formats {
				s := newSession(t, host, size)
				if as, ok := host.(ssh.AlgorithmSigner); ok && algo == ssh.KeyAlgoRSA {
					sig, err := as.SignWithAlgorithm(nil, s.id, format)
					if err != nil {
						t.Fatal(err)
					}
					s.sig = ssh.Marshal(sig)
				}
				b, forwarded, err := parseBinding(bindBody(s, 0))
				if err != nil || forwarded {
					t.Errorf("%s, %d bytes: forwarded %v, %v", format, size, forwarded, err)
					continue
				}
				if !bytes.Equal(b.blob, s.hostKey()) || !bytes.Equal(b.sessionID, s.id) {
					t.Errorf("%s: another binding came out", format)
				}
			}
		}
	}
}

// TestParseBindingDamage flips each bit of a good binding: the one place where that may be accepted is the forwarding
// flag, which then is set.
func TestParseBindingDamage(t *testing.T) {
	good := bindBody(newSession(t, newKey(t, ssh.KeyAlgoED25519), 32), 0)
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			_, forwarded, err := parseBinding(bad)
			if err == nil && (i != len(good)-1 || !forwarded) {
				t.Errorf("accepted with bit %d of byte %d flipped", bit, i)
			}
		}
	}
	for n := range good {
		if _, _, err := parseBinding(good[:n]); err == nil {
			t.Errorf("accepted the first %d of %d bytes", n, len(good))
		}
	}
}

func FuzzParseBinding(f *testing.F) {
	for _, size := range []int{20, 32, 48, 64} {
		s := newSession(f, seededKey(f, 2), size)
		f.Add(bindBody(s, 0))
		f.Add(bindBody(s, 1))
		f.Add(append(bindBody(s, 0), 0))
	}
	for _, algo := range []string{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA} {
		f.Add(bindBody(newSession(f, newKey(f, algo), 64), 0))
	}
	f.Add(bindBody(newSession(f, newCertificate(f, seededKey(f, 2)), 32), 0))
	f.Fuzz(func(t *testing.T, body []byte) {
		b, forwarded, err := parseBinding(body)
		if err != nil {
			if forwarded {
				t.Fatal("a binding that does not verify says something")
			}
			return
		}
		var msg struct {
			HostKey, SessionID []byte
			Signature          []byte
			Forwarding         byte
		}
		if err := ssh.Unmarshal(body, &msg); err != nil {
			t.Fatalf("accepted, and does not parse: %v", err)
		}
		if !bytes.Equal(ssh.Marshal(msg), body) {
			t.Fatal("accepted, and is more than its fields")
		}
		if !bytes.Equal(b.blob, msg.HostKey) || !bytes.Equal(b.sessionID, msg.SessionID) || forwarded != (msg.Forwarding != 0) {
			t.Fatal("another binding came out")
		}
		if !bytes.Equal(b.hostKey.Marshal(), msg.HostKey) {
			t.Fatal("the host key is not what the blob says")
		}
		if signatureFormats[b.hostKey.Type()] == nil || checkSessionID(b.sessionID) != nil {
			t.Fatalf("accepted a key of type %q and a session id of %d bytes", b.hostKey.Type(), len(b.sessionID))
		}
		var sig ssh.Signature
		if err := ssh.Unmarshal(msg.Signature, &sig); err != nil || len(sig.Rest) > 0 || sig.Format == ssh.KeyAlgoRSA {
			t.Fatalf("accepted the signature %x", msg.Signature)
		}
		if err := b.hostKey.Verify(b.sessionID, &sig); err != nil {
			t.Fatalf("accepted a signature that does not verify: %v", err)
		}
	})
}

// FuzzWitness feeds key exchanges that a server made up, and then asks for a session: there may be no fault, and no
// signature, since the fuzzer has no private key of a host.
func FuzzWitness(f *testing.F) {
	for _, algo := range []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA} {
		s := newSession(f, newKey(f, algo), 32)
		f.Add(s.hostKey(), s.sig)
	}
	f.Add(newCertificate(f, seededKey(f, 2)).PublicKey().Marshal(), []byte{})
	id := bytes.Repeat([]byte{9}, 32)
	f.Fuzz(func(t *testing.T, hostKey, sig []byte) {
		key, err := parseHostKey(hostKey)
		if err != nil {
			return
		}
		if !bytes.Equal(key.Marshal(), hostKey) {
			t.Fatal("the host key is not what the blob says")
		}
		parsed, err := parseSignature(key, sig)
		if err != nil {
			return
		}
		if key.Verify(id, parsed) == nil {
			t.Fatalf("a made-up signature verifies: key %x, signature %x", hostKey, sig)
		}
	})
}
