package deploy_test

import (
	"strconv"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/protocol"
)

// maxMemory bounds what the helper has in memory, in KiB.
const maxMemory = 64 << 10

// TestManyNamesInADirectory that is kept, and one that a pattern goes through: the names are not in memory all at once, whatever the
// environment says of memory to programs like ours.
func TestManyNamesInADirectory(t *testing.T) {
	t.Parallel()
	python := testenv.NeedProgram(t, "/usr/bin/python3")
	m := newMachine(t, overlay.Config{Extra: []string{"SetEnv GOGC=off"}})
	m.Sh("mkdir /workspace/many; cd /workspace/many; " + python + ` -c '
import os
for n in range(150000): os.close(os.open("%0200d" % n, os.O_CREAT | os.O_WRONLY))'`)
	kept, pattern, inner := m.everything(), m.everything(), m.everything()
	kept.Keep = []string{"/workspace/many"}
	pattern.Rules = append(pattern.Rules[:2:2], protocol.Rule{Group: 1, Glob: "/workspace/many/x*"})
	inner.Rules = append(inner.Rules[:2:2], protocol.Rule{Group: 1, Glob: "/workspace/many/*/.env"})
	for what, req := range map[string]protocol.Request{"kept": kept, "pattern": pattern, "inner": inner} {
		req.Processes = false
		s := m.begin(m.login(), req)
		m.result(s)
		// It waits for its finish.
		out := strings.TrimSpace(m.Sh("sed -n 's/^VmHWM:[[:space:]]*\\([0-9]*\\) kB$/\\1/p' /proc/$(pgrep -f '/[.]vast-ssh-')/status"))
		if peak, err := strconv.Atoi(out); err != nil || peak > maxMemory {
			t.Errorf("%s: at most %q KiB", what, out)
		}
		s.Close()
		m.Sh("while pgrep -f '/[.]vast-ssh-'; do :; done")
	}
}
