package deploy_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// secretsOnly is a request for the secrets of a machine that stays in use.
func (m *machine) secretsOnly() protocol.Request {
	req := m.everything()
	req.Rules = []protocol.Rule{{Group: 1, Glob: "/root/.aws", Tree: true, Secret: true}}
	return req
}

// TestFilesOfProgramsThatGoOn have no name any more, and are of no rule. On a machine that stays in use, who has them open reads
// them again.
func TestFilesOfProgramsThatGoOn(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		c.Foreground = "exec 8<>/srv/of-the-first; echo buffer >&8; rm /srv/of-the-first; sleep 100000; :"
		m := newMachine(t, c)
		m.Sh("until pgrep -P 1 -x sleep; do :; done")
		pid := m.Spawn("exec 7<>/srv/of-a-service; echo buffer >&7; rm /srv/of-a-service; echo ready; exec sleep 100001")
		m.becomes(pid, "sleep")
		m.plant("mkdir /root/.aws; echo $C >/root/.aws/credentials")
		client, req := m.login(), m.secretsOnly()
		plan := m.plan(client, req)
		_, res := m.run(client, req)
		if got := m.Sh("cat /proc/1/fd/8 /proc/$1/fd/7", strconv.Itoa(pid)); got != "buffer\nbuffer\n" {
			t.Errorf("they read %q", got)
		}
		for what, told := range map[string][]string{"plan": withCode(plan.Items, protocol.InUse), "result": withCode(res.Items, protocol.InUse)} {
			if !slices.Contains(told, "/srv/of-a-service") {
				t.Errorf("the %s tells of %q", what, told)
			}
		}
		if left := m.found(); len(left) > 0 || res.Remains() > 0 || plan.Deleted.Files+res.Deleted.Files > 0 {
			t.Errorf("left: %q; items: %+v; overwritten: %+v, %+v", left, res.Items, plan.Deleted, res.Deleted)
		}
	})
}

// TestProgramsGoOnWithoutAFinish: one that left something, or was stopped, has none, and the machine stays in use.
func TestProgramsGoOnWithoutAFinish(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		pid := m.Spawn("echo ready; exec sleep 100000")
		m.becomes(pid, "sleep")
		m.plant("mkdir /root/.aws; echo $C >/root/.aws/credentials")
		s := m.begin(m.login(), m.secretsOnly())
		if res := m.result(s); !slices.Equal(held(res.Processes), []string{"sleep"}) || res.Stopped {
			t.Errorf("%+v", res)
		}
		s.Close()
		m.Sh(`until [ "$(ps -o state= -p $1)" = S ]; do [ $((n = n + 1)) -lt 500 ] || exit 1; sleep 0.1; done`, strconv.Itoa(pid))

		m.plant("mkdir -p /root/.aws; echo $C >/root/.aws/credentials")
		hold := m.Hold("/root/.aws/credentials")
		s = m.begin(m.login(), m.secretsOnly())
		hold.Await()
		if state := m.Sh("ps -o state= -p $1", strconv.Itoa(pid)); strings.TrimSpace(state) != "T" {
			t.Errorf("while it is looked at it is in state %q", state)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		hold.Release()
		m.result(s)
		s.Close()
		m.Sh(`until [ "$(ps -o state= -p $1)" = S ]; do [ $((n = n + 1)) -lt 500 ] || exit 1; sleep 0.1; done`, strconv.Itoa(pid))
	})
}
