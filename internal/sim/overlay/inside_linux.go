package overlay

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// runTimeout bounds one program inside.
const runTimeout = 5 * time.Minute

// Sh runs a script with sh inside, as a visitor from outside: with all capabilities and GNU's tools, whatever the
// instance is. It returns what the script wrote to stdout. The test fails when the script does.
func (i *Instance) Sh(script string, args ...string) string {
	i.t.Helper()
	out, err := i.run(nil, script, args...)
	if err != nil {
		i.t.Fatalf("overlay: %q: %v", script, err)
	}
	return out
}

// run is Sh with a stdin and an error.
func (i *Instance) run(stdin []byte, script string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd, err := i.command(ctx, append([]string{"/bin/sh", "-c", script, "sh"}, args...))
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	cmd.WaitDelay = runTimeout // whoever reads its output may have to wait for the processor after its end
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s%s", err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// command prepares a program inside.
func (i *Instance) command(ctx context.Context, argv []string) (*exec.Cmd, error) {
	if !i.Alive() {
		return nil, fmt.Errorf("the instance has ended: %w", i.init.Err)
	}
	pid := strconv.Itoa(i.init.Process.Pid)
	cmd := exec.CommandContext(ctx, i.nsenter, append([]string{"-t", pid, "-m", "-u", "-i", "-p"}, argv...)...)
	cmd.Env = []string{gnuPath, "HOME=/root", "LANG=C.UTF-8"}
	return cmd, nil
}

// Spawn starts a script with sh inside that goes on by itself, with the capabilities of the instance, and returns its
// process id there when it has written the line "ready". Its parent is process 1.
func (i *Instance) Spawn(script string) int {
	i.t.Helper()
	// The shell between ends at once, which leaves its child to process 1.
	cmd, err := i.command(context.Background(), []string{
		"/bin/sh", "-c", `setsid setpriv --bounding-set "$1" sh -c "$2" &`, "sh", boundingSet, "exec 2>&1\necho $$\n" + script,
	})
	if err != nil {
		i.t.Fatalf("overlay: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		i.t.Fatalf("overlay: %v", err)
	}
	cmd.Stdout = w
	err = cmd.Run()
	w.Close()
	if err != nil {
		r.Close()
		i.t.Fatalf("overlay: %q: %v", script, err)
	}
	r.SetReadDeadline(time.Now().Add(runTimeout))
	lines := bufio.NewReader(r)
	var pid int
	if _, err := fmt.Fscanln(lines, &pid); err != nil {
		r.Close()
		i.t.Fatalf("overlay: %q: its process id: %v", script, err)
	}
	var said strings.Builder
	for {
		line, err := lines.ReadString('\n')
		if line == "ready\n" {
			break
		}
		said.WriteString(line)
		if err != nil {
			r.Close()
			i.t.Fatalf("overlay: %q is not ready: %v: %s", script, err, &said)
		}
	}
	r.SetReadDeadline(time.Time{})
	// What it says later must not end it.
	go func() {
		defer r.Close()
		lines.WriteTo(discard{})
	}()
	return pid
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// process is a process inside that is not a zombie, as it is seen from outside.
type process struct {
	pid  int
	name string
}

// Processes returns the names of the processes inside, process 1 among them.
func (i *Instance) Processes() []string {
	var names []string
	for _, p := range i.processes() {
		names = append(names, p.name)
	}
	return names
}

// processes lists the members of the PID namespace from /proc, see proc_pid_status(5). One that ends meanwhile is left
// out.
func (i *Instance) processes() []process {
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", i.init.Process.Pid))
	if err != nil {
		return nil
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var found []process
	for _, dir := range dirs {
		if namespace, err := os.Readlink(dir + "/ns/pid"); err != nil || namespace != ours {
			continue
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil || bytes.Contains(status, []byte("\nState:\tZ")) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		name, _, _ := strings.Cut(strings.TrimPrefix(string(status), "Name:\t"), "\n")
		found = append(found, process{pid, name})
	}
	return found
}
