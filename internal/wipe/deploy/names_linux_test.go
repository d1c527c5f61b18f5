package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// farther are far and a script that has busybox only.
var farther = map[string]overlay.Config{"helper": {}, "script": {NoExec: nowhere}, "busybox-script": {NoExec: nowhere, Busybox: true}}

// beyond makes a file below /workspace/deep whose path is longer than PATH_MAX. $C is the canary.
const beyond = `
	n=$(printf %0200d 0); half=
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do half=$half/$n; done
	mkdir -p "/workspace/deep$half" "/srv$half"; echo $C >"/srv$half/f"; ln "/srv$half/f" "/workspace/second"; mv "/srv/$n" "/workspace/deep$half/"
`

// TestPathsBeyondTheLimit are longer than PATH_MAX. Programs that take a path cannot reach them.
func TestPathsBeyondTheLimit(t *testing.T) {
	t.Parallel()
	for name, c := range farther {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			m.plant(beyond + "echo $C >/workspace/x")
			req := m.everything()
			p := m.plan(m.login(), req)
			res := m.result(m.begin(m.login(), req))
			left := strings.Fields(m.Sh("find /workspace -type f -printf '%f\n'"))
			if name == "helper" {
				if len(left) > 0 || res.Remains() > 0 {
					t.Errorf("left: %q, %d remain", left, res.Remains())
				}
				return
			}
			if len(left) != 1 || left[0] != "f" {
				t.Errorf("left: %q", left)
			}
			if p.Counts[protocol.Failed] == 0 || res.Remains() == 0 {
				t.Errorf("told to remain: %d by the plan, %d by the run", p.Counts[protocol.Failed], res.Remains())
			}
			for _, it := range res.Items {
				if it.Code.Remains() && !strings.HasPrefix(it.Path, "/workspace/deep") && it.Path != "/workspace" {
					t.Errorf("remains: %+v", it)
				}
			}
		})
	}
}

// TestKeptPathsBeyondTheLimit may have other names, of which nobody would know that they are kept: so nothing is done.
func TestKeptPathsBeyondTheLimit(t *testing.T) {
	t.Parallel()
	for name, c := range farther {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			m.plant(beyond)
			client, req := m.login(), m.everything()
			req.Keep = []string{"/workspace/deep"}
			facts, err := deploy.Probe(t.Context(), client, m.label(), nil)
			if err != nil {
				t.Fatal(err)
			}
			s, err := deploy.Start(t.Context(), client, facts, req)
			for err == nil {
				var msg protocol.Message
				if msg, err = s.Receive(); msg.Result != nil {
					t.Fatalf("done: %+v", msg.Result)
				}
			}
			if !strings.Contains(strings.ToLower(err.Error()), "name too long") || !strings.Contains(err.Error(), "kept") {
				t.Errorf("the error is %v", err)
			}
			m.Sh("[ $(find /workspace -samefile /workspace/second | wc -l) = 2 ] && grep -q " + m.canary + " /workspace/second")
		})
	}
}

// TestSecondNamesOfTheLogin has other names of what a login needs, as "cp -al" makes them. They go with all else, and the login
// works until the finish, which overwrites it.
func TestSecondNamesOfTheLogin(t *testing.T) {
	t.Parallel()
	for name, c := range farther {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Disk = 256 << 20
			m := newMachine(t, c)
			m.plant(`echo "# $C" >>/root/.ssh/authorized_keys
				cp -al /root/.ssh /root/backup; mkdir /workspace/etc; ln /etc/passwd /etc/ssh/ssh_host_ed25519_key /workspace/etc
				ln /etc/passwd /srv/secret; sync`)
			before := m.Sh("cat /etc/passwd")
			client, req := m.login(), m.everything()
			req.Rules = slices.Insert(req.Rules, 2, protocol.Rule{Group: 1, Glob: "/srv/secret", Secret: true})
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
			if res.Remains() > 0 || len(res.Secrets) != 1 {
				t.Errorf("%+v, %+v", res.Items, res.Secrets)
			}
			if got := m.found(); len(got) != 1 || got[0] != "content /root/.ssh/authorized_keys" {
				t.Errorf("left before the finish: %q", got)
			}
			if out := m.Sh("ls -A /workspace /root"); strings.TrimSpace(out) != "/root:\n.ssh\n\n/workspace:" {
				t.Errorf("left before the finish:\n%s", out)
			}
			other, err := m.dial()
			if err != nil {
				t.Fatalf("no login before the finish: %v", err)
			}
			other.Close()
			last, err := s.Finish(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer last.Close()
			res = m.result(last)
			if !res.Finished || res.Remains() > 0 || res.Groups[0].Files < 2 {
				t.Errorf("%+v", res)
			}
			if hits := m.ScanDisk([][]byte{[]byte(m.canary)}); len(hits) > 0 {
				t.Errorf("on the disk at %v", hits)
			}
			if after := m.Sh("cat /etc/passwd"); after != before {
				t.Errorf("the accounts are\n%s", after)
			}
		})
	}
}

// TestDirectoriesThatCannotBeRemoved are told, once, by their names, which may be telling.
func TestDirectoriesThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	for name, c := range farther {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			m.plant(`mkdir -p /workspace/d/fixed /workspace/full/kept; echo $C >/workspace/d/x; echo $C >/workspace/full/kept/f; chattr +i /workspace/d/fixed`)
			defer m.Sh("chattr -i /workspace/d/fixed")
			req := m.everything()
			req.Keep = []string{"/workspace/full/kept/f"}
			res := m.result(m.begin(m.login(), req))
			want := protocol.Immutable
			if c.Busybox {
				want = protocol.Failed // which has nothing that shows the attribute
			}
			if got := withCode(res.Items, want); !slices.Equal(got, []string{"/workspace/d/fixed"}) || res.Remains() != 1 {
				t.Errorf("items: %+v", res.Items)
			}
		})
	}
}

// TestEveryNameThatStaysIsTold also when it is one of several of the same file.
func TestEveryNameThatStaysIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range farther {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			m.plant(`cd /workspace; mkdir fixed; echo $C >1; ln 1 fixed/2; ln 1 3; echo $C >i1; ln i1 i2; chattr +i fixed i1`)
			defer m.Sh("chattr -i /workspace/fixed /workspace/i1")
			res := m.result(m.begin(m.login(), m.everything()))
			var told []string
			for _, it := range res.Items {
				if it.Code.Remains() {
					told = append(told, it.Path)
				}
			}
			slices.Sort(told)
			if want := []string{"/workspace/fixed/2", "/workspace/i1", "/workspace/i2"}; !slices.Equal(told, want) || res.Remains() != 3 {
				t.Errorf("told: %q, want %q", told, want)
			}
			if left := strings.Fields(m.Sh("cd /workspace; find . -type f | sort")); !slices.Equal(left, []string{"./fixed/2", "./i1", "./i2"}) {
				t.Errorf("left: %q", left)
			}
			if got := m.found(); !slices.Equal(got, []string{"content /workspace/i1", "content /workspace/i2"}) {
				t.Errorf("left: %q", got)
			}
		})
	}
}
