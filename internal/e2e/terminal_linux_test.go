package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

// openPTY returns the two sides of a new pseudo terminal.
func openPTY(t *testing.T) (near, far *os.File) {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	conn, err := near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err == nil {
		far, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// shown runs a program with stderr on a terminal, and gives what stands there when the last process that has it open has
// ended: the ProxyCommand outlives its ssh by a moment. If typed is not nil that is the controlling terminal, and what is
// typed answers one question each. The end of its first process would take such a terminal away from the ProxyCommand.
func (w *World) shown(typed []string, name string, args ...string) (screen, stdout string) {
	w.T.Helper()
	near, far := openPTY(w.T.(*testing.T))
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := w.Command(ctx, nil, name, args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(""), &out, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: typed != nil, Ctty: 2}
	if err := cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	far.Close()
	read := make(chan string, 1)
	go func() {
		var all []byte
		buf := make([]byte, 4096)
		for {
			n, err := near.Read(buf)
			all = append(all, buf[:n]...)
			if len(typed) > 0 && bytes.HasSuffix(all, []byte(": ")) {
				near.WriteString(typed[0] + "\n")
				typed = typed[1:]
			}
			if err != nil { // EIO, when nobody has the far side open
				read <- strings.ReplaceAll(string(all), "\r\n", "\n")
				return
			}
		}
	}()
	cmd.Wait()
	select {
	case screen = <-read:
	case <-ctx.Done():
		w.T.Fatalf("%s %q: the terminal is open still", name, args)
	}
	return screen, out.String()
}

// A login that the agent refuses is explained by the ProxyCommand when ssh has ended it: on a terminal only, where ssh
// could say no more than "Permission denied". On anything else, and when all went well, it says nothing.
func TestRefusalOnTheTerminal(t *testing.T) {
	testenv.NeedProgram(t, "ssh")
	w := New(t)
	in := w.AddInstance("box", sshd.Config{})
	strange := w.AddInstance("strange", sshd.Config{})
	w.Ready()
	w.Must("vast-ssh", "box", "true")
	w.Must("vast-ssh", "strange", "true")
	config, name := w.Dirs.SSHConfig(), fmt.Sprintf("vast-%d", in.ID)

	if screen, stdout := w.shown(nil, "ssh", "-F", config, name, "echo in"); strings.Contains(screen, "error:") || stdout != "in\n" {
		t.Errorf("a login that went well: %q, %q", screen, stdout)
	}

	// Another login fails while this one lasts.
	flag := w.Home + "/flag"
	lasting := make(chan string)
	go func() {
		screen, stdout := w.shown(nil, "ssh", "-F", config, name,
			"touch "+flag+"; while test -e "+flag+"; do sleep 0.1; done; echo in")
		lasting <- screen + stdout
	}()
	for deadline := time.Now().Add(runTimeout); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(flag); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if r := w.Run("ssh", "-F", config, "-o", "PubkeyAuthentication=no", name, "true"); r.Code != 255 {
		t.Errorf("got %+v", r)
	}
	os.Remove(flag)
	if got := <-lasting; got != "in\n" {
		t.Errorf("a login that went well and lasted: %q", got)
	}

	// The machine does not know the key, so that there is nothing to refuse.
	strange.SetAuthorizedKeys()
	screen, _ := w.shown(nil, "ssh", "-F", config, "vast-strange", "true")
	if want := fmt.Sprintf("hint: vast-ssh key attach %d\n", strange.ID); !strings.Contains(screen, want) {
		t.Errorf("%q is not in %q", want, screen)
	}

	// The agent is told that logins are as another user.
	if err := os.WriteFile(w.Dirs.ConfigFile(), []byte("user = \"somebody\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sentence := fmt.Sprintf("the login is for a user that this instance is not used with (%q)\n", userName())
	for _, args := range [][]string{
		{"ssh", "-F", config, "-l", userName(), name, "true"},
		{"vast-ssh", userName() + "@box", "true"},
	} {
		screen, stdout := w.shown(nil, args[0], args[1:]...)
		if !strings.Contains(screen, "Permission denied") || strings.Count(screen, "error: "+sentence) != 1 || stdout != "" {
			t.Errorf("%q: %q, %q", args, screen, stdout)
		}
		r := w.Run(args[0], args[1:]...)
		if r.Code != 255 || !strings.Contains(r.Stderr, "Permission denied") || strings.Contains(r.Stderr, "error:") {
			t.Errorf("%q, without a terminal: %+v", args, r)
		}
	}

	// A login in the middle is our own, and nobody else tells of it.
	r := w.Run("vast-ssh", "-J", userName()+"@box", "strange", "true")
	if want := "error: log in at " + name + ": " + sentence; r.Code != 255 || !strings.Contains(r.Stderr, want) {
		t.Errorf("%q is not in %+v", want, r)
	}
}

// vast-ssh asks for the passphrase of a locked key before it becomes ssh, where there is a terminal.
func TestUnlockAtLogin(t *testing.T) {
	keygen := testenv.NeedProgram(t, "ssh-keygen")
	testenv.NeedProgram(t, "ssh")
	const locked = "error: the agent did not take the witness: the key is locked\nhint: vast-agent unlock\n"
	t.Run("without a passphrase", func(t *testing.T) {
		w := New(t)
		w.AddInstance("box", sshd.Config{})
		w.Ready()
		w.Must("vast-ssh", "box", "true")
		w.Must("vast-agent", "lock")
		if r := w.Run("vast-ssh", "box", "true"); r.Code != 255 || !strings.Contains(r.Stderr, locked) {
			t.Errorf("without a terminal: %+v", r)
		}
		screen, stdout := w.shown([]string{}, "vast-ssh", "-o", "BatchMode=yes", "box", "true")
		if stdout != "" || !strings.Contains(screen, locked) {
			t.Errorf("in batch mode: %q, %q", screen, stdout)
		}
		screen, stdout = w.shown([]string{""}, "vast-ssh", "box", "echo in")
		if !strings.HasPrefix(screen, "The key is locked. Its passphrase, or Enter if it has none: \n") || stdout != "in\n" {
			t.Errorf("%q, %q", screen, stdout)
		}
		if screen, stdout = w.shown([]string{}, "vast-ssh", "box", "echo in"); strings.Contains(screen, "assphrase") || stdout != "in\n" {
			t.Errorf("the next one: %q, %q", screen, stdout)
		}
	})
	t.Run("with a passphrase", func(t *testing.T) {
		w := New(t)
		in := w.AddInstance("box", sshd.Config{})
		const secret = "open sesame"
		w.Must(keygen, "-q", "-t", "ed25519", "-N", secret, "-f", w.Home+"/key")
		w.shown([]string{secret}, "vast-ssh", "key", "import", "--passphrase", w.Home+"/key")
		in.AddAuthorizedKey(strings.TrimSpace(w.Must("vast-ssh", "key", "show")))
		screen, stdout := w.shown([]string{"wrong", secret}, "vast-ssh", "box", "echo in")
		want := "Passphrase of the key for your instances: \nThat is not it. Passphrase: \n"
		if !strings.HasPrefix(screen, want) || stdout != "in\n" {
			t.Errorf("%q, %q", screen, stdout)
		}
		w.Must("vast-agent", "lock")
		screen, stdout = w.shown([]string{"a", "b", "c"}, "vast-ssh", "box", "echo in")
		if !strings.HasSuffix(screen, "error: the passphrase is wrong\nhint: vast-agent unlock\n") || stdout != "" {
			t.Errorf("%q, %q", screen, stdout)
		}
	})
}
