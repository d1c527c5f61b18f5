//go:build linux

package remote

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
)

// keySize is that of AES-128.
const keySize = 16

// stream is the random data that files are overwritten with: the key stream of AES-CTR under a random key. It can be
// made again for any place of any file, so that what is read back can be compared with what was written. Nothing rests
// on its secrecy.
type stream struct{ block cipher.Block }

func newKey() []byte {
	key := make([]byte, keySize)
	rand.Read(key)
	return key
}

func newStream(key []byte) (*stream, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return &stream{block}, nil
}

// fill makes b the part at offset of the stream of the file numbered nonce. The offset is a multiple of the block size.
func (s *stream) fill(b []byte, nonce uint64, offset int64) {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[:8], nonce)
	binary.BigEndian.PutUint64(iv[8:], uint64(offset)/aes.BlockSize)
	clear(b)
	cipher.NewCTR(s.block, iv[:]).XORKeyStream(b, b)
}
