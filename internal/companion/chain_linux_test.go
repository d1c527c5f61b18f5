package companion

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vast-ssh/internal/testenv"
)

// stat is the text of /proc/PID/stat for a name, a parent and a start.
func stat(name, parent, started string) string {
	return fmt.Sprintf("12 (%s) S %s 12 12 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 %s 0 0 0\n", name, parent, started)
}

func TestParseStat(t *testing.T) {
	for _, name := range []string{"sh", "", "a b", "a) R 1 2 (", ")))", "((", "a\nb) S 9 9", "\xff\x00"} {
		p, err := parseStat([]byte(stat(name, "7", "300")))
		if err != nil || p.parent != 7 || p.started != 300 {
			t.Errorf("%q: %+v, %v", name, p, err)
		}
	}
	for name, text := range map[string]string{
		"empty":           "",
		"no name":         "12 S 7",
		"cut off":         "12 (sh) S 7 12 12 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0",
		"no number":       stat("sh", "x", "300"),
		"negative":        stat("sh", "-7", "300"),
		"large":           stat("sh", "2147483648", "300"),
		"start no number": stat("sh", "7", "x"),
		"only the end":    "sh)",
	} {
		if p, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// FuzzParseStat chooses names, which cannot change what is read behind them, and whole texts, which cannot cause a fault.
func FuzzParseStat(f *testing.F) {
	f.Add("sh", uint32(1), uint64(2))
	f.Add(") S 1 (", uint32(1), uint64(1<<63))
	f.Fuzz(func(t *testing.T, name string, parent uint32, started uint64) {
		parent >>= 1
		p, err := parseStat([]byte(stat(name, fmt.Sprint(parent), fmt.Sprint(started))))
		if err != nil || p.parent != int(parent) || p.started != started {
			t.Errorf("%+v, %v", p, err)
		}
		parseStat([]byte(name))
	})
}

// TestNameOfAProcess runs a program whose name is a line of /proc, and is removed while it runs.
func TestNameOfAProcess(t *testing.T) {
	sleep, err := os.ReadFile(testenv.NeedProgram(t, "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a) S 1 1\n(")
	if err := os.WriteFile(path, sleep, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "1000")
	cmd.Args[0] = "sleep"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	p, err := inspect(cmd.Process.Pid)
	if err != nil || p.parent != os.Getpid() || !strings.HasPrefix(p.program, path) {
		t.Errorf("%+v, %v", p, err)
	}
}
