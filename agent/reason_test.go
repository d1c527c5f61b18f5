package agent

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
)

// refusalCase leads the agent to one refusal. run returns the session whose instance and host key the record has to
// name, as far as they are known.
type refusalCase struct {
	reason Reason
	name   string
	run    func(t *testing.T, e *env) *session
	known  known
}

// known is what the agent can know of the session that it refuses.
type known int

const (
	nothing      known = 0
	hostOnly     known = 1
	instanceOnly known = 2
	secondOnly   known = 4 // secondID
	both               = hostOnly | instanceOnly
)

// refuse asks for a signature over data on a new connection and expects a failure.
func refuse(e *env, data []byte) {
	e.Helper()
	e.connect().want(msgFailure, signRequest(e.keyBlob(), data))
}

// refuseWitness hands over w and expects a refusal that says the same as the record.
func refuseWitness(e *env, w ipc.Witness) {
	e.Helper()
	err := e.agent.Witness(context.Background(), w)
	var refused *ipc.RefusedError
	if !errors.As(err, &refused) {
		e.Fatalf("got %v, want an *ipc.RefusedError", err)
	}
	if last := e.lastRefusal(); refused.Reason != last.Reason || !strings.HasPrefix(refused.Sentence, last.Sentence) {
		e.Fatalf("the proxy was told %q %q, the record is %q %q", refused.Reason, refused.Sentence, last.Reason, last.Sentence)
	}
	if live := e.agent.witnesses.live(); live != 0 {
		e.Fatalf("%d witnesses live after a refusal", live)
	}
}

// sha1Signature signs the session id with the algorithm ssh-rsa.
func sha1Signature(t *testing.T, s *session) []byte {
	sig, err := s.host.(ssh.AlgorithmSigner).SignWithAlgorithm(nil, s.id, ssh.KeyAlgoRSA)
	if err != nil {
		t.Fatal(err)
	}
	return ssh.Marshal(sig)
}

// notUserauth makes the case of a witnessed session with a login text that is not one.
func notUserauth(name string, change func(*login)) refusalCase {
	return refusalCase{NotUserauth, name, func(_ *testing.T, e *env) *session {
		refuse(e, e.login(e.witnessed(), change))
		return nil
	}, nothing}
}

// badBinding makes the case of a binding that does not verify.
func badBinding(name string, known known, message func(*testing.T, *env, *session) []byte) refusalCase {
	return refusalCase{BadBinding, name, func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgExtensionFailure, message(t, e, s))
		if n := c.listed(); n != 0 {
			t.Errorf("a poisoned connection was shown %d keys", n)
		}
		return s
	}, known}
}

// badWitness makes the case of a witness that could never verify.
func badWitness(name string, known known, change func(t *testing.T, e *env, s *session, w *ipc.Witness)) refusalCase {
	return refusalCase{BadWitness, name, func(t *testing.T, e *env) *session {
		s := e.session()
		w := s.witness()
		change(t, e, s, &w)
		refuseWitness(e, w)
		return s
	}, known}
}

var refusalCases = []refusalCase{
	{NoWitness, "a session that the proxy did not see", func(t *testing.T, e *env) *session {
		refuse(e, e.login(e.session()))
		return nil
	}, nothing},
	{NoWitness, "another session with the same host", func(t *testing.T, e *env) *session {
		e.witnessed()
		refuse(e, e.login(e.session()))
		return nil
	}, nothing},
	{NoWitness, "a bound session that the proxy did not see", func(t *testing.T, e *env) *session {
		s := e.session()
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(s, hostBound(s))))
		return s
	}, hostOnly},
	{NoWitness, "a host key shown with another host's signature", func(t *testing.T, e *env) *session {
		s := newSession(t, newKey(t, ssh.KeyAlgoED25519), 32)
		w := s.witness()
		w.HostKey = e.host.PublicKey().Marshal()
		if err := e.agent.Witness(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		refuse(e, e.login(s))
		return nil
	}, nothing},

	notUserauth("a session id that is too short", func(l *login) { l.SessionID = l.SessionID[:31] }),
	notUserauth("an empty session id", func(l *login) { l.SessionID = nil }),
	notUserauth("another message", func(l *login) { l.Message = 51 }),
	notUserauth("another service", func(l *login) { l.Service = "ssh-userauth" }),
	notUserauth("another method", func(l *login) { l.Method = "hostbased" }),
	notUserauth("a query without a signature", func(l *login) { l.Sig = 0 }),
	notUserauth("a flag that is not a boolean", func(l *login) { l.Sig = 2 }),
	notUserauth("another algorithm", func(l *login) { l.Algorithm = ssh.KeyAlgoRSASHA512 }),
	notUserauth("another key inside", func(l *login) { l.Key = append([]byte{}, l.Key[:len(l.Key)-1]...) }),
	notUserauth("no user", func(l *login) { l.User = "" }),
	notUserauth("a trailing byte", func(l *login) { l.Rest = []byte{0} }),
	notUserauth("a host key behind the plain method", func(l *login) { l.Rest = ssh.Marshal(struct{ K []byte }{[]byte("k")}) }),
	notUserauth("no host key in the host-bound method", func(l *login) { l.Method, l.HostKey = methodHostBound, nil }),
	{NotUserauth, "a file signature", func(t *testing.T, e *env) *session {
		refuse(e, append([]byte("SSHSIG"), ssh.Marshal(struct{ Namespace, Reserved, Hash, Sum string }{"git", "", "sha512", strings.Repeat("h", 64)})...))
		return nil
	}, nothing},
	{NotUserauth, "nothing", func(t *testing.T, e *env) *session {
		refuse(e, nil)
		return nil
	}, nothing},
	{NotUserauth, "on a bound connection", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgFailure, signRequest(e.keyBlob(), s.id))
		return s
	}, hostOnly},

	{OtherKey, "", func(t *testing.T, e *env) *session {
		other := newKey(t, ssh.KeyAlgoED25519).PublicKey().Marshal()
		s := e.witnessed()
		e.connect().want(msgFailure, signRequest(other, loginText(s, other)))
		return nil
	}, nothing},

	{OtherUser, "", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		refuse(e, e.login(s, func(l *login) { l.User = "admin" }))
		return s
	}, both},

	{NotPinned, "at the key exchange", func(t *testing.T, e *env) *session {
		s := newSession(t, newKey(t, ssh.KeyAlgoED25519), 32)
		refuseWitness(e, s.witness())
		return s
	}, both},
	{NotPinned, "for this instance", func(t *testing.T, e *env) *session {
		s := newSession(t, newKey(t, ssh.KeyAlgoED25519), 32)
		e.pins.add(instance+1, s.host.PublicKey())
		refuseWitness(e, s.witness())
		return s
	}, both},
	{NotPinned, "at the login any more", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.pins.set(func(p *fakePins) { p.pins = nil })
		refuse(e, e.login(s))
		return s
	}, both},
	{NotPinned, "because the pins cannot be read", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.pins.set(func(p *fakePins) { p.err = errors.New("broken") })
		refuse(e, e.login(s))
		return s
	}, both},
	{NotPinned, "when a bound connection asks for the keys", func(t *testing.T, e *env) *session {
		s := newSession(t, newKey(t, ssh.KeyAlgoED25519), 32)
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		if n := c.listed(); n != 0 {
			t.Errorf("an unknown host was shown %d keys", n)
		}
		return s
	}, hostOnly},
	{NotPinned, "when the pins fail a bound connection that asks for the keys", func(t *testing.T, e *env) *session {
		s := e.session()
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		e.pins.set(func(p *fakePins) { p.err = errors.New("broken") })
		if n := c.listed(); n != 0 {
			t.Errorf("%d keys were shown without pins", n)
		}
		return s
	}, hostOnly},

	badBinding("another session's signature", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(s.hostKey(), s.id, e.session().sig, 0)
	}),
	badBinding("another host's signature", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(s.hostKey(), s.id, newSession(t, newKey(t, ssh.KeyAlgoED25519), 32).sig, 0)
	}),
	badBinding("one bit of the signature", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		sig := append([]byte{}, s.sig...)
		sig[len(sig)-1] ^= 1
		return bindMessage(s.hostKey(), s.id, sig, 0)
	}),
	badBinding("a signature with a trailing byte", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(s.hostKey(), s.id, append(append([]byte{}, s.sig...), 0), 0)
	}),
	badBinding("no signature", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(s.hostKey(), s.id, nil, 0)
	}),
	badBinding("sha-1", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		s.host = newKey(t, ssh.KeyAlgoRSA)
		return bindMessage(s.hostKey(), s.id, sha1Signature(t, s), 0)
	}),
	badBinding("a session id of 20 bytes", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		return bindRequest(newSession(t, e.host, 20), 0)
	}),
	badBinding("a session id of 65 bytes", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		return bindRequest(newSession(t, e.host, 65), 0)
	}),
	badBinding("a host certificate", nothing, func(t *testing.T, e *env, s *session) []byte {
		return bindRequest(newSession(t, newCertificate(t, e.host), 32), 0)
	}),
	badBinding("a host key of an unknown type", nothing, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(ssh.Marshal(struct{ T, K string }{"ssh-mldsa44-ed25519@openssh.com", "k"}), s.id, s.sig, 0)
	}),
	badBinding("a host key of a hardware token", nothing, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(ssh.Marshal(struct {
			T   string
			K   []byte
			App string
		}{ssh.KeyAlgoSKED25519, make([]byte, 32), "ssh:"}), s.id, s.sig, 0)
	}),
	badBinding("a host key with a trailing byte", nothing, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(append(s.hostKey(), 0), s.id, s.sig, 0)
	}),
	badBinding("a huge host key", nothing, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(make([]byte, maxKeyBlob+1), s.id, s.sig, 0)
	}),
	badBinding("a huge signature", hostOnly, func(t *testing.T, e *env, s *session) []byte {
		return bindMessage(s.hostKey(), s.id, make([]byte, maxSignature+1), 0)
	}),
	badBinding("no forwarding flag", nothing, func(t *testing.T, e *env, s *session) []byte {
		msg := bindRequest(s, 0)
		return msg[:len(msg)-1]
	}),
	badBinding("a trailing byte", nothing, func(t *testing.T, e *env, s *session) []byte {
		return append(bindRequest(s, 0), 0)
	}),
	badBinding("no body", nothing, func(t *testing.T, e *env, s *session) []byte {
		return ssh.Marshal(struct {
			Name string `sshtype:"27"`
		}{extSessionBind})
	}),

	{Forwarded, "", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.connect().want(msgExtensionFailure, bindRequest(s, 1))
		return s
	}, hostOnly},
	{Forwarded, "with a flag that is not a boolean", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.connect().want(msgExtensionFailure, bindRequest(s, 2))
		return s
	}, hostOnly},

	{SecondBinding, "to another session", func(t *testing.T, e *env) *session {
		c := e.connect()
		c.want(msgSuccess, bindRequest(e.witnessed(), 0))
		s := e.witnessed()
		c.want(msgExtensionFailure, bindRequest(s, 0))
		return s
	}, hostOnly},
	{SecondBinding, "to the same session", func(t *testing.T, e *env) *session {
		c := e.connect()
		s := e.witnessed()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgExtensionFailure, bindRequest(s, 0))
		return s
	}, hostOnly},
	{SecondBinding, "after a signature", func(t *testing.T, e *env) *session {
		c := e.connect()
		s := e.witnessed()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
		s = e.witnessed()
		c.want(msgExtensionFailure, bindRequest(s, 0))
		return s
	}, hostOnly},
	{SecondBinding, "after an unbound request", func(t *testing.T, e *env) *session {
		c := e.connect()
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(e.session())))
		s := e.witnessed()
		c.want(msgExtensionFailure, bindRequest(s, 0))
		return s
	}, hostOnly},

	{OtherSession, "", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(e.witnessed())))
		return s
	}, hostOnly},

	{OtherHostKey, "in the host-bound method", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		other := newSession(t, newKey(t, ssh.KeyAlgoED25519), 32)
		refuse(e, e.login(s, hostBound(other)))
		return s
	}, both},
	{OtherHostKey, "in the binding", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		other := newKey(t, ssh.KeyAlgoED25519)
		e.pins.add(instance, other.PublicKey())
		c := e.connect()
		c.want(msgSuccess, bindMessage(other.PublicKey().Marshal(), s.id, hostSignature(t, other, s.id), 0))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		return s
	}, both},

	{AlreadySigned, "on another connection", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
		refuse(e, e.login(s))
		return nil
	}, nothing},
	{AlreadySigned, "on the same connection", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		return s
	}, hostOnly},
	{AlreadySigned, "for another session on the same connection", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(e.witnessed())))
		return s
	}, hostOnly},
	{AlreadySigned, "though witnessed again", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.connect().want(msgSignResponse, signRequest(e.keyBlob(), e.login(s)))
		e.mustWitness(s)
		refuse(e, e.login(s))
		return nil
	}, nothing},

	{Poisoned, "request", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgExtensionFailure, bindRequest(s, 1))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		return nil
	}, nothing},
	{Poisoned, "binding", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgExtensionFailure, bindRequest(s, 1))
		c.want(msgExtensionFailure, bindRequest(s, 0))
		return nil
	}, nothing},
	{Poisoned, "by a refused request on a bound connection", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(e.session())))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		return s
	}, hostOnly},

	{KeyUnavailable, "at the list", func(t *testing.T, e *env) *session {
		e.keys.publicErr = errors.New("no such file")
		if n := e.connect().listed(); n != 0 {
			t.Errorf("%d keys were listed", n)
		}
		return nil
	}, nothing},
	{KeyUnavailable, "at the key exchange", func(t *testing.T, e *env) *session {
		e.keys.signerErr = errors.New("locked")
		s := e.session()
		refuseWitness(e, s.witness())
		return s
	}, both},
	{KeyUnavailable, "at the request", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.keys.publicErr = errors.New("no such file")
		refuse(e, e.login(s))
		return nil
	}, nothing},
	{KeyUnavailable, "for the keyring is locked", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.keys.signerErr = errors.New("locked")
		refuse(e, e.login(s))
		return s
	}, both},
	{KeyUnavailable, "for the files are not a pair", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.keys.public = newKey(t, ssh.KeyAlgoED25519).PublicKey()
		blob := e.keys.public.Marshal()
		e.connect().want(msgFailure, signRequest(blob, loginText(s, blob)))
		return s
	}, both},
	{KeyUnavailable, "for the signer fails", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.keys.sign = func([]byte) (*ssh.Signature, error) { return nil, errors.New("no") }
		refuse(e, e.login(s))
		e.keys.data = nil // asked for, and not made
		return s
	}, both},

	{BadRequest, "a request without its fields", func(t *testing.T, e *env) *session {
		e.connect().want(msgFailure, []byte{msgSignRequest})
		return nil
	}, nothing},
	{BadRequest, "a request with a trailing byte", func(t *testing.T, e *env) *session {
		e.connect().want(msgFailure, append(signRequest(e.keyBlob(), e.login(e.witnessed())), 0))
		return nil
	}, nothing},
	{BadRequest, "a request on a bound connection", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		c := e.connect()
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgFailure, []byte{msgSignRequest})
		return s
	}, hostOnly},
	{BadRequest, "a list with trailing bytes", func(t *testing.T, e *env) *session {
		e.connect().want(msgFailure, []byte{msgRequestIdentities, 0})
		return nil
	}, nothing},
	{BadRequest, "an extension without a name", func(t *testing.T, e *env) *session {
		e.connect().want(msgFailure, []byte{msgExtension, 0, 0, 0, 9, 'x'})
		return nil
	}, nothing},
	{BadRequest, "an empty message", func(t *testing.T, e *env) *session {
		c := e.connect()
		c.Write(frame(nil))
		<-c.done
		return nil
	}, nothing},

	badWitness("a host certificate", instanceOnly, func(t *testing.T, e *env, s *session, w *ipc.Witness) {
		w.HostKey = newCertificate(t, e.host).PublicKey().Marshal()
	}),
	badWitness("no host key", instanceOnly, func(t *testing.T, e *env, s *session, w *ipc.Witness) { w.HostKey = nil }),
	badWitness("a host key in another encoding", instanceOnly, func(t *testing.T, e *env, s *session, w *ipc.Witness) {
		// The modulus with one zero byte more in front than RFC 4251 section 5 allows.
		var key struct {
			Type string
			E, N []byte
		}
		if err := ssh.Unmarshal(newKey(t, ssh.KeyAlgoRSA).PublicKey().Marshal(), &key); err != nil {
			t.Fatal(err)
		}
		key.N = append([]byte{0}, key.N...)
		w.HostKey = ssh.Marshal(key)
	}),
	badWitness("no signature", both, func(t *testing.T, e *env, s *session, w *ipc.Witness) { w.Signature = nil }),
	badWitness("a signature of another key type", both, func(t *testing.T, e *env, s *session, w *ipc.Witness) {
		w.Signature = newSession(t, newKey(t, ssh.KeyAlgoECDSA256), 32).sig
	}),
	badWitness("sha-1", both, func(t *testing.T, e *env, s *session, w *ipc.Witness) {
		s.host = newKey(t, ssh.KeyAlgoRSA)
		e.pins.add(instance, s.host.PublicKey())
		w.HostKey, w.Signature = s.hostKey(), sha1Signature(t, s)
	}),
	badWitness("no instance", hostOnly, func(t *testing.T, e *env, s *session, w *ipc.Witness) { w.Instance = 0 }),

	{Unsupported, "a message", func(t *testing.T, e *env) *session {
		e.connect().want(msgFailure, []byte{17})
		return nil
	}, nothing},
	{Unsupported, "an extension", func(t *testing.T, e *env) *session {
		e.connect().want(msgFailure, ssh.Marshal(struct {
			Name string `sshtype:"27"`
		}{"query"}))
		return nil
	}, nothing},

	{Stopping, "", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		if err := e.agent.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		refuse(e, e.login(s))
		return nil
	}, nothing},

	{KeyUnavailable, "at the key exchange, for the files are not a pair", func(t *testing.T, e *env) *session {
		e.keys.public = newKey(t, ssh.KeyAlgoED25519).PublicKey()
		s := e.session()
		refuseWitness(e, s.witness())
		return s
	}, both},
	{Unused, "", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.agent.Withdraw(s.witness())
		if live := e.agent.witnesses.live(); live != 0 {
			t.Errorf("%d witnesses live after their connection", live)
		}
		return s
	}, both},

	{Locked, "at the key exchange", func(t *testing.T, e *env) *session {
		e.keys.lock(true)
		s := e.session()
		refuseWitness(e, s.witness())
		return s
	}, both},
	{Locked, "at the request", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.keys.lock(true)
		refuse(e, e.login(s))
		return nil
	}, nothing},
	{Locked, "between the request and the signature", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.settle(Policy{Confirm: ConfirmAlways})
		e.asks(func(context.Context, Decision) error { e.keys.lock(true); return nil })
		refuse(e, e.login(s))
		return s
	}, both},
	{Locked, "while the signature is made", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.keys.sign = func([]byte) (*ssh.Signature, error) { e.keys.lock(true); return nil, errors.New("destroyed") }
		refuse(e, e.login(s))
		e.keys.data = nil
		return s
	}, both},

	{Declined, "", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.settle(Policy{Confirm: ConfirmFirst})
		e.asks(func(context.Context, Decision) error { return errors.New("no") })
		refuse(e, e.login(s))
		return s
	}, both},
	{NotPinned, "when a person has agreed at last", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.settle(Policy{Confirm: ConfirmAlways})
		e.asks(func(context.Context, Decision) error {
			e.pins.set(func(p *fakePins) { p.pins = nil })
			return nil
		})
		refuse(e, e.login(s))
		return s
	}, both},

	{Unrecorded, "", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.log.fail(errors.New("disk full"))
		refuse(e, e.login(s))
		e.keys.data = nil // made, and not given
		return s
	}, both},

	{BadPolicy, "at the key exchange", func(t *testing.T, e *env) *session {
		e.badly = errors.New("line 7")
		s := e.session()
		refuseWitness(e, s.witness())
		return s
	}, both},
	{BadPolicy, "at the request", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.badly = errors.New("line 7")
		refuse(e, e.login(s))
		return nil
	}, nothing},

	{TooMany, "", func(t *testing.T, e *env) *session {
		c := e.connect()
		for range refusalBurst + 1 { // the clock works one off
			c.want(msgFailure, []byte{17})
		}
		if answer, err := c.try([]byte{msgRequestIdentities}); err == nil {
			t.Errorf("answered with %x", answer)
		}
		<-c.done
		return nil
	}, nothing},

	{OtherHop, "to an instance that hops does not name", func(t *testing.T, e *env) *session {
		h := newHops(e)
		c := h.forwarded(h.first)
		s := newSession(t, h.third, 32)
		c.want(msgExtensionFailure, bindRequest(s, 0))
		return s
	}, hostOnly},
	{OtherHop, "back", func(t *testing.T, e *env) *session {
		h := newHops(e)
		c := h.forwarded(h.first)
		s := newSession(t, e.host, 32)
		c.want(msgExtensionFailure, bindRequest(s, 0))
		return s
	}, hostOnly},
	{OtherHop, "any more", func(t *testing.T, e *env) *session {
		h := newHops(e)
		c := h.forwarded(h.first)
		s := newSession(t, h.second, 32)
		c.want(msgSuccess, bindRequest(s, 0))
		e.settle(Policy{})
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(s, hostBound(s))))
		return s
	}, hostOnly},
	{NotHostBound, "", func(t *testing.T, e *env) *session {
		h := newHops(e)
		c := h.forwarded(h.first)
		s := newSession(t, h.second, 32)
		c.want(msgSuccess, bindRequest(s, 0))
		c.want(msgFailure, signRequest(e.keyBlob(), e.login(s)))
		return s
	}, hostOnly | secondOnly},

	{Internal, "at a request", func(t *testing.T, e *env) *session {
		s := e.witnessed()
		e.pins.set(func(p *fakePins) { p.boom = "secret of the message" })
		c := e.connect()
		if answer, err := c.try(signRequest(e.keyBlob(), e.login(s))); err == nil {
			t.Errorf("a fault was answered with %x", answer)
		}
		<-c.done
		return nil
	}, nothing},
	{Internal, "at a witness", func(t *testing.T, e *env) *session {
		e.pins.set(func(p *fakePins) { p.boom = "secret of the message" })
		s := e.session()
		refuseWitness(e, s.witness())
		return s
	}, instanceOnly},
}

// TestRefusals leads the agent to every refusal, in every state that has one, and reads what was recorded.
func TestRefusals(t *testing.T) {
	covered := make(map[Reason]bool)
	for _, test := range refusalCases {
		covered[test.reason] = true
		t.Run(strings.TrimSpace(string(test.reason)+" "+test.name), func(t *testing.T) {
			e := newEnv(t)
			s := test.run(t, e)
			got := e.lastRefusal()
			if got.Reason != string(test.reason) {
				t.Fatalf("recorded as %q (%s)", got.Reason, got.Sentence)
			}
			if !strings.HasPrefix(got.Sentence, sentences[test.reason]) {
				t.Errorf("sentence %q is not that of the reason", got.Sentence)
			}
			if strings.Contains(got.Sentence, "secret") {
				t.Errorf("the record tells the value of a fault: %q", got.Sentence)
			}
			var wantKey string
			var wantInstance uint64
			if test.known&hostOnly != 0 {
				wantKey = ssh.FingerprintSHA256(s.host.PublicKey())
			}
			if test.known&instanceOnly != 0 {
				wantInstance = instance
			}
			if test.known&secondOnly != 0 {
				wantInstance = secondID
			}
			if got.Instance != wantInstance {
				t.Errorf("instance %d, want %d", got.Instance, wantInstance)
			}
			if got.HostKey != wantKey {
				t.Errorf("host key %q, want %q", got.HostKey, wantKey)
			}
			allowed := map[Reason]int{AlreadySigned: 1, OtherHop: 1, NotHostBound: 1}[test.reason]
			if test.reason == SecondBinding && test.name == "after a signature" {
				allowed = 1
			}
			e.wantSignatures(allowed)
		})
	}
	for reason := range sentences {
		if !covered[reason] {
			t.Errorf("no case leads to %q", reason)
		}
	}
}

// TestEveryReasonHasASentence reads the constants from the source: a reason without a sentence would leave people with
// nothing, and would escape the check above.
func TestEveryReasonHasASentence(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constants := 0
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			value := spec.(*ast.ValueSpec)
			if id, ok := value.Type.(*ast.Ident); !ok || id.Name != "Reason" {
				continue
			}
			constants++
			word, err := strconv.Unquote(value.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if sentences[Reason(word)] == "" {
				t.Errorf("%s has no sentence", value.Names[0].Name)
			}
		}
	}
	if constants != len(sentences) {
		t.Errorf("%d constants and %d sentences", constants, len(sentences))
	}
}
