package job

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vast-ssh/internal/testenv"
)

// oddSleep starts a process whose name has all that could be taken for the end of a name in /proc/PID/stat.
func oddSleep(t *testing.T) *exec.Cmd {
	t.Helper()
	b, err := os.ReadFile(testenv.NeedProgram(t, "sleep"))
	check(t, err)
	program := filepath.Join(t.TempDir(), "a) Z (b) 1\n) ")
	check(t, os.WriteFile(program, b, 0o755))
	cmd := exec.Command(program, "3600")
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// startTime is field 22 of /proc/PID/stat.
func startTime(t *testing.T, pid int) string {
	t.Helper()
	stat := read(t, fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])[19]
}

// following runs the script that follows over a run whose file pid is as given, with a patience of no time.
func following(t *testing.T, shell []string, pid string) *bufio.Reader {
	t.Helper()
	home, id := t.TempDir(), NewID()
	dir := filepath.Join(home, ".vast-ssh-run", id)
	check(t, os.MkdirAll(filepath.Join(dir, "started"), 0o700))
	for name, text := range map[string]string{"out": "", "err": "", "pid": pid} {
		write(t, filepath.Join(dir, name), text)
	}
	script := scriptText("prelude") + scriptText("follow")
	cmd := exec.Command(shell[0], append(shell[1:], "-c", script, "vast-ssh", "mark", id, "0", "0", "0", "0")...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return bufio.NewReader(out)
}

// The pid of a run that was lost may have become another process's, as after a restart of the container.
func TestPidOfAnother(t *testing.T) {
	for _, shell := range [][]string{{"dash"}, {"bash", "--posix"}, {"busybox", "sh"}} {
		shell[0] = testenv.NeedProgram(t, shell[0])
		odd := oddSleep(t)
		born := startTime(t, odd.Process.Pid)
		for _, tt := range []struct{ pid, want string }{
			{fmt.Sprintf("%d %s\n", odd.Process.Pid, born), "alive"},
			{fmt.Sprintf("%d %s9\n", odd.Process.Pid, born), "lost"},
			{fmt.Sprintf("%d 1\n", os.Getpid()), "lost"},
			{fmt.Sprintf("%d\n", odd.Process.Pid), "alive"}, // of a run that was started without a time
			{fmt.Sprintf("%d \n", odd.Process.Pid), "alive"},
		} {
			out := following(t, shell, tt.pid)
			said, err := "", error(nil)
			for said == "" || said == "mark" {
				said, err = out.ReadString('\n')
				check(t, err)
				said = strings.TrimSuffix(said, "\n")
			}
			if said != tt.want {
				t.Errorf("%q: %q is %q, want %q", shell, tt.pid, said, tt.want)
			}
		}
		// It is gone, and is not waited for by its parent yet.
		check(t, odd.Process.Kill())
		out, err := io.ReadAll(following(t, shell, fmt.Sprintf("%d %s\n", odd.Process.Pid, born)))
		check(t, err)
		if !strings.HasSuffix(string(out), "lost\n") {
			t.Errorf("%q: a zombie gave %q", shell, out)
		}
	}
}

// The shell that waits for a command leaves its pid and when it began.
func TestPidAndItsTime(t *testing.T) {
	for _, programs := range []string{gnu, busybox} {
		w := newWorld(t, programs)
		r, _ := w.run(Config{Command: []string{"until [ -e go ]; do sleep 0.1; done"}})
		ctx := bound(t)
		check(t, r.Prepare(ctx))
		check(t, r.Start(ctx))
		var pid int
		var born string
		_, err := fmt.Sscan(read(t, filepath.Join(w.home, ".vast-ssh-run", r.ID(), "pid")), &pid, &born)
		check(t, err)
		if want := startTime(t, pid); born != want {
			t.Errorf("%s: it began at %q, want %q", programs, born, want)
		}
		write(t, filepath.Join(w.home, "go"), "")
		if status, err := r.Follow(ctx); err != nil || status != 0 {
			t.Errorf("%s: status %d, %v", programs, status, err)
		}
	}
}
