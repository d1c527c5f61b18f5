package deploy_test

import (
	"errors"
	"net"
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

// silent accepts connections and says nothing, and returns its port.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// far are the two kinds of a far side.
var far = map[deploy.Kind]overlay.Config{deploy.Helper: {}, deploy.Script: {NoExec: nowhere}}

// TestTheTunnelOfTheGatewayStays starts what Vast.ai's gateway is reached by, and other ssh clients, which are the user's.
func TestTheTunnelOfTheGatewayStays(t *testing.T) {
	t.Parallel()
	testenv.NeedProgram(t, "ssh")
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			port := silent(t)
			m := newMachine(t, c)
			tunnel := m.Spawn("echo ready; exec ssh -p " + port + " -N -R 0:localhost:22 gateway@127.0.0.1")
			user := m.Spawn("echo ready; exec ssh -p " + port + " -N -L /run/forward:localhost:22 user@127.0.0.1")
			script := m.Spawn("exec sh -c 'echo ready; sleep 1000; :' sh -R")
			m.becomes(tunnel, "ssh")
			m.becomes(user, "ssh")
			m.run(m.login(), m.everything())
			if !m.runs(tunnel) {
				t.Error("the tunnel was ended")
			}
			m.gone(user)
			m.gone(script)
		})
	}
}

// runs reports whether a process inside is alive.
func (m *machine) runs(pid int) bool {
	m.t.Helper()
	out := m.Sh("case $(cut -d' ' -f3 /proc/$1/stat 2>/dev/null) in '' | Z) echo no ;; *) echo yes ;; esac", strconv.Itoa(pid))
	return strings.TrimSpace(out) == "yes"
}

// becomes waits until a process that was ready to run a program does.
func (m *machine) becomes(pid int, program string) {
	m.t.Helper()
	m.Sh(`until tr '\0' ' ' <"/proc/$1/cmdline" | grep -q "^$2 "; do :; done`, strconv.Itoa(pid), program)
}

// relay is a program inside through which a connection comes, as a tunnel that nobody knows. Its arguments are the port of sshd,
// the address to listen on, and a file for its own port.
const relay = `
import socket, sys, threading
l = socket.socket()
l.bind((sys.argv[2], 0)); l.listen()
open(sys.argv[3], "w").write(str(l.getsockname()[1])); print("ready", flush=True)
def pump(a, b):
    while data := a.recv(65536): b.sendall(data)
    b.close()
while True:
    a, _ = l.accept()
    b = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    for pair in ((a, b), (b, a)): threading.Thread(target=pump, args=pair, daemon=True).start()
`

// TestTheOtherEndOfTheConnectionStays comes through a process of the container.
func TestTheOtherEndOfTheConnectionStays(t *testing.T) {
	t.Parallel()
	python := testenv.NeedProgram(t, "/usr/bin/python3")
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			_, port, _ := net.SplitHostPort(m.Addr())
			m.Sh("cat >/tmp/relay <<'end'\n" + relay + "end")
			pid := m.Spawn("exec " + python + " /tmp/relay " + port + " 127.0.0.1 /tmp/port")
			at := strings.TrimSpace(m.Sh("cat /tmp/port"))
			client, err := ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", at), &ssh.ClientConfig{
				User: m.User(), Auth: []ssh.AuthMethod{ssh.PublicKeys(m.signer)}, HostKeyCallback: ssh.FixedHostKey(m.HostKeys()[0]),
				Timeout: time.Minute,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			m.plant("echo $C >/workspace/x")
			m.run(client, m.everything())
			if !m.runs(pid) {
				t.Error("the relay was ended")
			}
			if left := m.found(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// TestALaterRunTakesOver starts a second run beside one that goes on, which has to leave it the journal.
func TestALaterRunTakesOver(t *testing.T) {
	t.Parallel()
	m := newMachine(t, far[deploy.Script])
	const files = 150
	m.plant(`for n in $(seq ` + strconv.Itoa(files) + `); do echo $C >/workspace/$n; done; yes $C | head -c 40000000 >/workspace/0large`)
	// The first is kept from its end until the second has come.
	hold := m.Hold("/workspace/1")
	req := m.everything()
	req.Processes = false // which would end the first
	first := m.begin(m.login(), req)
	hold.Await()
	before := m.owner()
	stopped := make(chan error, 1)
	go func() {
		for {
			msg, err := first.Receive()
			if err != nil || msg.Result != nil {
				if err == nil && !msg.Result.Stopped {
					err = errors.New("it says that it is through")
				}
				stopped <- err
				return
			}
		}
	}()
	client := m.login()
	facts, err := deploy.Probe(t.Context(), client, m.label(), nil)
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan error, 1)
	var second *deploy.Session
	go func() {
		var err error
		second, err = deploy.Start(t.Context(), client, facts, req)
		begun <- err
	}()
	m.otherOwner(before)
	hold.Release()
	if err := <-stopped; err != nil {
		t.Errorf("the first: %v", err)
	}
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	res := m.result(second)
	if !second.Hello.Resumed || res.Remains() > 0 || res.Groups[2].Files != files+1 {
		t.Errorf("resumed: %v, %+v", second.Hello.Resumed, res)
	}
	if left := m.found(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if out := m.Sh("ls -A /dev/shm/.vast-ssh-wipe-sh"); slices.ContainsFunc(strings.Fields(out), func(s string) bool { return strings.HasPrefix(s, "run.") }) {
		t.Errorf("in the directory of the journal: %s", out)
	}
}

// TestDeletedFilesOfAnotherUser are out of reach for a root without CAP_SYS_PTRACE. The helper takes the user's place; the script
// says that it could not look.
func TestDeletedFilesOfAnotherUser(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c.Disk = 256 << 20
			m := newMachine(t, c)
			m.plant("mkdir /workspace/u; chown 1000:1000 /workspace/u; echo x >/workspace/x")
			pid := m.Spawn("exec setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'exec 4>/workspace/u/f; yes " + m.canary +
				" | head -c 300000 >&4; sync; rm /workspace/u/f; echo ready; exec sleep 1000'")
			m.becomes(pid, "sleep")
			client, req := m.login(), m.everything()
			p := m.plan(client, req)
			_, res := m.run(client, req)
			hits := m.ScanDisk([][]byte{[]byte(m.canary)})
			unseen := withCode(res.Items, protocol.Unseen)
			if kind == deploy.Script {
				if !slices.Equal(unseen, []string{"sleep"}) || p.Counts[protocol.Unseen] != 1 || res.Remains() != 0 {
					t.Errorf("unseen: %q, %v; %d remain", unseen, p.Counts, res.Remains())
				}
				return
			}
			if len(hits) > 0 || res.Deleted.Files != 1 || p.Deleted.Files != 1 || len(unseen) > 0 {
				t.Errorf("%d hits on the disk; deleted: %+v, %+v; unseen: %q", len(hits), p.Deleted, res.Deleted, unseen)
			}
		})
	}
}
