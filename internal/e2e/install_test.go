package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/testenv"
)

// tree lists everything below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		paths = append(paths, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// runScript runs install.sh in the checkout with a HOME of its own.
func runScript(t *testing.T, home string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"install.sh"}, args...)...)
	cmd.Dir = "../.."
	// The go command counts its own runs below XDG_CONFIG_HOME.
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "XDG_CONFIG_HOME="+t.TempDir())
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOFLAGS"} {
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, name+"="+strings.TrimSpace(string(value)))
	}
	cmd.Env = append(cmd.Env, env...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), complaint.String(), cmd.ProcessState.ExitCode()
}

func shortHome(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp("", "vs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	return home
}

func TestInstall(t *testing.T) {
	t.Parallel()
	home := shortHome(t)
	if out, complaint, code := runScript(t, home, nil, "--dry-run", "--demo"); code != 0 || !strings.Contains(out, "would run:") {
		t.Fatalf("dry run: exit %d\n%s%s", code, out, complaint)
	}
	if got := tree(t, home); len(got) != 1 {
		t.Errorf("a dry run left %v", got)
	}

	out, complaint, code := runScript(t, home, nil, "--demo")
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, complaint)
	}
	want := []string{".", ".local", ".local/bin", ".local/bin/vast-agent", ".local/bin/vast-ssh"}
	if got := tree(t, home); !slices.Equal(got, want) {
		t.Errorf("left in HOME: %v, want %v", got, want)
	}
	for _, line := range []string{"add it to PATH", "Done. With a real account"} {
		if !strings.Contains(out, line) {
			t.Errorf("it did not say %q:\n%s", line, out)
		}
	}
	for _, program := range []string{"vast-ssh", "vast-agent"} {
		// A static program asks for no interpreter.
		if data, err := os.ReadFile(filepath.Join(home, ".local/bin", program)); err != nil || bytes.Contains(data, []byte("/ld-linux")) {
			t.Errorf("%s is not static (%v)", program, err)
		}
	}

	out, _, code = runScript(t, home, nil, "--uninstall", "--dry-run")
	for _, line := range []string{"'install' '--uninstall'", "'stop'", "'rm' '-f'"} {
		if code != 0 || !strings.Contains(out, line) {
			t.Errorf("uninstall as a dry run: exit %d, without %s\n%s", code, line, out)
		}
	}
	if got := tree(t, home); !slices.Equal(got, want) {
		t.Errorf("a dry run of uninstall left %v", got)
	}
	if out, complaint, code = runScript(t, home, nil, "--uninstall"); code != 0 {
		t.Fatalf("uninstall: exit %d\n%s%s", code, out, complaint)
	}
	if got := tree(t, filepath.Join(home, ".local/bin")); len(got) != 1 {
		t.Errorf("uninstall left %v", got)
	}

	prefix := filepath.Join(home, "elsewhere")
	if out, complaint, code = runScript(t, home, nil, "--prefix", prefix); code != 0 {
		t.Fatalf("prefix: exit %d\n%s%s", code, out, complaint)
	}
	if _, err := os.Stat(filepath.Join(prefix, "bin/vast-ssh")); err != nil {
		t.Error(err)
	}
	for _, wrong := range [][]string{{"--nope"}, {"--prefix"}} {
		if _, complaint, code := runScript(t, home, nil, wrong...); code != 2 || !strings.Contains(complaint, "hint: ") {
			t.Errorf("%q: exit %d, %q", wrong, code, complaint)
		}
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	testenv.NeedProgram(t, "ssh")
	for _, tt := range []struct {
		name, path string
		want       []string
	}{
		{"with ssh", os.Getenv("PATH"), []string{"$ vast-ssh trainbox nvidia-smi -L"}},
		{"without ssh", t.TempDir(), []string{"There is no ssh program here", "$ vast-ssh demo login trainbox nvidia-smi -L"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			home := shortHome(t)
			cmd := exec.Command(filepath.Join(Programs(t), "vast-ssh"), "demo")
			cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "PATH=" + tt.path}
			var out, complaint bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &complaint
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s%s", err, out.String(), complaint.String())
			}
			if n := strings.Count(out.String(), "\n"); n > 40 {
				t.Errorf("%d lines, want 40 at most", n)
			}
			for _, line := range append(tt.want,
				"key SHA256:", "1234567  trainbox  running", "GPU 0: NVIDIA", "two-path", "C.1234567",
				"is not instance 1234567 as it was pinned", "not-userauth: ", "Done.",
			) {
				if !strings.Contains(out.String(), line) {
					t.Errorf("it did not show %q", line)
				}
			}
			if got := tree(t, home); len(got) != 1 {
				t.Errorf("left behind: %v", got)
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}
