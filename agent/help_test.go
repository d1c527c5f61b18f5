package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/unixsock"
)

// The instance and the user of the tests.
const (
	instance = 1234567
	user     = "root"
)

// testPeer is the process that asks in the tests.
var testPeer = unixsock.Peer{PID: 4711, UID: 1000}

func newKey(t testing.TB, algo string) ssh.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch algo {
	case ssh.KeyAlgoED25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case ssh.KeyAlgoECDSA256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ssh.KeyAlgoECDSA384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ssh.KeyAlgoECDSA521:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case ssh.KeyAlgoRSA:
		key, err = rsaKey()
	default:
		t.Fatalf("no key of type %q", algo)
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// seededKey is always the same key for seed, so that what a fuzzer found stays meaningful.
func seededKey(t testing.TB, seed byte) ssh.Signer {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newCertificate(t testing.TB, host ssh.Signer) ssh.Signer {
	t.Helper()
	cert := &ssh.Certificate{Key: host.PublicKey(), CertType: ssh.HostCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, newKey(t, ssh.KeyAlgoED25519)); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, host)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// fakeKeys serves one key, and remembers all that it signed.
type fakeKeys struct {
	key       ssh.Signer
	public    ssh.PublicKey                             // what PublicKey returns; nil is that of key
	publicErr error                                     // of PublicKey
	signerErr error                                     // of Signer
	sign      func(data []byte) (*ssh.Signature, error) // in place of key's

	mu     sync.Mutex // protects the following
	data   [][]byte   // all that was signed
	locked bool
}

func (k *fakeKeys) Locked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.locked
}

func (k *fakeKeys) lock(locked bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.locked = locked
}

func (k *fakeKeys) PublicKey(context.Context) (ssh.PublicKey, error) {
	switch {
	case k.publicErr != nil:
		return nil, k.publicErr
	case k.public != nil:
		return k.public, nil
	}
	return k.key.PublicKey(), nil
}

func (k *fakeKeys) Signer(context.Context) (ssh.Signer, error) {
	if k.signerErr != nil {
		return nil, k.signerErr
	}
	if k.Locked() {
		return nil, ErrLocked
	}
	return &countingSigner{k}, nil
}

// signatures returns all that was signed.
func (k *fakeKeys) signatures() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([][]byte(nil), k.data...)
}

type countingSigner struct{ keys *fakeKeys }

func (s *countingSigner) PublicKey() ssh.PublicKey { return s.keys.key.PublicKey() }

func (s *countingSigner) Sign(random io.Reader, data []byte) (*ssh.Signature, error) {
	s.keys.mu.Lock()
	s.keys.data = append(s.keys.data, bytes.Clone(data))
	s.keys.mu.Unlock()
	if s.keys.sign != nil {
		return s.keys.sign(data)
	}
	return s.keys.key.Sign(random, data)
}

// fakePins holds pins that can change and fail.
type fakePins struct {
	mu   sync.Mutex // protects the following
	pins map[uint64][]ssh.PublicKey
	err  error
	boom any // to panic with
}

func (p *fakePins) add(instance uint64, key ssh.PublicKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pins == nil {
		p.pins = make(map[uint64][]ssh.PublicKey)
	}
	p.pins[instance] = append(p.pins[instance], key)
}

func (p *fakePins) set(change func(*fakePins)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *fakePins) Check(instance uint64, key ssh.PublicKey) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.boom != nil {
		panic(p.boom)
	}
	if p.err != nil {
		return p.err
	}
	for _, pin := range p.pins[instance] {
		if bytes.Equal(pin.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return errors.New("not among the pins")
}

func (p *fakePins) Instances(key ssh.PublicKey) ([]uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	var ids []uint64
	for id, pins := range p.pins {
		for _, pin := range pins {
			if bytes.Equal(pin.Marshal(), key.Marshal()) {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// fakeLog keeps what was recorded, and can fail.
type fakeLog struct {
	mu   sync.Mutex // protects the following
	kept []Decision
	err  error
}

func (l *fakeLog) Record(d Decision) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.kept = append(l.kept, d)
	return nil
}

func (l *fakeLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// decisions returns what was recorded with the verdict v.
func (l *fakeLog) decisions(v Verdict) []Decision {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.kept), func(d Decision) bool { return d.Verdict != v })
}

// env is an agent, its key, and one instance with a pinned host key.
type env struct {
	testing.TB
	agent *Agent
	keys  *fakeKeys
	pins  *fakePins
	log   *fakeLog
	host  ssh.Signer

	mu       sync.Mutex // protects the following
	policy   Policy
	badly    error // why there is no policy
	approver Approver
}

// settle changes the policy.
func (e *env) settle(p Policy) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.policy = p
}

func (e *env) settled() (Policy, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.policy, e.badly
}

// asks makes f the person who is asked.
func (e *env) asks(f func(context.Context, Decision) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.approver = approverFunc(f)
}

type approverFunc func(context.Context, Decision) error

func (f approverFunc) Approve(ctx context.Context, d Decision) error { return f(ctx, d) }

// Approve is the agent's way to the person of the moment.
func (e *env) Approve(ctx context.Context, d Decision) error {
	e.mu.Lock()
	a := e.approver
	e.mu.Unlock()
	if a == nil {
		return errors.New("nobody is there")
	}
	return a.Approve(ctx, d)
}

func newEnv(t testing.TB, change ...func(*Config)) *env {
	t.Helper()
	e := &env{TB: t, keys: &fakeKeys{key: newKey(t, ssh.KeyAlgoED25519)}, pins: &fakePins{},
		log: &fakeLog{}, host: newKey(t, ssh.KeyAlgoED25519)}
	e.pins.add(instance, e.host.PublicKey())
	cfg := Config{Keys: e.keys, Pins: e.pins, Log: e.log, Policy: e.settled, Approver: e, Comment: "vast-ssh"}
	for _, f := range change {
		f(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.agent = a
	return e
}

// keyBlob is the key of the agent on the wire.
func (e *env) keyBlob() []byte { return e.keys.key.PublicKey().Marshal() }

// session stands for an SSH session: its id is random, as an exchange hash is for all but its two ends.
type session struct {
	host ssh.Signer
	id   []byte
	sig  []byte
}

func (e *env) session() *session { return newSession(e, e.host, 32) }

func newSession(t testing.TB, host ssh.Signer, size int) *session {
	t.Helper()
	id := make([]byte, size)
	rand.Read(id)
	return &session{host: host, id: id, sig: hostSignature(t, host, id)}
}

func hostSignature(t testing.TB, host ssh.Signer, id []byte) []byte {
	t.Helper()
	var sig *ssh.Signature
	var err error
	if as, ok := host.(ssh.AlgorithmSigner); ok && host.PublicKey().Type() == ssh.KeyAlgoRSA {
		sig, err = as.SignWithAlgorithm(rand.Reader, id, ssh.KeyAlgoRSASHA256)
	} else {
		sig, err = host.Sign(rand.Reader, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ssh.Marshal(sig)
}

func (s *session) hostKey() []byte { return s.host.PublicKey().Marshal() }

func (s *session) witness() ipc.Witness {
	return ipc.Witness{Instance: instance, HostKey: s.hostKey(), Signature: s.sig, User: user, Route: "direct"}
}

// witnessed makes a session that the proxy has told the agent about.
func (e *env) witnessed() *session {
	e.Helper()
	s := e.session()
	e.mustWitness(s)
	return s
}

func (e *env) mustWitness(s *session) {
	e.Helper()
	if err := e.agent.Witness(context.Background(), s.witness()); err != nil {
		e.Fatal(err)
	}
}

// login is the text of RFC 4252 section 7 with every field open to change.
type login struct {
	SessionID []byte
	Message   byte
	User      string
	Service   string
	Method    string
	Sig       byte
	Algorithm string
	Key       []byte
	HostKey   []byte // written if Method is methodHostBound
	Rest      []byte
}

func (e *env) login(s *session, change ...func(*login)) []byte {
	return loginText(s, e.keyBlob(), change...)
}

func loginText(s *session, keyBlob []byte, change ...func(*login)) []byte {
	l := login{
		SessionID: s.id, Message: msgUserauthRequest, User: user, Service: "ssh-connection",
		Method: methodPublicKey, Sig: 1, Algorithm: ssh.KeyAlgoED25519, Key: keyBlob,
	}
	for _, f := range change {
		f(&l)
	}
	return l.marshal()
}

func (l login) marshal() []byte {
	b := ssh.Marshal(struct {
		SessionID             []byte
		Message               byte
		User, Service, Method string
		Sig                   byte
		Algorithm             string
		Key                   []byte
	}{l.SessionID, l.Message, l.User, l.Service, l.Method, l.Sig, l.Algorithm, l.Key})
	if l.Method == methodHostBound {
		b = append(b, ssh.Marshal(struct{ HostKey []byte }{l.HostKey})...)
	}
	return append(b, l.Rest...)
}

// hostBound makes a login name the host key that s was made with.
func hostBound(s *session) func(*login) {
	return func(l *login) { l.Method, l.HostKey = methodHostBound, s.hostKey() }
}

func signRequest(keyBlob, data []byte) []byte {
	return ssh.Marshal(struct {
		Key   []byte `sshtype:"13"`
		Data  []byte
		Flags uint32
	}{keyBlob, data, 0})
}

func bindRequest(s *session, forwarding byte) []byte {
	return bindMessage(s.hostKey(), s.id, s.sig, forwarding)
}

func bindMessage(hostKey, id, sig []byte, forwarding byte) []byte {
	return ssh.Marshal(struct {
		Name           string `sshtype:"27"`
		HostKey        []byte
		SessionID, Sig []byte
		Forwarding     byte
	}{extSessionBind, hostKey, id, sig, forwarding})
}

func frame(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)
}

// client is the far end of a connection to the agent.
type client struct {
	testing.TB
	net.Conn
	done chan struct{} // closed when Serve has returned
}

func (e *env) connect() *client {
	e.Helper()
	peer := testPeer
	peer.Start = connected.Add(1) // another process each time
	return e.connectAs(peer)
}

var connected atomic.Uint64

func (e *env) connectAs(peer unixsock.Peer) *client {
	e.Helper()
	near, far := net.Pipe()
	c := &client{TB: e.TB, Conn: near, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		e.agent.Serve(context.Background(), far, peer)
	}()
	e.Cleanup(func() { near.Close(); <-c.done })
	return c
}

// ask sends one message and returns the answer.
func (c *client) ask(msg []byte) []byte {
	c.Helper()
	answer, err := c.try(msg)
	if err != nil {
		c.Fatalf("message %d: %v", msg[0], err)
	}
	return answer
}

func (c *client) try(msg []byte) ([]byte, error) {
	if _, err := c.Write(frame(msg)); err != nil {
		return nil, err
	}
	return readAnswer(c)
}

func readAnswer(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(r, body)
	return body, err
}

// want sends msg and fails the test unless the answer is of the type want.
func (c *client) want(want byte, msg []byte) {
	c.Helper()
	if got := c.ask(msg); got[0] != want {
		c.Fatalf("message %d was answered with %d, want %d", msg[0], got[0], want)
	}
}

// listed asks for the keys and returns their number.
func (c *client) listed() int {
	c.Helper()
	answer := c.ask([]byte{msgRequestIdentities})
	if answer[0] != msgIdentitiesAnswer || len(answer) < 5 {
		c.Fatalf("list was answered with %x", answer)
	}
	return int(binary.BigEndian.Uint32(answer[1:]))
}

// lastRefusal returns the newest refusal, and fails the test if there is none.
func (e *env) lastRefusal() ipc.Refusal {
	e.Helper()
	kept, _ := e.agent.refusals.last()
	if len(kept) == 0 {
		e.Fatal("no refusal was recorded")
	}
	return kept[len(kept)-1]
}

func (e *env) wantSignatures(n int) {
	e.Helper()
	if got := len(e.keys.signatures()); got != n {
		e.Fatalf("%d signatures were made, want %d", got, n)
	}
}
