package deploy_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// begin has the far side begin a request.
func (m *machine) begin(client *ssh.Client, req protocol.Request) *deploy.Session {
	m.t.Helper()
	facts, err := deploy.Probe(m.t.Context(), client, m.label(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	s, err := deploy.Start(m.t.Context(), client, facts, req)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(s.Close)
	return s
}

// finish has the far side of s finish, and closes it.
func (m *machine) finish(s *deploy.Session) *protocol.Result {
	m.t.Helper()
	last, err := s.Finish(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	res := m.result(last)
	last.Close()
	if !res.Finished {
		m.t.Errorf("not finished: %+v", res)
	}
	return res
}

// ends waits for the end of the container.
func (m *machine) ends() {
	m.t.Helper()
	select {
	case <-m.Ended():
	case <-time.After(patience):
		m.t.Errorf("the container goes on with %q", m.Processes())
	}
}

// gone waits for the end of a process.
func (m *machine) gone(pid int) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); m.runs(pid); {
		if time.Now().After(deadline) {
			m.t.Errorf("process %d goes on", pid)
			return
		}
	}
}

// onFar runs a test on both kinds of a far side.
func onFar(t *testing.T, test func(t *testing.T, kind deploy.Kind, c overlay.Config)) {
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			test(t, kind, c)
		})
	}
}

// held are the names of the processes that are.
func held(list []protocol.Process) []string {
	var names []string
	for _, p := range list {
		if p.Held {
			names = append(names, p.Name)
		}
	}
	return names
}

// entrypoint is a script that process 1 reads on from behind what it waits for.
const entrypoint = `cat >/srv/entrypoint <<'end'
exec 8>>/workspace/log
echo $CANARY >&8
rm /srv/entrypoint
sleep 100000
echo $CANARY >/workspace/from-the-entrypoint
end
exec bash /srv/entrypoint`

// TestAMachineInUseGoesOn is wiped without its login.
func TestAMachineInUseGoesOn(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		m := newMachine(t, overlay.Config{NoExec: c.NoExec, Busybox: c.Busybox, Foreground: "sleep 100000; :"})
		m.Sh("until pgrep -P 1 -x sleep; do :; done")
		m.plant("echo $C >/workspace/x")
		req := m.everything()
		req.Rules = slices.DeleteFunc(req.Rules, func(r protocol.Rule) bool { return r.Login })
		req.Keep = append(req.Keep, "/root/.ssh", "/etc/ssh")
		s := m.begin(m.login(), req)
		if res := m.result(s); !slices.Equal(held(res.Processes), []string{"sleep"}) {
			t.Errorf("processes: %+v", res.Processes)
		}
		m.finish(s)
		m.Sh("until [ \"$(ps -o state= -C sleep)\" = S ]; do :; done")
		if left := m.found(); len(left) > 0 || !m.Alive() {
			t.Errorf("left: %q; alive: %v", left, m.Alive())
		}
		m.login()
	})
}

// TestTheContainerEndsLast waits for a child in its first process, which must neither end nor read on before all is done.
func TestTheContainerEndsLast(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		m := newMachine(t, overlay.Config{NoExec: c.NoExec, Busybox: c.Busybox, Foreground: entrypoint})
		waits := strings.TrimSpace(m.Sh("until pgrep -P 1 -x sleep; do :; done"))
		m.plant("echo $C >/workspace/x")
		client, req := m.login(), m.everything()
		before := m.Sh("stat -L -c '%i %s' /proc/1/fd/255; cat /proc/1/fd/255")
		if p := m.plan(client, req); !slices.Contains(held(p.Processes), "sleep") {
			t.Errorf("plan: %+v", p.Processes)
		}
		for range 2 { // the second finds it stopped
			s := m.begin(client, req)
			res := m.result(s)
			if !slices.Equal(held(res.Processes), []string{"sleep"}) || res.Remains() > 0 || res.Counts[protocol.Unseen] > 0 {
				t.Errorf("processes: %+v; items: %+v", res.Processes, res.Items)
			}
			if after := m.Sh("stat -L -c '%i %s' /proc/1/fd/255; cat /proc/1/fd/255"); after != before {
				t.Errorf("what process 1 reads was\n%s\nand is\n%s", before, after)
			}
			// A script has a sleep of its own, which may end after its last word.
			if state := m.Sh("ps -o state= -p " + waits); strings.TrimSpace(state) != "T" {
				t.Errorf("sleep is in state %q", state)
			}
			if !m.Alive() {
				t.Fatal("the container has ended")
			}
			s.Close()
		}
		s := m.begin(client, req)
		m.result(s)
		m.finish(s)
		m.ends()
		if left := m.found(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// TestWhatProcess1ReadsStays tells that it is in use, and wipes what process 1 writes.
func TestWhatProcess1ReadsStays(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		m := newMachine(t, overlay.Config{NoExec: c.NoExec, Busybox: c.Busybox, Foreground: strings.Replace(entrypoint, "rm ", ": ", 1)})
		m.Sh("until pgrep -P 1 -x sleep; do :; done")
		s := m.begin(m.login(), m.everything())
		res := m.result(s)
		if got := withCode(res.Items, protocol.InUse); !slices.Contains(got, "/srv/entrypoint") || slices.Contains(got, "/workspace/log") {
			t.Errorf("in use: %q", got)
		}
		if out := m.Sh("cat /srv/entrypoint; ls -A /workspace"); !strings.HasSuffix(out, "from-the-entrypoint\n") {
			t.Errorf("left:\n%s", out)
		}
		m.finish(s)
		m.ends()
	})
}

// TestChildrenOfEndedParentsAreNotHeld: process 1 has them, and does not wait for them.
func TestChildrenOfEndedParentsAreNotHeld(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		leader := m.Spawn("(sleep 100000 & echo $! >/workspace/pid); echo ready; exec sleep 100001")
		m.becomes(leader, "sleep")
		orphan, err := strconv.Atoi(strings.TrimSpace(m.Sh("cat /workspace/pid")))
		if err != nil {
			t.Fatal(err)
		}
		s := m.begin(m.login(), m.everything())
		res := m.result(s)
		if m.runs(orphan) || !m.runs(leader) || !slices.Equal(held(res.Processes), []string{"sleep"}) {
			t.Errorf("processes: %+v\n%s", res.Processes, m.Sh("ps -eo pid,ppid,sid,state,args"))
		}
		m.finish(s)
		m.gone(leader)
	})
}

// TestATunnelOfTheUserSparesNothingElse starts an ssh client like the gateway's from a program of the user's.
func TestATunnelOfTheUserSparesNothingElse(t *testing.T) {
	t.Parallel()
	testenv.NeedProgram(t, "ssh")
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		port := silent(t)
		m := newMachine(t, c)
		parent := m.Spawn("exec 5>>/workspace/train.log; echo " + m.canary + ` >&5
			sh -c 'exec 6>>/workspace/inner.log; ssh -p ` + port + ` -N -R 0:localhost:8888 me@127.0.0.1 >/dev/null 2>&1 & echo ready; while :; do echo ` + m.canary + ` >&6; sleep 100000; done' &
			while :; do echo ` + m.canary + " >&5; sleep 100000; done")
		m.Sh("until pgrep -x ssh && [ $(pgrep -x sleep | wc -l) = 2 ]; do :; done") // of both shells
		s := m.begin(m.login(), m.everything())
		res := m.result(s)
		if left := m.found(); len(left) > 0 || res.Remains() > 0 {
			t.Errorf("left: %q, items: %+v", left, res.Items)
		}
		if states := m.Sh("ps -o state= -p $1 -p $(pgrep -P $1 -x sh)", strconv.Itoa(parent)); states != "T\nT\n" || m.Sh("pgrep -x ssh || :") == "" {
			t.Errorf("states: %q\n%s", states, m.Sh("ps -eo pid,ppid,state,args"))
		}
		m.finish(s)
		m.gone(parent)
	})
}

// program writes a program in Python to /tmp, and returns how a script starts it.
func (m *machine) program(text string) string {
	m.t.Helper()
	python := testenv.NeedProgram(m.t, "/usr/bin/python3")
	m.Sh("cat >/tmp/program <<'end'\nimport ctypes, os, sys, threading, time\nlibc = ctypes.CDLL(None, use_errno=True)\n" + text + "\nend")
	return python + " /tmp/program " + m.canary
}

// leaderless ends its first thread, and goes on with another that keeps a file open.
const leaderless = `
def go_on():
    f = open("/workspace/open", "w"); print(sys.argv[1] * 1000, file=f, flush=True); os.fsync(f.fileno()); os.unlink("/workspace/open")
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z": pass
    print("ready", flush=True)
    while True: time.sleep(1000)
threading.Thread(target=go_on).start()
libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0) # exit, of one thread`

// TestAProcessWithoutItsFirstThread looks like one that has ended.
func TestAProcessWithoutItsFirstThread(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		c.Disk = 256 << 20
		m := newMachine(t, c)
		pid := m.child("exec " + m.program(leaderless))
		client, req := m.login(), m.everything()
		if p := m.plan(client, req); p.Deleted.Files != 1 {
			t.Errorf("plan: %+v", p.Deleted)
		}
		res := m.result(m.begin(client, req))
		if threads := m.Sh("grep -L zombie /proc/$1/task/*/status || :", pid); threads != "" {
			t.Errorf("it goes on: %s", threads)
		}
		if hits := m.ScanDisk([][]byte{[]byte(m.canary)}); len(hits) > 0 || res.Deleted.Files != 1 || res.Remains() > 0 {
			t.Errorf("%d hits on the disk; deleted: %+v; items: %+v", len(hits), res.Deleted, res.Items)
		}
	})
}

// child starts a script whose parent is not process 1, and returns its process id.
func (m *machine) child(script string) string {
	m.t.Helper()
	parent := m.Spawn("(\n" + script + "\n) & wait")
	return strings.TrimSpace(m.Sh("pgrep -P $1", strconv.Itoa(parent)))
}

// TestMoreInUseThanFitsIntoAnEnvironment starts what looks like the tunnel and has very many files in its memory.
func TestMoreInUseThanFitsIntoAnEnvironment(t *testing.T) {
	t.Parallel()
	m := newMachine(t, far[deploy.Script])
	m.program(`
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
os.mkdir("/srv/mapped")
for n in range(15000):
    fd = os.open("/srv/mapped/%d" % n, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x"); assert libc.mmap(None, 1, 1, 2, fd, 0) not in (None, ctypes.c_void_p(-1).value); os.close(fd)
print("ready", flush=True)
while True: time.sleep(1000)`)
	pid := m.Spawn("exec bash -c 'exec -a ssh /usr/bin/python3 /tmp/program x -R'")
	m.plant("echo $C >/workspace/x; echo $C >/workspace/y")
	req := m.everything()
	req.Rules = req.Rules[:len(req.Rules)-1]
	s := m.begin(m.login(), req)
	res := m.result(s)
	if left := m.found(); len(left) > 0 || res.Groups[2].Files != 2 || res.Remains() > 0 {
		t.Errorf("left: %q, %+v", left, res)
	}
	if !m.runs(pid) {
		t.Error("what looks like the tunnel was ended")
	}
}
