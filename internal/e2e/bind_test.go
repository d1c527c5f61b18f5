package e2e

import (
	"net"
	"strings"
	"testing"

	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wire"
)

// With accept = "bind" an ssh that does not go through the proxy logs in to what is pinned, and to nothing else. A
// client that says nothing of its session does not.
func TestAcceptBind(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	needHostBound(t)
	v.refuses(func() { v.ssh(v.Dirs.AgentSocket(), v.first) }, "no-witness")

	v.Configure(`accept = "bind"`)
	host, port, err := net.SplitHostPort(v.first.Addr())
	if err != nil {
		t.Fatal(err)
	}
	argv := openssh()(testenv.NeedProgram(t, "ssh"), errand{
		user: v.first.User(), host: host, port: port, socket: v.Dirs.AgentSocket(), command: "echo $((6*7)) in",
	})
	v.spends(1, nil, func() {
		if r := v.Run(argv[0], argv[1:]...); r.Code != 0 || r.Stdout != "42 in\n" {
			t.Errorf("straight: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
	v.login(v.first)
	v.refuses(func() {
		if err := v.straight(v.first, func(*wire.Reply) {}); err == nil {
			t.Error("logged in with a client that names no session")
		}
	}, "no-witness")
	v.refuses(func() { v.ssh(v.Dirs.AgentSocket(), v.Impostor([]string{"127.0.0.1:0"}, v.authorized)) }, "not-pinned")
	v.Must("vast-ssh", "pins", "rm", "--yes", idOf(v.second))
	v.refuses(func() { v.ssh(v.Dirs.AgentSocket(), v.second) }, "not-pinned")

	// Forwarding is another matter.
	forwarded := v.session(v.first, "SSH_AUTH_SOCK", "-o", "ForwardAgent=yes")
	v.refuses(func() { v.ssh(forwarded, v.first) }, "forwarded", "poisoned")
	v.Configure("")
	v.refuses(func() {
		if r := v.Run(argv[0], argv[1:]...); r.Code != 255 || !strings.Contains(r.Stderr, "Permission denied") {
			t.Errorf("straight, and not accepted any more: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	}, "no-witness")
}
