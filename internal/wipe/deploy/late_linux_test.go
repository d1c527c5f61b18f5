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

// TestProgramsThatComeLater, as those of an editor that connects again by itself, are ended or stopped before the last look.
func TestProgramsThatComeLater(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.plant("echo $C >/workspace/1")
		hold := m.Hold("/workspace/1")
		s := m.begin(m.login(), m.everything())
		<-hold.Met
		pid := m.Spawn("trap '' HUP TERM; echo ready; while :; do [ -e /srv/late ] || echo " + m.canary + " >/srv/late; sleep 0.1; done")
		hold.Release()
		res := m.result(s)
		if state := strings.TrimSpace(m.Sh("ps -o state= -p $1", strconv.Itoa(pid))); state != "T" {
			t.Errorf("it goes on: %s", state)
		}
		if left := m.found(); len(left) > 0 || res.Remains() > 0 {
			t.Errorf("left: %q, %+v", left, res.Items)
		}
		if !slices.ContainsFunc(res.Processes, func(p protocol.Process) bool { return p.PID == pid }) {
			t.Errorf("ended: %+v", res.Processes)
		}
	})
}
