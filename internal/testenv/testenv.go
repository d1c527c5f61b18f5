// Package testenv tells tests what the machine has, makes a missing program a failure where CI promises it, and keeps tests
// apart from what others do to the machine meanwhile.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Missing ends a test that needs something this machine does not have: skipped by name on a contributor's
// machine, failed with CI=true, where test.sh has installed everything.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("this test needs %s, and CI=true allows no skip", what)
	}
	t.Skipf("this test needs %s", what)
}

// NeedProgram returns the absolute path of a program, looked up in PATH and then where daemons are kept.
func NeedProgram(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		if abs, err := filepath.Abs(path); err == nil {
			return abs
		}
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	Missing(t, name)
	return ""
}
