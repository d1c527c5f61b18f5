package custody

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// inMemory returns key as a Key that the end of the test destroys.
func inMemory(t testing.TB, key ed25519.PrivateKey) *Key {
	t.Helper()
	k, err := newKey((*[ed25519.SeedSize]byte)(key[:ed25519.SeedSize]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Destroy)
	return k
}

// TestVectors signs the test vectors of RFC 8032 section 7.1: 1, 2, 3 and SHA(abc).
func TestVectors(t *testing.T) {
	for _, tt := range []struct{ seed, public, message, signature string }{
		{
			"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
			"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
			"",
			"e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24" +
				"655141438e7a100b",
		},
		{
			"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
			"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
			"72",
			"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee" +
				"b00d291612bb0c00",
		},
		{
			"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
			"fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
			"af82",
			"6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d" +
				"c027beceea1ec40a",
		},
		{
			"833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
			"ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
			"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e" +
				"2a9ac94fa54ca49f",
			"dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17a" +
				"d9bef1177331a704",
		},
	} {
		unhex := func(s string) []byte {
			t.Helper()
			b, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		key := inMemory(t, ed25519.NewKeyFromSeed(unhex(tt.seed)))
		if want := publicOf(append(make([]byte, ed25519.SeedSize), unhex(tt.public)...)); !same(key.PublicKey(), want) {
			t.Errorf("public key %x, want %x", key.PublicKey().Marshal(), want.Marshal())
		}
		sig, err := key.Sign(nil, unhex(tt.message))
		if err != nil {
			t.Fatal(err)
		}
		if sig.Format != ssh.KeyAlgoED25519 || !bytes.Equal(sig.Blob, unhex(tt.signature)) || len(sig.Rest) > 0 {
			t.Errorf("signature of %q: %q %x, want %s", tt.message, sig.Format, sig.Blob, tt.signature)
		}
	}
}

// TestSignsLikeEd25519 compares with crypto/ed25519 over random keys, and messages of every length up to a few blocks
// of the hash and then of any.
func TestSignsLikeEd25519(t *testing.T) {
	source := rand.NewChaCha8([32]byte([]byte("the same keys and texts each run")))
	random := rand.New(source)
	message := make([]byte, maxMessage)
	for i := range 2000 {
		seed := make([]byte, ed25519.SeedSize)
		source.Read(seed)
		want := ed25519.NewKeyFromSeed(seed)
		key := inMemory(t, want)
		for j := range 2 { // a second signature on the scratch space of the first
			n := i % 600
			if i%10 == 0 || j == 1 {
				n = random.IntN(maxMessage + 1)
			}
			source.Read(message[:n])
			sig, err := key.Sign(nil, message[:n])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(sig.Blob, ed25519.Sign(want, message[:n])) {
				t.Fatalf("seed %x, text of %d bytes: another signature than crypto/ed25519", seed, n)
			}
		}
		if !same(key.PublicKey(), publicOf(want)) {
			t.Fatalf("seed %x: another public key than crypto/ed25519", seed)
		}
		key.Destroy()
	}
}

func TestSignBoundsTheMessage(t *testing.T) {
	private := Generate()
	key := inMemory(t, private)
	message := make([]byte, maxMessage+1)
	if _, err := key.Sign(nil, message); err == nil {
		t.Error("signed more than fits")
	}
	sig, err := key.Sign(nil, message[:maxMessage])
	if err != nil {
		t.Fatal(err)
	}
	if err := key.PublicKey().Verify(message[:maxMessage], sig); err != nil {
		t.Error(err)
	}
}

// TestScratchIsZeroed looks for what a signature leaves beside the key itself.
func TestScratchIsZeroed(t *testing.T) {
	key := inMemory(t, Generate())
	message := bytes.Repeat([]byte("m"), maxMessage)
	if _, err := key.Sign(nil, message); err != nil {
		t.Fatal(err)
	}
	prefix := bytes.Clone(key.secret.text[:32])
	if n := bytes.Count(key.pages.data, prefix); n != 1 {
		t.Errorf("the prefix is in memory %d times", n)
	}
	nonce := sha512.Sum512(append(prefix, message...))
	if bytes.Contains(key.pages.data, nonce[:]) {
		t.Error("the nonce remains")
	}
	if bytes.Contains(key.pages.data, message[:16]) {
		t.Error("the message remains")
	}
}

func TestDestroy(t *testing.T) {
	private := Generate()
	key := inMemory(t, private)
	signs(t, key, private)
	key.Destroy()
	key.Destroy()
	if _, err := key.Sign(nil, []byte("x")); !errors.Is(err, ErrDestroyed) {
		t.Errorf("err = %v, want ErrDestroyed", err)
	}
	if !same(key.PublicKey(), publicOf(private)) {
		t.Error("the public half is gone too")
	}
}

// TestDestroyWhileSigning ends a key under many signers: each signature is right, or ErrDestroyed for good.
func TestDestroyWhileSigning(t *testing.T) {
	for range 5 {
		private := Generate()
		key := inMemory(t, private)
		var wg, started sync.WaitGroup
		started.Add(8)
		for range 8 {
			wg.Go(func() {
				message := []byte("a login")
				for i := 0; ; i++ {
					if i == 1 {
						started.Done()
					}
					sig, err := key.Sign(nil, message)
					if errors.Is(err, ErrDestroyed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					if !bytes.Equal(sig.Blob, ed25519.Sign(private, message)) {
						t.Error("a wrong signature")
					}
				}
			})
		}
		started.Wait()
		wg.Go(key.Destroy)
		wg.Go(key.Destroy)
		wg.Wait()
	}
}

func BenchmarkSign(b *testing.B) {
	private := Generate()
	message := make([]byte, 200)
	b.Run("Key", func(b *testing.B) {
		key := inMemory(b, private)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := key.Sign(nil, message); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ed25519", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ed25519.Sign(private, message)
		}
	})
}
