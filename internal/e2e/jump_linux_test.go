package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

// jumpWorld has an instance behind another one, both met.
func jumpWorld(t *testing.T) (w *World, gate, inner *Instance) {
	testenv.NeedProgram(t, "ssh")
	w = New(t)
	gate, inner = w.AddInstance("gate", sshd.Config{}), w.AddInstance("inner", sshd.Config{})
	w.Ready()
	w.Must("vast-ssh", "gate", "true")
	w.Must("vast-ssh", "inner", "true")
	return w, gate, inner
}

// sshJump is OpenSSH's own way from one instance to another, with the file that people include.
func (w *World) sshJump(ctx context.Context, gate, inner *Instance, command string) *exec.Cmd {
	return w.Command(ctx, nil, "ssh", "-F", w.Dirs.SSHConfig(),
		"-J", fmt.Sprintf("vast-%d", gate.ID), fmt.Sprintf("vast-%d", inner.ID), command)
}

// Whoever of a plain ssh -J goes away takes all its processes along: stderr, which they share, ends with the last one.
func TestSSHJumpEnds(t *testing.T) {
	w, gate, inner := jumpWorld(t)
	for _, tt := range []struct {
		name string
		end  func(ssh *exec.Cmd)
	}{
		{"the first ssh", func(ssh *exec.Cmd) { ssh.Process.Kill() }},
		{"the first ssh, by a signal", func(ssh *exec.Cmd) { ssh.Process.Signal(syscall.SIGTERM) }},
		{"the ssh in the middle", func(ssh *exec.Cmd) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", ssh.Process.Pid))
			pid, aerr := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil || aerr != nil {
				t.Fatalf("%q: %v, %v", b, err, aerr)
			}
			syscall.Kill(pid, syscall.SIGKILL)
		}},
		{"the instance in the middle", func(*exec.Cmd) { gate.Stop() }},
		{"the instance beyond", func(*exec.Cmd) { inner.Stop() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gate.Restart()
			inner.Restart()
			ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
			defer cancel()
			r, stderr, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd := w.sshJump(ctx, gate, inner, "echo here; exec sleep 300")
			cmd.Stderr = stderr
			stdout, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			stderr.Close()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(stdout, make([]byte, len("here\n"))); err != nil {
				t.Fatal(err)
			}
			tt.end(cmd)
			ended := make(chan string, 1)
			go func() {
				b, _ := io.ReadAll(r)
				ended <- string(b)
			}()
			select {
			case said := <-ended:
				if strings.Contains(said, "error:") {
					t.Errorf("stderr: %s", said)
				}
			case <-ctx.Done():
				t.Fatal("a process is left")
			}
			cmd.Wait()
		})
	}
}

func TestSSHJumpCrowd(t *testing.T) {
	w, gate, inner := jumpWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), crowdTimeout)
	defer cancel()
	outs := make([]string, 20)
	var all sync.WaitGroup
	for i := range outs {
		cmd := w.sshJump(ctx, gate, inner, "echo "+strconv.Itoa(i))
		cmd.WaitDelay = crowdTimeout // the proxies have their last word with the agent when ssh has ended
		all.Go(func() {
			out, err := cmd.Output() // on stderr there may be what the user's shell has to say
			outs[i] = string(out)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i, out := range outs {
		if out != strconv.Itoa(i)+"\n" {
			t.Errorf("%d: %q", i, out)
		}
	}
	if st := agentStatus(t, w); st.Refused != 0 || st.Witnesses != 0 {
		t.Errorf("the agent's state: %+v", st)
	}
}

// Megabytes both ways, through the pipes of an ssh that knows nothing of them.
func TestSSHJumpVolume(t *testing.T) {
	w, gate, inner := jumpWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	cmd := w.sshJump(ctx, gate, inner, "cat")
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.Output(); err != nil || !bytes.Equal(out, data) {
		t.Errorf("%v, %d bytes came back", err, len(out))
	}
}
