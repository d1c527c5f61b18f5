package deploy_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// kinds are the machines that the far side must cope with, and what it is there.
var kinds = map[string]struct {
	config overlay.Config
	kind   deploy.Kind
}{
	"debian":         {overlay.Config{}, deploy.Helper},
	"busybox":        {overlay.Config{Busybox: true}, deploy.Helper},
	"no exec in shm": {overlay.Config{NoExec: []string{"/dev/shm"}}, deploy.Helper},
	"script":         {overlay.Config{NoExec: nowhere}, deploy.Script},
	"busybox script": {overlay.Config{NoExec: nowhere, Busybox: true}, deploy.Script},
}

// nowhere leaves a program no place to run from.
var nowhere = []string{"/dev/shm", "/run", "/tmp", "/var/tmp", "/root"}

// each runs a test on every kind of machine.
func each(t *testing.T, test func(t *testing.T, m *machine, kind deploy.Kind)) {
	for name, k := range kinds {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { test(t, newMachine(t, k.config), k.kind) })
	}
}

// odd are files of every shape. $C is the canary.
const odd = `
	mkdir -p /root/.aws /workspace/a/b/$C /srv/x /etc/mine
	echo $C >/root/.aws/credentials
	printf %s $C >/workspace/tiny
	: >/workspace/empty
	yes $C | head -c 20000001 >/workspace/large
	truncate -s 300M /workspace/sparse
	echo $C | dd of=/workspace/sparse bs=4096 seek=50000 conv=notrunc 2>/dev/null
	echo $C >/workspace/a/one; ln /workspace/a/one /workspace/a/two; ln /workspace/a/one /srv/x/three
	echo $C >"/workspace/a/new
line"
	echo $C >/workspace/a/-rf; echo $C >"/workspace/a/star*'\"\\ \$HOME"
	echo $C >"$(printf '/workspace/a/latin\351')"
	echo $C >/workspace/a/$C-name
	ln -s /workspace/$C /workspace/a/link
	ln -s /etc /workspace/a/etc
	mkfifo /workspace/a/fifo
	echo $C >/etc/mine/conf; echo $C >>/etc/profile; echo $C >/tmp/x; echo $C >/var/tmp/y; echo $C >/home/z; echo $C >/usr/local/w
	mkdir -p /root/.netrc; echo $C >/root/.netrc/in-a-directory-with-the-name-of-a-file
	echo $C >/dev/shm/s; echo $C >/run/r; echo $C >/dev/d
`

func TestNothingOfAUserIsLeft(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m *machine, kind deploy.Kind) {
		t.Parallel()
		m.plant(odd)
		// Open, deleted while open, and a shell that would write its history at its end.
		shell := m.Spawn(`C=` + m.canary + `
			exec 3>/workspace/open 4>/workspace/deleted
			echo $C >&3; yes $C | head -c 300000 >&4; rm /workspace/deleted
			trap "echo $C >/root/.bash_history" EXIT HUP TERM
			echo ready; while :; do sleep 1000; done`)
		if n := len(m.found()); n < 20 {
			t.Fatalf("only %d canaries are planted", n)
		}
		got, res := m.run(m.login(), m.everything())
		if got != kind {
			t.Errorf("the far side is the %s, want the %s", got, kind)
		}
		if found := m.found(); len(found) > 0 {
			t.Errorf("left: %q", found)
		}
		if n := res.Remains(); n > 0 {
			t.Errorf("%d things remain: %+v", n, res.Items)
		}
		if res.Deleted.Files == 0 {
			t.Error("no file was overwritten that was deleted and open")
		}
		if res.Groups[1].Files != 1 || len(res.Secrets) != 1 || res.Secrets[0].Path != "/root/.aws/credentials" {
			t.Errorf("secrets: %+v, %+v", res.Groups[1], res.Secrets)
		}
		if got := withCode(res.Items, protocol.Special); !slices.Contains(got, "/workspace/a/fifo") {
			t.Errorf("the FIFO is not reported: %q", got)
		}
		if left := m.Sh("ls -A /root /workspace /root/.ssh 2>/dev/null || :"); strings.Contains(left, "authorized_keys") {
			t.Errorf("still there:\n%s", left)
		}
		m.gone(shell) // the last act, when the connection has ended
		if found := m.found(); len(found) > 0 {
			t.Errorf("written at its end: %q", found)
		}
		if _, err := m.dial(); err == nil {
			t.Error("one can still log in")
		}
	})
}

func TestAWrongContainerIsNotTouched(t *testing.T) {
	t.Parallel()
	for name, label := range map[string]string{"another": "C.4712", "none": "-", "longer": "C.47110"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, overlay.Config{Label: label, Env: []string{"TEXT=a\nVAST_CONTAINERLABEL=C.4711\nb"}})
			m.plant("echo $C >/workspace/x")
			_, err := deploy.Probe(t.Context(), m.login(), m.label(), nil)
			var wrong *deploy.WrongContainerError
			if !errors.As(err, &wrong) {
				t.Fatalf("the probe says %v", err)
			}
			if left := m.found(); len(left) != 1 {
				t.Errorf("touched: %q", left)
			}
		})
	}
}

func TestAPlanChangesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m *machine, _ deploy.Kind) {
		t.Parallel()
		m.plant(odd)
		before := m.found()
		client := m.login()
		p := m.plan(client, m.everything())
		if after := m.found(); !slices.Equal(before, after) {
			t.Errorf("before %q\nafter %q", before, after)
		}
		if p.Groups[2].Files < 8 || p.Groups[2].Bytes < 20_000_000 || p.Groups[2].Bytes > 40_000_000 {
			t.Errorf("the workspace: %+v", p.Groups[2])
		}
		if p.Groups[1].Files != 1 || p.Groups[3].Files < 8 {
			t.Errorf("groups: %+v", p.Groups)
		}
		if !slices.Contains(p.Environment, "VAST_CONTAINERLABEL") {
			t.Errorf("environment: %q", p.Environment)
		}
		if out := m.Sh("ls -A /dev/shm /run /tmp /root"); strings.Contains(out, "vast-ssh") {
			t.Errorf("left there:\n%s", out)
		}
	})
}

func TestWhatIsKeptStays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m *machine, _ deploy.Kind) {
		t.Parallel()
		m.plant(`mkdir -p /workspace/keep/d /workspace/go
			echo $C >/workspace/keep/d/f; ln /workspace/keep/d/f /workspace/go/hardlink; echo $C >/workspace/single; echo $C >/workspace/go/x`)
		req := m.everything()
		req.Keep = []string{"/workspace/keep", "/workspace/single"}
		_, res := m.run(m.login(), req)
		want := []string{"content /workspace/go/hardlink", "content /workspace/keep/d/f", "content /workspace/single"}
		if got := m.found(); !slices.Equal(got, want) {
			t.Errorf("left: %q, want %q", got, want)
		}
		if res.Counts[protocol.Kept] == 0 || res.Remains() > 0 {
			t.Errorf("counts: %v", res.Counts)
		}
	})
}

func TestImmutableFilesAreReportedAndTheRestGoes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m *machine, _ deploy.Kind) {
		t.Parallel()
		m.plant(`mkdir /workspace/d; echo $C >/workspace/d/fixed; chattr +i /workspace/d/fixed; echo $C >/workspace/d/other`)
		defer m.Sh("chattr -i /workspace/d/fixed")
		req := m.everything()
		client := m.login()
		facts, err := deploy.Probe(t.Context(), client, m.label(), nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := deploy.Start(t.Context(), client, facts, req)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		res := m.result(s)
		// busybox has nothing that shows the attribute.
		got := append(withCode(res.Items, protocol.Immutable), withCode(res.Items, protocol.Failed)...)
		if !slices.Equal(got, []string{"/workspace/d/fixed"}) || res.Remains() != 1 {
			t.Errorf("items: %+v", res.Items)
		}
		if got := m.found(); !slices.Equal(got, []string{"content /workspace/d/fixed"}) {
			t.Errorf("left: %q", got)
		}
	})
}

func TestVolumesAreLeftAloneUnlessNamed(t *testing.T) {
	t.Parallel()
	for name, k := range kinds {
		for _, named := range []bool{false, true} {
			c := k.config
			t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
				t.Parallel()
				outside := t.TempDir()
				c.Volumes = map[string]string{"/data": outside}
				m := newMachine(t, c)
				m.plant("echo $C >/data/f; ln -s /data /workspace/link; echo $C >/workspace/x")
				req := m.everything()
				if named {
					req.Volumes = []string{"/data"}
				}
				req.Rules = slices.Insert(req.Rules, 2, protocol.Rule{Group: 1, Glob: "/data", Tree: true})
				client := m.login()
				p := m.plan(client, req)
				if len(p.Volumes) != 1 || p.Volumes[0].Path != "/data" || p.Volumes[0].ReadOnly {
					t.Errorf("volumes: %+v", p.Volumes)
				}
				_, res := m.run(client, req)
				entries := m.Sh("cat /data/f 2>/dev/null || :")
				if left := entries != ""; left == named {
					t.Errorf("the volume named: %v, and left: %v", named, left)
				}
				if !named && res.Counts[protocol.Volume] == 0 {
					t.Errorf("nothing is said of the volume: %v", res.Counts)
				}
				if got := m.found(); len(got) > 0 {
					t.Errorf("left: %q", got)
				}
			})
		}
	}
}
