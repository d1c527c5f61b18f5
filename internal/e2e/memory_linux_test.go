package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"vast-ssh/internal/testenv"
)

// pried lets everybody of the same uid trace the process, as far as it goes by Yama, and becomes the program given:
// what keeps a debugger out then is the program's own doing.
const pried = `
import ctypes, os, sys
PR_SET_PTRACER = 0x59616d61
ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
`

// A debugger of the same user gets neither at the memory of the agent, where the key is, nor at its sockets.
func TestAttackMemory(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	gdb, python, sleep := testenv.NeedProgram(t, "gdb"), python("ctypes")(t), testenv.NeedProgram(t, "sleep")
	pry, err := os.ReadFile("testdata/pry.py") // which the stranger may not reach
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), crowdTimeout)
	defer cancel()
	as := v.unprivileged(ctx)

	agent := as(python, "-c", pried, filepath.Join(v.Home, "bin", "vast-agent"), "run")
	plain := as(python, "-c", pried, sleep, "300")
	for _, cmd := range []*exec.Cmd{agent, plain} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	defer plain.Wait()
	defer plain.Process.Kill()
	eventually(t, "the agent listens", func() bool {
		_, err := os.Lstat(v.Dirs.ControlSocket())
		return err == nil
	})
	eventually(t, "sleep runs", func() bool {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", plain.Process.Pid))
		return err == nil && strings.HasSuffix(exe, "sleep")
	})
	// The key is in memory after this.
	out, err := as(filepath.Join(v.Home, "bin", "vast-ssh"), idOf(v.first), "echo", "in").CombinedOutput()
	if err != nil || string(out) != "in\n" {
		t.Errorf("login: %v\n%s", err, out)
	}

	for _, tt := range []struct {
		name string
		pid  int
		gdb  string // regular expression
		pry  string
	}{
		{"sleep", plain.Process.Pid, fmt.Sprintf(`process %d\b`, plain.Process.Pid),
			"attach in\nseize in\nmem in\nprocess_vm_readv in\npidfd_getfd in\nmaps in\nenviron in\nfd in\n"},
		{"agent", agent.Process.Pid, `Operation not permitted`,
			"attach EPERM\nseize EPERM\nmem EACCES\nprocess_vm_readv EPERM\npidfd_getfd EPERM\n" +
				"maps EACCES\nenviron EACCES\nfd EACCES\n"},
	} {
		pid := strconv.Itoa(tt.pid)
		out, err := as(gdb, "-nx", "-batch", "-ex", "info inferiors", "-p", pid).CombinedOutput()
		if err != nil || !regexp.MustCompile(tt.gdb).Match(out) {
			t.Errorf("gdb and the %s: %v\n%s", tt.name, err, out)
		}
		if out, err := as(python, "-c", string(pry), pid).CombinedOutput(); err != nil || string(out) != tt.pry {
			t.Errorf("prying at the %s: %v\n%s", tt.name, err, out)
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", agent.Process.Pid))
	if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("the agent may dump core: %v\n%s", err, limits)
	}

	var stderr bytes.Buffer
	stop := as(filepath.Join(v.Home, "bin", "vast-agent"), "stop")
	stop.Stderr = &stderr
	if err := stop.Run(); err != nil {
		t.Errorf("vast-agent stop: %v\n%s", err, stderr.String())
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("the agent: %v", err)
	}
}

// unprivileged gives the whole world to the stranger where the tests run as root, to whom a debugger is allowed
// everything, and returns how to run programs as the one whose world it is. It ends the agent.
func (v *victim) unprivileged(ctx context.Context) func(name string, args ...string) *exec.Cmd {
	v.t.Helper()
	v.Must("vast-agent", "stop")
	bin := filepath.Join(v.Home, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		v.t.Fatal(err)
	}
	for _, name := range []string{"vast-ssh", "vast-agent"} {
		if err := os.Link(filepath.Join(v.Bin, name), filepath.Join(bin, name)); err != nil {
			v.t.Fatal(err)
		}
	}
	var attr *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
		err := filepath.WalkDir(v.Home, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Dir(path) == bin {
				return err // the programs are the other tests' too
			}
			return os.Lchown(path, stranger, stranger)
		})
		if err != nil {
			v.t.Fatal(err)
		}
	}
	return func(name string, args ...string) *exec.Cmd {
		cmd := v.Command(ctx, nil, name, args...)
		cmd.SysProcAttr = attr
		cmd.WaitDelay = attackTimeout // the proxy has its last word with the agent when ssh has ended
		return cmd
	}
}
