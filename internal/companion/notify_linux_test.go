package companion

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"vast-ssh/internal/testenv"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

// sessionBus starts a message bus for the test and makes it the session bus.
func sessionBus(t *testing.T) {
	t.Helper()
	daemon := testenv.NeedProgram(t, "dbus-daemon")
	dir, err := os.MkdirTemp("", "bus") // a short path, as sockets need
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(busConfig, "SOCKET", dir+"/s")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--print-address=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", strings.TrimSpace(address))
}

// notificationDaemon is org.freedesktop.Notifications.
type notificationDaemon struct {
	can   []string
	fail  atomic.Bool
	shown chan [2]string // summary and body
}

func (d *notificationDaemon) GetCapabilities() ([]string, *dbus.Error) { return d.can, nil }

func (d *notificationDaemon) Notify(app string, replaces uint32, icon, summary, body string, actions []string,
	hints map[string]dbus.Variant, expires int32) (uint32, *dbus.Error) {
	if d.fail.Load() {
		return 0, dbus.MakeFailedError(errors.New("no screen"))
	}
	if app != "vast-ssh" || replaces != 0 || len(actions) > 0 || expires != -1 {
		return 0, dbus.MakeFailedError(errors.New("unexpected arguments"))
	}
	d.shown <- [2]string{summary, body}
	return 7, nil
}

func (d *notificationDaemon) serve(t *testing.T) {
	t.Helper()
	d.shown = make(chan [2]string, 100)
	bus, err := dbus.ConnectSessionBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	if err := bus.Export(d, "/org/freedesktop/Notifications", "org.freedesktop.Notifications"); err != nil {
		t.Fatal(err)
	}
	if r, err := bus.RequestName("org.freedesktop.Notifications", 0); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(r, err)
	}
}

func TestNotify(t *testing.T) {
	sessionBus(t)
	daemon := &notificationDaemon{can: []string{"body", "body-markup"}}
	daemon.serve(t)
	c := launch(t, "")
	for _, n := range []Notification{
		{"refused <b>", "no & <a href=\"x\">'y'</a>\nsecond line\x1b\u202e"},
		{"refused <b>", "the same, too soon"},
		{"another", "body"},
	} {
		if err := c.Notify(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range [][2]string{
		{"refused <b>", "no &amp; &lt;a href=\"x\"&gt;'y'&lt;/a&gt;\nsecond line" + `\x1b\u202e`},
		{"another", "body\n(not shown before this one: 1)"},
	} {
		if got := <-daemon.shown; got != want {
			t.Errorf("shown %q, want %q", got, want)
		}
	}
	if len(daemon.shown) > 0 {
		t.Errorf("shown as well: %q", <-daemon.shown)
	}
}

// TestNotifyWithoutMarkup has a daemon that would show the escapes.
func TestNotifyWithoutMarkup(t *testing.T) {
	sessionBus(t)
	daemon := &notificationDaemon{can: []string{"body"}}
	daemon.serve(t)
	c := launch(t, "")
	if err := c.Notify(t.Context(), Notification{strings.Repeat("s", 1000), "a & b" + strings.Repeat("\n", 1000)}); err != nil {
		t.Fatal(err)
	}
	got := <-daemon.shown
	if len(got[0]) > 200 || !strings.HasPrefix(got[1], "a & b\n") || strings.Count(got[1], "\n") >= maxLines {
		t.Errorf("shown %q", got)
	}
}

// TestNotifyFlood sends many with different summaries.
func TestNotifyFlood(t *testing.T) {
	sessionBus(t)
	daemon := &notificationDaemon{}
	daemon.serve(t)
	c := launch(t, "")
	for i := range 50 {
		if err := c.Notify(t.Context(), Notification{Summary: strings.Repeat("s", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(daemon.shown); n != maxShown {
		t.Errorf("%d were shown", n)
	}
}

// TestNotifyFails where nobody shows anything. What was not shown is counted.
func TestNotifyFails(t *testing.T) {
	c := launch(t, "") // the session bus is nowhere
	if err := c.Notify(t.Context(), Notification{Summary: "a"}); err == nil {
		t.Error("shown without a bus")
	}
	sessionBus(t)
	c = launch(t, "")
	if err := c.Notify(t.Context(), Notification{Summary: "a"}); err == nil {
		t.Error("shown without a daemon")
	}
	daemon := &notificationDaemon{}
	daemon.fail.Store(true)
	daemon.serve(t)
	if err := c.Notify(t.Context(), Notification{Summary: "b"}); err == nil || !strings.Contains(err.Error(), "no screen") {
		t.Errorf("got %v", err)
	}
	daemon.fail.Store(false)
	if err := c.Notify(t.Context(), Notification{Summary: "c"}); err != nil {
		t.Fatal(err)
	}
	if got := <-daemon.shown; !strings.Contains(got[1], "one: 2)") {
		t.Errorf("shown %q", got)
	}
}

// TestSilentBus has a session bus that takes connections and says nothing. It delays nobody else.
func TestSilentBus(t *testing.T) {
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+l.Addr().String())
	c := launch(t, "")
	began := time.Now()
	failed := make(chan error, 1)
	go func() { failed <- c.Notify(t.Context(), Notification{Summary: "a"}) }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := c.Chain(t.Context(), os.Getpid()); err != nil {
		t.Error(err)
	}
	if len(failed) > 0 {
		t.Errorf("it did not wait: %v", <-failed)
	}
	if err := <-failed; err == nil || time.Since(began) > time.Minute {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
}
