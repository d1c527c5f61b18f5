package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
)

// world is what a restricted process meets.
type world struct {
	state, read, outside string // directories
	tcp, abstract, file  string // addresses of listeners
}

const worldEnv = "SANDBOX_TEST_WORLD"

func (w world) String() string {
	return strings.Join([]string{w.state, w.read, w.outside, w.tcp, w.abstract, w.file}, "\n")
}

// TestMain is the restricted process when it is told so: there is no way back.
func TestMain(m *testing.M) {
	if text := os.Getenv(worldEnv); text != "" {
		f := strings.Split(text, "\n")
		if err := restricted(world{f[0], f[1], f[2], f[3], f[4], f[5]}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestRestrict has a process of its own try everything, in many threads.
func TestRestrict(t *testing.T) {
	if abi, err := llsys.LandlockGetABIVersion(); err != nil || abi < 6 {
		testenv.Missing(t, "a kernel with Landlock ABI 6")
	}
	dir := t.TempDir()
	w := world{state: filepath.Join(dir, "state"), read: filepath.Join(dir, "read"), outside: filepath.Join(dir, "outside")}
	for _, d := range []string{w.state, w.read, w.outside} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "there"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	short, err := os.MkdirTemp("", "sb")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	for network, address := range map[string]*string{"tcp": &w.tcp, "unix": &w.file} {
		listen := map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(short, "s")}[network]
		l, err := net.Listen(network, listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		*address = l.Addr().String()
	}
	w.abstract = fmt.Sprintf("@vast-ssh-test-%d", os.Getpid())
	l, err := net.Listen("unix", w.abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), worldEnv+"="+w.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// attempt is one thing to try. want is nil for what is left.
type attempt struct {
	name string
	try  func() error
	want error
}

// newCode is what becomes of memory that is to be executable, where the kernel knows PR_SET_MDWE.
var newCode error

func attempts(w world, n int) []attempt {
	name := func(dir string) string { return filepath.Join(dir, fmt.Sprintf("new%d", n)) }
	dial := func(network, address string) func() error {
		return func() error {
			c, err := net.Dial(network, address)
			if err == nil {
				c.Close()
			}
			return err
		}
	}
	read := func(path string) func() error {
		return func() error { _, err := os.ReadFile(path); return err }
	}
	write := func(path string) func() error {
		return func() error { return os.WriteFile(path, []byte("x"), 0o600) }
	}
	start := func(path string) func() error {
		return func() error { _, err := syscall.ForkExec(path, []string{path}, nil); return err }
	}
	return []attempt{
		{"read the state", read(filepath.Join(w.state, "there")), nil},
		{"write the state", write(name(w.state)), nil},
		{"rename in the state", func() error { return os.Rename(name(w.state), name(w.state)+"r") }, nil},
		{"remove from the state", func() error { return os.Remove(name(w.state) + "r") }, nil},
		{"read what may be read", read(filepath.Join(w.read, "there")), nil},
		{"write what may be read", write(filepath.Join(w.read, "there")), unix.EACCES},
		{"make a file where it may read", write(name(w.read)), unix.EACCES},
		{"remove what may be read", func() error { return os.Remove(filepath.Join(w.read, "there")) }, unix.EACCES},
		{"read outside", read(filepath.Join(w.outside, "there")), unix.EACCES},
		{"list outside", func() error { _, err := os.ReadDir(w.outside); return err }, unix.EACCES},
		{"write outside", write(name(w.outside)), unix.EACCES},
		{"read /etc/passwd", read("/etc/passwd"), unix.EACCES},
		{"start a program", start("/bin/true"), unix.EPERM},
		{"start itself", start("/proc/self/exe"), unix.EPERM},
		{"start an open file", func() error {
			return unix.Exec("/proc/self/fd/0", []string{"x"}, nil)
		}, unix.EPERM},
		{"connect over TCP", dial("tcp", w.tcp), unix.EPERM},
		{"listen on TCP", func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err }, unix.EPERM},
		{"send over UDP", dial("udp", "127.0.0.1:9"), unix.EPERM},
		{"make a raw netlink socket", func() error {
			_, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)
			return err
		}, unix.EPERM},
		{"make a ring", func() error {
			if _, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); errno != 0 {
				return errno
			}
			return nil
		}, unix.EPERM},
		{"make a pair of sockets", func() error {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err == nil {
				unix.Close(fds[0])
				unix.Close(fds[1])
			}
			return err
		}, nil},
		{"connect to an abstract socket", dial("unix", w.abstract), unix.EPERM},
		{"connect to a socket with a file", dial("unix", w.file), nil},
		{"link the state to elsewhere", func() error {
			return os.Link(filepath.Join(w.state, "there"), name(w.outside))
		}, unix.EACCES},
		{"make a link", func() error { return os.Symlink("/etc", name(w.state)+"l") }, unix.EACCES},
		{"make memory executable", func() error {
			page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return err
			}
			defer unix.Munmap(page)
			return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC)
		}, newCode},
		{"look at another process", func() error {
			_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", os.Getppid()))
			return err
		}, unix.EACCES},
	}
}

// restricted is the process that is restricted. It has threads already when it is.
func restricted(w world) error {
	begin, ready := make(chan struct{}), sync.WaitGroup{}
	errs := make(chan error, 1000)
	var trying sync.WaitGroup
	for n := range 8 {
		ready.Add(1)
		trying.Go(func() {
			runtime.LockOSThread() // a thread that was there before
			ready.Done()
			<-begin
			for _, a := range attempts(w, n) {
				if err := a.try(); !errors.Is(err, a.want) || (a.want == nil) != (err == nil) {
					errs <- fmt.Errorf("thread %d: %s: %v, want %v", n, a.name, err, a.want)
				}
			}
		})
	}
	ready.Wait()
	level, err := Restrict(Rules{Write: []string{w.state}, Read: []string{w.read, "/proc"}})
	if err != nil {
		return err
	}
	if !strings.Contains(level, "Unix sockets only") || !strings.Contains(level, "no abstract sockets") {
		return fmt.Errorf("in force is %q", level)
	}
	if strings.Contains(level, "no new code") {
		newCode = unix.EACCES
	}
	close(begin)
	trying.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// TestRestrictNeedsItsPaths: rules about what is not there would leave the process without its own files.
func TestRestrictNeedsItsPaths(t *testing.T) {
	if abi, err := llsys.LandlockGetABIVersion(); err != nil || abi < 1 {
		testenv.Missing(t, "a kernel with Landlock")
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if level, err := Restrict(Rules{Write: []string{missing}}); err == nil {
		t.Errorf("in force is %q", level)
	}
	if level, err := Restrict(Rules{Read: []string{missing}}); err == nil {
		t.Errorf("in force is %q", level)
	}
}
