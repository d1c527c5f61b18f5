package wipe_test

import (
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe"
)

// TestAMachineOfManyUsers has a home for each, which makes tens of thousands of rules.
func TestAMachineOfManyUsers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]overlay.Config{"helper": {}, "script": kinds["script"]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c)
			w.plant(`n=0
				while [ $((n += 1)) -le 40 ]; do
					mkdir -p /home/u$n/.aws; echo $C >/home/u$n/.aws/credentials; echo "u$n:x:$((2000 + n)):2000::/home/u$n:/bin/sh" >>/etc/passwd
				done`)
			r, err := w.prepare(wipe.Options{}).Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if left := w.found(); len(left) > 0 || r.Data != wipe.Clean || len(r.Rotate) < 40 {
				t.Errorf("left: %q, to rotate %d, %s: %s", left, len(r.Rotate), r.Data, r.Problem)
			}
		})
	}
}
