package custody

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"vast-ssh/internal/testenv"
)

// script is run by sh on a session bus of its own with "$@", the test binary, as its command. The keyring is
// unlocked with a password made up here and lives in the directories of the test.
const script = `
gnome-keyring-daemon --foreground --components=secrets --unlock >"$HOME/keyring.log" 2>&1 <<end &
made up
end
daemon=$!
"$@"
status=$?
kill $daemon
wait $daemon
exit $status
`

// TestSecretService runs TestInSession on a session bus with a real gnome-keyring.
func TestSecretService(t *testing.T) {
	session := testenv.NeedProgram(t, "dbus-run-session")
	daemon := testenv.NeedProgram(t, "gnome-keyring-daemon")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	for _, dir := range []string{"run", "data/keyrings", "config"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, session, "--", "sh", "-c", script, "sh", exe, "-test.run=^TestInSession$", "-test.v")
	cmd.Env = []string{
		"CUSTODY_TEST_SESSION=1",
		"PATH=" + filepath.Dir(daemon) + ":" + os.Getenv("PATH"),
		"HOME=" + home,
		"XDG_RUNTIME_DIR=" + filepath.Join(home, "run"),
		"XDG_DATA_HOME=" + filepath.Join(home, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
	}
	// What holds the output open after the end is not waited for.
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(home, "keyring.log"))
		t.Fatalf("%v\n%s\ngnome-keyring-daemon: %s", err, out, log)
	}
	if !strings.Contains(string(out), "--- PASS: TestInSession") {
		t.Fatalf("nothing was tested:\n%s", out)
	}
}

// TestInSession is the child of TestSecretService.
func TestInSession(t *testing.T) {
	if os.Getenv("CUSTODY_TEST_SESSION") == "" {
		t.Skip("run by TestSecretService")
	}
	bus, err := dbus.SessionBus()
	if err != nil {
		t.Fatal(err)
	}
	waitForKeyring(t, bus)
	path := filepath.Join(t.TempDir(), "vast-ssh", "id_ed25519")
	wait := time.Minute // for a busy machine
	open := func() Store {
		s, err := Open("keyring", path)
		if err != nil {
			t.Fatal(err)
		}
		s.(*keyringStore).wait = wait
		return s
	}
	var missing *MissingError
	if _, err := open().Load(t.Context(), nil); !errors.As(err, &missing) {
		t.Fatalf("err = %v, want a *MissingError", err)
	}
	key := Generate()
	if err := open().Save(t.Context(), key, "", nil); err != nil {
		t.Fatal(err)
	}
	signer, err := open().Load(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	signs(t, signer, key)
	var exists *ExistsError
	if err := open().Save(t.Context(), Generate(), "", nil); !errors.As(err, &exists) {
		t.Errorf("err = %v, want an *ExistsError", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the key is in a file too")
	}

	// A rotation, to a key with a passphrase.
	second := Generate()
	if err := open().Next().Save(t.Context(), second, "", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := open().Promote(t.Context(), publicOf(second)); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, "next", open().Next(), nil)
	holds(t, "previous", open().Previous(), publicOf(key))
	loaded, err := open().Load(t.Context(), func() ([]byte, error) { return []byte("secret"), nil })
	if err != nil {
		t.Fatal(err)
	}
	signs(t, loaded, second)
	for range 2 {
		if err := open().Previous().Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, "previous", open().Previous(), nil)

	lockKeyring(t, bus)
	wait = keyringWait
	start := time.Now()
	var failed *KeyringError
	if _, err := open().Load(t.Context(), nil); !errors.As(err, &failed) {
		t.Errorf("locked: err = %v, want a *KeyringError", err)
	}
	if err := open().Save(t.Context(), Generate(), "", nil); !errors.As(err, &failed) {
		t.Errorf("locked: err = %v, want a *KeyringError", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("two calls to a locked keyring took %v", took)
	}
}

// waitForKeyring returns when the Secret Service is on the bus with its login collection.
func waitForKeyring(t *testing.T, bus *dbus.Conn) {
	t.Helper()
	changes := make(chan *dbus.Signal, 16)
	bus.Signal(changes)
	err := bus.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"),
		dbus.WithMatchArg(0, "org.freedesktop.secrets"))
	if err != nil {
		t.Fatal(err)
	}
	var owned bool
	err = bus.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, "org.freedesktop.secrets").Store(&owned)
	if err != nil {
		t.Fatal(err)
	}
	if owned {
		return
	}
	for {
		select {
		case s := <-changes:
			if s.Name == "org.freedesktop.DBus.NameOwnerChanged" {
				return
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("gnome-keyring-daemon does not come up")
		}
	}
}

func lockKeyring(t *testing.T, bus *dbus.Conn) {
	t.Helper()
	login := dbus.ObjectPath("/org/freedesktop/secrets/collection/login")
	var locked []dbus.ObjectPath
	var prompt dbus.ObjectPath
	err := bus.Object("org.freedesktop.secrets", "/org/freedesktop/secrets").
		Call("org.freedesktop.Secret.Service.Lock", 0, []dbus.ObjectPath{login}).Store(&locked, &prompt)
	if err != nil || len(locked) != 1 {
		t.Fatalf("locked %v: %v", locked, err)
	}
}

// TestBusThatDoesNotAnswer has a session bus that accepts connections and says nothing.
func TestBusThatDoesNotAnswer(t *testing.T) {
	dir, err := os.MkdirTemp("", "bus") // a short path, as sockets need
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conns := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			conns <- c
		}
	}()
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+l.Addr().String())
	s := newKeyring(filepath.Join(t.TempDir(), ".key.lock"))
	s.wait = 50 * time.Millisecond
	var failed *KeyringError
	for len(conns) == 0 { // the time may be over before the bus is asked
		if _, err := s.Load(t.Context(), nil); !errors.As(err, &failed) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("err = %v, want a *KeyringError that is DeadlineExceeded", err)
		}
	}
	(<-conns).Close()
	// The call left behind ends with its connection.
	keyringTurn <- struct{}{}
	<-keyringTurn
}

func TestNoBus(t *testing.T) {
	for _, address := range []string{"", "autolaunch:"} {
		t.Run(fmt.Sprintf("%q", address), func(t *testing.T) {
			t.Setenv("DBUS_SESSION_BUS_ADDRESS", address)
			if sessionBus() == nil {
				t.Skip("this user has a D-Bus session")
			}
			s := newKeyring(filepath.Join(t.TempDir(), ".key.lock"))
			s.get = func(string, string) (string, error) {
				t.Error("the keyring was asked, which starts a D-Bus session")
				return "", nil
			}
			_, err := s.Load(t.Context(), nil)
			var failed *KeyringError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), "D-Bus") {
				t.Errorf("err = %v, want a *KeyringError that names D-Bus", err)
			}
		})
	}
}
