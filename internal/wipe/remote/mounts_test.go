//go:build linux

package remote

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dockerMounts are those of a container under Docker with a volume and a GPU, in the form of proc_pid_mountinfo(5).
const dockerMounts = `
600 500 0:100 / / rw,relatime master:200 - overlay overlay rw,lowerdir=/a:/b,upperdir=/u,workdir=/w
601 600 0:101 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
602 600 0:102 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
603 602 0:103 / /dev/pts rw - devpts devpts rw
604 602 0:104 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k
605 602 0:105 / /dev/mqueue rw - mqueue mqueue rw
606 600 0:106 / /sys ro,nosuid - sysfs sysfs ro
607 600 259:1 /var/lib/docker/containers/x/hosts /etc/hosts rw,relatime - ext4 /dev/nvme0n1p1 rw
608 600 259:1 /vol/17 /workspace rw,relatime - ext4 /dev/nvme0n1p1 rw
609 600 259:1 /usr/bin/nvidia-smi /usr/bin/nvidia-smi ro,nosuid - ext4 /dev/nvme0n1p1 rw
610 601 0:107 / /proc/acpi ro,relatime - tmpfs tmpfs ro
611 600 259:2 / /data\040set ro,relatime - xfs /dev/nvme1n1 ro
612 600 0:108 / /run rw - tmpfs tmpfs rw
613 600 0:109 / /models ro,relatime - tmpfs tmpfs ro
614 600 0:110 /of/the/machine /cache rw - tmpfs tmpfs rw
`

func dockerDirs(name string) bool { return name != "/etc/hosts" && name != "/usr/bin/nvidia-smi" }

func parsed(t *testing.T) mounts {
	t.Helper()
	m, err := parseMounts([]byte(strings.TrimPrefix(dockerMounts, "\n")), dockerDirs)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMountClasses(t *testing.T) {
	m := parsed(t)
	for path, want := range map[string]class{
		"/": layer, "/proc": pseudo, "/proc/acpi": pseudo, "/sys": pseudo, "/dev": memory, "/dev/pts": pseudo,
		"/dev/mqueue": pseudo, "/dev/shm": memory, "/etc/hosts": bound, "/usr/bin/nvidia-smi": bound,
		"/workspace": volume, "/data set": volume, "/run": memory, "/models": memory, "/cache": volume,
	} {
		if got, ok := m[path]; !ok || got.class != want {
			t.Errorf("%q is %v, want %v", path, got.class, want)
		}
	}
	if !m["/data set"].readOnly || !m["/models"].readOnly || m["/workspace"].readOnly {
		t.Error("which are read-only is read wrongly")
	}
}

func TestMemoryOfTheMachineIsAVolume(t *testing.T) {
	since := time.Unix(1000, 500)
	born := map[string]time.Time{"/dev": time.Unix(1000, 0), "/run": time.Unix(999, 0), "/models": time.Unix(1001, 0)}
	for host, want := range map[bool]class{false: memory, true: volume} {
		m := parsed(t)
		m.setApart(since, func(name string) time.Time { return born[name] }, host)
		for name, want := range map[string]class{"/dev": memory, "/run": volume, "/models": memory, "/dev/shm": want, "/": layer, "/sys": pseudo} {
			if got := m[name].class; got != want {
				t.Errorf("%q is %v, want %v", name, got, want)
			}
		}
	}
}

func TestMountOfAPath(t *testing.T) {
	m := parsed(t)
	for path, want := range map[string]string{
		"/": "/", "/root/x": "/", "/workspace": "/workspace", "/workspace/a/b": "/workspace", "/workspaces/a": "/",
		"/dev/shm/x": "/dev/shm", "/dev/null": "/dev", "/etc/hosts": "/etc/hosts", "/etc/hosts2": "/",
	} {
		if got := m.of(path).path; got != want {
			t.Errorf("%q is on %q, want %q", path, got, want)
		}
	}
}

func TestChangedBeginsAtTheLayerAndWritableMemory(t *testing.T) {
	got := parsed(t).changedRoots()
	if want := []string{"/", "/dev", "/dev/shm", "/run"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMountinfoThatCannotBeRead(t *testing.T) {
	for name, data := range map[string]string{
		"empty":   "",
		"no root": "608 600 259:1 / /workspace rw - ext4 /dev/x rw\n",
		"cut":     "600 500 0:100 / / rw,relatime\n",
		"no type": "600 500 0:100 / / rw - \n",
		"no path": "600 500 0:100 / / rw - overlay o rw\n601 600 0:101 /  rw - tmpfs t rw\n",
	} {
		if _, err := parseMounts([]byte(data), func(string) bool { return true }); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add([]byte(dockerMounts))
	f.Add([]byte(`1 1 0:1 / / rw - overlay o rw` + "\n" + `2 1 0:1 / /\134\040\1 rw - tmpfs t rw`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMounts(data, func(string) bool { return true })
		if err != nil {
			return
		}
		if m.of("/some/where").path == "" {
			t.Error("a path on no mount")
		}
		for _, root := range m.changedRoots() {
			if c := m[root].class; c != layer && c != memory {
				t.Errorf("%q of class %v is walked", root, c)
			}
		}
	})
}

func TestSpacesThatDoNotSeparate(t *testing.T) {
	const names = "/a\u00a0b /c\u0085d /e\ff /g\vh /i\rj"
	data := "1 0 0:1 / / rw - overlay o rw\n"
	for name := range strings.SplitSeq(names, " ") {
		data += "2 1 8:1 " + name + " " + name + " rw,relatime shared:1 - ext4  rw\n"
	}
	m, err := parseMounts([]byte(data), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(names, " ") {
		if got := m.of(name + "/x"); got.path != name || got.class != volume || got.readOnly {
			t.Errorf("%q is on %+v", name, got)
		}
	}
}

func TestUnknownMountsAreNotEntered(t *testing.T) {
	root, err := openDir("/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer root.release()
	if d, err := root.enter("proc", false); !errors.Is(err, unix.EXDEV) {
		t.Errorf("entered: %v, %v", d, err)
	}
	if _, err := openDir("/proc/self", mounts{"/": {}}); !errors.Is(err, unix.EXDEV) {
		t.Errorf("opened: %v", err)
	}
	d, err := openDir("/proc/sys", mounts{"/proc": {}})
	if err != nil {
		t.Fatal(err)
	}
	d.release()
	if d, err = root.enter("proc", true); err != nil {
		t.Fatal(err)
	}
	d.release()
}
