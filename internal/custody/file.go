package custody

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
)

// fileStore keeps the key in a file that ssh can read too.
type fileStore struct {
	base string // path of the current key
	slot string

	link, rename func(from, to string) error
}

func newFile(path string) *fileStore { return &fileStore{base: path, link: os.Link, rename: os.Rename} }

func (s *fileStore) at(slot string) slots {
	there := *s
	there.slot = slot
	return &there
}

func (s *fileStore) Name() string     { return "file" }
func (s *fileStore) Next() Store      { return s.at(next) }
func (s *fileStore) Previous() Store  { return s.at(previous) }
func (s *fileStore) path() string     { return s.base + s.slot }
func (s *fileStore) lockPath() string { return filepath.Join(filepath.Dir(s.base), lockName) }

func (s *fileStore) where() string {
	return fmt.Sprintf("private key in file %q (custody = \"file\")", s.path())
}

func (s *fileStore) read(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := readOwned(s.path(), s.where(), 0o077)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing(s.where(), s.slot)
	}
	return data, err
}

func (s *fileStore) Public(ctx context.Context) (ssh.PublicKey, error) {
	data, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	return publicHalf(data, s.where())
}

func (s *fileStore) Load(ctx context.Context, passphrase func() ([]byte, error)) (*Key, error) {
	data, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	return load(data, s.where(), passphrase)
}

func (s *fileStore) Save(ctx context.Context, key ed25519.PrivateKey, comment string, passphrase []byte) error {
	data, err := marshal(key, comment, passphrase)
	if err != nil {
		return err
	}
	defer clear(data)
	unlock, err := lockSlots(ctx, s.lockPath())
	if err != nil {
		return err
	}
	defer unlock()
	err = s.create(data)
	if errors.Is(err, fs.ErrExist) {
		return &ExistsError{s.where()}
	}
	return err
}

// create makes the file with all of data or not at all. An existing file of any kind is an fs.ErrExist error: unlike
// rename, link(2) never replaces. The lock is held.
func (s *fileStore) create(data []byte) error {
	dir := filepath.Dir(s.base)
	if err := sweep(dir); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, unfinished+"*")
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
	if err := s.link(tmp.Name(), s.path()); err != nil {
		return err
	}
	return syncDir(dir)
}

// unfinished begins the names of files that are not a key yet.
const unfinished = ".new-key-"

// sweep removes what a Save left in dir that was killed. The lock is held, so no other Save is under way.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unfinished) && e.Type().IsRegular() {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *fileStore) Promote(ctx context.Context, public ssh.PublicKey) error {
	if err := promote(ctx, s.at(current), public); err != nil {
		return err
	}
	// Also if this call found everything in place: the one before may have been killed short of this.
	return syncDir(filepath.Dir(s.base))
}

func (s *fileStore) keep(context.Context) error {
	if err := s.link(s.base, s.base+previous); err != nil {
		return err
	}
	// On disk before the name of the current key is taken away.
	return syncDir(filepath.Dir(s.base))
}

func (s *fileStore) replace(context.Context) error { return s.rename(s.base+next, s.base) }

func (s *fileStore) Remove(ctx context.Context) error { return remove(ctx, s, s.slot) }

func (s *fileStore) remove(context.Context) error {
	if err := unix.Unlink(s.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "remove", Path: s.path(), Err: err}
	}
	return syncDir(filepath.Dir(s.base))
}

// marshal returns key as the text of an OpenSSH private key, encrypted if passphrase is not nil.
func marshal(key ed25519.PrivateKey, comment string, passphrase []byte) ([]byte, error) {
	var block *pem.Block
	var err error
	switch {
	case passphrase == nil:
		block, err = ssh.MarshalPrivateKey(key, cleanComment(comment))
	case len(passphrase) == 0:
		return nil, errors.New("an empty passphrase protects nothing")
	default:
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, cleanComment(comment), passphrase)
	}
	if err != nil {
		return nil, err
	}
	defer clear(block.Bytes)
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
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// One buffer of full size: those that a growing one drops would not be zeroed.
	data := make([]byte, maxKey+1)
	n, err := io.ReadFull(f, data)
	if err == nil {
		clear(data)
		return nil, &KeyError{Where: where, Reason: "is too large"}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(data)
		return nil, err
	}
	return data[:n], nil
}

func syncDir(dir string) error {
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
