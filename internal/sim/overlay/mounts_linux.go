package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/sim/sshd/daemon"
)

// area is a file system of the instance, open from outside, whatever is mounted where.
type area struct {
	// at is the path inside, "" for the root.
	at  string
	dir *os.File
}

// mountAll takes the thread into namespaces of its own and makes the overlay its root. The thread is given away
// afterwards: see daemon.Start.
func (i *Instance) mountAll() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	defer unix.Umask(0o022)
	unix.Umask(0)
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Sethostname(fmt.Appendf(nil, "%012x", i.config.ID)); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	base, root := filepath.Join(i.dir, "base"), filepath.Join(i.dir, "root")
	if err := errors.Join(os.Mkdir(base, 0o700), os.Mkdir(root, 0o755)); err != nil {
		return err
	}
	if err := i.mountBase(base); err != nil {
		return err
	}
	image, upper, work := filepath.Join(base, "image"), filepath.Join(base, "upper"), filepath.Join(base, "work")
	if err := errors.Join(os.Mkdir(image, 0o755), i.fillImage(layer(image)), awaitTick(image, i.config.Seconds)); err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o700), i.openArea("", upper), i.fill(layer(upper))); err != nil {
		return err
	}
	// Docker's options. nodev keeps a device node that somebody inside makes from reaching this machine's disks.
	data := fmt.Sprintf("lowerdir=%s:/,upperdir=%s,workdir=%s,index=off,redirect_dir=off,metacopy=off", image, upper, work)
	if err := mount("overlay", root, "overlay", unix.MS_NODEV, data); err != nil {
		return err
	}
	if err := errors.Join(i.mountDev(root), i.mountConfigured(root)); err != nil {
		return err
	}
	if err := pivot(root); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return nil
}

// awaitTick returns when what is made now is younger than everything in dir, by the clock of the file system, or by its seconds.
func awaitTick(dir string, seconds bool) error {
	var before, now unix.Stat_t
	probe := filepath.Join(dir, ".tick")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return err
	}
	defer os.Remove(probe)
	if err := unix.Stat(probe, &before); err != nil {
		return err
	}
	for now = before; now.Ctim == before.Ctim || seconds && now.Ctim.Sec == before.Ctim.Sec; {
		if err := errors.Join(os.Chmod(probe, 0o600), unix.Stat(probe, &now)); err != nil {
			return err
		}
	}
	return nil
}

func (i *Instance) mountBase(base string) error {
	if i.config.Disk == 0 {
		return mount("tmpfs", base, "tmpfs", unix.MS_NODEV, "mode=700")
	}
	for deadline := time.Now().Add(killTimeout); ; time.Sleep(loopPause) {
		out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,nodev,noinit_itable", i.image(), base).CombinedOutput()
		if err == nil {
			return nil
		}
		// The loop devices are all tests' of this machine, and may be few.
		if !bytes.Contains(out, []byte("loop device")) || time.Now().After(deadline) {
			return fmt.Errorf("mount the disk: %w: %s", err, out)
		}
	}
}

// loopPause is the time between two tries for a loop device: there is no event for one that is let go.
const loopPause = 100 * time.Millisecond

// mountDev mounts what the kernel shows: /dev without any disk, /sys, and an empty /run. Process 1 mounts its /proc.
func (i *Instance) mountDev(root string) error {
	dev := filepath.Join(root, "dev")
	if err := i.mountTmpfs(root, "/dev", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=65536k"); err != nil {
		return err
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		if err := unix.Mknod(filepath.Join(dev, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return fmt.Errorf("mknod /dev/%s: %w", name, err)
		}
	}
	if err := unix.Mknod(filepath.Join(dev, "tty"), unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))); err != nil {
		return fmt.Errorf("mknod /dev/tty: %w", err)
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"pts", "shm", "mqueue"} {
		if err := os.Mkdir(filepath.Join(dev, name), 0o755); err != nil {
			return err
		}
	}
	if err := mount("mqueue", filepath.Join(dev, "mqueue"), "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount("devpts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC,
		"newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return err
	}
	if err := mount("sysfs", filepath.Join(root, "sys"), "sysfs",
		unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := errors.Join(
		i.mountTmpfs(root, "/dev/shm", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size=65536k"),
		i.mountTmpfs(root, "/run", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"),
	); err != nil {
		return err
	}
	return nil
}

// fillRun makes the directory where Debian's sshd chroots before a login, and the one where /var/lock leads.
func fillRun(root string) error {
	return errors.Join(os.Mkdir(filepath.Join(root, "run/sshd"), 0o755), os.Mkdir(filepath.Join(root, "run/lock"), 0o777))
}

// fillCovered makes authorized_keys again where a mount covers it.
func (i *Instance) fillCovered(root string) error {
	name := filepath.Join(root, authorizedKeys)
	if _, err := os.Lstat(name); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, daemon.AuthorizedKeys(i.config.AuthorizedKeys), 0o600)
}

// mountConfigured mounts what the configuration asks for, at directories that fill has made.
func (i *Instance) mountConfigured(root string) error {
	for _, at := range i.config.NoExec {
		if err := i.mountTmpfs(root, at, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777"); err != nil {
			return err
		}
	}
	for _, at := range i.config.Tmpfs {
		if err := i.mountTmpfs(root, at, unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
			return err
		}
	}
	if err := errors.Join(fillRun(root), i.fillCovered(root)); err != nil {
		return err
	}
	for at, outside := range i.config.Volumes {
		if err := mount(outside, filepath.Join(root, at), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	for _, at := range i.config.ReadOnly {
		dir := filepath.Join(root, at)
		if err := mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountPoints are the directories that mountConfigured needs.
func (c Config) mountPoints() []string {
	points := slices.Concat(c.NoExec, c.Tmpfs, c.ReadOnly)
	for at := range c.Volumes {
		points = append(points, at)
	}
	return points
}

func (i *Instance) mountTmpfs(root, at string, flags uintptr, data string) error {
	dir := filepath.Join(root, at)
	if err := mount("tmpfs", dir, "tmpfs", flags, data); err != nil {
		return err
	}
	return i.openArea(at, dir)
}

func (i *Instance) openArea(at, dir string) error {
	f, err := os.Open(dir)
	if err == nil {
		i.areas = append(i.areas, area{at, f})
	}
	return err
}

// pivot makes root the root of the thread's mount namespace, and leaves nothing of the old one in it.
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	// The old root lands on top of the new one, see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s: %w", strings.TrimSpace(fstype+" "+target), err)
	}
	return nil
}
