//go:build linux

package remote

import (
	"maps"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRolesOfProcesses is a container whose entrypoint has started the ssh server and a tunnel.
func TestRolesOfProcesses(t *testing.T) {
	all := []process{
		{pid: 1, session: 1},
		{pid: 2, parent: 1, session: 1},                // the entrypoint
		{pid: 3, parent: 2, session: 3, server: true},  // listens
		{pid: 4, parent: 3, session: 4, server: true},  // our connection
		{pid: 5, parent: 4, session: 5},                // this
		{pid: 6, parent: 5, session: 5},                // a child that the login has left
		{pid: 7, parent: 3, session: 7, server: true},  // another connection
		{pid: 8, parent: 7, session: 8},                // its shell
		{pid: 9, parent: 2, session: 9},                // the entrypoint may wait for it
		{pid: 10, parent: 1, session: 1},               // so may PID 1
		{pid: 11, parent: 1, session: 11},              // or for this
		{pid: 12, parent: 1, session: 8},               // its parent has ended
		{pid: 13, parent: 10, session: 1},              // a child of one that is held
		{pid: 14, parent: 8, session: 8},               // has started a tunnel
		{pid: 15, parent: 14, session: 8},              // the tunnel
		{pid: 16, parent: 1, session: 1, zombie: true}, // waits for its parent
		{pid: 17, parent: 0, session: 0},               // came from outside
		{pid: 18, parent: 8, session: 8},               // serves a file system
		{pid: 19, parent: 18, session: 8},              // its way there
	}
	r := assign(all, map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true}, 5, []int{15}, []int{18})
	sorted := func(m map[int]bool) []int { return slices.Sorted(maps.Keys(m)) }
	if got := sorted(r.spared); !slices.Equal(got, []int{1, 2, 3, 4, 5, 15}) {
		t.Errorf("spared: %v", got)
	}
	if got := sorted(r.held); !slices.Equal(got, []int{7, 8, 9, 10, 11, 14, 18, 19}) {
		t.Errorf("held: %v", got)
	}
	if got := sorted(r.serving); !slices.Equal(got, []int{18, 19}) {
		t.Errorf("serving: %v", got)
	}
	if !slices.Equal(r.doomed, []int{6, 12, 13, 17}) {
		t.Errorf("doomed: %v", r.doomed)
	}
}

// TestOneDeadlineForAll waits for processes that go on, as those that hang in the kernel do.
func TestOneDeadlineForAll(t *testing.T) {
	const processes, wait = 40, time.Second // half of them, one after the other, take longer than a busy machine stands still
	fds := make(map[int]int)
	for n := range processes {
		cmd := exec.Command("sleep", "100000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		fds[cmd.Process.Pid] = -1
		if n%2 == 0 {
			fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			fds[cmd.Process.Pid] = fd
		}
	}
	began := time.Now()
	if ended := awaitAll(t.Context(), fds, began.Add(wait)); len(ended) > 0 {
		t.Errorf("%v have ended", ended)
	}
	if took := time.Since(began); took < wait || took > processes/2*wait {
		t.Errorf("it took %v for %d processes, with a deadline after %v", took, processes, wait)
	}
}

// TestKillAll kills children of its own, with pidfds and where nobody may open one.
func TestKillAll(t *testing.T) {
	defer func(was func(int, int) (int, error)) { pidfdOpen = was }(pidfdOpen)
	for _, refusal := range []error{nil, unix.ENOSYS, unix.EPERM} {
		if refusal != nil {
			pidfdOpen = func(int, int) (int, error) { return -1, refusal }
		}
		var pids []int
		for range 3 {
			cmd := exec.Command("sleep", "100000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			pids = append(pids, cmd.Process.Pid)
			unix.Kill(cmd.Process.Pid, unix.SIGSTOP)
		}
		if gone := killAll(t.Context(), pids); len(gone) != len(pids) {
			t.Errorf("%v: %d of %d are gone", refusal, len(gone), len(pids))
		}
	}
}
