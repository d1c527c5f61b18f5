package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vast-ssh/internal/testenv"
)

// stranger is a user that is not the one of the tests: nobody on most systems.
const stranger = 65534

// needRoot ends a test that has to be two users.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root, to be another user")
	}
}

// asStranger prepares a program as the stranger's.
func (w *World) asStranger(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	w.T.Helper()
	cmd := w.Command(ctx, env, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	return cmd
}

// knock connects to a Unix socket, sends what the second argument says in hex, and prints what comes back, if only that
// the connection was broken.
const knock = `
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.settimeout(120)
try:
    s.sendall(bytes.fromhex(sys.argv[2]))
    print(s.recv(65536).hex())
except ConnectionError as e:
    print(type(e).__name__)
`

// The sockets serve the user only, though their files and all directories above them are open to everybody.
func TestAttackOtherUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	v := newVictim(t)
	python, sshAdd := python("socket")(t), testenv.NeedProgram(t, "ssh-add")
	for dir := v.Dirs.State; len(dir) >= len(v.Home); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sockets := []string{v.Dirs.AgentSocket(), v.Dirs.ControlSocket()}
	for _, socket := range sockets {
		if err := os.Chmod(socket, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()

	list := v.Command(ctx, []string{"SSH_AUTH_SOCK=" + sockets[0]}, sshAdd, "-l")
	if out, err := list.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(fingerprintOf(v.key))) {
		t.Fatalf("the user's own ssh-add -l: %v\n%s", err, out)
	}
	list = v.asStranger(ctx, []string{"SSH_AUTH_SOCK=" + sockets[0]}, sshAdd, "-l")
	v.refuses(func() {
		out, err := list.CombinedOutput()
		if err == nil || bytes.Contains(out, []byte("SHA256:")) {
			t.Errorf("the stranger's ssh-add -l: %v\n%s", err, out)
		}
	})
	for socket, message := range map[string][]byte{
		sockets[0]: {11}, // for the keys
		sockets[1]: []byte(`{"op":"status"}`),
	} {
		frame := hex.EncodeToString(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...))
		args := []string{"-c", knock, socket, frame}
		if out, err := v.Command(ctx, nil, python, args...).Output(); err != nil || len(out) < 16 {
			t.Errorf("the user was told nothing by %s: %v, %q", socket, err, out)
		}
		v.refuses(func() {
			out, err := v.asStranger(ctx, nil, python, args...).Output()
			if said := strings.TrimSpace(string(out)); err != nil || said != "" && !strings.HasSuffix(said, "Error") {
				t.Errorf("the stranger was told something by %s: %v, %q", socket, err, out)
			}
		})
	}
	v.login(v.first)
}

// listenAndTell makes a socket at the path, and prints what it is sent.
const listenAndTell = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
s.listen()
print("ready", flush=True)
while True:
    c, _ = s.accept()
    c.settimeout(120)
    try:
        print("got", c.recv(65536).hex(), flush=True)
    except OSError as e:
        print("got", type(e).__name__, flush=True)
    c.close()
`

// A stranger's socket in the place of the agent's is not talked to.
func TestAttackForeignSocket(t *testing.T) {
	t.Parallel()
	needRoot(t)
	v := newVictim(t)
	dir := filepath.Join(v.Home, "open")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(v.Home, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	foreign := filepath.Join(dir, "s")
	listener := v.asStranger(ctx, nil, python("socket")(t), "-c", listenAndTell, foreign)
	out, err := listener.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Start(); err != nil {
		t.Fatal(err)
	}
	defer listener.Wait()
	defer cancel()
	heard := bufio.NewScanner(out)
	if !heard.Scan() {
		t.Fatal("the stranger does not listen")
	}
	// The stranger cannot put it there. Where he could, it would be of no use to him.
	replace(t, foreign, v.Dirs.ControlSocket())
	want := fmt.Sprintf("belongs to another user (uid %d)", stranger)
	for _, argv := range [][]string{
		{"vast-ssh", idOf(v.first), "true"},
		{"vast-agent", "status"},
		{"vast-agent", "start"},
		{"vast-agent", "stop"},
	} {
		if r := v.Run(argv[0], argv[1:]...); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%q: exit %d\n%s%s", argv, r.Code, r.Stdout, r.Stderr)
		}
		// Each has connected and gone without a word.
		if !heard.Scan() || heard.Text() != "got " {
			t.Errorf("%q told the stranger %q", argv, heard.Text())
		}
	}
	v.over(v.Dirs.AgentSocket(), v.Dirs.ControlSocket())
}
