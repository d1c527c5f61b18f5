package deploy_test

import (
	"slices"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// TestFullMemory leaves no room for the journal, which is made for that and not needed to get through.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	m := newMachine(t, overlay.Config{})
	m.plant(`for n in 1 2 3; do echo $C >/workspace/$n; done; yes $C >/dev/shm/full 2>/dev/null || :`)
	kind, res := m.run(m.login(), m.everything())
	if kind != deploy.Helper || res.Remains() > 0 {
		t.Errorf("%s: %+v", kind, res.Items)
	}
	if left := m.found(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestFullMemoryWithoutTheHelper leaves no room for the script where it would be first.
func TestFullMemoryWithoutTheHelper(t *testing.T) {
	t.Parallel()
	m := newMachine(t, overlay.Config{NoExec: nowhere[1:]})
	m.plant(`for n in 1 2 3; do echo $C >/workspace/$n; done; yes $C >/dev/shm/full 2>/dev/null || :`)
	kind, res := m.run(m.login(), m.everything())
	if kind != deploy.Script || res.Remains() > 0 {
		t.Errorf("%s: %+v", kind, res.Items)
	}
	if left := m.found(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestSomethingOfTheNameOfTheJournal was put there by somebody else.
func TestSomethingOfTheNameOfTheJournal(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			m.plant(`echo $C >/workspace/x
				mkdir -m 700 /dev/shm/.vast-ssh-wipe; echo $C >/dev/shm/.vast-ssh-wipe/journal; chown -R 1000 /dev/shm/.vast-ssh-wipe
				ln -s /etc /dev/shm/.vast-ssh-wipe-sh; mkdir -m 755 /run/.vast-ssh-wipe /run/.vast-ssh-wipe-sh; echo $C >/tmp/.vast-ssh-wipe-sh`)
			if got, res := m.run(m.login(), m.everything()); got != kind || res.Remains() > 0 {
				t.Errorf("%s: %+v", got, res.Items)
			}
			if left := m.found(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if out := m.Sh("find / /dev/shm /run /tmp -xdev -name '.vast-ssh*'"); out != "" {
				t.Errorf("left: %s", out)
			}
		})
	}
}

// TestReadOnlyMounts are told, and stop nothing else.
func TestReadOnlyMounts(t *testing.T) {
	t.Parallel()
	m := newMachine(t, overlay.Config{ReadOnly: []string{"/srv/fixed"}})
	m.plant("echo $C >/workspace/x")
	req := m.everything()
	req.Rules = slices.Insert(req.Rules, 2, protocol.Rule{Group: 1, Glob: "/srv/fixed", Tree: true})
	client := m.login()
	if p := m.plan(client, req); len(p.Volumes) != 1 || p.Volumes[0].Path != "/srv/fixed" || !p.Volumes[0].ReadOnly {
		t.Errorf("volumes: %+v", p.Volumes)
	}
	_, res := m.run(client, req)
	if got := withCode(res.Items, protocol.Volume); !slices.Equal(got, []string{"/srv/fixed"}) {
		t.Errorf("items: %+v", res.Items)
	}
	if left := m.found(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestFilesOfTheImageAreLeft counts what stands in a place of secrets and cannot be reached, and changes nothing of it.
func TestFilesOfTheImageAreLeft(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m *machine, _ deploy.Kind) {
		t.Parallel()
		req := m.everything()
		req.Rules = slices.Insert(req.Rules, 2, protocol.Rule{Group: 1, Glob: "/etc/debian_version", Secret: true})
		before := m.Sh("stat -c '%Y %s %i' /etc/debian_version; ls -A /usr/bin | wc -l")
		_, res := m.run(m.login(), req)
		if after := m.Sh("stat -c '%Y %s %i' /etc/debian_version; ls -A /usr/bin | wc -l"); after != before {
			t.Errorf("before %s\nafter %s", before, after)
		}
		if got := withCode(res.Items, protocol.Image); !slices.Contains(got, "/etc/debian_version") {
			t.Errorf("items: %+v", res.Items)
		}
		if !slices.ContainsFunc(res.Secrets, func(s protocol.Secret) bool { return s.Path == "/etc/debian_version" }) {
			t.Errorf("secrets: %+v", res.Secrets)
		}
	})
}
