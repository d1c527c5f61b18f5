package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/testenv"
	"vast-ssh/known"
)

// liar is a host key that signs what its owner wants in place of the exchange hash.
type liar struct {
	ssh.Signer
	want []byte
}

func (l liar) Sign(r io.Reader, _ []byte) (*ssh.Signature, error) { return l.Signer.Sign(r, l.want) }

// TestPinnedMachineLies plays a rented machine, pinned, whose owner has got hold of the agent's socket and wants to log in
// to another machine of the user. It has opened a key exchange there, and puts its signature under that session's id when
// the user connects. The user's client is not fooled, so there is no witness, and the agent refuses.
func TestPinnedMachineLies(t *testing.T) {
	t.Parallel()
	w := New(t)
	w.Must("vast-ssh", "key", "init")
	w.Must("vast-agent", "start")

	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	hostKey, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	other := make([]byte, 32) // the session id with the other machine
	rand.Read(other)
	addr := serveSSH(t, liar{hostKey, other})
	id := w.Account.Add(sim.Instance{Direct: addr})
	pin := known.Pin{Instance: id, Key: hostKey.PublicKey(), Via: known.Manual, At: time.Now().UTC().Truncate(time.Second)}
	if err := known.Open(w.Dirs.KnownHosts()).Replace(t.Context(), id, []known.Pin{pin}); err != nil {
		t.Fatal(err)
	}

	for name, login := range clients(t, w, known.Name(id)) {
		if r := login(); r.Code == 0 {
			t.Errorf("%s logged in", name)
		}
		if signed(t, w, other) {
			t.Errorf("with the help of %s, the agent signed a login for another machine", name)
		}
	}
	if why := w.Must("vast-ssh", "why", "--json"); !strings.Contains(why, `"no-witness"`) {
		t.Errorf("why: %s", why)
	}
}

// clients are programs that connect through the proxy and check no host key against a file of their own.
func clients(t *testing.T, w *World, name string) map[string]func() Result {
	proxy := filepath.Join(w.Bin, "vast-ssh") + " proxy " + name
	sock := []string{"SSH_AUTH_SOCK=" + w.Dirs.AgentSocket()}
	plink, dbclient := testenv.NeedProgram(t, "plink"), testenv.NeedProgram(t, "dbclient")
	return map[string]func() Result{
		"ssh": func() Result {
			return w.Run("ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
				"-o", "BatchMode=yes", "-o", "IdentityAgent="+w.Dirs.AgentSocket(), "-o", "ProxyCommand="+proxy, name, "true")
		},
		"vast-ssh": func() Result { return w.Run("vast-ssh", name, "true") },
		"plink": func() Result {
			return w.RunEnv(sock, plink, "-batch", "-proxycmd", proxy, userName()+"@"+name, "true")
		},
		"dbclient": func() Result {
			return w.RunEnv(sock, dbclient, "-y", "-y", "-J", proxy, userName()+"@"+name, "true")
		},
	}
}

// signed asks the agent, as whoever holds its socket, for a login in the session with the id.
func signed(t *testing.T, w *World, sessionID []byte) bool {
	t.Helper()
	conn, err := net.Dial("unix", w.Dirs.AgentSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := agent.NewClient(conn)
	keys, err := client.List()
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	_, err = client.Sign(keys[0], ssh.Marshal(struct {
		SessionID             []byte
		Message               byte
		User, Service, Method string
		HasSignature          bool
		Algorithm             string
		Key                   []byte
	}{sessionID, 50, userName(), "ssh-connection", "publickey", true, ssh.KeyAlgoED25519, keys[0].Marshal()}))
	return err == nil
}

// serveSSH runs x/crypto's server with the host key on an address of 127.0.0.1. It lets everybody in and serves nothing.
func serveSSH(t *testing.T, hostKey ssh.Signer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	cfg.AddHostKey(hostKey)
	var running sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(runTimeout))
				// The handshake fails: that is what the test is about.
				if conn, _, _, err := ssh.NewServerConn(c, cfg); err == nil {
					conn.Close()
				}
			})
		}
	})
	return l.Addr().String()
}
