package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vast-ssh/config"
	"vast-ssh/internal/testenv"
)

// activated starts a listener that becomes the agent when somebody connects to one of the sockets.
func (w *World) activated(sockets ...string) (agent *exec.Cmd, stderr *bytes.Buffer) {
	w.T.Helper()
	var args []string
	for _, s := range sockets {
		args = append(args, "--listen="+s)
	}
	for _, kv := range w.Env() {
		args = append(args, "--setenv="+kv)
	}
	args = append(args, "--fdname=vast-agent:vast-agent", filepath.Join(w.Bin, "vast-agent"), "run")
	agent = w.Command(context.Background(), nil, testenv.NeedProgram(w.T, "systemd-socket-activate"), args...)
	stderr = new(bytes.Buffer)
	agent.Stderr = stderr
	if err := agent.Start(); err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	for _, s := range sockets {
		// It makes them for everybody to read, as no unit of ours does.
		eventually(w.T, s+" is there", func() bool { return os.Chmod(s, 0o600) == nil })
	}
	return agent, stderr
}

// The agent takes the sockets of a service manager over, which are there before it and after it.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	w := New(t)
	w.Must("vast-ssh", "key", "init")
	if err := os.MkdirAll(w.Dirs.State, 0o700); err != nil {
		t.Fatal(err)
	}
	agent, stderr := w.activated(w.Dirs.ControlSocket(), w.Dirs.AgentSocket())
	r := w.Run("vast-agent", "status", "--json")
	var status struct{ PID int }
	if err := json.Unmarshal([]byte(r.Stdout), &status); err != nil {
		t.Fatalf("%v: %+v\n%s", err, r, stderr)
	}
	if status.PID != agent.Process.Pid {
		t.Errorf("pid %d answers, %d was started", status.PID, agent.Process.Pid)
	}
	keys := w.RunEnv([]string{"SSH_AUTH_SOCK=" + w.Dirs.AgentSocket()}, testenv.NeedProgram(t, "ssh-add"), "-L")
	if show := w.Must("vast-ssh", "key", "show"); keys.Code != 0 || strings.Fields(keys.Stdout)[1] != strings.Fields(show)[1] {
		t.Errorf("the agent has another key: %+v\n%s", keys, show)
	}
	w.Must("vast-agent", "stop")
	if err := agent.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
	for _, s := range []string{w.Dirs.AgentSocket(), w.Dirs.ControlSocket()} {
		if info, err := os.Lstat(s); err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
}

// Sockets that are not the agent's own two end it.
func TestSocketActivationRefused(t *testing.T) {
	t.Parallel()
	for name, sockets := range map[string]func(w *World) []string{
		"one":     func(w *World) []string { return []string{w.Dirs.ControlSocket()} },
		"another": func(w *World) []string { return []string{w.Dirs.ControlSocket(), w.Dirs.AgentSocket() + "2"} },
		"open to others": func(w *World) []string {
			if err := os.Chmod(w.Dirs.State, 0o755); err != nil {
				t.Fatal(err)
			}
			return []string{w.Dirs.ControlSocket(), w.Dirs.AgentSocket()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := New(t)
			if err := os.MkdirAll(w.Dirs.State, 0o700); err != nil {
				t.Fatal(err)
			}
			agent, stderr := w.activated(sockets(w)...)
			if r := w.Run("vast-agent", "status"); r.Code == 0 {
				t.Errorf("an agent answers: %s", r.Stdout)
			}
			if err := agent.Wait(); err == nil || !strings.Contains(stderr.String(), "\nerror: ") {
				t.Errorf("%v\n%s", err, stderr)
			}
			if err := os.Chmod(w.Dirs.State, 0o700); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// manager is a systemd of another user that manages that user's services, apart from the machine's own.
type manager struct {
	t      *testing.T
	home   string
	dirs   config.Dirs
	pid    int // in its name spaces
	stderr lockedBuffer
}

// What the manager needs of a machine: to look like one that systemd has booted, a directory for the user's sockets, and a
// tree of control groups of the user's own.
const managerScript = `
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$GROUPS_AT"
mkdir "$GROUPS_AT/$GROUP"
echo 0 >"$GROUPS_AT/$GROUP/cgroup.procs"
chown -R "$USER_ID" "$GROUPS_AT/$GROUP"
umount "$GROUPS_AT"
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chmod 0700 "$XDG_RUNTIME_DIR"
chown "$USER_ID" "$XDG_RUNTIME_DIR"
exec unshare --cgroup sh -ec '
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups "$0" --user &
    wait
' "$SYSTEMD"
`

func newManager(t *testing.T) *manager {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root, to be another user and the manager of its services")
	}
	for _, program := range []string{"systemctl", "unshare", "nsenter", "setpriv", "mount"} {
		testenv.NeedProgram(t, program)
	}
	systemd := "/usr/lib/systemd/systemd"
	if _, err := os.Stat(systemd); err != nil {
		systemd = "/lib/systemd/systemd"
		if _, err := os.Stat(systemd); err != nil {
			testenv.Missing(t, "systemd")
		}
	}
	home, err := os.MkdirTemp("", "vs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	m := &manager{t: t, home: home}
	// What a unit file might make something else of.
	state := filepath.Join(home, "s %h $X;&#")
	if m.dirs, err = config.LocateDirs(func(name string) string {
		return map[string]string{"HOME": home, "XDG_STATE_HOME": state}[name]
	}); err != nil {
		t.Fatal(err)
	}
	if err := m.copyPrograms(); err != nil {
		t.Fatal(err)
	}
	groups := filepath.Join(home, "groups")
	if err := os.Mkdir(groups, 0o700); err != nil {
		t.Fatal(err)
	}
	group := fmt.Sprintf("vast-ssh-test-%d", os.Getpid())

	cmd := exec.Command("sh", "-c", managerScript)
	cmd.Env = append(m.env(), "GROUPS_AT="+groups, "GROUP="+group, "USER_ID="+strconv.Itoa(stranger), "SYSTEMD="+systemd,
		"SYSTEMD_LOG_TARGET=console")
	cmd.Stderr = &m.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		testenv.Missing(t, "the right to make name spaces")
	} else if err != nil {
		t.Fatal(err)
	}
	m.pid = cmd.Process.Pid
	t.Cleanup(func() {
		// With its first process goes everybody in the name space.
		cmd.Process.Kill()
		cmd.Wait()
		clean := `mount -t cgroup2 cgroup2 "$0" && find "$0/$1" -depth -type d -exec rmdir {} +`
		if out, err := exec.Command("unshare", "--mount", "sh", "-c", clean, groups, group).CombinedOutput(); err != nil {
			t.Logf("the control group stays: %v\n%s", err, out)
		}
		if t.Failed() {
			t.Logf("the manager said:\n%s", m.stderr.String())
		}
	})
	eventually(t, "the manager answers", func() bool {
		return m.run("systemctl", "--user", "show", "--property=Version").Code == 0
	})
	if t.Failed() {
		t.FailNow()
	}
	return m
}

// copyPrograms puts the programs where the other user can run them, and gives that user a home.
func (m *manager) copyPrograms() error {
	bin := filepath.Join(m.home, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"vast-ssh", "vast-agent"} {
		data, err := os.ReadFile(filepath.Join(Programs(m.t), name))
		if err != nil {
			return err
		}
		writeProgram(m.t, filepath.Join(bin, name), data)
		if err := os.Chmod(filepath.Join(bin, name), 0o755); err != nil {
			return err
		}
	}
	return errors.Join(os.Chown(bin, stranger, stranger), os.Chown(m.home, stranger, stranger))
}

func (m *manager) env() []string {
	return []string{
		"HOME=" + m.home,
		"PATH=" + filepath.Join(m.home, "bin") + ":/usr/sbin:/usr/bin:/sbin:/bin",
		"XDG_RUNTIME_DIR=/run/user/" + strconv.Itoa(stranger),
		"XDG_STATE_HOME=" + filepath.Dir(m.dirs.State),
		"LANG=C.UTF-8",
	}
}

// run runs a program as the user of the manager, beside it.
func (m *manager) run(args ...string) Result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	id := strconv.Itoa(stranger)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.pid), "--mount", "--pid", "--cgroup",
		"setpriv", "--reuid", id, "--regid", id, "--clear-groups"}, args...)...)
	cmd.Env = m.env()
	cmd.Dir = "/"
	cmd.WaitDelay = runTimeout
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		m.t.Fatalf("%q: %v", args, err)
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (m *manager) must(args ...string) string {
	m.t.Helper()
	r := m.run(args...)
	if r.Code != 0 {
		m.t.Fatalf("%q: exit %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// says checks that a program that succeeds says each of words.
func (m *manager) says(words []string, args ...string) {
	m.t.Helper()
	out := m.must(args...)
	for _, w := range words {
		if !strings.Contains(out, w) {
			m.t.Errorf("%q does not say %q:\n%s", args, w, out)
		}
	}
}

// property is one of the service's.
func (m *manager) property(name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.must("systemctl", "--user", "show", "--value", "--property="+name, "vast-agent.service"))
}

// lockedBuffer can be read while a program writes.
type lockedBuffer struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

type serviceStatus struct {
	PID     int
	Sandbox string
}

func (m *manager) status() (st serviceStatus) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.must("vast-agent", "status", "--json")), &st); err != nil {
		m.t.Fatal(err)
	}
	return st
}

// A systemd of a user without any privilege takes the units as they are, restricts the agent as far as they say, and
// starts it when it is needed.
func TestUserManager(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.must("vast-ssh", "key", "init")
	m.must("vast-agent", "start")
	byHand := m.status()
	m.says([]string{"wrote ", "stopped the agent that was running", "the agent answers: pid "}, "vast-agent", "install")
	if said := m.stderr.String(); strings.Contains(said, "vast-agent") {
		t.Errorf("the manager complains:\n%s", said)
	}
	first := m.status()
	if first.PID == byHand.PID || strconv.Itoa(first.PID) != m.property("MainPID") {
		t.Errorf("pid %d answers, the service is %s, and before there was %d", first.PID, m.property("MainPID"), byHand.PID)
	}
	for _, s := range []string{m.dirs.AgentSocket(), m.dirs.ControlSocket()} {
		if info, err := os.Lstat(s); err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	m.says([]string{"NoNewPrivs:\t1", "Seccomp:\t2"}, "cat", fmt.Sprintf("/proc/%d/status", first.PID))
	limits := strings.Join(strings.Fields(m.must("cat", fmt.Sprintf("/proc/%d/limits", first.PID))), " ")
	for _, l := range []string{"Max core file size 0 0 bytes", "Max locked memory 1048576 1048576 bytes"} {
		if !strings.Contains(limits, l) {
			t.Errorf("the limits have no %q:\n%s", l, limits)
		}
	}
	// The restrictions of the unit do not take away what the agent restricts itself by.
	if first.Sandbox != byHand.Sandbox || first.Sandbox == "" {
		t.Errorf("as a service: %q, by hand: %q", first.Sandbox, byHand.Sandbox)
	}
	keys := m.must("env", "SSH_AUTH_SOCK="+m.dirs.AgentSocket(), "ssh-add", "-L")
	if show := m.must("vast-ssh", "key", "show"); strings.Fields(keys)[1] != strings.Fields(show)[1] {
		t.Errorf("the agent has another key: %s\n%s", keys, show)
	}
	m.says([]string{"is up to date", "vast-agent.socket is active"}, "vast-agent", "install")
	if st := m.status(); st != first {
		t.Errorf("after a second install: %+v, before %+v", st, first)
	}

	// One by hand beside it does nothing.
	if r := m.run("vast-agent", "run"); r.Code != 1 || !strings.Contains(r.Stderr, "running already") {
		t.Errorf("a second agent: %+v", r)
	}
	m.must("vast-agent", "start")
	if st := m.status(); st != first {
		t.Errorf("after a second agent: %+v, before %+v", st, first)
	}

	// However it ends, whoever connects next has another.
	m.must("kill", "-KILL", strconv.Itoa(first.PID))
	second := m.status()
	if second.PID == first.PID {
		t.Error("the first agent outlived SIGKILL")
	}
	m.must("vast-agent", "stop")
	if result := m.property("Result"); result != "success" {
		t.Errorf("it stopped with %q", result)
	}
	if third := m.status(); third.PID == second.PID || strconv.Itoa(third.PID) != m.property("MainPID") {
		t.Errorf("pid %d answers after %d, the service is %s", third.PID, second.PID, m.property("MainPID"))
	}
	m.must("systemctl", "--user", "restart", "vast-agent.service")
	m.status()

	// At a login systemd takes the sockets' places though an agent of an earlier session lives. That one sees it and goes.
	m.must("systemctl", "--user", "stop", "vast-agent.socket", "vast-agent.service")
	m.must("vast-agent", "start")
	byHand = m.status()
	m.must("systemctl", "--user", "start", "vast-agent.socket")
	eventually(t, "the service has taken the place of the agent", func() bool {
		r := m.run("vast-agent", "status", "--json")
		var st serviceStatus
		return r.Code == 0 && json.Unmarshal([]byte(r.Stdout), &st) == nil && strconv.Itoa(st.PID) == m.property("MainPID")
	})
	if m.run("kill", "-0", strconv.Itoa(byHand.PID)).Code == 0 {
		t.Error("the agent of before lives")
	}

	m.says([]string{"removed "}, "vast-agent", "install", "--uninstall")
	if r := m.run("vast-agent", "status"); r.Code != 1 || !strings.Contains(r.Stderr, "not running") {
		t.Errorf("after it was uninstalled: %+v", r)
	}
	for _, path := range []string{
		m.dirs.AgentSocket(), m.dirs.ControlSocket(),
		filepath.Join(m.home, ".config/systemd/user/vast-agent.socket"),
		filepath.Join(m.home, ".config/systemd/user/vast-agent.service"),
		filepath.Join(m.home, ".config/systemd/user/sockets.target.wants/vast-agent.socket"),
	} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	// The agent that people start themselves is back.
	m.must("vast-agent", "start")
	m.must("vast-agent", "stop")
}
