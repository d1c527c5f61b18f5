package e2e

import (
	"net"
	"strings"
	"sync"
	"testing"

	"vast-ssh/internal/testenv"
)

// A locked agent signs nothing, says so where people see it, and signs again when it is unlocked.
func TestAttackLocked(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	v.Must("vast-agent", "lock")
	if st := agentStatus(t, v.World); st.Locked != "locked" {
		t.Errorf("the agent is %q", st.Locked)
	}
	v.refuses(func() {
		v.fails([]string{"error: ", "locked", "hint: vast-agent unlock"}, "vast-ssh", idOf(v.first), "echo", "in")
	}, "locked")
	v.refuses(func() {
		if code, said := v.sshAdd(v.Dirs.AgentSocket(), "-l"); code != 1 || !strings.Contains(said, "no identities") {
			t.Errorf("ssh-add -l: exit %d, %q", code, said)
		}
	})
	v.refuses(func() { v.asks(nil, [][]byte{v.userauth(v.first.User(), madeUp)}, agentFailure) }, "locked")
	v.Must("vast-agent", "unlock")
	v.login(v.first)
}

// whileLocked returns a socket to the agent, which is locked while it is given the bindings with that value of
// is_forwarding, and no longer. Before a signature is asked for, the request first is refused on the same connection,
// if there is one.
func (v *victim) whileLocked(forwarding byte, first []byte) (socket string, bound func() bool) {
	v.t.Helper()
	var mu sync.Mutex
	met := false
	tap := v.newWiretap(func(agent net.Conn, frame []byte) ([]byte, error) {
		switch {
		case frame[0] == agentExtended && frame[len(frame)-1] == forwarding:
			mu.Lock()
			defer mu.Unlock()
			met = true
			v.Must("vast-agent", "lock")
			defer v.Must("vast-agent", "unlock")
		case frame[0] == agentSign && first != nil:
			v.asks(agent, [][]byte{first}, agentFailure)
		}
		return ask(agent, frame)
	})
	return tap.socket, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return met
	}
}

// A binding counts though the agent was locked when it came: the connection is for that session afterwards, and not as
// good as new.
func TestAttackBindWhileLocked(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	needHostBound(t)
	for _, tt := range []struct {
		name       string
		forwarding byte
		first      []byte
		signatures uint64
		reasons    []string
		said       string
		args       []string
	}{
		{"a login", 0, nil, 1, nil, "in\n", []string{"echo in"}},
		{"another session on the same connection", 0, v.userauth(v.first.User(), madeUp), 0,
			[]string{"other-session", "poisoned"}, "", []string{"echo in"}},
		{"a forwarded connection", 1, nil, 1, []string{"forwarded", "poisoned"}, "",
			[]string{onward(testenv.NeedProgram(t, "ssh"), v.second, "echo in")}},
	} {
		socket, bound := v.whileLocked(tt.forwarding, tt.first)
		v.spends(tt.signatures, tt.reasons, func() {
			args := []string{"-A", "-o", "IdentityAgent=" + socket, idOf(v.first)}
			r := v.Run("vast-ssh", append(args, tt.args...)...)
			if r.Stdout != tt.said || (r.Code == 0) != (tt.reasons == nil) {
				t.Errorf("%s: exit %d\n%s%s", tt.name, r.Code, r.Stdout, r.Stderr)
			}
		})
		if !bound() {
			t.Errorf("%s: no binding came", tt.name)
		}
	}
	v.login(v.first)
}
