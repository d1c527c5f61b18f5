package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

// A machine that shows a certificate for its host key, whoever made that, is refused by the proxy. It is refused by the
// agent too, where a client comes without the proxy and describes its session by the certificate: the key in it is
// pinned, the certificate is not.
func TestAttackHostCertificate(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	keygen := testenv.NeedProgram(t, "ssh-keygen")
	key, ca := filepath.Join(v.Home, "host"), filepath.Join(v.Home, "ca")
	for _, file := range []string{key, ca} {
		v.Must(keygen, "-q", "-t", "ed25519", "-N", "", "-f", file)
	}
	v.Must(keygen, "-q", "-s", ca, "-h", "-I", "host", "-V", "always:forever", key+".pub")
	box := v.AddInstance("", sshd.Config{
		HostKeys:       []string{"ecdsa"},
		AuthorizedKeys: []string{v.authorized},
		Extra:          []string{"HostKey " + key, "HostCertificate " + key + "-cert.pub"},
	})
	const plain, certified = "HostKeyAlgorithms=" + ssh.KeyAlgoED25519, "HostKeyAlgorithms=" + ssh.CertAlgoED25519v01
	v.spends(1, nil, func() { v.Must("vast-ssh", "-o", plain, idOf(box), "true") })

	v.refuses(func() {
		r := v.Run("vast-ssh", "-o", certified, idOf(box), "echo", "in")
		if r.Code != 255 || r.Stdout != "" || !strings.Contains(r.Stderr, "host keys are pinned, not certified") {
			t.Errorf("through the proxy: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
	host, port, err := net.SplitHostPort(box.Addr())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		algorithms string
		reasons    []string
	}{
		{certified, []string{"bad-binding"}}, // and the agent shows no key then
		{plain, []string{"no-witness"}},      // where it is the proxy that is missing, and nothing else
	} {
		v.refuses(func() {
			argv := openssh(tt.algorithms)(testenv.NeedProgram(t, "ssh"), errand{
				user: box.User(), host: host, port: port, socket: v.Dirs.AgentSocket(), command: "echo in",
			})
			r := v.Run(argv[0], argv[1:]...)
			if r.Code != 255 || r.Stdout != "" || !strings.Contains(r.Stderr, "Permission denied") {
				t.Errorf("%s: exit %d\n%s%s", tt.algorithms, r.Code, r.Stdout, r.Stderr)
			}
		}, tt.reasons...)
	}
	v.spends(1, nil, func() { v.Must("vast-ssh", "-o", plain, idOf(box), "true") })
	if n := strings.Count(box.Log(), fmt.Sprintf("Accepted publickey for %s", box.User())); n != 2 {
		t.Errorf("sshd let in %d clients, want 2", n)
	}
}
