// Package sshd runs OpenSSH's own sshd for tests: the real thing stands in for an instance.
//
// A server lives on loopback addresses, lets in only the authorized keys it was given, logs in the user who runs
// the test, and is gone, sessions included, when the test ends.
package sshd

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/testenv"
)

// Config says what a server is. The zero Config is one ed25519 host key on a free port of 127.0.0.1.
type Config struct {
	// HostKeys are the types of the host keys to make: "ed25519", "ecdsa" (P-256), "rsa" (2048 bits).
	// Empty means "ed25519" only. The order is the one of Server.HostKeys.
	HostKeys []string
	// Listen are the addresses, "127.0.0.x:port". Port 0 is a free port. Empty means "127.0.0.1:0".
	Listen []string
	// AuthorizedKeys are lines of authorized_keys.
	AuthorizedKeys []string
	// KexAlgorithms is sshd_config's option of that name. Empty leaves sshd's own list.
	KexAlgorithms string
	// Extra are lines of sshd_config. They stand first, and sshd takes the first value of an option. From a Match
	// line on they stand last.
	Extra []string
}

const (
	startTimeout = time.Minute
	killTimeout  = time.Minute
	portAttempts = 10
	maxLog       = 1 << 20
	// sessionMark is the variable by which the processes of a session are known even after they left their
	// parents.
	sessionMark = "VAST_SSH_TEST_SSHD"
)

// Server is one sshd. Its methods may be called from several goroutines; Stop and Restart only from the test's.
type Server struct {
	t       testing.TB
	program string
	config  Config
	dir     string
	mark    string
	user    string
	keys    []ssh.PublicKey

	log output

	// mu protects the following.
	mu         sync.Mutex
	authorized []string
	addrs      []string
	running    *process
}

// Start starts a server and returns when it listens on all its addresses. The test fails when it cannot, and is
// skipped on a machine without sshd. The server is stopped when the test ends, and its log is shown if the test
// failed.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	program := testenv.NeedProgram(t, "sshd")
	u, err := user.Current()
	if err != nil {
		t.Fatalf("sshd: who runs this test: %v", err)
	}
	if len(c.HostKeys) == 0 {
		c.HostKeys = []string{"ed25519"}
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{"127.0.0.1:0"}
	}
	var mark [16]byte
	rand.Read(mark[:])
	s := &Server{t: t, program: program, config: c, dir: t.TempDir(), user: u.Username, mark: hex.EncodeToString(mark[:])}
	for _, kind := range c.HostKeys {
		s.keys = append(s.keys, s.makeHostKey(kind))
	}
	s.SetAuthorizedKeys(c.AuthorizedKeys...)
	if err := makePrivsepDir(); err != nil {
		t.Fatalf("sshd: %v", err)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("log of sshd %v:\n%s", s.Addrs(), s.Log())
		}
	})
	s.start(c.Listen)
	return s
}

// Addr returns the first address, "host:port".
func (s *Server) Addr() string { return s.Addrs()[0] }

// Addrs returns the addresses in the order of Config.Listen, with the ports the server got. After Stop they are
// the last ones.
func (s *Server) Addrs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addrs)
}

// HostKeys returns the host keys in the order of Config.HostKeys.
func (s *Server) HostKeys() []ssh.PublicKey { return slices.Clone(s.keys) }

// User returns the name to log in with: the user who runs the test.
func (s *Server) User() string { return s.user }

// Log returns what sshd has written to its stderr so far, at most its first MiB.
func (s *Server) Log() string { return s.log.text() }

// SetAuthorizedKeys replaces the lines of authorized_keys, for the logins from now on.
func (s *Server) SetAuthorizedKeys(lines ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authorized = slices.Clone(lines)
	s.writeAuthorized()
}

// AddAuthorizedKey adds a line to authorized_keys, for the logins from now on.
func (s *Server) AddAuthorizedKey(line string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authorized = append(s.authorized, line)
	s.writeAuthorized()
}

// RemoveAuthorizedKey takes the key of a line out of authorized_keys, whatever its comment, for the logins from now on.
func (s *Server) RemoveAuthorizedKey(line string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authorized = slices.DeleteFunc(s.authorized, func(other string) bool { return blob(other) == blob(line) })
	s.writeAuthorized()
}

// blob returns the second word of a line of authorized_keys without options: the key itself.
func blob(line string) string {
	if words := strings.Fields(line); len(words) > 1 {
		return words[1]
	}
	return line
}

// writeAuthorized must be called with mu held. It may run on a goroutine that is not the test's.
func (s *Server) writeAuthorized() {
	s.t.Helper()
	var text strings.Builder
	for _, line := range s.authorized {
		fmt.Fprintln(&text, strings.TrimSpace(line))
	}
	if err := atomicfile.Write(s.path("authorized_keys"), []byte(text.String())); err != nil {
		s.t.Errorf("sshd: %v", err)
	}
}

// Stop kills the server and its sessions, like a machine that loses power, and returns when they are gone.
// A stopped server may be restarted.
func (s *Server) Stop() {
	s.t.Helper()
	s.mu.Lock()
	p := s.running
	s.running = nil
	s.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.kill(s.mark); err != nil {
		s.t.Errorf("sshd: %v", err)
	}
}

// Restart stops the server if it runs, and starts it with the same keys on the addresses given, or on the same
// ones when none is given.
func (s *Server) Restart(listen ...string) {
	s.t.Helper()
	s.Stop()
	if len(listen) == 0 {
		listen = s.Addrs()
	}
	s.start(listen)
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) makeHostKey(kind string) ssh.PublicKey {
	s.t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(nil)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		s.t.Fatalf("sshd: no host key type %q", kind)
	}
	if err != nil {
		s.t.Fatalf("sshd: host key: %v", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		s.t.Fatalf("sshd: host key: %v", err)
	}
	if err := os.WriteFile(s.hostKeyPath(kind), pem.EncodeToMemory(block), 0o600); err != nil {
		s.t.Fatalf("sshd: host key: %v", err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		s.t.Fatalf("sshd: host key: %v", err)
	}
	return public
}

func (s *Server) hostKeyPath(kind string) string { return s.path("host_" + kind) }

// start runs sshd on the addresses. A port 0 is drawn again when somebody else took the drawn port meanwhile.
func (s *Server) start(listen []string) {
	s.t.Helper()
	drawn := slices.ContainsFunc(listen, func(addr string) bool { return strings.HasSuffix(addr, ":0") })
	for attempt := 1; ; attempt++ {
		addrs, err := withPorts(listen)
		if err != nil {
			s.t.Fatalf("sshd: %v", err)
		}
		p, err := s.try(addrs)
		if err == nil {
			s.mu.Lock()
			s.addrs, s.running = addrs, p
			s.mu.Unlock()
			return
		}
		if !drawn || attempt == portAttempts {
			s.t.Fatalf("sshd: listen on %v: %v\n%s", addrs, err, s.Log())
		}
	}
}

// try starts sshd once and waits until it has said that it listens on every address.
func (s *Server) try(addrs []string) (*process, error) {
	config := s.path("sshd_config")
	if err := atomicfile.Write(config, s.sshdConfig(addrs)); err != nil {
		return nil, err
	}
	stderr, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.program, "-D", "-e", "-f", config)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stderr = w
	p, err := startProcess(cmd)
	w.Close()
	if err != nil {
		stderr.Close()
		return nil, err
	}
	ready := make(chan error, 1)
	go func() {
		defer stderr.Close()
		defer close(p.drained)
		s.log.follow(stderr, listening(addrs, ready))
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case err = <-ready:
	case <-p.done:
		err = fmt.Errorf("sshd ended: %w", p.err)
	case <-timeout.C:
		err = fmt.Errorf("sshd did not listen within %v", startTimeout)
	}
	if err != nil {
		p.kill(s.mark)
		return nil, err
	}
	return p, nil
}

// listening returns a function to be called with each line of the log. It reports nil on ready when all of addrs
// have been named, or the error that kept sshd from one of them.
func listening(addrs []string, ready chan<- error) func(line string) {
	waiting := make(map[string]bool)
	for _, addr := range addrs {
		host, port, _ := net.SplitHostPort(addr)
		waiting[fmt.Sprintf("Server listening on %s port %s.", host, port)] = true
	}
	return func(line string) {
		if waiting == nil {
			return
		}
		delete(waiting, line)
		switch {
		case strings.HasPrefix(line, "Bind to port "):
			ready <- fmt.Errorf("%s", line)
		case len(waiting) == 0:
			ready <- nil
		default:
			return
		}
		waiting = nil
	}
}

func (s *Server) sshdConfig(addrs []string) []byte {
	var b bytes.Buffer
	setEnv := "SetEnv " + sessionMark + "=" + s.mark
	var conditional []string
	for i, line := range s.config.Extra {
		word, rest, _ := strings.Cut(line, " ")
		if strings.EqualFold(word, "Match") {
			conditional = s.config.Extra[i:]
			break
		}
		// Only the first SetEnv of a configuration counts, so the mark joins it.
		if strings.EqualFold(word, "SetEnv") && setEnv != "" {
			line, setEnv = setEnv+" "+rest, ""
		}
		fmt.Fprintln(&b, line)
	}
	if setEnv != "" {
		fmt.Fprintln(&b, setEnv)
	}
	for _, addr := range addrs {
		fmt.Fprintf(&b, "ListenAddress %s\n", addr)
	}
	for _, kind := range s.config.HostKeys {
		fmt.Fprintf(&b, "HostKey %s\n", s.hostKeyPath(kind))
	}
	if s.config.KexAlgorithms != "" {
		fmt.Fprintf(&b, "KexAlgorithms %s\n", s.config.KexAlgorithms)
	}
	if supportsPenalties(s.program) {
		// One wrong key from 127.0.0.1 would close the door to every other client of the test.
		fmt.Fprintln(&b, "PerSourcePenalties no")
	}
	fmt.Fprintf(&b, `AuthorizedKeysFile %s
AcceptEnv none
KbdInteractiveAuthentication no
LogLevel VERBOSE
LoginGraceTime 60
MaxSessions 100
MaxStartups 1000
PasswordAuthentication no
PermitRootLogin prohibit-password
PermitUserRC no
PidFile none
PrintLastLog no
PrintMotd no
StrictModes no
Subsystem sftp internal-sftp
UsePAM no
`, s.path("authorized_keys"))
	for _, line := range conditional {
		fmt.Fprintln(&b, line)
	}
	return b.Bytes()
}

// supportsPenalties reports whether this sshd (9.8 and later) knows PerSourcePenalties; an older one would refuse
// the whole configuration.
var supportsPenalties = func() func(string) bool {
	var mu sync.Mutex
	known := make(map[string]bool)
	return func(program string) bool {
		mu.Lock()
		defer mu.Unlock()
		if answer, ok := known[program]; ok {
			return answer
		}
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, "-t", "-f", os.DevNull, "-o", "PerSourcePenalties=no")
		cmd.Env = []string{}
		// A failure says nothing, since there may be no host key: the complaint about the option does.
		out, _ := cmd.CombinedOutput()
		known[program] = !bytes.Contains(bytes.ToLower(out), []byte("persourcepenalties"))
		return known[program]
	}
}()

// withPorts returns addrs with every port 0 replaced by a port that was free just now. The ports are drawn from
// below the ranges that kernels use for outgoing connections, so that a port freed by Stop stays free.
func withPorts(addrs []string) ([]string, error) {
	out := make([]string, len(addrs))
	for i, addr := range addrs {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("address %q is not on loopback", addr)
		}
		for attempt := 0; port == "0"; attempt++ {
			if attempt == 1000 {
				return nil, fmt.Errorf("no free port on %q", host)
			}
			candidate := strconv.Itoa(20000 + mathrand.IntN(12000))
			l, err := net.Listen("tcp", net.JoinHostPort(host, candidate))
			if err != nil {
				continue
			}
			l.Close()
			if !slices.Contains(out[:i], net.JoinHostPort(host, candidate)) {
				port = candidate
			}
		}
		out[i] = net.JoinHostPort(host, port)
	}
	return out, nil
}

// makePrivsepDir makes the directory into which Debian's sshd chroots before a login. A service manager would have
// made it.
func makePrivsepDir() error {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return nil
	}
	return os.MkdirAll("/run/sshd", 0o755)
}
