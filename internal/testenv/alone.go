package testenv

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// aloneEnv names the test for which a process was started.
const aloneEnv = "VAST_SSH_TEST_ALONE"

// Alone runs the test once more in a process of its own, and reports whether this is that process. It is for what a test does to
// all of its process, such as a limit: the go command has tests write down, now and then and into a file that only grows, which
// files they open, and a write of that which fails, fails them all.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}
