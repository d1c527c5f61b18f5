package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"vast-ssh/internal/testenv"
)

// sessions is how many share one connection.
const sessions = 20

// TestControlMaster shares one login among many sessions, by both of our configurations. They cost the agent nothing;
// the login after the end of the first costs what that did.
func TestControlMaster(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	ssh := testenv.NeedProgram(t, "ssh")
	config, control := filepath.Join(v.Dirs.SSH, "config"), filepath.Join(v.Home, "control")
	name := fmt.Sprintf("vast-%d", v.first.ID)
	share := func(command ...string) []string { return append([]string{"-F", config, "-S", control}, command...) }
	accepted := func() int { return strings.Count(v.first.Log(), "Accepted publickey") }
	before := accepted()

	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	master := v.Command(ctx, nil, ssh, share("-M", "-N", name)...)
	var stderr bytes.Buffer
	master.Stderr = &stderr
	v.spends(1, nil, func() {
		if err := master.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the master listens", func() bool {
			return v.Run(ssh, share("-O", "check", name)...).Code == 0
		})
	})
	v.spends(0, nil, func() {
		var running sync.WaitGroup
		for i := range sessions {
			running.Go(func() {
				program, args := ssh, share(name)
				if i%2 == 0 {
					program, args = "vast-ssh", []string{"-S", control, idOf(v.first)}
				}
				want := fmt.Sprintf("%d in\n", i)
				if r := v.Run(program, append(args, fmt.Sprintf("echo $((%d)) in", i))...); r.Code != 0 || r.Stdout != want {
					t.Errorf("session %d: exit %d\n%s%s", i, r.Code, r.Stdout, r.Stderr)
				}
			})
		}
		running.Wait()
	})
	v.Must(ssh, share("-O", "exit", name)...)
	if err := master.Wait(); ctx.Err() != nil {
		t.Errorf("the master: %v\n%s", err, stderr.String())
	}
	if n := accepted() - before; n != 1 {
		t.Errorf("sshd let in %d clients for %d sessions", n, sessions)
	}
	v.spends(1, nil, func() { v.Must(ssh, share(name, "true")...) })
	if n := accepted() - before; n != 2 {
		t.Errorf("sshd let in %d clients in all", n)
	}
}
