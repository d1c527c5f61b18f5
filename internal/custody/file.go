package custody

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
)

// fileStore keeps the key unencrypted in a file that ssh can read too.
type fileStore struct {
	path string
}

func (s *fileStore) Name() string { return "file" }

func (s *fileStore) where() string {
	return fmt.Sprintf("private key in file %q (custody = \"file\")", s.path)
}

func (s *fileStore) Signer(ctx context.Context) (ssh.Signer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := readOwned(s.path, s.where(), 0o077)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &MissingError{s.where()}
	}
	if err != nil {
		return nil, err
	}
	defer clear(data)
	return signer(data, s.where())
}

func (s *fileStore) Save(ctx context.Context, key ed25519.PrivateKey, comment string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := marshal(key, comment)
	if err != nil {
		return err
	}
	defer clear(data)
	if err := atomicfile.EnsureDir(filepath.Dir(s.path)); err != nil {
		return err
	}
	err = create(s.path, data)
	if errors.Is(err, fs.ErrExist) {
		return &ExistsError{s.where()}
	}
	return err
}

func marshal(key ed25519.PrivateKey, comment string) ([]byte, error) {
	block, err := ssh.MarshalPrivateKey(key, cleanComment(comment))
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// readOwned reads a key file that is ours alone: a regular file of this user, with none of the mode bits forbidden,
// in a directory that nobody else can enter. where names the key in the error, a *KeyError or one of the file system.
func readOwned(path, where string, forbidden fs.FileMode) ([]byte, error) {
	// In such a directory nobody else can swap the file between the look at it and the reading.
	if err := atomicfile.CheckDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &KeyError{Where: where, Reason: "is not in a regular file"}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return nil, &KeyError{Where: where, Reason: "is in a file of another user"}
	}
	if perm := info.Mode().Perm(); perm&forbidden != 0 {
		return nil, &KeyError{
			Where:  where,
			Reason: fmt.Sprintf("is open to other users (mode %04o)", perm),
			hint:   "chmod 600 '" + strings.ReplaceAll(path, "'", `'\''`) + "'",
		}
	}
	data, err := atomicfile.Read(path, maxKey)
	if errors.Is(err, atomicfile.ErrTooLarge) {
		return nil, &KeyError{Where: where, Reason: "is too large"}
	}
	return data, err
}

// create makes the file at path, mode 0600, with all of data or not at all. An existing file of any kind is an
// fs.ErrExist error, also for all but one of concurrent calls: unlike rename, link(2) never replaces.
func create(path string, data []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".new-key-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems cannot sync a directory and say so; the file is there all the same.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}
