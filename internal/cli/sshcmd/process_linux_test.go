package sshcmd

import (
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestProcess(t *testing.T) {
	parent, args, err := process(os.Getpid())
	if err != nil || parent != os.Getppid() || !slices.Equal(args, os.Args) {
		t.Errorf("got %d, %q, %v", parent, args, err)
	}
	if _, _, err := process(1 << 30); err == nil {
		t.Error("a process that there cannot be")
	}
	// Whoever makes such a command line is none of ours.
	cmd := exec.Command("/bin/sh", "-c", "echo; read x", strings.Repeat("x", maxProcFile))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The kernel makes the arguments known a moment after the program has begun.
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, args, err := process(cmd.Process.Pid); err == nil {
		t.Errorf("%d arguments", len(args))
	}
	in.Close()
	cmd.Wait()
}

// The pipes of another process, and nothing else that it may have for its input and output.
func TestStdio(t *testing.T) {
	start := func(t *testing.T, in, out *os.File) (pid int) {
		t.Helper()
		hold, mine, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("cat", "/dev/fd/3") // which leaves its standard input alone
		cmd.Stdin, cmd.Stdout, cmd.ExtraFiles = in, out, []*os.File{hold}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		hold.Close()
		t.Cleanup(func() {
			mine.Close()
			cmd.Wait()
		})
		return cmd.Process.Pid
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, out, err := stdio(start(t, inR, outW))
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct{ w, r *os.File }{{inW, in}, {out, outR}} {
		if _, err := io.WriteString(way.w, "hello"); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 5)
		if _, err := io.ReadFull(way.r, buf); err != nil || string(buf) != "hello" {
			t.Errorf("got %q, %v", buf, err)
		}
	}
	in.Close()
	out.Close()
	for _, files := range [][2]*os.File{{null, outW}, {inR, null}} {
		if _, _, err := stdio(start(t, files[0], files[1])); err == nil {
			t.Error("something else than pipes was opened")
		}
	}
	if _, _, err := stdio(1 << 30); err == nil {
		t.Error("a process that there cannot be, with pipes")
	}
	before := descriptors(t)
	for range 8 {
		stdio(os.Getpid())
	}
	if after := descriptors(t); after > before+4 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/" + strconv.Itoa(os.Getpid()) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
