package unixsock

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
)

// inheritAndTell is the process that a service manager starts. It prints what it made of its inheritance, and what it
// served one client of each listener.
func inheritAndTell(paths []string) {
	listeners, err := Inherited(paths...)
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "LISTEN_") {
			panic(kv)
		}
	}
	if err != nil {
		fmt.Printf("error: %v", err)
		return
	}
	if listeners == nil {
		fmt.Print("nothing")
		return
	}
	// A program that this one starts gets none of the sockets.
	out, err := exec.Command("sh", "-c", "ls -l /dev/fd/").CombinedOutput()
	if err != nil || strings.Contains(string(out), "socket") {
		panic(fmt.Sprintf("%s %v", out, err))
	}
	os.Stdout.WriteString("serving")
	os.Stdout.Close()
	for i, l := range listeners {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(c, "%d %v", i, l.Lost())
		c.Close()
		if err := l.Close(); err != nil {
			panic(err)
		}
	}
}

// manager passes descriptors to a child as a service manager does.
type manager struct {
	t     *testing.T
	files []*os.File
	env   []string
}

// add passes the socket of l, which goes on listening.
func (m *manager) add(l interface{ File() (*os.File, error) }) {
	m.t.Helper()
	f, err := l.File()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { f.Close() })
	m.files = append(m.files, f)
}

func (m *manager) listen(path string) {
	m.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { l.Close() })
	if err := os.Chmod(path, 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.add(l)
}

// command is a child that wants paths. Its pid is in its environment, for which a shell becomes the child.
func (m *manager) command(paths ...string) *exec.Cmd {
	m.t.Helper()
	cmd := inRole(m.t, "inherit", strings.Join(paths, ":"))
	sh := testenv.NeedProgram(m.t, "sh")
	cmd.Args = []string{sh, "-c", `LISTEN_PID=${LISTEN_PID-$$}; export LISTEN_PID; exec "$0"`, cmd.Path}
	cmd.Path = sh
	cmd.ExtraFiles = m.files
	cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(m.files)), "LISTEN_FDNAMES=vast-agent:vast-agent", "LISTEN_PIDFDID=1")
	cmd.Env = append(cmd.Env, m.env...)
	return cmd
}

func TestInherited(t *testing.T) {
	dir := newDir(t)
	first, second := filepath.Join(dir, "a b%"), filepath.Join(dir, "s")
	m := &manager{t: t}
	m.listen(second) // in another order than they are wanted
	m.listen(first)
	cmd := m.command(first, second)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(stdout); string(said) != "serving" {
		t.Errorf("the child said %q, %v", said, err)
	}
	for i, path := range []string{first, second} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got, err := io.ReadAll(c); string(got) != fmt.Sprint(i, " false") {
			t.Errorf("%s: got %q, %v", path, got, err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	// What was inherited is still there, and somebody listens.
	for _, path := range []string{first, second} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// TestInheritedRefuses passes what is not the two sockets that are wanted.
func TestInheritedRefuses(t *testing.T) {
	const refuse = "error: sockets from the service manager: "
	both := func(m *manager, dir string) {
		m.listen(dir + "/a")
		m.listen(dir + "/s")
	}
	tests := map[string]struct {
		pass func(m *manager, dir string)
		want string // how the child's words begin
	}{
		"nothing":               {func(m *manager, _ string) {}, "nothing"},
		"nothing is said":       {func(m *manager, _ string) { m.env = []string{"LISTEN_FDS="} }, refuse + `LISTEN_FDS is ""`},
		"another process's":     {func(m *manager, dir string) { both(m, dir); m.env = []string{"LISTEN_PID=1"} }, "nothing"},
		"no process's":          {func(m *manager, dir string) { both(m, dir); m.env = []string{"LISTEN_PID="} }, "nothing"},
		"a number that is none": {func(m *manager, _ string) { m.env = []string{"LISTEN_FDS=2x"} }, refuse + `LISTEN_FDS is "2x"`},
		"a negative number":     {func(m *manager, _ string) { m.env = []string{"LISTEN_FDS=-1"} }, refuse + `LISTEN_FDS is "-1"`},
		"a huge number":         {func(m *manager, _ string) { m.env = []string{"LISTEN_FDS=60000"} }, refuse + "60000 were passed, 2 are wanted"},
		"one":                   {func(m *manager, dir string) { m.listen(dir + "/a") }, refuse + "1 were passed"},
		"three":                 {func(m *manager, dir string) { both(m, dir); m.listen(dir + "/x") }, refuse + "3 were passed"},
		"descriptors that are closed": {func(m *manager, _ string) { m.env = []string{"LISTEN_FDS=2"} },
			refuse + "descriptor 3: "},
		"the same twice": {func(m *manager, dir string) {
			m.listen(dir + "/a")
			m.files = append(m.files, m.files[0])
		}, refuse + `"` + "DIR/a" + `" was passed twice`},
		"another path": {func(m *manager, dir string) {
			m.listen(dir + "/a")
			m.listen(dir + "/x")
		}, refuse + `"DIR/x" is not one of ours`},
		"another way to write the path": {func(m *manager, dir string) {
			m.listen(dir + "/a")
			m.listen(dir + "/./s")
		}, refuse + `"DIR/./s" is not one of ours`},
		"a file": {func(m *manager, dir string) {
			m.listen(dir + "/a")
			f, err := os.Open(os.DevNull)
			if err != nil {
				m.t.Fatal(err)
			}
			m.files = append(m.files, f)
		}, refuse + "descriptor 4: socket operation on non-socket"},
		"a TCP socket": {func(m *manager, dir string) {
			m.listen(dir + "/a")
			l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				m.t.Fatal(err)
			}
			m.t.Cleanup(func() { l.Close() })
			m.add(l)
		}, refuse + "descriptor 4: not a Unix socket"},
		"a datagram socket": {func(m *manager, dir string) {
			m.listen(dir + "/a")
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/s", Net: "unixgram"})
			if err != nil {
				m.t.Fatal(err)
			}
			m.t.Cleanup(func() { c.Close() })
			m.add(c)
		}, refuse + "descriptor 4: not a stream socket that listens"},
		"a connection": {func(m *manager, dir string) {
			m.listen(dir + "/a")
			c, err := net.DialUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"}, &net.UnixAddr{Name: dir + "/a", Net: "unix"})
			if err != nil {
				m.t.Fatal(err)
			}
			m.t.Cleanup(func() { c.Close() })
			m.add(c)
		}, refuse + "descriptor 4: not a stream socket that listens"},
		"others may write": {func(m *manager, dir string) {
			both(m, dir)
			m.must(os.Chmod(dir+"/s", 0o666))
		}, refuse + `"DIR/s" is not a socket of ours alone (mode Srw-rw-rw-)`},
		"the group may read": {func(m *manager, dir string) {
			both(m, dir)
			m.must(os.Chmod(dir+"/a", 0o640))
		}, refuse + `"DIR/a" is not a socket of ours alone`},
		"of another user": {func(m *manager, dir string) {
			if os.Geteuid() != 0 {
				testenv.Missing(m.t, "root, to give a file away")
			}
			both(m, dir)
			m.must(os.Lchown(dir+"/a", otherUID, otherUID))
		}, refuse + `"DIR/a" is not a socket of ours alone`},
		"removed": {func(m *manager, dir string) {
			both(m, dir)
			m.must(os.Remove(dir + "/s"))
		}, refuse + "lstat DIR/s: no such file"},
		"a file in its place": {func(m *manager, dir string) {
			both(m, dir)
			m.must(os.Remove(dir + "/s"))
			m.must(os.WriteFile(dir+"/s", nil, 0o600))
		}, refuse + `"DIR/s" is not a socket of ours alone`},
		"a link in its place": {func(m *manager, dir string) {
			both(m, dir)
			m.must(os.Rename(dir+"/s", dir+"/moved"))
			m.must(os.Symlink("moved", dir+"/s"))
		}, refuse + `"DIR/s" is not a socket of ours alone`},
		"in an open directory": {func(m *manager, dir string) {
			both(m, dir)
			m.must(os.Chmod(dir, 0o755))
		}, `error: directory "DIR" is open to other users`},
		"behind a link": {func(m *manager, dir string) {
			both(m, dir)
			m.must(os.Rename(dir, dir+".real"))
			m.t.Cleanup(func() { os.RemoveAll(dir + ".real") })
			m.must(os.Symlink(dir+".real", dir))
		}, `error: directory "DIR" is a symbolic link`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			m := &manager{t: t}
			test.pass(m, dir)
			out, err := m.command(dir+"/a", dir+"/s").Output()
			if err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(test.want, "DIR", dir)
			if !strings.HasPrefix(string(out), want) {
				t.Errorf("the child said %q, want %q", out, want)
			}
		})
	}
}

// TestInheritedAbstract passes a socket whose name only looks like a path.
func TestInheritedAbstract(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("abstract sockets are Linux's")
	}
	dir := newDir(t)
	m := &manager{t: t}
	m.listen(dir + "/a")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "abstract")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + dir + "/s"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	m.files = append(m.files, f)
	out, err := m.command(dir+"/a", dir+"/s").Output()
	if err != nil || !strings.Contains(string(out), "is not one of ours") {
		t.Errorf("the child said %q, %v", out, err)
	}
}

func (m *manager) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}
