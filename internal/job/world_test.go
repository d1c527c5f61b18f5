package job

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

// world is an instance, whose home directory is the test's, and the way to it, which can be cut.
type world struct {
	t      *testing.T
	home   string // of the instance
	server *sshd.Server
	signer ssh.Signer
	relay  *relay
}

// umask is that of this process. It cannot be read without being set, which is no thing to do while several tests run.
var umask = func() int {
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	return mask
}()

// gnu and busybox are programs that an instance has.
const (
	gnu     = "gnu"
	busybox = "busybox"
)

// newWorld starts an instance. programs is gnu, busybox, or a directory that is its PATH.
func newWorld(t *testing.T, programs string) *world {
	t.Helper()
	path := programs
	switch programs {
	case gnu:
		path = "/usr/local/bin:/usr/bin:/bin"
	case busybox:
		path = busyboxDir(t)
	}
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	check(t, err)
	w := &world{t: t, home: t.TempDir(), signer: signer}
	// What the login shell has to say stands in the way of every script.
	write(t, filepath.Join(w.home, ".bashrc"), "echo Welcome to the machine; echo it is noisy >&2\n")
	w.server = sshd.Start(t, sshd.Config{
		AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(signer.PublicKey()))},
		Extra:          []string{fmt.Sprintf("SetEnv HOME=%s PATH=%s", w.home, path)},
	})
	w.relay = newRelay(t, w.server.Addr())
	return w
}

// busyboxDir is a directory with busybox under all its names.
func busyboxDir(t *testing.T) string {
	t.Helper()
	program := testenv.NeedProgram(t, "busybox")
	names, err := exec.Command(program, "--list").Output()
	check(t, err)
	dir := t.TempDir()
	for _, name := range append(strings.Fields(string(names)), "busybox") {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	return dir
}

func (w *world) dial(ctx context.Context) (*ssh.Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", w.relay.addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, chans, reqs, err := ssh.NewClientConn(conn, "instance", &ssh.ClientConfig{
		User: w.server.User(), Auth: []ssh.AuthMethod{ssh.PublicKeys(w.signer)},
		HostKeyCallback: ssh.FixedHostKey(w.server.HostKeys()[0]),
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// output is what a run wrote.
type output struct{ out, err bytes.Buffer }

func (w *world) run(cfg Config) (*Run, *output) {
	w.t.Helper()
	o := new(output)
	if cfg.ID == "" {
		cfg.ID = NewID()
	}
	if cfg.Dial == nil {
		cfg.Dial = w.dial
	}
	cfg.Stdout, cfg.Stderr = &o.out, &o.err
	r, err := New(cfg)
	check(w.t, err)
	w.t.Cleanup(func() { r.Close() })
	return r, o
}

// all does the steps of a run but Remove.
func all(ctx context.Context, r *Run) (int, Report, error) {
	if err := r.Prepare(ctx); err != nil {
		return 0, Report{}, fmt.Errorf("prepare: %w", err)
	}
	if err := r.Start(ctx); err != nil {
		return 0, Report{}, fmt.Errorf("start: %w", err)
	}
	status, err := r.Follow(ctx)
	if err != nil {
		return 0, Report{}, fmt.Errorf("follow: %w", err)
	}
	rep, err := r.Fetch(ctx)
	return status, rep, err
}

// bound is a context for one run.
func bound(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// relay is a TCP relay that cuts connections.
type relay struct {
	addr string
	to   string

	mu    sync.Mutex
	conns []net.Conn
	// limits are how many bytes, both ways together, each of the next connections carries. After the last there is none.
	limits []int
	cut    int // connections that met their limit
	bytes  int // that were carried, both ways
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	r := &relay{addr: l.Addr().String(), to: to}
	t.Cleanup(func() {
		l.Close()
		r.cutAll()
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go r.carry(conn)
		}
	}()
	return r
}

func (r *relay) carry(near net.Conn) {
	far, err := net.Dial("tcp", r.to)
	if err != nil {
		near.Close()
		return
	}
	r.mu.Lock()
	r.conns = append(r.conns, near, far)
	limit := -1
	if len(r.limits) > 0 {
		limit, r.limits = r.limits[0], r.limits[1:]
	}
	r.mu.Unlock()
	var mu sync.Mutex
	move := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		buf := make([]byte, 16<<10)
		for {
			n, err := from.Read(buf)
			r.mu.Lock()
			r.bytes += n
			r.mu.Unlock()
			mu.Lock()
			if limit >= 0 {
				if n >= limit {
					to.Write(buf[:limit])
					limit = 0
					mu.Unlock()
					r.mu.Lock()
					r.cut++
					r.mu.Unlock()
					return
				}
				limit -= n
			}
			_, werr := to.Write(buf[:n])
			mu.Unlock()
			if err != nil || werr != nil {
				return
			}
		}
	}
	go move(far, near)
	move(near, far)
}

func (r *relay) limit(bytes ...int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limits = bytes
}

func (r *relay) cuts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut
}

func (r *relay) carried() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// cutAll ends the connections that there are.
func (r *relay) cutAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	return string(b)
}

// tree is what there is in a directory: names, modes and contents.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			if err != nil {
				return err
			}
			text += " " + string(b)
		}
		all[rel] = text
		return nil
	}))
	return all
}

func sameTree(t testing.TB, got, want string) {
	t.Helper()
	a, b := tree(t, got), tree(t, want)
	for name, text := range b {
		if a[name] != text {
			t.Errorf("%q is %.60q (%d bytes), want %.60q (%d bytes)", name, a[name], len(a[name]), text, len(text))
		}
		delete(a, name)
	}
	for name := range a {
		t.Errorf("%q is too much", name)
	}
}
