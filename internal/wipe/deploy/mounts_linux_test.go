package deploy_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"vast-ssh/internal/wipe/protocol"
)

// outside makes a directory of the machine with a file of somebody else's.
func outside(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "wipe-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("of another"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// volumePaths are the mount points that a plan tells.
func volumePaths(p *protocol.Plan) []string {
	var list []string
	for _, v := range p.Volumes {
		list = append(list, v.Path)
	}
	return list
}

// TestVolumesOfEveryName are at mount points with bytes that mountinfo escapes, and with some that only look like spaces.
func TestVolumesOfEveryName(t *testing.T) {
	t.Parallel()
	points := []string{
		"/data/no-break\u00a0space", "/data/next\u0085line", "/data/form\ffeed", "/data/vertical\vtab", "/data/return\rx", "/data/ em\u2003",
		"/data/a tab\t", "/data/two\nlines", `/data/back\\slash\040`, "/data/end ", "/data/*[x]'",
	}
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c.Volumes = make(map[string]string)
			for _, at := range points {
				c.Volumes[at] = outside(t, "")
			}
			m := newMachine(t, c)
			m.plant("echo $C >/data/on-the-layer")
			client, req := m.login(), m.everything()
			// One of them may be wiped.
			req.Volumes = []string{"/data/end "}
			req.Rules = slices.Insert(req.Rules, 2, protocol.Rule{Group: 1, Glob: "/data/end ", Tree: true})
			told := volumePaths(m.plan(client, req))
			_, res := m.run(client, req)
			for _, at := range points {
				if !slices.Contains(told, at) {
					t.Errorf("%q is not told", at)
				}
				_, err := os.Stat(filepath.Join(c.Volumes[at], "f"))
				if wiped := err != nil; wiped != (at == "/data/end ") {
					t.Errorf("%q is wiped: %v", at, wiped)
				}
			}
			if left := m.found(); len(left) > 0 || res.Remains() > 0 {
				t.Errorf("left: %q, %+v", left, res.Items)
			}
		})
	}
}

// TestVolumesInMemory are directories of the machine that lie in its memory, with tmpfs of the container beside them.
func TestVolumesInMemory(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			dir := outside(t, "/dev/shm")
			c.Volumes, c.Tmpfs = map[string]string{"/data": dir}, []string{"/scratch"}
			m := newMachine(t, c)
			m.plant("echo $C >/scratch/f; echo $C >/dev/shm/f")
			client, req := m.login(), m.everything()
			if told := m.plan(client, req).Volumes; len(told) != 1 || told[0] != (protocol.Mount{Path: "/data", Type: "tmpfs"}) {
				t.Errorf("volumes: %+v", told)
			}
			_, res := m.run(client, req)
			if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
				t.Errorf("the machine's own: %v", err)
			}
			if left := m.found(); len(left) > 0 || res.Remains() > 0 {
				t.Errorf("left: %q, %+v", left, res.Items)
			}
		})
	}
}

// TestVolumesWithoutAName that a message can hold are not wiped under that of another.
func TestVolumesWithoutAName(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			dir := outside(t, "")
			c.Volumes = map[string]string{"/workspace/latin\xe9": dir}
			m := newMachine(t, c)
			m.plant("echo $C >/workspace/x")
			client, req := m.login(), m.everything()
			req.Volumes = volumePaths(m.plan(client, req))
			if len(req.Volumes) != 1 {
				t.Fatalf("volumes: %q", req.Volumes)
			}
			_, res := m.run(client, req)
			if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
				t.Errorf("the machine's own: %v", err)
			}
			if told := withCode(res.Items, protocol.Volume); len(told) != 1 || len(m.found()) > 0 {
				t.Errorf("left: %q, told %q", m.found(), told)
			}
		})
	}
}

// TestSingleFilesOfTheMachine are mounted like volumes, and told like them.
func TestSingleFilesOfTheMachine(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			m.plant(`mkdir /root/.aws; mkdir -p /scratch/of-the-machine; mount -t tmpfs -o size=1m none /scratch/of-the-machine
				for at in /root/.netrc /root/.aws/credentials /workspace/kept /workspace/file /srv/changed /etc/hostname /etc/ssh/ssh_host_x; do
					f=/scratch/of-the-machine/${at##*/}; echo mine >$f; : >>$at; mount --bind $f $at
				done
				umount -l /scratch/of-the-machine; rmdir /scratch/of-the-machine; echo $C >/workspace/x; echo $C >/root/.aws/config`)
			client, req := m.login(), m.everything()
			req.Keep = []string{"/workspace/kept"}
			req.Rules = slices.Insert(req.Rules, 2, protocol.Rule{Group: 1, Glob: "/etc/hostname", Secret: true})
			plan := m.plan(client, req)
			_, res := m.run(client, req)
			mine := []string{"/root/.aws/credentials", "/root/.netrc", "/workspace/file"}
			login := append([]string{"/etc/ssh/ssh_host_x"}, mine...)
			for what, items := range map[string][]protocol.Item{"plan": plan.Items, "result": res.Items} {
				told := withCode(items, protocol.Volume)
				slices.Sort(told)
				if !slices.Equal(told, login) {
					t.Errorf("the %s tells of %q, want %q", what, told, login)
				}
			}
			var secrets []string
			for _, s := range res.Secrets {
				secrets = append(secrets, s.Path)
			}
			slices.Sort(secrets)
			if !slices.Equal(secrets, []string{"/root/.aws/config", "/root/.aws/credentials", "/root/.netrc"}) {
				t.Errorf("secrets: %q", secrets)
			}
			if out := m.Sh("cat /root/.netrc /root/.aws/credentials /workspace/* /srv/changed /etc/hostname /etc/ssh/ssh_host_x | uniq -c"); out != "      7 mine\n" {
				t.Errorf("they hold\n%s", out)
			}
			if left := m.found(); len(left) > 0 || res.Remains() > 0 {
				t.Errorf("left: %q, %+v", left, res.Items)
			}
		})
	}
}

// TestAVolumeThatIsMountedTwice shows each file at two places, of which both may be wiped.
func TestAVolumeThatIsMountedTwice(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			dir := outside(t, "")
			c.Volumes = map[string]string{"/data/one": dir, "/data/two": dir}
			m := newMachine(t, c)
			m.plant("for n in 1 2 3 4 5 6; do yes $C | head -c 9000000 >/data/one/$n; done")
			req := m.everything()
			req.Volumes = []string{"/data/one", "/data/two"}
			req.Rules = slices.Insert(req.Rules, 2,
				protocol.Rule{Group: 1, Glob: "/data/one", Tree: true}, protocol.Rule{Group: 1, Glob: "/data/two", Tree: true})
			_, res := m.run(m.login(), req)
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || res.Remains() > 0 || res.Groups[1].Files != 7 {
				t.Errorf("left: %v, %v; %+v", left, err, res)
			}
		})
	}
}
