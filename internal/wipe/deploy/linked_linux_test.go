package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// TestALoginThatIsLinked is reached by links, as where a home or its .ssh is kept on the workspace. They lead to it until it goes.
func TestALoginThatIsLinked(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"ssh": "mv /root/.ssh /workspace/ssh; ln -s /workspace/ssh /root/.ssh",
		"keys": "mkdir /workspace/k; mv /root/.ssh/authorized_keys /workspace/k/mine; " +
			"ln -s /opt/keys /root/.ssh/authorized_keys; ln -s /workspace/k/mine /opt/keys",
		"host keys": "mkdir -p /workspace/etc; mv /etc/ssh /workspace/etc/; ln -s /workspace/etc/ssh /etc/ssh",
		"two":       "mv /root/.ssh /workspace/ssh; ln -s ../workspace/ssh /opt/ssh; ln -s /opt/ssh /root/.ssh",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
				m := newMachine(t, c)
				m.plant("mkdir -p /workspace; echo $C >/workspace/x\n" + script + "\necho \"# $C\" >>/root/.ssh/authorized_keys")
				client, req := m.login(), m.everything()
				s := m.begin(client, req)
				res := m.result(s)
				m.login().Close() // all else is done
				last := m.finish(s)
				if left := m.found(); len(left) > 0 || res.Remains() > 0 || last.Remains() > 0 {
					t.Errorf("left: %q, %+v", left, last.Items)
				}
				if _, err := m.dial(); err == nil {
					t.Error("the login is not removed")
				}
				if left := m.Sh("find /root /opt /etc /workspace -type l -newerct @" + strings.TrimSpace(m.Sh("stat -c %W /"))); left != "" {
					t.Errorf("links: %q", left)
				}
			})
		})
	}
}

// TestThePartsOfTheServerStay where a distribution has them, and beside those that run: no process need run one now.
func TestThePartsOfTheServerStay(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.plant(`mkdir -p /usr/libexec/openssh
			for f in libexec/openssh/sshd-auth sbin/sshd-session sbin/sshd-other; do cp /bin/true /usr/$f; done
			mkdir -p /var/empty/sshd /var/lib/empty /usr/share/empty.sshd /usr/share/empty.other
			for d in /etc/authselect /usr/lib/pam.d /usr/etc/pam.d /usr/etc/mine; do mkdir -p $d; echo auth >$d/system-auth; done`)
		res := m.result(m.begin(m.login(), m.everything()))
		left := strings.Fields(m.Sh("ls -d /usr/libexec/openssh/* /usr/sbin/sshd-* /etc/authselect/* /usr/lib/pam.d/system-* /usr/etc/[!n]* /var/empty/* /var/lib/empty /usr/share/empty.*"))
		want := []string{
			"/etc/authselect/system-auth", "/usr/etc/pam.d", "/usr/lib/pam.d/system-auth", "/usr/libexec/openssh/sshd-auth", "/usr/sbin/sshd-session", "/usr/share/empty.sshd",
			"/var/empty/sshd", "/var/lib/empty",
		}
		if !slices.Equal(left, want) || res.Remains() > 0 {
			t.Errorf("left: %q, %+v", left, res.Items)
		}
	})
}

// TestKeysInADirectory, one file a user, are the login's.
func TestKeysInADirectory(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.plant("mkdir /etc/ssh/authorized_keys.d; echo $C | tee /etc/ssh/authorized_keys.d/root >/workspace/x")
		req := m.everything()
		for i, r := range req.Rules {
			if r.Login && strings.HasPrefix(r.Glob, "/etc/ssh/") {
				req.Rules = slices.Insert(req.Rules, i, protocol.Rule{Glob: "/etc/ssh/authorized_keys*", Tree: true, Login: true})
				break
			}
		}
		s := m.begin(m.login(), req)
		res := m.result(s)
		if left := m.found(); !slices.Equal(left, []string{"content /etc/ssh/authorized_keys.d/root"}) || res.Remains() > 0 {
			t.Errorf("before the login goes: %q, %+v", left, res.Items)
		}
		last := m.finish(s)
		if left := m.found(); len(left) > 0 || last.Remains() > 0 {
			t.Errorf("left: %q, %+v", left, last.Items)
		}
		if left := m.Sh("ls -A /etc/ssh"); strings.Contains(left, "authorized_keys.d") {
			t.Errorf("left:\n%s", left)
		}
	})
}

// TestLinksToATreeAndIntoIt are of one rule: what is in both is wiped and counted once.
func TestLinksToATreeAndIntoIt(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.plant(`mkdir -p /root/.aws /srv/outer/inner; ln -s /srv/outer/inner /root/.aws.1; ln -s /srv/outer /root/.aws.2
			for n in 1 2 3 4; do yes $C | head -c 9000000 >/srv/outer/inner/$n; done; echo $C >/srv/outer/f`)
		req := m.secretsOnly()
		req.Rules[0].Glob = "/root/.aws.*"
		plan := m.plan(m.login(), req)
		_, res := m.run(m.login(), req)
		if left := m.found(); len(left) > 0 || plan.Total.Files != 5 || res.Total.Files != 5 || len(res.Items) > 0 {
			t.Errorf("left: %q; planned: %+v; done: %+v; items: %+v", left, plan.Total, res.Total, res.Items)
		}
	})
}

// TestALinkToWholeWorkspaces or homes from a place of secrets makes no secrets of all that is in them.
func TestALinkToWholeWorkspaces(t *testing.T) {
	t.Parallel()
	onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.plant(`mkdir -p /root/.aws /workspace/aws /mnt/homes/user /workspace/work; echo user:x:1000:1000::/mnt/homes/user:/bin/sh >>/etc/passwd
			for d in /workspace/work /mnt/homes/user; do echo mine >$d/f; done; echo $C >/workspace/aws/key
			ln -s /workspace /root/.aws.1; ln -s /mnt/homes/user /root/.aws.2; ln -s /mnt/homes /root/.aws.3; ln -s /workspace/aws /root/.aws.4`)
		req := m.secretsOnly()
		req.Rules[0].Glob = "/root/.aws.*"
		plan := m.plan(m.login(), req)
		_, res := m.run(m.login(), req)
		if out := m.Sh("cat /workspace/work/f /mnt/homes/user/f 2>&1 || :"); out != "mine\nmine\n" {
			t.Errorf("they hold %q", out)
		}
		want := []string{"/root/.aws.1", "/root/.aws.2", "/root/.aws.3"}
		for what, items := range map[string][]protocol.Item{"plan": plan.Items, "result": res.Items} {
			told := withCode(items, protocol.Link)
			slices.Sort(told)
			if !slices.Equal(told, want) {
				t.Errorf("the %s tells of %q", what, told)
			}
		}
		var secrets []string
		for _, s := range res.Secrets {
			secrets = append(secrets, s.Path)
		}
		slices.Sort(secrets)
		if !slices.Equal(secrets, []string{"/mnt/homes", "/mnt/homes/user", "/workspace", "/workspace/aws/key"}) {
			t.Errorf("secrets: %q", secrets)
		}
		if left := m.found(); len(left) > 0 || res.Remains() > 0 || plan.Total.Files != 1 {
			t.Errorf("left: %q, %+v; planned: %+v", left, res.Items, plan.Total)
		}
	})
}
