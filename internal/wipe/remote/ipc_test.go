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
