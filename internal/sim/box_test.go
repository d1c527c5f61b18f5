package sim_test

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/simtest"
	"vast-ssh/internal/sim/sshd/daemon"
	"vast-ssh/internal/testenv"
)

func newBox(t *testing.T, opts sim.BoxOptions) (*sim.Box, string) {
	t.Helper()
	b, err := sim.NewBox(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, listen(t, b, "127.0.0.1:0")
}

// listen draws a port as the sshd of the tests do: nobody else takes it while a machine that was unplugged does not listen.
func listen(t *testing.T, b *sim.Box, addr string) string {
	t.Helper()
	given, err := daemon.Listen([]string{addr}, func(addrs []string) error {
		_, err := b.Listen(addrs[0])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return given[0]
}

func mustDial(t *testing.T, b *sim.Box, addr string, l simtest.Identity) *ssh.Client {
	t.Helper()
	c, err := l.Dial(addr, "root", ssh.FixedHostKey(b.HostKeys()[0]), ssh.KeyAlgoED25519)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// runOn runs a command and returns its output and exit status.
func runOn(t *testing.T, c *ssh.Client, command, stdin string) (stdout, stderr string, status int) {
	t.Helper()
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	var out, errOut bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = strings.NewReader(stdin), &out, &errOut
	err = session.Run(command)
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitStatus()
	} else if err != nil {
		t.Fatalf("%q: %v", command, err)
	}
	return out.String(), errOut.String(), status
}

func TestBoxCommands(t *testing.T) {
	l := simtest.NewIdentity(t)
	b, addr := newBox(t, sim.BoxOptions{
		Hostname: "C.4000001", GPUName: "H100", NumGPUs: 2, AuthorizedKeys: []string{l.Line},
		Files: map[string]string{"/workspace/notes": "hello\n", "/../../escape": "caught\n"},
	})
	c := mustDial(t, b, addr, l)
	for _, test := range []struct {
		command, stdin, stdout, stderr string
		status                         int
	}{
		{command: "hostname", stdout: "C.4000001\n"},
		{command: "whoami", stdout: "root\n"},
		{command: "id", stdout: "uid=0(root) gid=0(root) groups=0(root)\n"},
		{command: "pwd", stdout: "/root\n"},
		{command: "cd /workspace && pwd && cat notes", stdout: "/workspace\nhello\n"},
		{command: "cat /workspace/notes ~/../workspace/notes", stdout: "hello\nhello\n"},
		{command: "ls /", stdout: "escape\netc\nroot\nworkspace\n"},
		{command: "ls -la /workspace/notes", stdout: "/workspace/notes\n"},
		{command: "cat", stdin: "through\n", stdout: "through\n"},
		{command: `echo a  'b  c' "d $USER" $VAST_CONTAINERLABEL # not this`, stdout: "a b  c d root C.4000001\n"},
		{command: "false; echo $?", stdout: "1\n"},
		{command: "false && echo no || echo yes", stdout: "yes\n"},
		{command: "true || echo no; echo after", stdout: "after\n"},
		{command: "true; exit 7; echo no", status: 7},
		{command: "false", status: 1},
		{command: "", status: 0},
		{command: "env", stdout: "CONTAINER_ID=4000001\nHOME=/root\nLOGNAME=root\nPATH=/usr/local/bin:/usr/bin:/bin\n" +
			"PWD=/root\nSHELL=/bin/bash\nUSER=root\nVAST_CONTAINERLABEL=C.4000001\n"},
		{command: "sh -c id", stderr: "sh: sh: command not found (this machine is simulated, see help)\n", status: 127},
		{command: "/bin/ls", stderr: "sh: /bin/ls: command not found (this machine is simulated, see help)\n", status: 127},
		{command: "cat /no", stderr: "cat: /no: no such file or directory\n", status: 1},
		{command: "cat /workspace", stderr: "cat: /workspace: not a regular file\n", status: 1},
		{command: "cd /workspace/notes", stderr: "cd: /workspace/notes: not a directory\n", status: 1},
		{command: "ls /no", stderr: "ls: /no: no such file or directory\n", status: 1},
		{command: "echo 'open", stderr: "sh: a quote is open\n", status: 2},
		{command: "cat /root/onstart.sh | sh", stderr: "sh: '|' is more than this simulated shell can do\n", status: 2},
		{command: "echo x > /root/x", stderr: "sh: '>' is more than this simulated shell can do\n", status: 2},
		{command: "echo $(id)", stderr: "sh: \"$\" is more than this simulated shell can do\n", status: 2},
		{command: "echo `id`", stderr: "sh: '`' is more than this simulated shell can do\n", status: 2},
	} {
		stdout, stderr, status := runOn(t, c, test.command, test.stdin)
		if stdout != test.stdout || stderr != test.stderr || status != test.status {
			t.Errorf("%q: stdout %q, stderr %q, status %d", test.command, stdout, stderr, status)
		}
	}
	list, _, _ := runOn(t, c, "nvidia-smi -L", "")
	table, _, status := runOn(t, c, "nvidia-smi", "")
	uuids, names := strings.Count(list, "NVIDIA GeForce H100 (UUID: GPU-"), strings.Count(table, "NVIDIA H100")
	if uuids != 2 || names != 2 || status != 0 {
		t.Errorf("nvidia-smi: %s\n%s", list, table)
	}
	lines := strings.Split(strings.TrimSpace(table), "\n")
	for _, line := range lines {
		if len(line) != len(lines[0]) {
			t.Errorf("a crooked table:\n%s", table)
			break
		}
	}
}

// No path and no symbolic link leads out of the machine's directory.
func TestBoxKeepsInside(t *testing.T) {
	l := simtest.NewIdentity(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	b, addr := newBox(t, sim.BoxOptions{AuthorizedKeys: []string{l.Line}})
	dirs, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("directories of the box: %v %v", dirs, err)
	}
	links := map[string]string{"file": outside, "dir": filepath.Dir(outside), "up": "../../../../../../../.."}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dirs[0], "root", name)); err != nil {
			t.Fatal(err)
		}
	}
	c := mustDial(t, b, addr, l)
	for _, command := range []string{
		"cat " + outside, "cat ../../../../../../../../.." + outside, "cat file", "cat dir/secret", "ls dir", "cd dir",
		"ls up", "cat up" + outside, "cd up && ls",
	} {
		stdout, stderr, status := runOn(t, c, command, "")
		if status == 0 || stdout != "" || strings.Contains(stderr, dirs[0]) {
			t.Errorf("%s: stdout %q, stderr %q, status %d", command, stdout, stderr, status)
		}
	}
	if stdout, _, _ := runOn(t, c, "cd ../../..; pwd; ls", ""); stdout != "/\netc\nroot\nworkspace\n" {
		t.Errorf("above the root: %q", stdout)
	}
	b.Close()
	if _, err := os.Stat(dirs[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Close left the directory: %v", err)
	}
}

func TestBoxShells(t *testing.T) {
	l := simtest.NewIdentity(t)
	b, addr := newBox(t, sim.BoxOptions{AuthorizedKeys: []string{l.Line}})
	c := mustDial(t, b, addr, l)
	for _, terminal := range []bool{false, true} {
		session, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if terminal {
			if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		session.Stdin, session.Stdout = strings.NewReader("cd /workspace\rpwd\rexit 3\r"), &out
		if !terminal {
			session.Stdin = strings.NewReader("cd /workspace\npwd\nexit 3\npwd\n")
		}
		if err := session.Shell(); err != nil {
			t.Fatal(err)
		}
		var exit *ssh.ExitError
		if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
			t.Errorf("terminal %v: %v", terminal, err)
		}
		prompted := strings.Contains(out.String(), "root@C.0:/workspace# ")
		if terminal != prompted || !strings.Contains(out.String(), "/workspace") {
			t.Errorf("terminal %v: %q", terminal, out.String())
		}
	}
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := session.Output("whoami"); err != nil || string(out) != "root\r\n" {
		t.Errorf("a command at a terminal: %q %v", out, err)
	}
}

func TestBoxLetsIn(t *testing.T) {
	owner, stranger := simtest.NewIdentity(t), simtest.NewIdentity(t)
	b, addr := newBox(t, sim.BoxOptions{AuthorizedKeys: []string{owner.Line}, RSA: true})
	host := ssh.FixedHostKey(b.HostKeys()[0])
	may := func(user string, l simtest.Identity) bool {
		c, err := l.Dial(addr, user, host, ssh.KeyAlgoED25519)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	if !may("root", owner) || may("ubuntu", owner) || may("root", stranger) {
		t.Error("only root with the authorized key should get in")
	}
	if err := b.Authorize(stranger.Line); err != nil || !may("root", stranger) {
		t.Errorf("a key authorized later: %v", err)
	}
	if err := b.Authorize("nonsense"); err == nil {
		t.Error("authorized nonsense")
	}
	for i, algorithm := range []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoRSASHA256} {
		c, err := owner.Dial(addr, "root", ssh.FixedHostKey(b.HostKeys()[i]), algorithm)
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			continue
		}
		c.Close()
	}
	if _, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: "root", HostKeyCallback: host, HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		Auth: []ssh.AuthMethod{ssh.Password("")},
	}); err == nil {
		t.Error("a password got in")
	}
}

func TestBoxRefusals(t *testing.T) {
	l := simtest.NewIdentity(t)
	b, addr := newBox(t, sim.BoxOptions{AuthorizedKeys: []string{l.Line}})
	c := mustDial(t, b, addr, l)
	if conn, err := c.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("it forwards connections")
	}
	if listener, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		listener.Close()
		t.Error("it listens for a client")
	}
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if session.RequestSubsystem("sftp") == nil || session.Setenv("A", "B") == nil {
		t.Error("it accepts a subsystem or a variable")
	}
	if err := session.Run("echo " + strings.Repeat("x", 5000)); err == nil {
		t.Error("it takes a command of any length")
	}
	for n := 0; ; n++ {
		if n > 100 {
			t.Error("it opens any number of sessions")
			break
		}
		if _, err := c.NewSession(); err != nil {
			break
		}
	}
	if _, err := b.Listen("0.0.0.0:0"); err == nil {
		t.Error("it listens to the network")
	}
}

// Two routes to one machine; it moves; another machine takes its old address.
func TestBoxMoves(t *testing.T) {
	l := simtest.NewIdentity(t)
	b, direct := newBox(t, sim.BoxOptions{AuthorizedKeys: []string{l.Line}})
	gateway := listen(t, b, "127.0.0.1:0")
	c := mustDial(t, b, direct, l)
	mustDial(t, b, gateway, l)

	b.Unplug()
	if err := c.Wait(); err == nil {
		t.Error("a session outlived Unplug")
	}
	if conn, err := net.Dial("tcp", direct); err == nil {
		conn.Close()
		t.Error("an unplugged machine listens")
	}
	impostor, err := sim.NewBox(sim.BoxOptions{AuthorizedKeys: []string{l.Line}})
	if err != nil {
		t.Fatal(err)
	}
	defer impostor.Close()
	if got := listen(t, impostor, direct); got != direct {
		t.Fatalf("the impostor is at %s", got)
	}
	moved := listen(t, b, "127.0.0.1:0")
	mustDial(t, b, moved, l)
	if _, err := l.Dial(direct, "root", ssh.FixedHostKey(b.HostKeys()[0]), ssh.KeyAlgoED25519); err == nil {
		t.Error("the impostor shows the other machine's host key")
	}
	b.Close()
	if _, err := b.Listen("127.0.0.1:0"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed machine listens: %v", err)
	}
}

func TestBoxWithOpenSSH(t *testing.T) {
	program := testenv.NeedProgram(t, "ssh")
	l := simtest.NewIdentity(t)
	b, addr := newBox(t, sim.BoxOptions{AuthorizedKeys: []string{l.Line}})
	host, port, _ := net.SplitHostPort(addr)
	known := filepath.Join(t.TempDir(), "known_hosts")
	var lines strings.Builder
	for _, key := range b.HostKeys() {
		fmt.Fprintf(&lines, "[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(key))
	}
	if err := os.WriteFile(known, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-F", "none", "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes",
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile="+known,
		"-o", "GlobalKnownHostsFile=none", "-i", l.File, "-p", port, "root@"+host, "whoami; exit 7")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || string(out) != "root\n" {
		t.Fatalf("ssh: %v, %q\n%s", err, out, &stderr)
	}
	if !strings.Contains(stderr.String(), "simulated") {
		t.Errorf("no banner:\n%s", &stderr)
	}
}

// A client that shakes no hands, and one that opens connections without end, keep nobody else out for long.
func TestBoxBoundsConnections(t *testing.T) {
	l := simtest.NewIdentity(t)
	b, addr := newBox(t, sim.BoxOptions{AuthorizedKeys: []string{l.Line}})
	var idle []net.Conn
	refused := false
	for range 100 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			refused = true
			break
		}
	}
	if !refused {
		t.Fatalf("%d connections are open", len(idle))
	}
	b.Unplug()
	addr = listen(t, b, addr)
	mustDial(t, b, addr, l)
}

// A Box runs no program of this machine: nothing in its package can start one.
func TestBoxCannotRunPrograms(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	forbidden := []string{"os/exec", "syscall", "golang.org/x/sys/unix", "plugin", "C", "unsafe"}
	checked := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		checked++
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range file.Imports {
			if path, _ := strconv.Unquote(imported.Path.Value); slices.Contains(forbidden, path) {
				t.Errorf("%s imports %s: the simulated machine must not be able to run a program", name, path)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "StartProcess" {
				t.Errorf("%s calls StartProcess: the simulated machine must not be able to run a program", name)
			}
			return true
		})
	}
	if checked == 0 {
		t.Error("found no file to check")
	}
}
