package e2e

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

// errand is what a client is to do: run command at user@host, reached through proxy or, if that is empty, at port, with
// the keys of the agent at socket.
type errand struct {
	user, host, port, proxy, socket, command string
	// accept are the host keys to accept, for a client that cannot be told to accept any.
	accept []ssh.PublicKey
}

// careless is a client that checks no host key.
type careless struct {
	name    string
	program func(testing.TB) string
	args    func(program string, e errand) []string
}

func program(name string) func(testing.TB) string {
	return func(t testing.TB) string { return testenv.NeedProgram(t, name) }
}

// openssh reads no configuration, has no key of its own, and takes options in front of its own.
func openssh(options ...string) func(string, errand) []string {
	return func(program string, e errand) []string {
		args := []string{program, "-F", "none"}
		for _, o := range append(options, "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
			"GlobalKnownHostsFile=/dev/null", "IdentityFile=none", "IdentityAgent="+e.socket) {
			args = append(args, "-o", o)
		}
		if e.proxy != "" {
			args = append(args, "-o", "ProxyCommand="+e.proxy)
		}
		return append(args, "-p", e.port, "-l", e.user, e.host, e.command)
	}
}

// plink keeps what a proxy writes to stderr to itself, unless it is asked to talk.
func plink(program string, e errand) []string {
	args := []string{program, "-v", "-batch", "-noshare", "-agent", "-P", e.port, "-l", e.user}
	for _, k := range e.accept {
		args = append(args, "-hostkey", fingerprintOf(k))
	}
	if e.proxy != "" {
		args = append(args, "-proxycmd", e.proxy)
	}
	return append(args, e.host, e.command)
}

func dbclient(program string, e errand) []string {
	args := []string{program, "-y", "-y", "-p", e.port, "-l", e.user}
	if e.proxy != "" {
		args = append(args, "-J", e.proxy)
	}
	return append(args, e.host, e.command)
}

// python returns a Python that has the module: the one of the system's packages, if there is a choice.
func python(module string) func(testing.TB) string {
	return func(t testing.TB) string {
		t.Helper()
		for _, python := range []string{"/usr/bin/python3", "python3"} {
			if exec.Command(python, "-W", "ignore", "-c", "import "+module).Run() == nil {
				return python
			}
		}
		testenv.Missing(t, "python3 with "+module)
		return ""
	}
}

// scripted is a client that needs a program written for it, which takes words in front of the errand.
func scripted(words ...string) func(string, errand) []string {
	return func(interpreter string, e errand) []string {
		args := append([]string{interpreter}, words...)
		args = append(args, e.host, e.port, e.user, e.command)
		if e.proxy != "" {
			args = append(args, e.proxy)
		}
		return args
	}
}

// nodeModules is the variable in which test.sh names the directory that holds the clients of npm.
const nodeModules = "VAST_SSH_TEST_NODE_MODULES"

func nodeWithSSH2(t testing.TB) string {
	t.Helper()
	node := testenv.NeedProgram(t, "node")
	if _, err := os.Stat(filepath.Join(os.Getenv(nodeModules), "ssh2")); err != nil {
		testenv.Missing(t, "npm's ssh2, installed by test.sh, which sets "+nodeModules)
	}
	return node
}

// oldMethods are the key exchanges that not every sshd offers by itself.
const oldMethods = "diffie-hellman-group14-sha256,diffie-hellman-group-exchange-sha256"

// TestMatrix has clients that would log in to any machine at all: through the proxy they get to the pinned one, and to
// no other that stands at its address.
func TestMatrix(t *testing.T) {
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	script := func(name string) string { return filepath.Join(testdata, name) }
	clients := []careless{
		{"plink", program("plink"), plink},
		{"dbclient", program("dbclient"), dbclient},
		{"paramiko", python("paramiko"), scripted(script("paramiko_login.py"))},
		{"asyncssh", python("asyncssh"), scripted(script("asyncssh_login.py"))},
		{"ssh2", nodeWithSSH2, scripted(script("ssh2_login.js"), os.Getenv(nodeModules))},
	}
	for _, method := range []string{
		"sntrup761x25519-sha512@openssh.com", "curve25519-sha256", "ecdh-sha2-nistp256",
		"diffie-hellman-group14-sha256", "diffie-hellman-group-exchange-sha256",
	} {
		clients = append(clients, careless{"ssh " + method, func(t testing.TB) string { return needMethod(t, method) },
			openssh("KexAlgorithms=" + method)})
	}
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testClient(t, c)
		})
	}
}

// needMethod returns the ssh that knows the key exchange method.
func needMethod(t testing.TB, method string) string {
	t.Helper()
	path := testenv.NeedProgram(t, "ssh")
	known, err := exec.Command(path, "-Q", "kex").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(known)), method) {
		testenv.Missing(t, "an ssh with "+method)
	}
	return path
}

func testClient(t *testing.T, c careless) {
	path := c.program(t)
	w := New(t)
	cfg := sshd.Config{HostKeys: []string{"ed25519", "ecdsa", "rsa"}, KexAlgorithms: "+" + oldMethods}
	box := w.AddInstance("", cfg)
	w.Ready()
	w.Must("vast-ssh", idOf(box), "true")

	run := func(e errand) Result {
		t.Helper()
		argv := c.args(path, e)
		return w.RunEnv([]string{"SSH_AUTH_SOCK=" + e.socket}, argv[0], argv[1:]...)
	}
	// The shell at the other end finds the answer: the command itself is no sign of a login.
	const command, answer = "echo $((6*7)) in", "42 in\n"
	ours := errand{
		user: box.User(), host: fmt.Sprintf("vast-%d", box.ID), port: "22", command: command,
		proxy:  fmt.Sprintf("%s proxy %d", filepath.Join(w.Bin, "vast-ssh"), box.ID),
		socket: w.Dirs.AgentSocket(), accept: box.HostKeys(),
	}
	before := agentStatus(t, w)
	if r := run(ours); r.Code != 0 || r.Stdout != answer {
		t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	after := agentStatus(t, w)
	if after.Signatures != before.Signatures+1 || after.Refused != before.Refused {
		t.Errorf("the agent gave %d signatures and refused %d requests for one login",
			after.Signatures-before.Signatures, after.Refused-before.Refused)
	}

	// Another machine takes the addresses. It would let the key in, and another one that is for the counter-check.
	box.Stop()
	another := newKeyring(t)
	key, err := os.ReadFile(w.Dirs.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.AuthorizedKeys = box.Addrs(), []string{string(key), another.authorized}
	impostor := sshd.Start(t, cfg)
	ours.accept = impostor.HostKeys()
	r := run(ours)
	if r.Code == 0 || r.Stdout != "" {
		t.Errorf("it talked to the impostor: exit %d, stdout %q", r.Code, r.Stdout)
	}
	for _, want := range []string{fmt.Sprintf("is not instance %d as it was pinned", box.ID), "hint: "} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("stderr lacks %q:\n%s", want, r.Stderr)
		}
	}
	if last := agentStatus(t, w); last.Signatures != after.Signatures || last.Refused != after.Refused {
		t.Errorf("the agent was asked to sign for the impostor: %+v", last.Refusals)
	}

	// Without the proxy, and with a key that is in no agent of ours, the same client falls for the impostor: nothing
	// but the proxy and the agent stood between them.
	theirs := ours
	theirs.proxy, theirs.socket = "", another.socket
	if theirs.host, theirs.port, err = net.SplitHostPort(impostor.Addr()); err != nil {
		t.Fatal(err)
	}
	if r := run(theirs); r.Code != 0 || r.Stdout != answer {
		t.Errorf("the client checks host keys, or the impostor is none: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if n := strings.Count(impostor.Log(), "Accepted publickey"); n != 1 {
		t.Errorf("the impostor let in %d clients instead of the one of the counter-check", n)
	}
}

// agentStatus is what vast-agent says of itself.
func agentStatus(t testing.TB, w *World) ipc.Status {
	t.Helper()
	var st ipc.Status
	if err := json.Unmarshal([]byte(w.Must("vast-agent", "status", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// keyring is an ordinary agent with one key, which signs whatever it is asked to.
type keyring struct{ socket, authorized string }

func newKeyring(t testing.TB) keyring {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := sshagent.NewKeyring()
	if err := keys.Add(sshagent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	k := keyring{authorized: string(ssh.MarshalAuthorizedKey(key))}
	k.socket = listenUnix(t, func(c net.Conn) { sshagent.ServeAgent(keys, c) })
	return k
}

// listenUnix serves connections to a socket of the test's, until the test ends, and returns its path.
func listenUnix(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vs")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		end()
		l.Close()
		served.Wait()
		os.RemoveAll(dir)
	})
	return path
}
