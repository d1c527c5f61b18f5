package deploy_test

import (
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/deploy"
)

// server serves a file system at its argument that is an empty directory, as sshfs and rclone do, see fuse(4). It answers what a
// look needs: INIT 26, LOOKUP 1, GETATTR 3, OPENDIR 27, READDIR 28, RELEASEDIR 29. FORGET 2 and 42 want no answer.
const server = `
import ctypes, os, struct, sys
attr = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
answers = {
    26: struct.pack("<IIIIHHIIHHI7I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    3: struct.pack("<QII", 0, 0, 0) + attr, 27: struct.pack("<QII", 0, 0, 0), 28: b"", 29: b"",
}
def serve(fd):
    while True:
        data = os.read(fd, 1 << 20)
        op, unique = struct.unpack_from("<IQ", data, 4)
        if op not in (2, 42):
            body = answers.get(op, b"")
            os.write(fd, struct.pack("<IiQ", 16 + len(body), 0 if op in answers else -2 if op == 1 else -38, unique) + body)
if len(sys.argv) == 3:
    serve(int(sys.argv[2]))
fd = os.open("/dev/fuse", os.O_RDWR)
options = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
if ctypes.CDLL(None, use_errno=True).mount(b"far", sys.argv[1].encode(), b"fuse.sshfs", 0, options.encode()) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
os.set_inheritable(fd, True)
# With no more capabilities than the login has, as in a container: else that could not see what it has open.
os.execv("/usr/bin/setpriv", ["setpriv", "--bounding-set", "-all,+kill,+setgid,+setuid", sys.executable] + sys.argv + [str(fd)])
`

// serve mounts a file system that a program in the container serves. how starts it.
func (m *machine) serve(how string) {
	m.t.Helper()
	m.plant("[ -e /dev/fuse ] || mknod /dev/fuse c 10 229; mkdir -p /workspace/drive; cat >/srv/serve.py <<'end'\n" + server + "end\n" +
		how + "\nuntil grep -q fuse.sshfs /proc/mounts; do sleep 0.1; done; ls /workspace/drive")
}

// TestServedFileSystems are those that programs in the container serve, which must not be waited for when these are stopped, nor be
// taken for something that remains when they have ended.
func TestServedFileSystems(t *testing.T) {
	t.Parallel()
	testenv.NeedProgram(t, "/usr/bin/python3")
	for name, how := range map[string]string{
		"a daemon":              "setsid /usr/bin/python3 /srv/serve.py /workspace/drive </dev/null >/dev/null 2>&1 &",
		"a child of the user's": "setsid sh -c '/usr/bin/python3 /srv/serve.py /workspace/drive; :' </dev/null >/dev/null 2>&1 &",
		"one that is ended": "setsid /usr/bin/python3 /srv/serve.py /workspace/drive </dev/null >/dev/null 2>&1 & " +
			"until grep -q fuse.sshfs /proc/mounts; do sleep 0.1; done; kill -KILL $!; wait; ! ls /workspace/drive || exit 1; exit 0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
				m := newMachine(t, c)
				m.plant("echo $C >/workspace/x")
				m.serve(how)
				m.plant("ln -s /workspace/drive /root/drive")
				client, req := m.login(), m.everything()
				if told := volumePaths(m.plan(client, req)); len(told) != 1 || told[0] != "/workspace/drive" {
					t.Errorf("volumes: %q", told)
				}
				_, res := m.run(client, req)
				if left := m.found(); len(left) > 0 || res.Remains() > 0 {
					t.Errorf("left: %q, %+v", left, res.Items)
				}
			})
		})
	}
}
