//go:build linux

package remote

import (
	"os"
	"path/filepath"
	"testing"
)

func TestIsMachineIPC(t *testing.T) {
	dir := t.TempDir()
	for target, want := range map[string]bool{"ipc:[4026531839]": true, "ipc:[4026532264]": false} {
		link := filepath.Join(dir, target)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if got := isMachineIPC(link); got != want {
			t.Errorf("%s: %v", target, got)
		}
	}
	if !isMachineIPC(filepath.Join(dir, "none")) {
		t.Error("a namespace that cannot be told is taken for the container's own")
	}
}

func TestMemoryThatIsShared(t *testing.T) {
	all, err := parseMounts([]byte(`1 0 0:1 / / rw - overlay overlay rw
2 1 0:2 / /dev/shm rw - tmpfs shm rw
3 1 0:3 / /run rw - tmpfs tmpfs rw
`), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	all.shareMemory()
	if all["/dev/shm"].class != volume || all["/run"].class != memory || all["/"].class != layer {
		t.Errorf("%+v", all)
	}
}
