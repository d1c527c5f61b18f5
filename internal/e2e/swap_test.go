package e2e

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
)

// replace puts a file in the place of another.
func replace(t testing.TB, file, target string) {
	t.Helper()
	if err := os.Rename(file, target); err != nil {
		t.Fatal(err)
	}
}

// gone waits for the end of an agent that has lost a socket, which shows in the other.
func gone(t testing.TB, socket string) {
	t.Helper()
	eventually(t, "the agent that cannot be found ends", func() bool {
		_, err := os.Lstat(socket)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// over ends the attack on one of the agent's sockets: with the attacker's file gone, the next login finds all it needs.
// other is the socket that was left alone.
func (v *victim) over(other, attacked string) {
	v.t.Helper()
	gone(v.t, other)
	if err := os.Remove(attacked); err != nil {
		v.t.Fatal(err)
	}
	if out := v.Must("vast-ssh", idOf(v.first), "echo", "in"); out != "in\n" {
		v.t.Errorf("a login said %q", out)
	}
}

// fails runs a program that must fail, let nobody in, and say each of words.
func (v *victim) fails(words []string, name string, args ...string) {
	v.t.Helper()
	accepted := strings.Count(v.first.Log(), "Accepted publickey")
	r := v.Run(name, args...)
	if r.Code == 0 || r.Stdout != "" {
		v.t.Errorf("%s %q: exit %d\n%s%s", name, args, r.Code, r.Stdout, r.Stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			v.t.Errorf("%s %q does not say %q:\n%s", name, args, w, r.Stderr)
		}
	}
	if n := strings.Count(v.first.Log(), "Accepted publickey"); n != accepted {
		v.t.Errorf("%s %q: sshd let somebody in", name, args)
	}
}

// A process of the user's own puts a socket of its own in the place of the agent's. Nobody signs there, a new agent
// does not take it over, and what is told to it serves nobody.
func TestAttackSocketSwap(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	login := []string{idOf(v.first), "echo", "in"}

	var mu sync.Mutex
	var told [][]byte
	agreeing := func(answer func(msg []byte) []byte) string {
		return listenUnix(t, func(c net.Conn) {
			for {
				msg, err := readMessage(c)
				if err != nil {
					return
				}
				mu.Lock()
				told = append(told, bytes.Clone(msg))
				mu.Unlock()
				if err := writeMessage(c, answer(msg)); err != nil {
					return
				}
			}
		})
	}

	unwilling := func([]byte) []byte { return []byte{agentFailure} }
	replace(t, agreeing(unwilling), v.Dirs.AgentSocket())
	gone(t, v.Dirs.ControlSocket())
	inUse := []string{"error: ", "another process is listening on the socket", "hint: "}
	v.fails(inUse, "vast-ssh", login...)
	v.over(v.Dirs.ControlSocket(), v.Dirs.AgentSocket())

	mu.Lock()
	told = nil
	mu.Unlock()
	replace(t, agreeing(func(msg []byte) []byte {
		if bytes.Contains(msg, []byte(`"status"`)) {
			return []byte(`{"status": {"memory": "locked"}}`)
		}
		return []byte(`{}`)
	}), v.Dirs.ControlSocket())
	gone(t, v.Dirs.AgentSocket())
	v.fails(nil, "vast-ssh", login...)
	mu.Lock()
	all := bytes.Join(told, []byte("\n"))
	mu.Unlock()
	if !bytes.Contains(all, []byte(`"witness"`)) || bytes.Contains(all, []byte("passphrase")) {
		t.Errorf("the attacker was told %s", all)
	}
	v.over(v.Dirs.AgentSocket(), v.Dirs.ControlSocket())

	// Links are followed by nobody who is to make a socket.
	v.Must("vast-agent", "stop")
	elsewhere := agreeing(unwilling)
	for _, link := range []struct{ from, to string }{
		{v.Dirs.AgentSocket(), elsewhere},
		{v.Dirs.AgentSocket(), elsewhere + ".none"},
		{v.Dirs.ControlSocket(), elsewhere + ".none"},
	} {
		if err := os.Symlink(link.to, link.from); err != nil {
			t.Fatal(err)
		}
		v.fails([]string{"error: ", "a file that is not a socket is in the way"}, "vast-agent", "run")
		if to, err := os.Readlink(link.from); err != nil || to != link.to {
			t.Errorf("the link is %q now: %v", to, err)
		}
		if _, err := os.Lstat(elsewhere + ".none"); err == nil {
			t.Error("a socket was made at the far end of the link")
		}
		if err := os.Remove(link.from); err != nil {
			t.Fatal(err)
		}
	}
	v.login(v.first)
}
