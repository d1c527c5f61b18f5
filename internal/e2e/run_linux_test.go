package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/overlay"
)

var hintLine = regexp.MustCompile(`(?m)^hint: (.*)$`)

// runAndWipe runs a command that must succeed, and then the wipe must not.
func (r *rented) runAndWipe(get, command, says string) (hint string) {
	r.T.Helper()
	got := r.Run("vast-ssh", "run", "box", "--get", get, "--wipe", "--yes", "--", command)
	found := hintLine.FindStringSubmatch(got.Stderr)
	if got.Code != 6 || !strings.Contains(got.Stderr, says) || found == nil {
		r.T.Fatalf("%s: exit %d, want 6 and %q\n%s%s", command, got.Code, says, got.Stdout, got.Stderr)
	}
	r.untouched(command)
	return found[1]
}

// TestRunHoldsTheWipe while results are not here, and its hint leads on.
func TestRunHoldsTheWipe(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	byHand := fmt.Sprintf("if nothing of it is needed: vast-ssh wipe %d", r.in.ID)
	if hint := r.runAndWipe("/workspace/none:none", "mkdir /workspace/none", `"/workspace/none", without a file`); hint != byHand {
		t.Errorf("the hint is %q", hint)
	}
	fifo := "mkdir /workspace/fifo && cd /workspace/fifo && mkfifo p && echo x >f"
	if hint := r.runAndWipe("/workspace/fifo:fifo", fifo, `"/workspace/fifo/p", a FIFO`); hint != byHand {
		t.Errorf("the hint is %q", hint)
	}
	hint := r.runAndWipe("/workspace/out:results", "mkdir -p /workspace/out/step-1 /workspace/ckpt && echo weights >/workspace/ckpt/1 && "+
		"cd /workspace/out && echo one >step-1/model && ln -s step-1 latest && ln -s ../ckpt/1 best",
		`"/workspace/out/best", a symbolic link to "../ckpt/1"`)
	results := filepath.Join(r.Home, "results")
	if text, err := os.Readlink(filepath.Join(results, "latest")); err != nil || text != "step-1" {
		t.Errorf("the link inside: %q, %v", text, err)
	}
	if _, err := os.Lstat(filepath.Join(results, "best")); !os.IsNotExist(err) {
		t.Errorf("the link that leads out: %v", err)
	}
	r.Must("sh", "-c", hint)
	for name, want := range map[string]string{"best": "weights\n", "latest/model": "one\n"} {
		if b, err := os.ReadFile(filepath.Join(results, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if n := r.left(); n != 0 || r.lives() {
		t.Errorf("%d canaries left, lives: %v", n, r.lives())
	}
}

// TestRunWhoseWipeFails before anything was touched, since the API does not answer.
func TestRunWhoseWipeFails(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	r.Account.Fault(sim.Fault{Endpoint: sim.ShowEndpoint, Status: 503, Times: -1})
	got := r.Run("vast-ssh", "run", "box", "--wipe", "--yes", "--", "true")
	id := fmt.Sprint(r.in.ID)
	if got.Code != 6 || !strings.Contains(got.Stderr, "error: instance "+id+" is not known to be wiped and destroyed, and may cost money: ") ||
		!strings.HasSuffix(got.Stderr, "; then: vast-ssh wipe "+id+"\n") {
		t.Errorf("exit %d\n%s", got.Code, got.Stderr)
	}
	r.untouched("an API that does not answer")
}

// TestRunThatFailsWithoutResults tells the status of its command, which the exit code does not.
func TestRunThatFailsWithoutResults(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	got := r.Run("vast-ssh", "run", "box", "--get", "/workspace/none:results", "--", "exit 3")
	if got.Code != 6 || !strings.Contains(got.Stderr, "; the command failed with status 3, and the results are not all here\n") {
		t.Errorf("exit %d\n%s", got.Code, got.Stderr)
	}
}
