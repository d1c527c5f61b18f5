package overlay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"vast-ssh/internal/testenv"
)

// image is the disk of an instance with Config.Disk.
func (i *Instance) image() string { return filepath.Join(i.dir, "disk") }

// format makes the image.
func (i *Instance) format() error {
	mkfs := testenv.NeedProgram(i.t, "mkfs.ext4")
	f, err := os.Create(i.image())
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(i.config.Disk), f.Close()); err != nil {
		return err
	}
	out, err := exec.Command(mkfs, "-q", "-F", "-m", "0", "-E", "nodiscard", i.image()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return nil
}

// detached waits until no loop device holds the image: the kernel lets go of it some time after the last process.
func detached(image string) error {
	for deadline := time.Now().Add(killTimeout); ; time.Sleep(poll) {
		holder, err := loopDevice(image)
		if err != nil || holder == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s still holds the disk", holder)
		}
	}
}

// poll is how often is looked at what gives no event.
const poll = time.Millisecond

// loopDevice returns the loop device that holds a file, or "".
func loopDevice(file string) (string, error) {
	backings, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, backing := range backings {
		held, err := os.ReadFile(backing)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, io.EOF) {
			continue
		}
		if err != nil {
			return "", err
		}
		if string(held) == file+"\n" {
			return backing, nil
		}
	}
	return "", nil
}
