// Package sshd runs OpenSSH's own sshd for tests: the real thing stands in for an instance.
//
// A server lives on loopback addresses, lets in only the authorized keys it was given, logs in the user who runs
// the test, and is gone, sessions included, when the test ends.
package sshd

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/sim/sshd/daemon"
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
	killTimeout = 3 * time.Minute
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

	log daemon.Log

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
func (s *Server) Log() string { return s.log.Text() }

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
	s.authorized = slices.DeleteFunc(s.authorized, func(other string) bool { return daemon.SameKey(other, line) })
	s.writeAuthorized()
}

// writeAuthorized must be called with mu held. It may run on a goroutine that is not the test's.
func (s *Server) writeAuthorized() {
	s.t.Helper()
	if err := atomicfile.Write(s.path("authorized_keys"), daemon.AuthorizedKeys(s.authorized)); err != nil {
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
	public, private, err := daemon.NewHostKey(kind)
	if err == nil {
		err = os.WriteFile(s.hostKeyPath(kind), private, 0o600)
	}
	if err != nil {
		s.t.Fatalf("sshd: %v", err)
	}
	return public
}

func (s *Server) hostKeyPath(kind string) string { return s.path("host_" + kind) }

// start runs sshd on the addresses.
func (s *Server) start(listen []string) {
	s.t.Helper()
	var p *process
	addrs, err := daemon.Listen(listen, func(addrs []string) (err error) {
		p, err = s.try(addrs)
		return err
	})
	if err != nil {
		s.t.Fatalf("sshd: %v\n%s", err, s.Log())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs, s.running = addrs, p
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
	ready := s.log.Listening(addrs)
	started, err := daemon.Start(cmd, nil)
	w.Close()
	if err != nil {
		stderr.Close()
		return nil, err
	}
	p := &process{Process: started, drained: make(chan struct{})}
	go func() {
		defer stderr.Close()
		defer close(p.drained)
		s.log.Follow(stderr)
	}()
	if err := daemon.Await(ready, started); err != nil {
		p.kill(s.mark)
		return nil, err
	}
	return p, nil
}

func (s *Server) sshdConfig(addrs []string) []byte {
	c := daemon.Config{
		Listen: addrs, AuthorizedKeysFile: s.path("authorized_keys"), KexAlgorithms: s.config.KexAlgorithms,
		SetEnv: sessionMark + "=" + s.mark, Extra: s.config.Extra,
	}
	for _, kind := range s.config.HostKeys {
		c.HostKeys = append(c.HostKeys, s.hostKeyPath(kind))
	}
	return c.Text(s.program)
}

// makePrivsepDir makes the directory into which Debian's sshd chroots before a login. A service manager would have
// made it.
func makePrivsepDir() error {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return nil
	}
	return os.MkdirAll("/run/sshd", 0o755)
}
