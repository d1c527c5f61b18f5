package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// TestWhatCannotBeFoundAgainIsKept ends a process whose removed file cannot be overwritten, and asks twice.
func TestWhatCannotBeFoundAgainIsKept(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		c.Disk = 256 << 20
		m := newMachine(t, c)
		pid := m.child("exec 4>/workspace/open; echo " + m.canary + " >&4; rm /workspace/open; echo ready; exec sleep 100000")
		m.fixed(pid)
		client, req := m.login(), m.everything()
		for range 3 {
			s := m.begin(client, req)
			res := m.result(s)
			if got := withCode(res.Items, protocol.Failed); !slices.Equal(got, []string{"/workspace/open"}) || res.Remains() != 1 {
				t.Errorf("items: %+v, %v", res.Items, res.Counts)
			}
			s.Close()
		}
	})
}

// fixed makes the file immutable that a process has open as 4.
func (m *machine) fixed(pid string) {
	m.t.Helper()
	const setFlags = `import fcntl, sys; fcntl.ioctl(open("/proc/%s/fd/4" % sys.argv[1]), 0x40086602, (0x10).to_bytes(8, "little"))`
	// FS_IOC_SETFLAGS, FS_IMMUTABLE_FL: of a file that was removed just now, overlayfs may refuse it for a moment.
	m.Sh("until "+testenv.NeedProgram(m.t, "/usr/bin/python3")+" -c '"+setFlags+"' $1 2>/dev/null; do :; done", pid)
}

// sealed keeps memory open that nobody can write to.
const sealed = `
import fcntl
fd = os.memfd_create("buffer", os.MFD_ALLOW_SEALING); os.write(fd, b"x" * 5000)
fcntl.fcntl(fd, 1033, 1 | 2 | 4 | 8) # F_ADD_SEALS, all
try: os.ftruncate(os.memfd_create("huge", os.MFD_HUGETLB), 2 << 20)
except OSError: pass # a system without
print("ready", flush=True)
while True: time.sleep(1000)`

// TestSealedMemory ends with its process, and needs no overwriting.
func TestSealedMemory(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.child("exec " + m.program(sealed))
		if _, res := m.run(m.login(), m.everything()); res.Remains() > 0 {
			t.Errorf("items: %+v", res.Items)
		}
	})
}

// TestAProgramThatWasRemoved runs on. The helper overwrites its file when it has ended; the script says that it could not.
func TestAProgramThatWasRemoved(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		c.Disk = 256 << 20
		m := newMachine(t, c)
		m.plant("cp /bin/sleep /srv/program; echo $C >>/srv/program; sync; cp /bin/sleep /srv/plain")
		m.child("/srv/program 100000 & /srv/program 100001 & echo ready; wait")
		m.Sh("until [ $(pgrep -x program | wc -l) = 2 ]; do :; done; rm /srv/program")
		client, req := m.login(), m.everything()
		p := m.plan(client, req)
		res := m.result(m.begin(client, req))
		hits, unseen := m.ScanDisk([][]byte{[]byte(m.canary)}), withCode(res.Items, protocol.Unseen)
		if res.Remains() > 0 {
			t.Errorf("items: %+v", res.Items)
		}
		if kind == deploy.Script {
			if !slices.Equal(unseen, []string{"program", "program"}) || p.Counts[protocol.Unseen] != 2 {
				t.Errorf("unseen: %q, %v", unseen, p.Counts)
			}
			return
		}
		if len(hits) > 0 || res.Deleted.Files != 1 || p.Deleted.Files != 1 || len(unseen) > 0 {
			t.Errorf("%d hits on the disk; deleted: %+v, %+v; unseen: %q", len(hits), p.Deleted, res.Deleted, unseen)
		}
	})
}

// mapping keeps files without a name in its memory: one that it has still open, and one that it has closed.
const mapping = `
import mmap
for name in ("/workspace/open", "/workspace/closed")[int(os.environ["FROM"]):]:
    f = open(name, "w+b", 0); f.write(b"x" * 5000); m = mmap.mmap(os.dup(f.fileno()), 5000); os.unlink(name)
    keep = globals().setdefault("keep", []); keep.append((f, m))
    if name == "/workspace/closed":
        for fd in os.listdir("/proc/self/fd"):
            try: target = os.readlink("/proc/self/fd/" + fd)
            except OSError: continue
            if target.startswith(name): os.close(int(fd))
print("ready", flush=True)
while True: time.sleep(1000)`

// TestMappedFilesThatWereRemoved are out of reach if nothing else leads to them.
func TestMappedFilesThatWereRemoved(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.child("FROM=0 exec " + m.program(strings.Replace(mapping, `, "/workspace/closed"`, `,`, 1)))
		m.child("FROM=1 exec " + m.program(mapping))
		res := m.result(m.begin(m.login(), m.everything()))
		if got := withCode(res.Items, protocol.Unseen); len(got) != 1 || res.Deleted.Files == 0 || res.Remains() > 0 {
			t.Errorf("items: %+v, deleted: %+v", res.Items, res.Deleted)
		}
	})
}
