package deploy_test

import (
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
)

// TestALibraryOfTheEnvironmentThatIsGone makes every program complain, as where LD_PRELOAD of the container names one that a wipe
// removes.
func TestALibraryOfTheEnvironmentThatIsGone(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
		c.Extra = []string{"SetEnv LD_PRELOAD=/workspace/gone.so"}
		m := newMachine(t, c)
		m.plant("mkdir /workspace/keep; echo mine >/workspace/keep/f; echo $C >/workspace/x")
		req := m.everything()
		req.Keep = []string{"/workspace/keep"}
		client := m.login()
		if p := m.plan(client, req); p.Groups[2].Files != 1 {
			t.Errorf("the plan: %+v", p)
		}
		_, res := m.run(client, req)
		if left := m.found(); len(left) > 0 || res.Remains() > 0 || m.Sh("cat /workspace/keep/f") != "mine\n" {
			t.Errorf("left: %q, %+v", left, res.Items)
		}
	})
}
