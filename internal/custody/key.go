package custody

import (
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"unsafe"

	"filippo.io/edwards25519"
	"golang.org/x/crypto/ssh"
)

// maxMessage is in bytes, and far more than a login needs.
const maxMessage = 15 << 10

// ErrDestroyed is the error of a Key that is used after Destroy.
var ErrDestroyed = errors.New("the private key is not in memory any more")

// Key is an Ed25519 key that signs for SSH. What it signs with lies in pages of its own, locked and outside the Go
// heap, and so do the secrets that come up while it signs; the stack that signing has used is overwritten.
//
// Out of reach are copies that the system makes of a thread in the middle of a signature: registers that a signal or
// a switch of threads saves, and a stack that the garbage collector moves. So are copies from before: the keyring's
// client and the decoder of encrypted keys (both not ours) drop buffers on the heap, where they stay until that
// memory is used again. A plain key file leaves nothing behind. See docs/decisions/key-memory.md.
//
// Any number of goroutines may use a Key.
type Key struct {
	public ssh.PublicKey
	locked error

	mu     sync.Mutex // protects the following; one signature at a time has the scratch space
	pages  *pages     // nil after Destroy
	secret *secret    // in pages
}

// secret is the layout of a Key's pages. It holds no pointers, because the garbage collector does not look there.
type secret struct {
	scalar edwards25519.Scalar // s, RFC 8032 section 5.1.5
	public [32]byte            // A

	// What one signature needs, from here on.

	digest    [sha512.Size]byte
	nonce     edwards25519.Scalar
	challenge edwards25519.Scalar
	// In the projective coordinates of R are traces of the nonce.
	point edwards25519.Point
	// text is what the nonce is the hash of: 32 bytes of prefix, which stay, and the message.
	text [32 + maxMessage]byte
}

// The whole takes four pages, or one of Apple's: systems lock few pages for a user.
const _ = uint(16<<10 - unsafe.Sizeof(secret{}))

// newKey returns the key of a seed (RFC 8032 section 5.1.5), which stays the caller's to zero.
func newKey(seed *[ed25519.SeedSize]byte) (*Key, error) {
	p, locked, err := newPages(int(unsafe.Sizeof(secret{})))
	if err != nil {
		return nil, err
	}
	s := (*secret)(unsafe.Pointer(&p.data[0]))
	coverStack()
	s.expand(seed)
	coverStack()
	public, err := ssh.NewPublicKey(ed25519.PublicKey(append([]byte(nil), s.public[:]...)))
	if err != nil {
		panic(err) // unreachable: an ed25519.PublicKey is a public key
	}
	return &Key{public: public, locked: locked, pages: p, secret: s}, nil
}

// PublicKey implements ssh.Signer. It stays of use after Destroy.
func (k *Key) PublicKey() ssh.PublicKey { return k.public }

// MemoryLocked returns nil if the key's memory never goes to the swap or a core dump, or else why it might.
func (k *Key) MemoryLocked() error { return k.locked }

// Sign implements ssh.Signer for messages of up to 15 KiB. The randomness is not used: RFC 8032 needs none.
func (k *Key) Sign(_ io.Reader, message []byte) (*ssh.Signature, error) {
	if len(message) > maxMessage {
		return nil, fmt.Errorf("the text to sign has %d bytes, more than %d", len(message), maxMessage)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pages == nil {
		return nil, ErrDestroyed
	}
	blob := make([]byte, ed25519.SignatureSize)
	// The first call makes the stack grow, if it has to, while there is no secret on it.
	coverStack()
	k.secret.sign(blob, message)
	coverStack()
	return &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: blob}, nil
}

// Destroy zeroes the key and gives its memory back, after a signature that is under way. Later ones get ErrDestroyed.
func (k *Key) Destroy() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pages == nil {
		return
	}
	clear(k.pages.data)
	k.pages.free()
	k.pages, k.secret = nil, nil
}

// expand is RFC 8032 section 5.1.5.
//
//go:noinline
func (s *secret) expand(seed *[ed25519.SeedSize]byte) {
	s.digest = sha512.Sum512(seed[:])
	mustScalar(s.scalar.SetBytesWithClamping(s.digest[:32]))
	copy(s.text[:32], s.digest[32:])
	copy(s.public[:], s.point.ScalarBaseMult(&s.scalar).Bytes())

	clear(s.digest[:])
	s.point = edwards25519.Point{}
}

// sign is RFC 8032 section 5.1.6. The message has at most maxMessage bytes, the signature 64.
//
//go:noinline
func (s *secret) sign(signature, message []byte) {
	text := s.text[:32+copy(s.text[32:], message)]
	s.digest = sha512.Sum512(text)
	mustScalar(s.nonce.SetUniformBytes(s.digest[:]))
	copy(signature[:32], s.point.ScalarBaseMult(&s.nonce).Bytes())

	h := sha512.New()
	h.Write(signature[:32])
	h.Write(s.public[:])
	h.Write(text[32:]) // not message: one that changes meanwhile would give the key away
	h.Sum(s.digest[:0])
	mustScalar(s.challenge.SetUniformBytes(s.digest[:]))
	copy(signature[32:], s.nonce.MultiplyAdd(&s.challenge, &s.scalar, &s.nonce).Bytes())

	// The nonce is S by now, and the digest that of public data.
	s.point = edwards25519.Point{}
	clear(text[32:])
}

// mustScalar takes the results of setting a scalar, which fails for a wrong length only.
func mustScalar(_ *edwards25519.Scalar, err error) {
	if err != nil {
		panic(err) // unreachable
	}
}

// coverStack overwrites the part of the stack that its caller's other calls use. They need less than half of it.
//
//go:noinline
func coverStack() {
	var cover [8 << 10]byte
	runtime.KeepAlive(&cover)
}
