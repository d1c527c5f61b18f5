package wire

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/testenv"
)

var update = flag.Bool("update", false, "write the handshakes of real programs to testdata")

const patience = 2 * time.Minute

// relayed is what went through a relay.
type relayed struct {
	x                      *Exchange
	fromClient, fromServer bytes.Buffer
}

// relay listens on an address of its own, and passes the first connection through an Exchange to what dial returns.
// The channel yields once, when the reply was passed on and the connection has ended.
func relay(t *testing.T, dial func() (net.Conn, error)) (addr string, done <-chan *relayed) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	result := make(chan *relayed, 1)
	go func() {
		defer close(result)
		client, err := l.Accept()
		if err != nil {
			return // the test is over
		}
		defer client.Close()
		server, err := dial()
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		deadline := time.Now().Add(patience)
		client.SetDeadline(deadline)
		server.SetDeadline(deadline)
		r := &relayed{x: New()}
		if err := r.pass(client, server); err != nil {
			t.Error(err)
			return
		}
		result <- r
	}()
	return l.Addr().String(), result
}

func (r *relayed) pass(client, server net.Conn) error {
	var mu sync.Mutex
	var refused error
	toClient := func(p []byte) error { // with mu held
		pass, err := r.x.Server(p)
		if err != nil {
			return err
		}
		_, err = client.Write(append(slices.Clone(pass), r.x.Rest()...))
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer server.(*net.TCPConn).CloseWrite()
		b := make([]byte, 1000)
		for {
			n, err := client.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			r.fromClient.Write(b[:n])
			ready := r.x.ClientReady()
			_, err = r.x.Client(b[:n])
			if err == nil && !ready && r.x.ClientReady() {
				err = toClient(nil)
			}
			refused = errors.Join(refused, err)
			mu.Unlock()
			if err != nil {
				return
			}
			if _, err := server.Write(b[:n]); err != nil {
				return
			}
		}
	})
	b := make([]byte, 1000)
	for {
		n, err := server.Read(b)
		if err != nil {
			break
		}
		mu.Lock()
		r.fromServer.Write(b[:n])
		if r.x.Reply() == nil {
			err = toClient(b[:n])
			refused = errors.Join(refused, err)
		} else {
			_, err = client.Write(b[:n])
		}
		mu.Unlock()
		if err != nil {
			break
		}
	}
	client.Close()
	wg.Wait()
	if refused == nil && r.x.Reply() == nil {
		refused = errors.New("the connection ended without a reply")
	}
	return refused
}

// check looks at the reply, feeds the streams once more, and saves them with -update.
func (r *relayed) check(t *testing.T, name string, want recording) (ssh.PublicKey, *ssh.Signature) {
	t.Helper()
	want.FromClient, want.AfterKexInit = splitClient(t, r.fromClient.Bytes())
	want.FromServer = r.fromServer.Bytes()
	line, _, _ := strings.Cut(r.fromClient.String(), "\n")
	want.Client = strings.TrimSuffix(line, "\r")
	want.Server, _ = r.x.ServerVersion()
	if want.Method == "" {
		want.Method = r.x.Reply().Method
	}
	if want.HostKeyAlgorithm == "" {
		want.HostKeyAlgorithm = r.x.Reply().HostKeyAlgorithm
	}
	key, signature := checkReply(t, r.x, want)
	keys, err := hostKeys()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(keys)), func(k crypto.Signer) bool {
		public, err := ssh.NewPublicKey(k.Public())
		return err == nil && bytes.Equal(public.Marshal(), key.Marshal())
	}) {
		t.Errorf("another host key: %s", ssh.FingerprintSHA256(key))
	}
	o := run(want.FromClient, want.FromServer, oneByte)
	checkWant(t, o, "")
	checkReply(t, o.x, want)
	checkNewKeys(t, o.x, want.AfterKexInit, oneByte)
	if *update {
		want.save(t, name)
	}
	return key, signature
}

func wait(t *testing.T, done <-chan *relayed) *relayed {
	t.Helper()
	select {
	case r := <-done:
		if r == nil {
			t.FailNow()
		}
		return r
	case <-time.After(patience):
		t.Fatal("the relay has not ended")
		return nil
	}
}

// hostKeys are made once a run.
var hostKeys = sync.OnceValues(func() (map[string]crypto.Signer, error) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return map[string]crypto.Signer{"ed25519": ed, "ecdsa": ec, "rsa": r}, nil
})

// hostKeyAlgorithms are those of hostKeys.
var hostKeyAlgorithms = []string{"ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-256", "rsa-sha2-512"}

// sshd returns a dial function that runs an sshd for one connection.
func sshd(t *testing.T) func() (net.Conn, error) {
	t.Helper()
	program := testenv.NeedProgram(t, "sshd")
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		// sshd's privilege separation directory, which a distribution's service makes.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := hostKeys()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := "UsePAM no\nPidFile none\nLogLevel ERROR\nKexAlgorithms " + strings.Join(kexOf(t), ",") + "\n"
	for name, key := range keys {
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		conf += "HostKey " + file + "\n"
	}
	file := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() (net.Conn, error) {
		ours, theirs, err := tcpPair()
		if err != nil {
			return nil, err
		}
		defer theirs.Close()
		cmd := exec.Command(program, "-i", "-e", "-f", file)
		cmd.Stdin, cmd.Stdout = theirs, theirs
		log := new(bytes.Buffer)
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		t.Cleanup(func() {
			ours.Close()
			cmd.Wait() // its status is of the login, which fails
			if t.Failed() {
				t.Logf("sshd: %s", log)
			}
		})
		return ours, nil
	}
}

// kexOf returns the methods that this package and the installed OpenSSH know.
func kexOf(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command(testenv.NeedProgram(t, "ssh"), "-Q", "kex").Output()
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, name := range strings.Fields(string(out)) {
		if _, ok := methods[name]; ok {
			known = append(known, name)
		}
	}
	if len(known) == 0 {
		t.Fatalf("no method in %q", out)
	}
	return known
}

func tcpPair() (ours net.Conn, theirs *os.File, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	ours, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	c, err := l.Accept()
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	defer c.Close()
	theirs, err = c.(*net.TCPConn).File()
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// through runs a client that is to connect to the relay. It does not log in, so its status says nothing.
func through(t *testing.T, dial func() (net.Conn, error), command func(port, home string) *exec.Cmd) *relayed {
	t.Helper()
	addr, done := relay(t, dial)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	home := t.TempDir()
	given := command(port, home)
	cmd := exec.CommandContext(ctx, given.Path, given.Args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+home, "SSH_AUTH_SOCK=", "DISPLAY=", "SSH_ASKPASS=")
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %s", filepath.Base(given.Path), out)
		}
	})
	return wait(t, done)
}

// TestPrograms has real clients meet a real sshd through an Exchange.
func TestPrograms(t *testing.T) {
	keys, err := hostKeys()
	if err != nil {
		t.Fatal(err)
	}

	t.Run("ssh", func(t *testing.T) {
		program := testenv.NeedProgram(t, "ssh")
		dial := sshd(t)
		try := func(name, method, hostKey string) {
			t.Run(name, func(t *testing.T) {
				r := through(t, dial, func(port, home string) *exec.Cmd {
					return exec.Command(program, "-F", "none", "-p", port, "-o", "BatchMode=yes",
						"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
						"-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentityFile=none",
						"-o", "KexAlgorithms="+method, "-o", "HostKeyAlgorithms="+hostKey, "nobody@127.0.0.1", "true")
				})
				r.check(t, "openssh-"+name, recording{Method: method, HostKeyAlgorithm: hostKey})
			})
		}
		for _, method := range kexOf(t) {
			try(method, method, "ssh-ed25519")
		}
		for _, hostKey := range hostKeyAlgorithms[1:] {
			try(hostKey, "curve25519-sha256", hostKey)
		}
	})

	t.Run("plink", func(t *testing.T) {
		program := testenv.NeedProgram(t, "plink")
		dial := sshd(t)
		r := through(t, dial, func(port, home string) *exec.Cmd {
			cmd := exec.Command(program, "-batch", "-ssh", "-noagent", "-P", port)
			for _, key := range keys {
				public, err := ssh.NewPublicKey(key.Public())
				if err != nil {
					t.Fatal(err)
				}
				cmd.Args = append(cmd.Args, "-hostkey", ssh.FingerprintSHA256(public))
			}
			cmd.Args = append(cmd.Args, "nobody@127.0.0.1", "true")
			return cmd
		})
		r.check(t, "plink", recording{})
	})

	t.Run("dbclient", func(t *testing.T) {
		program := testenv.NeedProgram(t, "dbclient")
		dial := sshd(t)
		r := through(t, dial, func(port, home string) *exec.Cmd {
			return exec.Command(program, "-y", "-y", "-p", port, "nobody@127.0.0.1", "true")
		})
		r.check(t, "dbclient", recording{})
	})

	t.Run("paramiko", func(t *testing.T) {
		python := paramiko(t)
		dial := sshd(t)
		r := through(t, dial, func(port, home string) *exec.Cmd {
			return exec.Command(python, "-c", fmt.Sprintf(`
import paramiko
t = paramiko.Transport(("127.0.0.1", %s))
t.start_client(timeout=20)
print(t.get_remote_server_key().get_name())
t.close()
`, port))
		})
		r.check(t, "paramiko", recording{})
	})
}

// paramiko returns a Python that has it.
func paramiko(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(python, "-c", "import paramiko").Run() == nil {
			return python
		}
	}
	testenv.Missing(t, "python3 with paramiko")
	return ""
}

// TestLibrary has x/crypto/ssh meet itself with every algorithm that both know, and does what the agent does with a
// reply: it verifies the signature over the session id of the client.
func TestLibrary(t *testing.T) {
	keys, err := hostKeys()
	if err != nil {
		t.Fatal(err)
	}
	server := &ssh.ServerConfig{NoClientAuth: true}
	for _, key := range keys {
		signer, err := ssh.NewSignerFromSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		server.AddHostKey(signer)
	}
	try := func(method, hostKey string) {
		t.Run(method+"/"+hostKey, func(t *testing.T) {
			addr, done := relay(t, func() (net.Conn, error) { return librarySide(server, method) })
			client := &ssh.ClientConfig{
				HostKeyCallback:   ssh.InsecureIgnoreHostKey(),
				HostKeyAlgorithms: []string{hostKey},
				Timeout:           patience,
			}
			client.KeyExchanges = []string{method}
			conn, err := ssh.Dial("tcp", addr, client)
			if err != nil {
				t.Fatal(err)
			}
			id := conn.SessionID()
			conn.Close()
			r := wait(t, done)
			name := "x-crypto-" + method
			if hostKey != "ssh-ed25519" {
				name = "x-crypto-" + hostKey
			}
			key, signature := r.check(t, name, recording{Method: method, HostKeyAlgorithm: hostKey})
			if err := key.Verify(id, signature); err != nil {
				t.Errorf("the signature is not over the session id: %v", err)
			}
		})
	}
	for _, method := range ssh.SupportedAlgorithms().KeyExchanges {
		try(method, "ssh-ed25519")
	}
	for _, hostKey := range hostKeyAlgorithms[1:] {
		try("curve25519-sha256", hostKey)
	}
}

// librarySide returns a connection to a server with one method.
func librarySide(config *ssh.ServerConfig, method string) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	theirs, err := l.Accept()
	if err != nil {
		ours.Close()
		return nil, err
	}
	own := *config
	own.KeyExchanges = []string{method}
	go func() {
		defer theirs.Close()
		conn, channels, requests, err := ssh.NewServerConn(theirs, &own)
		if err != nil {
			return // the client reports it
		}
		go ssh.DiscardRequests(requests)
		go func() {
			for c := range channels {
				c.Reject(ssh.Prohibited, "none here")
			}
		}()
		conn.Wait()
	}()
	return ours, nil
}
