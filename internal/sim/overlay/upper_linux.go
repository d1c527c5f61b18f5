package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/sim/sshd/daemon"
	"vast-ssh/internal/testenv"
)

// visible are the directories of this machine that are the image of the instance.
var visible = []string{"bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr", "var"}

// fresh are the empty directories that the instance has instead of this machine's. Those below var and usr are only where
// this machine has them.
var fresh = map[string]fs.FileMode{
	"boot": 0o755, "dev": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755,
	"srv": 0o755, "sys": 0o555, "tmp": 0o777 | fs.ModeSticky, "workspace": 0o755, "etc/ssh": 0o755,
	"var/backups": 0o755, "var/cache": 0o755, "var/crash": 0o755, "var/lib/containerd": 0o755, "var/lib/docker": 0o755,
	"var/log": 0o755, "var/mail": 0o755, "var/spool": 0o755, "var/tmp": 0o777 | fs.ModeSticky,
	// What is large and not needed, so that a walk through all of an instance takes less.
	"usr/include": 0o755, "usr/lib/google-cloud-sdk": 0o755, "usr/lib/node_modules": 0o755, "usr/local": 0o755,
	"usr/share": 0o755, "usr/src": 0o755,
}

// busyboxDir is the only directory in the PATH of the sessions of an instance with Config.Busybox.
const busyboxDir = "/busybox"

// layer is a directory of an overlay before it is mounted.
type layer string

func (l layer) path(name string) string { return filepath.Join(string(l), name) }

// fillImage writes what makes this machine's root an image. Its files are older than the container.
func (i *Instance) fillImage(l layer) error {
	for name, mode := range fresh {
		info, err := os.Lstat("/" + name)
		if (strings.HasPrefix(name, "var/") || strings.HasPrefix(name, "usr/")) && (err != nil || !info.IsDir()) {
			continue
		}
		if err := l.empty(name, mode); err != nil {
			return err
		}
	}
	for _, at := range i.config.mountPoints() {
		if err := l.dir(at); err != nil {
			return err
		}
	}
	if err := errors.Join(i.fillAccounts(l), i.fillBusybox(l)); err != nil {
		return err
	}
	return l.hideTheRest()
}

// fill writes what the container has from its start in its own layer: Docker's mark, and what sshd reads.
func (i *Instance) fill(l layer) error {
	return errors.Join(l.write("/.dockerenv", nil, 0o755), i.fillSSH(l))
}

func (i *Instance) fillSSH(l layer) error {
	for _, k := range i.keys {
		file := hostKeyFile(k.kind)
		if err := errors.Join(l.write(file, k.private, 0o600), l.write(file+".pub", authorizedLine(k.public), 0o644)); err != nil {
			return err
		}
	}
	if err := l.empty("root/.ssh", 0o700); err != nil {
		return err
	}
	return l.write(authorizedKeys, daemon.AuthorizedKeys(i.config.AuthorizedKeys), 0o600)
}

// fillAccounts gives root the home and the shell of the instance, and an account that is not locked.
func (i *Instance) fillAccounts(l layer) error {
	shell := "/bin/bash"
	if i.config.Busybox {
		shell = busyboxDir + "/sh"
	}
	if err := l.edit("/etc/passwd", "root:x:0:0:root:/root:"+shell, 0o644); err != nil {
		return err
	}
	return l.edit("/etc/shadow", "root:*:20000:0:99999:7:::", 0o640)
}

func (i *Instance) fillBusybox(l layer) error {
	if !i.config.Busybox {
		return nil
	}
	program := testenv.NeedProgram(i.t, "busybox")
	applets, err := exec.Command(program, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	if err := l.dir(busyboxDir); err != nil {
		return err
	}
	for _, name := range strings.Fields(string(applets)) {
		if err := os.Symlink(program, l.path(path.Join(busyboxDir, name))); err != nil {
			return err
		}
	}
	// A login shell would set PATH to directories of GNU tools.
	return l.write("/etc/profile", []byte("export PATH="+busyboxDir+"\n"), 0o644)
}

// hideTheRest keeps everything out of sight that is neither visible nor made by fill.
func (l layer) hideTheRest() error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(visible, e.Name()) {
			continue
		}
		info, err := os.Lstat(l.path(e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = l.whiteout(e.Name())
		case err == nil && info.IsDir():
			err = l.opaque(e.Name())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whiteout makes a name of the lower layer not exist.
func (l layer) whiteout(name string) error {
	if err := unix.Mknod(l.path(name), unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("whiteout of /%s: %w", name, err)
	}
	return nil
}

// opaque keeps the lower directory of the name from being merged.
func (l layer) opaque(name string) error {
	if err := unix.Setxattr(l.path(name), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("opaque /%s: %w", name, err)
	}
	return nil
}

// empty makes a directory that shows nothing of the lower one.
func (l layer) empty(name string, mode fs.FileMode) error {
	if err := l.dir(name); err != nil {
		return err
	}
	if err := os.Chmod(l.path(name), mode); err != nil {
		return err
	}
	return l.opaque(name)
}

// dir makes a directory and its parents, with the modes of the lower ones.
func (l layer) dir(name string) error {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	if err := l.dir(path.Dir(name)); err != nil {
		return err
	}
	mode := fs.FileMode(0o755)
	if info, err := os.Lstat(name); err == nil && info.IsDir() {
		mode = info.Mode()
	}
	if err := os.Mkdir(l.path(name), 0o755); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod(l.path(name), mode)
}

func (l layer) write(name string, text []byte, mode fs.FileMode) error {
	if err := l.dir(path.Dir(name)); err != nil {
		return err
	}
	return os.WriteFile(l.path(name), text, mode)
}

// edit writes a file of accounts with another line for root.
func (l layer) edit(name, root string, mode fs.FileMode) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "root:") })
	return l.write(name, []byte(root+"\n"+strings.Join(lines, "\n")), mode)
}
