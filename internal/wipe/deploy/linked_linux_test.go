package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
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
			mkdir -p /var/empty/sshd /var/lib/empty /usr/share/empty.sshd /usr/share/empty.other /etc/authselect
			echo auth >/etc/authselect/system-auth`)
		res := m.result(m.begin(m.login(), m.everything()))
		left := strings.Fields(m.Sh("ls -d /usr/libexec/openssh/* /usr/sbin/sshd-* /etc/authselect/* /var/empty/* /var/lib/empty /usr/share/empty.*"))
		want := []string{
			"/etc/authselect/system-auth", "/usr/libexec/openssh/sshd-auth", "/usr/sbin/sshd-session", "/usr/share/empty.sshd",
			"/var/empty/sshd", "/var/lib/empty",
		}
		if !slices.Equal(left, want) || res.Remains() > 0 {
			t.Errorf("left: %q, %+v", left, res.Items)
		}
	})
}
