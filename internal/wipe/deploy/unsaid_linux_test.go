package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// TestNamesOfTheUserGo: links among the programs that lead to what is the user's, or nowhere, and directories beside the homes.
func TestNamesOfTheUserGo(t *testing.T) {
	t.Parallel()
	for name, c := range farther {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			m.plant(`mkdir -p /workspace/$C /home/$C /usr/local/lib/mine /usr/local/bin; echo $C >/workspace/$C/tool
				ln -s /workspace/$C/tool /usr/local/bin/tool; ln -s ../../../workspace/$C /usr/local/lib/mine/dir
				ln -s "token=$C" /usr/local/lib/mine/dangling; ln -s /workspace/$C/tool /etc/alternatives/tool
				ln -s $C /dev/note; ln -s tool /usr/local/bin/$C
				ln -s env /usr/bin/env.link; ln -s /etc/hosts /usr/local/lib/hosts; ln -s /proc/self/fd /dev/fd2
				for dir in /bin /sbin /lib /lib64; do [ ! -L $dir ] || touch -h $dir; done`)
			_, res := m.run(m.login(), m.everything())
			if left := m.found(); len(left) > 0 || res.Remains() > 0 {
				t.Errorf("left: %q, %+v", left, res.Items)
			}
			m.Sh("[ -L /usr/bin/env.link ] && [ -L /usr/local/lib/hosts ] && [ -L /dev/fd2 ] && [ -L /dev/stdin ] && [ -x /bin/sh ]")
		})
	}
}

// TestADeletedFileThatTheFirstProcessReads is told: it stays as long as that process.
func TestADeletedFileThatTheFirstProcessReads(t *testing.T) {
	t.Parallel()
	for name, c := range farther {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Foreground = "echo secret >/root/start.sh; exec 9</root/start.sh; rm /root/start.sh; sleep 100000; :"
			m := newMachine(t, c)
			client, req := m.login(), m.everything()
			p := m.plan(client, req)
			_, res := m.run(client, req)
			for _, items := range [][]protocol.Item{p.Items, res.Items} {
				if got := withCode(items, protocol.InUse); !slices.Contains(got, "/root/start.sh") {
					t.Errorf("in use: %q", got)
				}
			}
		})
	}
}

// TestAnotherFarSideGoesOn: one far side has begun, and then the other is what can run. What was told of processes that have ended is
// told all the same.
func TestAnotherFarSideGoesOn(t *testing.T) {
	t.Parallel()
	for first, remount := range map[deploy.Kind]string{
		deploy.Script: "mount -o remount,exec /dev/shm",
		deploy.Helper: `for d in /dev/shm /run; do mount -o remount,noexec $d; done; for d in /tmp /var/tmp; do mount -t tmpfs -o noexec,mode=1777 x $d; done
			mount --bind /root /root; mount -o remount,bind,noexec /root`,
	} {
		t.Run(string(first), func(t *testing.T) {
			t.Parallel()
			c := far[first]
			c.Disk = 256 << 20
			m := newMachine(t, c)
			pid := m.child("exec 4>/srv/open; echo " + m.canary + " >&4; rm /srv/open; echo ready; exec sleep 100000")
			m.fixed(pid)
			client, req := m.login(), m.everything()
			s := m.begin(client, req)
			if res := m.result(s); s.Kind != first || res.Remains() != 1 {
				t.Fatalf("the %s: %+v", s.Kind, res.Items)
			}
			s.Close()
			m.Sh(remount)
			for range 2 {
				s = m.begin(m.login(), req)
				if res := m.result(s); res.Remains() != 1 {
					t.Errorf("the %s forgets: %+v", s.Kind, res.Items)
				}
				s.Close()
			}
		})
	}
}

// TestMemoryOfTheMachineStays: it was there before the container, and others have something in it.
func TestMemoryOfTheMachineStays(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			testenv.NeedProgram(t, "mount")
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
				testenv.Missing(t, fmt.Sprintf("the right to mount: %v", err))
			}
			t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
			other := filepath.Join(dir, "of-another-container")
			if err := os.WriteFile(other, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			c.Volumes, c.Seconds = map[string]string{"/shared": dir}, true
			m := newMachine(t, c)
			client, req := m.login(), m.everything()
			p := m.plan(client, req)
			if len(p.Volumes) != 1 || p.Volumes[0].Path != "/shared" {
				t.Errorf("volumes: %+v", p.Volumes)
			}
			m.run(client, req)
			if _, err := os.Stat(other); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNamesWhereNothingIs are told in the plan: they may be mistakes.
func TestNamesWhereNothingIs(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, c)
			m.plant("mkdir /workspace/results; echo $C >/workspace/results/r")
			req := m.everything()
			req.Keep = []string{"/workspace/reslts"}
			req.Named = []string{"/workspace/reslts", "/workspace/results", "/odd\tname's"}
			p := m.plan(m.login(), req)
			var absent []string
			for _, it := range p.Items {
				if it.Code == protocol.Absent {
					absent = append(absent, it.Path)
				}
			}
			if !slices.Equal(absent, []string{"/workspace/reslts", "/odd\tname's"}) || p.Counts[protocol.Absent] != 2 {
				t.Errorf("%q, %v", absent, p.Counts)
			}
		})
	}
}

// TestSecretsThatStay are to be rotated, too: on a volume that nobody wipes, and where something is to be kept.
func TestSecretsThatStay(t *testing.T) {
	t.Parallel()
	for kind, c := range far {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c.Volumes = map[string]string{"/data": t.TempDir()}
			m := newMachine(t, c)
			m.plant("mkdir /data/.aws /data/.none; echo $C >/data/.env; echo $C >/data/.aws/credentials; : >/data/empty; echo $C >/root/token; ln -s /data/.env /root/.env")
			m.plant("mkdir -p /root/.aws/sso /root/.aws/cli; echo $C | tee /root/.aws/credentials /root/.aws/sso/x >/root/.aws/cli/y; ln /root/token /root/.aws/linked")
			client, req := m.login(), m.everything()
			req.Keep = []string{"/root/token", "/root/.aws/credentials", "/root/.aws/sso"}
			for i, glob := range []string{"/data/.env", "/data/empty", "/root/token", "/data/.aws", "/root/.aws"} {
				req.Rules = slices.Insert(req.Rules, 2+i, protocol.Rule{Group: 1, Glob: glob, Tree: strings.HasSuffix(glob, "/.aws"), Secret: true})
			}
			p := m.plan(client, req)
			_, res := m.run(client, req)
			for _, secrets := range [][]protocol.Secret{p.Secrets, res.Secrets} {
				var got []string
				for _, s := range secrets {
					got = append(got, s.Path)
				}
				slices.Sort(got)
				want := []string{
					"/data/.aws", "/data/.env", "/root/.aws/cli/y", "/root/.aws/credentials", "/root/.aws/linked", "/root/.aws/sso", "/root/token",
				}
				if !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			}
		})
	}
}
