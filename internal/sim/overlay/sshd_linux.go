package overlay

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/sshd/daemon"
)

const (
	sshdConfig     = "/etc/ssh/sshd_config"
	authorizedKeys = "/root/.ssh/authorized_keys"
)

func hostKeyFile(kind string) string { return "/etc/ssh/ssh_host_" + kind + "_key" }

func authorizedLine(key ssh.PublicKey) []byte { return ssh.MarshalAuthorizedKey(key) }

// listen starts sshd on the addresses.
func (i *Instance) listen(listen []string) {
	i.t.Helper()
	addrs, err := daemon.Listen(listen, i.try)
	if err != nil {
		i.t.Fatalf("overlay: %v\n%s", err, i.Log())
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.addrs = addrs
}

// try starts sshd once and waits until it has said that it listens on every address.
func (i *Instance) try(addrs []string) error {
	c := daemon.Config{Listen: addrs, AuthorizedKeysFile: authorizedKeys, Extra: i.config.Extra}
	for _, k := range i.keys {
		c.HostKeys = append(c.HostKeys, hostKeyFile(k.kind))
	}
	if i.config.Busybox {
		c.SetEnv = "PATH=" + busyboxDir
	}
	if err := i.write(sshdConfig, c.Text(i.sshd), "644"); err != nil {
		return err
	}
	ready := i.log.Listening(addrs)
	if _, err := fmt.Fprintln(i.orders, sshdConfig); err != nil {
		return err
	}
	err := daemon.Await(ready, i.init)
	if err != nil {
		i.killSSHD(func(process) bool { return true })
	}
	return err
}

// Restart kills sshd and its sessions, and starts it with the files that are there on the addresses given, or on the
// same ones when none is given. All else inside stays.
func (i *Instance) Restart(listen ...string) {
	i.t.Helper()
	i.killSSHD(func(process) bool { return true })
	if len(listen) == 0 {
		listen = i.Addrs()
	}
	i.listen(listen)
}

// DropConnections kills the sshd of every connection, and neither what the sessions have started nor the one that
// listens.
func (i *Instance) DropConnections() {
	i.t.Helper()
	i.killSSHD(func(p process) bool { return !p.listens() })
}

// killSSHD kills the processes of sshd that match, and returns when they are gone.
func (i *Instance) killSSHD(match func(process) bool) {
	i.t.Helper()
	for deadline := time.Now().Add(killTimeout); ; time.Sleep(poll) {
		left := slices.DeleteFunc(i.processes(), func(p process) bool {
			return !strings.HasPrefix(p.name, "sshd") || !match(p)
		})
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			i.t.Errorf("overlay: %d processes of sshd do not end", len(left))
			return
		}
	}
}

// listens reports whether an sshd is the one that listens, by the title that it gives itself.
func (p process) listens() bool {
	title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	return bytes.Contains(title, []byte("[listener]"))
}

// SetAuthorizedKeys replaces the lines of /root/.ssh/authorized_keys, for the logins from now on.
func (i *Instance) SetAuthorizedKeys(lines ...string) {
	i.t.Helper()
	i.authorize(func([]string) []string { return lines })
}

// AddAuthorizedKey adds a line to /root/.ssh/authorized_keys, for the logins from now on.
func (i *Instance) AddAuthorizedKey(line string) {
	i.t.Helper()
	i.authorize(func(lines []string) []string { return append(lines, line) })
}

// RemoveAuthorizedKey takes the key of a line out of /root/.ssh/authorized_keys, whatever its comment, for the logins
// from now on.
func (i *Instance) RemoveAuthorizedKey(line string) {
	i.t.Helper()
	i.authorize(func(lines []string) []string {
		return slices.DeleteFunc(lines, func(other string) bool { return daemon.SameKey(other, line) })
	})
}

// authorize changes the file as it stands, as the host's daemon does. It may run on a goroutine that is not the
// test's. A stopped instance has no file.
func (i *Instance) authorize(change func(lines []string) []string) {
	i.t.Helper()
	i.authorizing.Lock()
	defer i.authorizing.Unlock()
	if !i.Alive() {
		return
	}
	text, err := i.run(nil, `[ ! -e "$1" ] || cat "$1"`, authorizedKeys)
	if err == nil {
		lines := change(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' }))
		err = i.write(authorizedKeys, daemon.AuthorizedKeys(lines), "600")
	}
	if err != nil && i.Alive() {
		i.t.Errorf("overlay: %v", err)
	}
}

// write replaces a file inside. No path is resolved outside: a link that somebody inside made must lead nowhere else.
func (i *Instance) write(name string, text []byte, mode string) error {
	_, err := i.run(text, `set -e
mkdir -p "${1%/*}"
new=$(mktemp "$1.XXXXXX")
cat >"$new"
chmod "$2" "$new"
mv "$new" "$1"`, name, mode)
	return err
}
