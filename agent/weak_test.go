package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
)

// weakPoints are the encodings of the points of edwards25519 whose order divides 8, without the sign bit: y is 0, 1, -1, one of
// the two roots of order 8, and once more 0 and 1 as p and p+1, which decoders take as well.
var weakPoints = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func weakKeys(t *testing.T) [][]byte {
	t.Helper()
	var keys [][]byte
	for _, s := range weakPoints {
		for _, sign := range []byte{0, 0x80} {
			key, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			key[31] |= sign
			keys = append(keys, key)
		}
	}
	return keys
}

// TestWeakHostKey tries what a machine can do that has a key for which one signature fits many session ids: it lets the proxy
// witness that signature, and asks through a leaked socket for a login to another instance, which the proxy never saw.
func TestWeakHostKey(t *testing.T) {
	for _, point := range weakKeys(t) {
		public, err := ssh.NewPublicKey(ed25519.PublicKey(point))
		if err != nil {
			t.Fatal(err)
		}
		fits := func(sig []byte, id []byte) bool {
			return public.Verify(id, &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: sig}) == nil
		}
		// With s = 0 the text counts for nothing but a factor below 8 to the key.
		var sig, id []byte
		for range 4096 {
			id = make([]byte, 32)
			rand.Read(id)
			for _, r := range weakKeys(t) {
				if sig = append(bytes.Clone(r), make([]byte, 32)...); fits(sig, id) {
					break
				}
			}
			if fits(sig, id) {
				break
			}
		}
		if !fits(sig, id) {
			t.Fatalf("key %x is not weak, and has no place in this test", point)
		}

		e := newEnv(t)
		e.pins.add(instance, public)
		blob := ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: sig})
		err = e.agent.Witness(t.Context(), ipc.Witness{Instance: instance, HostKey: public.Marshal(), Signature: blob, User: user})
		if err == nil {
			t.Errorf("key %x: the agent took the witness", point)
		}
		e.connect().want(msgFailure, signRequest(e.keyBlob(), e.login(&session{id: id})))
		e.connect().want(msgExtensionFailure, bindMessage(public.Marshal(), id, blob, 0))
		e.wantSignatures(0)
	}
}
