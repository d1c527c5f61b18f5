package deploy_test

import (
	"strings"
	"testing"

	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// upgrade makes programs and their libraries new, as a package manager does, and prints their paths. The server that runs has the
// old ones.
const upgrade = `
	new() { cp -p "$1" "$1.new"; mv "$1.new" "$1"; echo "$1"; }
	for p in /usr/sbin/sshd bash sh stat dd find sed grep cat head od tr sort readlink mv rm rmdir mkdir chmod gzip uname ls cut wc id sleep; do
		p=$(readlink -f "$(command -v $p)"); echo "$p"; ldd "$p" | sed -n 's/^.*[[:space:]]\(\/[^ ]*\) (.*/\1/p'
	done | sort -u | while read -r p; do readlink -f "$p"; done | sort -u >/dev/shm/list
	while read -r p; do new "$p"; done </dev/shm/list; rm /dev/shm/list`

// TestWhatTheLoginRunsOnStays though all of it is of the container, and no process has it open.
func TestWhatTheLoginRunsOnStays(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			programs := strings.Fields(m.Sh(upgrade))
			m.plant("for d in dev/shm run tmp var srv opt etc workspace; do echo $C >/$d/zz; done; echo $C >/zz; cp /usr/bin/env /usr/bin/mine; echo $C >>/usr/bin/mine")
			req := m.everything()
			req.Packages = true
			s := m.begin(m.login(), req)
			res := m.result(s)
			if s.Kind != kind || res.Remains() > 0 {
				t.Errorf("%s: %+v", s.Kind, res.Items)
			}
			if left := m.found(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			told := withCode(res.Items, protocol.InUse)
			for _, p := range programs {
				// The helper needs none of most tools.
				if kind == deploy.Script && !strings.Contains(strings.Join(told, " ")+" ", p+" ") {
					t.Errorf("%s is not told to be in use", p)
				}
			}
			facts, err := deploy.Probe(t.Context(), m.login(), m.label(), nil)
			if err != nil {
				t.Fatalf("no login before the finish: %v", err)
			}
			again, err := deploy.Start(t.Context(), m.login(), facts, req)
			if err != nil || again.Kind != kind {
				t.Fatalf("nothing can be brought there again: %v, %v", again, err)
			}
			if res = m.result(again); res.Remains() > 0 {
				t.Errorf("then: %+v", res.Items)
			}
			last, err := again.Finish(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer last.Close()
			if res = m.result(last); !res.Finished || res.Remains() > 0 {
				t.Errorf("at the end: %+v", res)
			}
		})
	}
}
