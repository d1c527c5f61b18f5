package deploy_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// manifold is a machine on which every rule about what a rule reaches has something to do. $C is the canary.
const manifold = `
	# Links, and patterns that match what begins with a dot.
	mkdir -p /root/.config/a /root/.config/.hidden /srv/far /srv/real/.aws /root/.config/kept
	for d in a .hidden kept; do echo $C >/root/.config/$d/token; done
	echo $C >/srv/far/token; ln -s /srv/far /root/.config/linked
	ln -s /srv/real/.aws /root/.aws; echo $C >/srv/real/.aws/credentials; : >/srv/real/.aws/empty
	ln -s /etc /root/.system; ln -s /data /root/.volume; ln -s /nowhere /root/.dangling
	echo $C >/srv/target; ln -s /srv/target /root/.netrc
	# SQLite, by pattern and by name.
	for f in one.sqlite .two.sqlite db; do for s in '' -wal -shm -journal; do echo $C >/root/$f$s; done; done
	mkdir -p /root/dir.sqlite/x; echo $C >/root/dir.sqlite/x/y
	# What a login needs, though a rule for secrets names it.
	echo $C >/root/.ssh/id_test; echo $C >/root/.ssh/known_hosts
	echo $C >>/etc/login.defs; mkdir -p /etc/pam.d; echo $C >/etc/pam.d/mine
	# Kept files and trees, named through a link, by a rule itself, with further names, and empty.
	mkdir -p /workspace/keep/empty /workspace/v2/results /workspace/v2/other
	echo $C >/workspace/keep/f; ln /workspace/keep/f /workspace/second; ln /workspace/keep/f /srv/third
	ln -s v2 /workspace/current; echo $C >/workspace/v2/results/r; echo $C >/workspace/v2/other/o
	# Mounts below a tree.
	echo $C >/workspace/vol/on-the-volume; mkdir -p /workspace/vol/empty; echo $C >/workspace/mem/in-memory; mkdir /workspace/mem/d; echo $C >/workspace/mem/d/e
	echo $C >/data/f; mkdir -p /data/empty
	# Names, and files with several.
	mkdir -p "/workspace/odd [x]*?" "/workspace/$(printf 'a\nb')/c" /workspace/ro
	echo $C >"/workspace/odd [x]*?/f"; echo $C >"/workspace/$(printf 'a\nb')/c/it's"; echo $C >"/workspace/back\\slash"; echo $C >/workspace/-n
	echo $C >/workspace/h1; for n in 2 3 4; do ln /workspace/h1 /workspace/h$n; done; ln /workspace/h1 /opt/h5
	mkfifo /workspace/fifo; mkdir -p /workspace/deep/er/and/deeper
	truncate -s 5M /workspace/sparse; echo $C | dd of=/workspace/sparse bs=1 seek=3000000 conv=notrunc 2>/dev/null
	# Of another user where everybody may write.
	mkdir -p /tmp/ssh-x /tmp/.ssh-y; echo $C >/tmp/ssh-x/f; echo $C >/tmp/.ssh-y/f; echo $C >/tmp/other; chown -R 1000 /tmp/other /tmp/ssh-x
	# Programs: of a package, changed, of the user, and links to them.
	cp /usr/bin/env /usr/bin/env.new; mv /usr/bin/env.new /usr/bin/env; echo $C >/usr/bin/mine; ln -s mine /usr/bin/mine.link; ln -s /srv/target /usr/local/l
	echo $C >/var/lib/dpkg/note; ln -s /etc/hosts /etc/mine.link
	mkdir -p /opt/empty/er; echo $C >/opt/x; echo $C >/dev/shm/s; mkdir /dev/shm/empty; echo $C >/run/r; ln -s /opt/x /dev/shm/l
`

// manifoldRequest names things in it more than once.
func manifoldRequest(m *machine) protocol.Request {
	const logins, secrets, named, workspace, changed = 0, 1, 2, 3, 4
	return protocol.Request{
		Label: m.label(), Op: protocol.OpRun, Processes: true,
		Rules: []protocol.Rule{
			{Group: logins, Glob: "/root/.ssh/authorized_keys", Login: true},
			{Group: logins, Glob: "/etc/ssh/ssh_host_*", Login: true},
			{Group: secrets, Glob: "/root/.ssh/*", Secret: true},
			{Group: secrets, Glob: "/etc/ssh/*", Secret: true},
			{Group: secrets, Glob: "/root/.aws", Tree: true, Secret: true},
			{Group: secrets, Glob: "/srv/real/.aws/credentials", Secret: true},
			{Group: secrets, Glob: "/root/.config/*/token", Secret: true},
			{Group: secrets, Glob: "/root/*.sqlite"},
			{Group: secrets, Glob: "/root/db", Secret: true},
			{Group: secrets, Glob: "/root/.netrc", Secret: true},
			{Group: secrets, Glob: "/root/.system", Tree: true},
			{Group: secrets, Glob: "/root/.volume", Tree: true},
			{Group: secrets, Glob: "/root/.dangling"},
			{Group: secrets, Glob: "/etc/debian_version", Secret: true},
			{Group: secrets, Glob: "/etc/debian_vers*", Secret: true},
			{Group: secrets, Glob: "/tmp/ssh-*", Tree: true},
			{Group: named, Glob: "/bin", Tree: true},
			{Group: named, Glob: "/etc/resolv.conf"},
			{Group: named, Glob: "/etc/pam.d", Tree: true},
			{Group: named, Glob: `/workspace/odd \[x\]\*\?`, Tree: true},
			{Group: named, Glob: "/data", Tree: true},
			{Group: workspace, Glob: "/workspace", Tree: true},
			{Group: workspace, Glob: "/workspace/deep", Tree: true},
			{Group: changed, Changed: true},
		},
		Keep: []string{"/workspace/keep", "/workspace/current/results", "/root/.config/kept/token", "/nothing/here"},
	}
}

// remaining is everything in the container that is not of its image, but for what its processes make.
func (m *machine) remaining() []string {
	m.t.Helper()
	out := m.Sh(`find / /root /dev/shm /run /tmp /var/tmp /workspace/mem /workspace/vol /data -xdev \( -path /proc -o -path /sys -o -path /dev/pts -o -path /busybox \) -prune -o \
		-newerct "@$(stat -c %W /)" -printf '%y %p -> %l\n'`)
	list := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(list)
	return slices.Compact(list)
}

// outcome is what two far sides have to have in common.
type outcome struct {
	plan *protocol.Plan
	res  *protocol.Result
	left []string
}

func (m *machine) outcome(req protocol.Request) (deploy.Kind, outcome) {
	client := m.login()
	plan := m.plan(client, req)
	kind, res := m.run(client, req)
	plan.Items, res.Items = comparable(plan.Items), comparable(res.Items)
	return kind, outcome{plan, res, m.remaining()}
}

// comparable leaves the system's words out, and sorts.
func comparable(items []protocol.Item) []protocol.Item {
	for i := range items {
		items[i].Text = ""
	}
	slices.SortFunc(items, func(a, b protocol.Item) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Group, b.Group))
	})
	return items
}

// lines writes an outcome for a comparison.
func (o outcome) lines() []string {
	var list []string
	add := func(format string, a ...any) { list = append(list, fmt.Sprintf(format, a...)) }
	for i, g := range o.plan.Groups {
		add("plan: group %d: %d files", i, g.Files)
	}
	add("plan: %d files, %d deleted, %v", o.plan.Total.Files, o.plan.Deleted.Files, o.plan.Counts)
	for _, v := range o.plan.Volumes {
		add("plan: volume %+v", v)
	}
	for _, s := range o.plan.Secrets {
		add("plan: secret %+v", s)
	}
	for _, it := range o.plan.Items {
		add("plan: %+v", it)
	}
	add("plan: environment %q", o.plan.Environment)
	for i, g := range o.res.Groups {
		add("run: group %d: %d files", i, g.Files)
	}
	add("run: %d files, %d names, %d deleted, %v", o.res.Total.Files, o.res.Names, o.res.Deleted.Files, o.res.Counts)
	for _, s := range o.res.Secrets {
		add("run: secret %+v", s)
	}
	for _, it := range o.res.Items {
		add("run: %+v", it)
	}
	for _, name := range o.left {
		add("left: %s", name)
	}
	slices.Sort(list)
	return list
}

// TestTheScriptDoesWhatTheHelperDoes gives both the same machine and the same request.
func TestTheScriptDoesWhatTheHelperDoes(t *testing.T) {
	t.Parallel()
	for _, volumes := range [][]string{nil, {"/data"}} {
		t.Run(fmt.Sprintf("%d-volumes", len(volumes)), func(t *testing.T) {
			t.Parallel()
			var want []string
			for _, k := range []struct {
				kind    deploy.Kind
				busybox bool
			}{{deploy.Helper, false}, {deploy.Script, false}, {deploy.Script, true}} {
				c := overlay.Config{
					Volumes: map[string]string{"/data": t.TempDir(), "/workspace/vol": t.TempDir()}, Tmpfs: []string{"/workspace/mem"}, Busybox: k.busybox, Seconds: true,
					Env: []string{"PLAIN=x", "LINES=a\nHIDDEN=b\nVAST_CONTAINERLABEL=C.1\nc", "EMPTY=", "my-api.key=x"},
				}
				if k.kind == deploy.Script {
					c.NoExec = nowhere
				} else {
					c.Tmpfs = append(c.Tmpfs, nowhere...)
				}
				m := newMachine(t, c)
				m.plant(manifold)
				req := manifoldRequest(m)
				req.Volumes = volumes
				kind, o := m.outcome(req)
				if kind != k.kind {
					t.Fatalf("the far side is the %s, want the %s", kind, k.kind)
				}
				got := o.lines()
				if want == nil {
					want = got
					t.Logf("the helper:\n%s", strings.Join(got, "\n"))
					continue
				}
				for _, line := range got {
					if !slices.Contains(want, line) {
						t.Errorf("busybox %v: only the script: %s", k.busybox, line)
					}
				}
				for _, line := range want {
					if !slices.Contains(got, line) {
						t.Errorf("busybox %v: only the helper: %s", k.busybox, line)
					}
				}
			}
		})
	}
}
