// Package overlay runs an instance for tests of code that removes files and kills processes. It looks like a container
// of Docker's: the root is an overlayfs, the processes have namespaces and the capabilities that Docker leaves them, and
// the first of them carries the label of a Vast.ai instance in its environment.
//
// The lower layer is this machine's root without its private directories, and everything written goes to an upper
// layer that ends with the test. So `rm -rf /etc` and `kill -9 -1` inside touch nothing outside. Only the network is
// shared: sshd listens on loopback addresses of this machine.
package overlay

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/sshd/daemon"
	"vast-ssh/internal/testenv"
)

// Config says what an instance is. The zero Config is the instance 0 with one ed25519 host key on a free port of
// 127.0.0.1.
type Config struct {
	// ID is the instance id: the environment of process 1 has VAST_CONTAINERLABEL=C.ID.
	ID uint64
	// Label is another value for VAST_CONTAINERLABEL, as in a wrong container. "-" is none.
	Label string
	// Env is more of the environment of process 1, NAME=value each.
	Env []string
	// HostKeys are the types of the host keys to make: "ed25519", "ecdsa", "rsa". Empty means "ed25519" only. They are
	// kept in /etc/ssh/ssh_host_TYPE_key.
	HostKeys []string
	// Listen are the addresses, "127.0.0.x:port". Port 0 is a free port. Empty means "127.0.0.1:0".
	Listen []string
	// AuthorizedKeys are lines of /root/.ssh/authorized_keys.
	AuthorizedKeys []string
	// Busybox leaves sessions nothing but busybox: their shell is its, and their PATH is one directory of its links.
	Busybox bool
	// NoExec and Tmpfs are directories to mount a tmpfs at, with and without noexec.
	NoExec, Tmpfs []string
	// Volumes are directories of this machine, by the directories of the instance where they are mounted.
	Volumes map[string]string
	// ReadOnly are directories of the instance, volumes too, that nobody can write to.
	ReadOnly []string
	// Disk is the size in bytes of a disk of its own for the upper layer, an image with ext4 for ScanDisk. 0 means that
	// the upper layer is a tmpfs.
	Disk int64
	// Seconds makes the container younger than its image by the seconds of the clock, for programs that see no less.
	Seconds bool
	// Foreground is a script of bash that process 1 runs to its end, and then ends itself, as an image's entrypoint does
	// that starts sshd and waits for something else. Empty means that process 1 waits for nothing.
	Foreground string
	// Extra are lines of sshd_config, as those of sshd.Config.
	Extra []string
}

// killTimeout bounds the end of an instance.
const killTimeout = 3 * time.Minute

// Instance is a running instance. Its methods may be called from several goroutines; those that fail the test only
// from the test's.
type Instance struct {
	t       testing.TB
	config  Config
	dir     string
	sshd    string
	nsenter string
	keys    []hostKey

	// areas are the file systems that end with the instance. They stay open until the test ends, for Scan.
	areas []area
	log   daemon.Log
	// drained is closed when nobody inside holds the log any more.
	drained chan struct{}
	init    *daemon.Process
	// orders is the stdin of process 1. It ends when it is closed.
	orders *os.File

	// authorizing serializes the changes of authorized_keys.
	authorizing sync.Mutex

	// mu protects the following.
	mu    sync.Mutex
	addrs []string
}

type hostKey struct {
	kind    string
	public  ssh.PublicKey
	private []byte
}

// Start starts an instance and returns when its sshd listens on all its addresses. The test fails when it cannot, and
// is skipped where it is not root's or a program is missing. The instance ends with the test, or with the process of
// the test, and its log is shown if the test failed.
func Start(t testing.TB, c Config) *Instance {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root, for namespaces and mounts")
	}
	for _, program := range []string{"mount", "setpriv", "bash"} {
		testenv.NeedProgram(t, program)
	}
	i := &Instance{
		t: t, config: c, dir: t.TempDir(), sshd: testenv.NeedProgram(t, "sshd"), nsenter: testenv.NeedProgram(t, "nsenter"),
		drained: make(chan struct{}),
	}
	if len(i.config.HostKeys) == 0 {
		i.config.HostKeys = []string{"ed25519"}
	}
	for _, kind := range i.config.HostKeys {
		public, private, err := daemon.NewHostKey(kind)
		if err != nil {
			t.Fatalf("overlay: %v", err)
		}
		i.keys = append(i.keys, hostKey{kind, public, private})
	}
	t.Cleanup(i.cleanup)
	if err := i.boot(); err != nil {
		t.Fatalf("overlay: %v\n%s", err, i.Log())
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{"127.0.0.1:0"}
	}
	i.listen(c.Listen)
	return i
}

// boot makes the file systems and starts process 1.
func (i *Instance) boot() error {
	if i.config.Disk > 0 {
		if err := i.format(); err != nil {
			return err
		}
	}
	stdin, orders, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	log, stderr, err := os.Pipe()
	if err != nil {
		orders.Close()
		return err
	}
	defer stderr.Close()
	cmd := exec.Command("/bin/sh", slices.Concat([]string{"-c", bootScript, "sh", boundingSet, i.script(), i.sshd}, i.environ())...)
	cmd.Dir = "/"
	cmd.Env = []string{gnuPath}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stderr, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Setsid: true}
	init, err := daemon.Start(cmd, i.mountAll)
	if err != nil {
		orders.Close()
		log.Close()
		return err
	}
	i.init, i.orders = init, orders
	go func() {
		defer close(i.drained)
		defer log.Close()
		i.log.Follow(log)
	}()
	return nil
}

// gnuPath is the PATH of everything inside that Busybox does not restrict.
const gnuPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environ is the environment of process 1.
func (i *Instance) environ() []string {
	label := fmt.Sprintf("C.%d", i.config.ID)
	if i.config.Label != "" {
		label = i.config.Label
	}
	env := []string{gnuPath}
	if label != "-" {
		env = append(env, "VAST_CONTAINERLABEL="+label)
	}
	return append(env, i.config.Env...)
}

// boundingSet are the capabilities of Docker's containers.
const boundingSet = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service," +
	"+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"

// bootScript is process 1 until it gives up its capabilities. Only a member of the new PID namespace can mount its
// /proc, of which Docker makes the same parts read-only or empty. Its arguments are the bounding set, the script of
// process 1, the path of sshd, and an environment.
const bootScript = `set -e
mount -t proc -o nosuid,nodev,noexec proc /proc
for part in bus fs irq sys sysrq-trigger; do
	[ ! -e /proc/$part ] || mount --bind -o ro /proc/$part /proc/$part
done
for part in kcore keys timer_list; do
	[ ! -e /proc/$part ] || mount --bind /dev/null /proc/$part
done
capabilities=$1 init=$2 sshd=$3
shift 3
exec env -i "$@" setpriv --bounding-set "$capabilities" bash -c "$init" "$sshd"`

// initScript is process 1: it starts an sshd for every configuration file that it is told, and reaps, as bash does for
// every child, also those it did not start.
const initScript = `while read -r config; do
	if "$0" -t -f "$config"; then "$0" -D -e -f "$config" & else echo "` + daemon.Unusable + `" >&2; fi
done`

// script is what process 1 runs. With a Foreground a child of it takes the orders, and their end ends all.
func (i *Instance) script() string {
	if i.config.Foreground == "" {
		return initScript
	}
	return "exec 3<&0\n{ " + initScript + "; kill -KILL -1; } <&3 3<&- &\nexec 3<&-\n" + i.config.Foreground
}

// Stop kills everything inside, like a container that is destroyed, and returns when it is gone. A stopped instance
// does not start again. What it has written can still be scanned.
func (i *Instance) Stop() {
	i.t.Helper()
	if i.init == nil {
		return
	}
	// The kernel kills all of a PID namespace with its first process, and lets that one end last.
	i.init.Process.Kill()
	timeout := time.NewTimer(killTimeout)
	defer timeout.Stop()
	for _, end := range []<-chan struct{}{i.init.Done, i.drained} {
		select {
		case <-end:
		case <-timeout.C:
			i.t.Errorf("overlay: the instance was killed and did not end within %v", killTimeout)
			return
		}
	}
}

func (i *Instance) cleanup() {
	i.Stop()
	if i.orders != nil {
		i.orders.Close()
	}
	for _, a := range i.areas {
		a.dir.Close()
	}
	if i.config.Disk > 0 {
		if err := detached(i.image()); err != nil {
			i.t.Errorf("overlay: %v", err)
		}
	}
	if i.t.Failed() {
		i.t.Logf("log of instance %d %v:\n%s", i.config.ID, i.Addrs(), i.Log())
	}
}

// Alive reports whether process 1 runs.
func (i *Instance) Alive() bool {
	select {
	case <-i.init.Done:
		return false
	default:
		return true
	}
}

// Ended is closed when process 1 has ended.
func (i *Instance) Ended() <-chan struct{} { return i.init.Done }

// Addr returns the first address, "host:port".
func (i *Instance) Addr() string { return i.Addrs()[0] }

// Addrs returns the addresses in the order of Config.Listen, with the ports the instance got.
func (i *Instance) Addrs() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.addrs)
}

// HostKeys returns the host keys in the order of Config.HostKeys.
func (i *Instance) HostKeys() []ssh.PublicKey {
	var keys []ssh.PublicKey
	for _, k := range i.keys {
		keys = append(keys, k.public)
	}
	return keys
}

// User returns the name to log in with.
func (i *Instance) User() string { return "root" }

// Log returns what process 1 and sshd have written to their stderr so far, at most the first MiB.
func (i *Instance) Log() string { return i.log.Text() }
