package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wire"
)

// hopper is a victim with a third instance and one way, from the first to the second.
type hopper struct {
	*victim
	third *Instance
}

func newHopper(t *testing.T) *hopper {
	t.Helper()
	h := &hopper{victim: newVictim(t)}
	needHostBound(t)
	h.third = h.AddInstance("", sshd.Config{AuthorizedKeys: []string{h.authorized}})
	h.login(h.third)
	h.hops(h.first, h.second)
	return h
}

// needHostBound ends the test where ssh has nothing to describe a chain of sessions with.
func needHostBound(t testing.TB) {
	t.Helper()
	var major, minor int
	version, err := exec.Command(testenv.NeedProgram(t, "ssh"), "-V").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(version), "OpenSSH_%d.%d", &major, &minor); err != nil {
		t.Fatalf("%q: %v", version, err)
	}
	if major < 8 || major == 8 && minor < 9 {
		testenv.Missing(t, "an ssh that binds its session (8.9 or later)")
	}
}

// hops settles which ways are allowed: each two instances are one.
func (h *hopper) hops(ends ...*Instance) {
	h.t.Helper()
	var ways []string
	for i := 0; i < len(ends); i += 2 {
		ways = append(ways, fmt.Sprintf(`"%d>%d"`, ends[i].ID, ends[i+1].ID))
	}
	h.Configure("hops = [" + strings.Join(ways, ", ") + "]")
}

// onward is a command for the shell of an instance: to go on with the agent that was forwarded there.
func onward(ssh string, to *Instance, command string, options ...string) string {
	host, port, err := net.SplitHostPort(to.Addr())
	if err != nil {
		panic(err)
	}
	argv := []string{ssh, "-F", "none", "-p", port, "-l", to.User()}
	for _, o := range append(options, "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
		"IdentityFile=none", "LogLevel=ERROR") {
		argv = append(argv, "-o", o)
	}
	return words(append(argv, host, command))
}

// goes logs in at an instance with the agent forwarded, runs the command there, and checks what it says and whether it
// was refused.
func (h *hopper) goes(from *Instance, command, said string, signatures uint64, reasons ...string) {
	h.t.Helper()
	h.spends(signatures, reasons, func() {
		h.t.Helper()
		r := h.Run("vast-ssh", "-A", idOf(from), command)
		if refused := strings.Contains(r.Stderr, "Permission denied"); r.Stdout != said || refused != (len(reasons) > 0) {
			h.t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
}

// The way that the configuration names is open to the instance that the user is logged in to, and no other is.
func TestHops(t *testing.T) {
	t.Parallel()
	h := newHopper(t)
	ssh := testenv.NeedProgram(t, "ssh")
	onTo := func(to *Instance, options ...string) string { return onward(ssh, to, "echo on", options...) }

	h.goes(h.first, onTo(h.second), "on\n", 2)
	h.goes(h.first, onTo(h.third), "", 1, "other-hop")
	h.goes(h.second, onTo(h.first), "", 1, "forwarded", "poisoned")
	h.goes(h.first, onTo(h.first), "", 1, "other-hop")
	h.goes(h.first, onTo(h.second, "PubkeyAuthentication=unbound"), "", 1, "not-host-bound")
	h.goes(h.first, onTo(h.second), "on\n", 2)

	// Two ways make no longer one.
	h.hops(h.first, h.second, h.second, h.third)
	h.goes(h.first, onTo(h.second), "on\n", 2)
	h.goes(h.second, onTo(h.third), "on\n", 2)
	over := onward(ssh, h.second, onTo(h.third), "ForwardAgent=yes")
	h.goes(h.first, over, "", 2, "forwarded", "poisoned")

	h.hops()
	h.goes(h.first, onTo(h.second), "", 1, "forwarded", "poisoned")

	// A jump needs no way: both logins are made from here.
	jump := fmt.Sprintf("vast-%d", h.first.ID)
	h.spends(2, nil, func() {
		if out := h.Must("vast-ssh", "-J", jump, idOf(h.second), "echo", "on"); out != "on\n" {
			t.Errorf("the jump said %q", out)
		}
	})
}

// bindRequest is a session-bind@openssh.com request, OpenSSH PROTOCOL.agent section 1.
func bindRequest(reply *wire.Reply, sessionID []byte, forwarding bool) []byte {
	return ssh.Marshal(struct {
		Name       string `sshtype:"27"`
		HostKey    []byte
		SessionID  []byte
		Signature  []byte
		Forwarding bool
	}{"session-bind@openssh.com", reply.HostKey, sessionID, reply.Signature, forwarding})
}

// hostBound is a request for a login of the user in the session, which names the host key.
func (v *victim) hostBound(user string, reply *wire.Reply, sessionID []byte) []byte {
	blob := v.key.Marshal()
	return ssh.Marshal(signRequest{Key: blob, Data: ssh.Marshal(struct {
		Session               []byte
		Number                byte
		User, Service, Method string
		HasSignature          bool
		Algorithm             string
		Key, HostKey          []byte
	}{sessionID, 50, user, "ssh-connection", "publickey-hostbound-v00@openssh.com", true, ssh.KeyAlgoED25519, blob,
		reply.HostKey})})
}

// Another instance has got hold of the agent's socket, and makes up a chain from the instance where a way begins:
// whoever reaches that gets its signature over a session id of his own.
func TestHopsForged(t *testing.T) {
	t.Parallel()
	h := newHopper(t)
	socket := filepath.Join(h.Home, "far.sock")
	h.session(h.third, "HOME", "-o", "ExitOnForwardFailure=yes", "-R", socket+":"+h.Dirs.AgentSocket())
	// chain goes on to the second instance from a session with the first, and asks for the login there.
	chain := func(first *wire.Reply, id []byte, answers ...byte) {
		t.Helper()
		far, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		if err := h.inside(h.second, func(second *wire.Reply, secondID, _ []byte) *ssh.Signature {
			h.asks(far, [][]byte{
				bindRequest(first, id, true), bindRequest(second, secondID, false), h.hostBound(h.second.User(), second, secondID),
			}, answers...)
			return nil
		}); err == nil {
			t.Error("logged in without a signature")
		}
	}
	h.refuses(func() {
		if err := h.inside(h.first, func(first *wire.Reply, id, _ []byte) *ssh.Signature {
			chain(first, id, agentUnbound, agentUnbound, agentFailure)
			return nil
		}); err == nil {
			t.Error("logged in without a signature")
		}
	}, "forwarded", "poisoned")

	// The same chain from a login of the user's is what the way is for: nothing else was wrong with it.
	h.spends(2, nil, func() {
		if err := h.inside(h.first, func(first *wire.Reply, id, data []byte) *ssh.Signature {
			if reason := h.witness(h.first.ID, h.first.User(), first); reason != "" {
				t.Errorf("the witness was refused with %q", reason)
			}
			sig := h.sign(data)
			chain(first, id, agentSuccess, agentSuccess, agentSigned)
			return sig
		}); err != nil {
			t.Error(err)
		}
	})
}
