package companion

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestChain names real processes: sleep below two shells below this one.
func TestChain(t *testing.T) {
	c := launch(t, "")
	cmd := exec.Command("sh", "-c", `sh -c 'sleep 1000 & echo $! $$; wait'; echo $$`)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range strings.Fields(line) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	pids = append(pids, cmd.Process.Pid, os.Getpid())
	defer func() {
		for _, pid := range pids[:2] {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
			}
		}
		cmd.Wait()
	}()

	eventually(t, "the shell's child to be sleep", func() bool { p, _ := inspect(pids[0]); return strings.Contains(p.program, "sleep") })
	for range 2 { // the second is remembered
		chain, err := c.Chain(t.Context(), pids[0])
		if err != nil || len(chain) < len(pids) || len(chain) > maxChain {
			t.Fatalf("%v, %v", chain, err)
		}
		for i, want := range pids {
			if chain[i].PID != want || chain[i].Program == "" {
				t.Errorf("%d: %+v, want process %d", i, chain[i], want)
			}
		}
		if chain[1].Program != chain[2].Program {
			t.Errorf("two shells: %q and %q", chain[1].Program, chain[2].Program)
		}
	}

	// This process is not that one's descendant.
	if chain, err := c.Chain(t.Context(), os.Getpid()); err != nil || slices.ContainsFunc(chain, func(p Process) bool { return p.PID == pids[0] }) {
		t.Errorf("%v, %v", chain, err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{gone.Process.Pid, 0, -1, 1 << 30} {
		if chain, err := c.Chain(t.Context(), pid); err == nil {
			t.Errorf("process %d: %v", pid, chain)
		}
	}
	if chain, err := c.Chain(t.Context(), 1); err != nil || len(chain) != 1 {
		t.Errorf("the first process: %v, %v", chain, err)
	}
}

// TestWalk has processes that come and go during the walk.
func TestWalk(t *testing.T) {
	type table map[int]process
	line := table{}
	for i := 1; i <= 40; i++ {
		line[i] = process{parent: i - 1, started: uint64(i)}
	}
	tests := []struct {
		name  string
		table table
		pid   int
		want  []int // nil is an error
	}{
		{"up to the first", line, 3, []int{3, 2, 1}},
		{"at most 16", line, 40, []int{40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25}},
		{"a parent of the same moment", table{2: {1, 5, ""}, 1: {0, 5, ""}}, 2, []int{2, 1}},
		{"a parent that began later", table{2: {1, 5, ""}, 1: {0, 6, ""}}, 2, []int{2}},
		{"a parent's parent that began later", table{3: {2, 5, ""}, 2: {1, 3, ""}, 1: {0, 4, ""}}, 3, []int{3, 2}},
		{"a parent that has gone", table{2: {1, 5, ""}}, 2, []int{2}},
		{"itself its parent", table{2: {2, 5, ""}}, 2, slices.Repeat([]int{2}, maxChain)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			chain, err := walk(test.pid, test.table[test.pid], func(pid int) (process, error) {
				p, ok := test.table[pid]
				if !ok {
					return process{}, errors.New("no process")
				}
				return p, nil
			})
			var got []int
			for _, p := range chain {
				got = append(got, p.PID)
			}
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
	for name, again := range map[string]func() (process, error){
		"it has ended":  func() (process, error) { return process{}, errors.New("no process") },
		"it is another": func() (process, error) { return process{0, 6, "new"}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			chain, err := walk(2, process{0, 5, "old"}, func(int) (process, error) { return again() })
			if err == nil || chain != nil {
				t.Errorf("got %v", chain)
			}
		})
	}
}

// TestChainsAreKept for a moment, and for the same process only.
func TestChainsAreKept(t *testing.T) {
	pid := os.Getpid()
	p, err := inspect(pid)
	if err != nil {
		t.Fatal(err)
	}
	mark := []Process{{PID: pid, Program: "kept"}}
	for _, test := range []struct {
		name string
		kept keptChain
		used bool
	}{
		{"fresh", keptChain{p.started, time.Now().Add(time.Hour), mark}, true},
		{"old", keptChain{p.started, time.Now().Add(-1), mark}, false},
		{"of another process", keptChain{p.started + 1, time.Now().Add(time.Hour), mark}, false},
	} {
		c := chains{kept: map[int]keptChain{pid: test.kept}}
		chain, err := c.get(pid)
		if err != nil || (chain[0].Program == "kept") != test.used {
			t.Errorf("%s: %v, %v", test.name, chain, err)
		}
	}
	c := chains{kept: make(map[int]keptChain)}
	for i := range maxChains {
		c.kept[-i] = keptChain{}
	}
	if _, err := c.get(pid); err != nil || len(c.kept) != 1 {
		t.Errorf("%d are kept, %v", len(c.kept), err)
	}
}

func TestProgramsAreHarmless(t *testing.T) {
	if got := named(1, process{program: "/tmp/\x1b[2J\n"}).Program; got != `/tmp/\x1b[2J\x0a` {
		t.Errorf("got %q", got)
	}
}
