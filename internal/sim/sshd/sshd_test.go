package sshd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/simtest"
	"vast-ssh/internal/testenv"
)

func run(t *testing.T, client *ssh.Client, command string) string {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	out, err := session.Output(command)
	if err != nil {
		t.Fatalf("%q: %v", command, err)
	}
	return strings.TrimSpace(string(out))
}

func TestLoginWithEveryHostKeyOnEveryAddress(t *testing.T) {
	id := simtest.NewIdentity(t)
	s := Start(t, Config{
		HostKeys: []string{"ed25519", "ecdsa", "rsa"}, Listen: []string{"127.0.0.1:0", "127.0.0.1:0"},
		AuthorizedKeys: []string{id.Line}, KexAlgorithms: "ecdh-sha2-nistp256", Extra: []string{"SetEnv A=1 B=2"},
	})
	algorithms := []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoRSASHA512}
	if len(s.Addrs()) != 2 || s.Addrs()[0] == s.Addrs()[1] || s.Addr() != s.Addrs()[0] {
		t.Fatalf("addresses %v", s.Addrs())
	}
	for _, addr := range s.Addrs() {
		for i, want := range s.HostKeys() {
			client, err := id.Dial(addr, s.User(), ssh.FixedHostKey(want), algorithms[i])
			if err != nil {
				t.Fatalf("%s with %s: %v", addr, algorithms[i], err)
			}
			if got := run(t, client, "echo $A$B"); got != "12" {
				t.Errorf("environment of the session: %q", got)
			}
			client.Close()
		}
	}
	if _, err := ssh.Dial("tcp", s.Addr(), &ssh.ClientConfig{
		Config: ssh.Config{KeyExchanges: []string{ssh.KeyExchangeCurve25519}}, User: s.User(),
		HostKeyCallback: ssh.FixedHostKey(s.HostKeys()[0]),
	}); err == nil || !strings.Contains(err.Error(), "key exchange") {
		t.Errorf("a key exchange outside KexAlgorithms: %v", err)
	}
}

func TestLoginWithOpenSSH(t *testing.T) {
	program := testenv.NeedProgram(t, "ssh")
	id := simtest.NewIdentity(t)
	s := Start(t, Config{AuthorizedKeys: []string{id.Line}})
	host, port, _ := net.SplitHostPort(s.Addr())
	known := filepath.Join(t.TempDir(), "known_hosts")
	line := fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(s.HostKeys()[0]))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-F", "none", "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes",
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile="+known,
		"-o", "GlobalKnownHostsFile=none", "-i", id.File, "-p", port, s.User()+"@"+host, "echo out; exit 7")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || string(out) != "out\n" {
		t.Fatalf("ssh: %v, %q\n%s", err, out, &stderr)
	}
}

func TestAuthorizedKeys(t *testing.T) {
	first, second := simtest.NewIdentity(t), simtest.NewIdentity(t)
	s := Start(t, Config{AuthorizedKeys: []string{first.Line}})
	host := ssh.FixedHostKey(s.HostKeys()[0])
	may := func(id simtest.Identity) bool {
		client, err := id.Dial(s.Addr(), s.User(), host)
		if err == nil {
			client.Close()
		}
		return err == nil
	}
	if !may(first) || may(second) {
		t.Fatal("the key of Config should get in, and no other")
	}
	s.AddAuthorizedKey(second.Line)
	if !may(first) || !may(second) {
		t.Fatal("after AddAuthorizedKey both keys should get in")
	}
	s.SetAuthorizedKeys(second.Line)
	if may(first) || !may(second) {
		t.Fatal("after SetAuthorizedKeys only the second key should get in")
	}
	// A source with refusals behind it must not be penalised.
	for range 5 {
		if may(first) {
			t.Fatal("a removed key got in")
		}
	}
	s.AddAuthorizedKey(first.Line)
	s.RemoveAuthorizedKey(strings.TrimSpace(first.Line) + " another comment")
	if may(first) || !may(second) {
		t.Fatal("after RemoveAuthorizedKey only the second key should get in")
	}
	if !may(second) {
		t.Fatal("refusals of one client closed the door to another")
	}
	if want := ssh.FingerprintSHA256(second.Signer.PublicKey()); !strings.Contains(s.Log(), want) {
		t.Errorf("the log does not name the accepted key %s:\n%s", want, s.Log())
	}
}

// An instance moves, and another machine takes its old address.
func TestMoveAndImpostor(t *testing.T) {
	id := simtest.NewIdentity(t)
	s := Start(t, Config{AuthorizedKeys: []string{id.Line}})
	key := s.HostKeys()[0]
	old := s.Addr()
	client, err := id.Dial(old, s.User(), ssh.FixedHostKey(key))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	s.Stop()
	if err := client.Wait(); err == nil {
		t.Error("the session outlived Stop")
	}
	if conn, err := net.Dial("tcp", old); err == nil {
		conn.Close()
		t.Fatal("a stopped server listens")
	}
	s.Restart("127.0.0.1:0")
	if s.Addr() == old {
		t.Fatalf("drew the address %s again", old)
	}
	impostor := Start(t, Config{Listen: []string{old}, AuthorizedKeys: []string{id.Line}})
	if got := impostor.Addr(); got != old {
		t.Fatalf("the impostor listens on %s instead of %s", got, old)
	}
	if moved, err := id.Dial(s.Addr(), s.User(), ssh.FixedHostKey(key)); err != nil {
		t.Errorf("the moved server: %v", err)
	} else {
		moved.Close()
	}
	if _, err := id.Dial(old, s.User(), ssh.FixedHostKey(key)); err == nil {
		t.Error("the impostor shows the host key of the other server")
	}
	where := s.Addr()
	s.Restart()
	if s.Addr() != where {
		t.Errorf("Restart without addresses moved the server from %s to %s", where, s.Addr())
	}
}

// Stop ends what a session has left behind, also a process that broke all ties, and nobody else's process.
func TestStopEndsSessionsOnly(t *testing.T) {
	sleep := testenv.NeedProgram(t, "sleep")
	id := simtest.NewIdentity(t)
	s := Start(t, Config{AuthorizedKeys: []string{id.Line}})
	bystander := exec.Command(sleep, "300")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()

	client, err := id.Dial(s.Addr(), s.User(), ssh.FixedHostKey(s.HostKeys()[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	orphan, err := strconv.Atoi(run(t, client, "nohup sleep 300 >/dev/null 2>&1 </dev/null & echo $!"))
	if err != nil {
		t.Fatal(err)
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	child, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("echo $$; sleep 300; true"); err != nil {
		t.Fatal(err)
	}
	var shell int
	if _, err := fmt.Fscan(child, &shell); err != nil {
		t.Fatal(err)
	}

	s.Stop()
	for _, pid := range []int{orphan, shell} {
		if living(t, pid) {
			t.Errorf("process %d of a session outlived Stop", pid)
		}
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process that is none of the server's: %v", err)
	}
}

func living(t *testing.T, pid int) bool {
	t.Helper()
	rows, err := processes("")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.pid == pid {
			return true
		}
	}
	return false
}
