package logind

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// systemBus starts a message bus for the test and makes it the system bus.
func systemBus(t *testing.T) (kill func()) {
	t.Helper()
	daemon := testenv.NeedProgram(t, "dbus-daemon")
	dir := shortDir(t)
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
	kill = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(kill)
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", strings.TrimSpace(address))
	return kill
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Sessions of the doubles below.
const (
	ourSession   dbus.ObjectPath = sessionsPath + "/_31"
	otherSession dbus.ObjectPath = sessionsPath + "/_32"
	goneSession  dbus.ObjectPath = sessionsPath + "/_33"
	darkSession  dbus.ObjectPath = sessionsPath + "/_34" // its user cannot be found out
	fenceSession dbus.ObjectPath = sessionsPath + "/_35" // another's; its double notes who asks for the user
)

// sessionObject is a session of logind.
type sessionObject struct {
	uid   uint32
	err   string        // name of the error that is the answer
	asked chan struct{} // may be nil
}

func (o sessionObject) Get(of, name string) (dbus.Variant, *dbus.Error) {
	if o.asked != nil {
		o.asked <- struct{}{}
	}
	if of != session || name != "User" {
		o.err = "org.freedesktop.DBus.Error.UnknownProperty"
	}
	if o.err != "" {
		return dbus.Variant{}, dbus.NewError(o.err, nil)
	}
	return dbus.MakeVariant(struct {
		UID  uint32
		Path dbus.ObjectPath
	}{o.uid, dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/login1/user/_%d", o.uid))}), nil
}

// peer is a program on the bus.
type peer struct {
	*dbus.Conn
	t     *testing.T
	fence chan struct{} // somebody has asked for the user of fenceSession
}

func connect(t *testing.T) peer {
	t.Helper()
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return peer{conn, t, make(chan struct{})}
}

// logind makes a double of it: a program on the bus that has its sessions and its name.
func logind(t *testing.T) peer {
	t.Helper()
	p := connect(t)
	us := uint32(os.Getuid())
	for path, object := range map[dbus.ObjectPath]sessionObject{
		ourSession:   {uid: us},
		otherSession: {uid: us + 1},
		goneSession:  {err: "org.freedesktop.DBus.Error.UnknownObject"},
		darkSession:  {err: "org.freedesktop.DBus.Error.AccessDenied"},
		fenceSession: {uid: us + 1, asked: p.fence},
	} {
		if err := p.Export(object, path, properties); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := p.RequestName(service, 0); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(r, err)
	}
	return p
}

// emit sends a signal to all, and returns when the bus has passed it on.
func (p peer) emit(path dbus.ObjectPath, name string, values ...any) {
	p.t.Helper()
	if err := p.Emit(path, name, values...); err != nil {
		p.t.Fatal(err)
	}
	p.passed()
}

// emitTo sends a signal to one connection.
func (p peer) emitTo(to string, path dbus.ObjectPath, of, member string, values ...any) {
	p.t.Helper()
	msg := &dbus.Message{Type: dbus.TypeSignal, Body: values, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(to),
		dbus.FieldInterface:   dbus.MakeVariant(of),
		dbus.FieldMember:      dbus.MakeVariant(member),
		dbus.FieldPath:        dbus.MakeVariant(path),
	}}
	if len(values) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(values...))
	}
	if call := p.Send(msg, nil); call.Err != nil {
		p.t.Fatal(call.Err)
	}
	p.passed()
}

func (p peer) passed() {
	p.t.Helper()
	if err := p.BusObject().Call(bus+".GetId", 0).Err; err != nil {
		p.t.Fatal(err)
	}
}

func (p peer) names() []string {
	p.t.Helper()
	var names []string
	if err := p.BusObject().Call(bus+".ListNames", 0).Store(&names); err != nil {
		p.t.Fatal(err)
	}
	return names
}

func hint(locked any) map[string]dbus.Variant {
	return map[string]dbus.Variant{"IdleHint": dbus.MakeVariant(true), "LockedHint": dbus.MakeVariant(locked)}
}

// watched is a Watch that runs.
type watched struct {
	events chan Event
	ended  chan error
	name   string // on the bus
	cancel func()
}

// watch starts Watch and returns when it hears the double.
func watch(t *testing.T, double peer) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{events: make(chan Event, 1000), ended: make(chan error, 1), cancel: cancel}
	before := double.names()
	go func() { w.ended <- Watch(ctx, func(e Event) { w.events <- e }) }()
	t.Cleanup(func() {
		cancel()
		<-w.ended
	})
	for w.name == "" {
		double.emit(managerPath, manager+".PrepareForSleep", true)
		select {
		case <-w.events:
			for _, name := range double.names() {
				if !slices.Contains(before, name) {
					w.name = name
				}
			}
		case err := <-w.ended:
			w.ended <- err
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	w.until(t, double)
	return w
}

// until returns what has happened before now.
func (w *watched) until(t *testing.T, double peer) []Event {
	t.Helper()
	double.emit(fenceSession, session+".Lock")
	select {
	case <-double.fence:
	case err := <-w.ended:
		w.ended <- err
		t.Fatal(err)
	case <-time.After(2 * time.Minute):
		t.Fatal("the last signal does not arrive")
	}
	var got []Event
	for len(w.events) > 0 {
		got = append(got, <-w.events)
	}
	return got
}

func TestWatch(t *testing.T) {
	systemBus(t)
	double := logind(t)
	w := watch(t, double)
	const changed = properties + ".PropertiesChanged"
	tests := []struct {
		name string
		emit func()
		want []Event
	}{
		{"our session is locked", func() { double.emit(ourSession, session+".Lock") }, []Event{ScreenLocked}},
		{"our session says that it is locked", func() { double.emit(ourSession, changed, session, hint(true), []string{}) }, []Event{ScreenLocked}},
		{"a session of nobody known is locked", func() { double.emit(darkSession, session+".Lock") }, []Event{ScreenLocked}},
		{"sleep begins", func() { double.emit(managerPath, manager+".PrepareForSleep", true) }, []Event{Sleeping}},

		{"another's session is locked", func() { double.emit(otherSession, session+".Lock") }, nil},
		{"another's session says so", func() { double.emit(otherSession, changed, session, hint(true), []string{}) }, nil},
		{"a session that has gone", func() { double.emit(goneSession, session+".Lock") }, nil},
		{"our session is unlocked", func() { double.emit(ourSession, session+".Unlock") }, nil},
		{"our session says so, too", func() { double.emit(ourSession, changed, session, hint(false), []string{}) }, nil},
		{"another property", func() {
			double.emit(ourSession, changed, session, map[string]dbus.Variant{"IdleHint": dbus.MakeVariant(true)}, []string{"LockedHint"})
		}, nil},
		{"of another interface", func() { double.emit(ourSession, changed, manager, hint(true), []string{}) }, nil},
		{"of another interface, to the watcher alone", func() {
			double.emitTo(w.name, ourSession, properties, "PropertiesChanged", manager, hint(true), []string{})
		}, nil},
		{"of another type", func() { double.emit(ourSession, changed, session, hint("true"), []string{}) }, nil},
		{"too few values", func() { double.emit(ourSession, changed, session) }, nil},
		{"sleep ends", func() { double.emit(managerPath, manager+".PrepareForSleep", false) }, nil},
		{"sleep of another type", func() { double.emit(managerPath, manager+".PrepareForSleep", "true") }, nil},
		{"sleep without a value", func() { double.emit(managerPath, manager+".PrepareForSleep") }, nil},
		{"sleep elsewhere", func() { double.emitTo(w.name, "/elsewhere", manager, "PrepareForSleep", true) }, nil},
		{"shutdown", func() { double.emit(managerPath, manager+".PrepareForShutdown", true) }, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.emit()
			if got := w.until(t, double); !slices.Equal(got, test.want) {
				t.Errorf("events %v, want %v", got, test.want)
			}
		})
	}
	w.cancel()
	if err := <-w.ended; err != context.Canceled {
		t.Errorf("it ended with %v", err)
	}
	w.ended <- nil
	for slices.Contains(double.names(), w.name) { // its connection closes
		time.Sleep(5 * time.Millisecond)
	}
}

// TestForgedSignals come from a program that is not logind, to all and to the watcher alone.
func TestForgedSignals(t *testing.T) {
	systemBus(t)
	double := logind(t)
	w := watch(t, double)
	forger := connect(t)
	forge := func() {
		forger.emit(ourSession, session+".Lock")
		forger.emit(managerPath, manager+".PrepareForSleep", true)
		forger.emitTo(w.name, ourSession, session, "Lock")
		forger.emitTo(w.name, ourSession, properties, "PropertiesChanged", session, hint(true), []string{})
		forger.emitTo(w.name, managerPath, manager, "PrepareForSleep", true)
		// And the forger says that it is logind.
		forger.emitTo(w.name, "/org/freedesktop/DBus", bus, "NameOwnerChanged", service, "", forger.Names()[0])
		forger.emitTo(w.name, managerPath, manager, "PrepareForSleep", true)
	}
	forge()
	if got := w.until(t, double); len(got) > 0 {
		t.Errorf("events %v", got)
	}

	// While there is no logind, and when another has come, the old one is a forger like any other.
	if _, err := double.ReleaseName(service); err != nil {
		t.Fatal(err)
	}
	forge()
	next := logind(t)
	forge()
	double.emitTo(w.name, ourSession, session, "Lock")
	if got := w.until(t, next); len(got) > 0 {
		t.Errorf("events %v", got)
	}
}

// TestManySignals sends a flood while an event is being handled. It is told once more, or a few times, and nothing else
// is lost behind it.
func TestManySignals(t *testing.T) {
	systemBus(t)
	double := logind(t)
	w := watch(t, double)
	for range cap(w.events) { // the event function blocks
		w.events <- 0
	}
	const n = 500
	for range n {
		if err := double.Emit(ourSession, session+".Lock"); err != nil {
			t.Fatal(err)
		}
	}
	double.emit(managerPath, manager+".PrepareForSleep", true)
	for range cap(w.events) {
		<-w.events
	}
	got := w.until(t, double)
	if count := len(got); count < 2 || got[0] != ScreenLocked || !slices.Contains(got, Sleeping) {
		t.Errorf("%d events: %v", count, got)
	}
}

func TestBusGoesAway(t *testing.T) {
	kill := systemBus(t)
	w := watch(t, logind(t))
	kill()
	err := <-w.ended
	var unavailable *UnavailableError
	if err == nil || errors.As(err, &unavailable) || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.ended <- err
}

func TestUnavailable(t *testing.T) {
	unavailable := func(t *testing.T) {
		t.Helper()
		var e *UnavailableError
		if err := Watch(t.Context(), func(Event) { t.Error("an event") }); !errors.As(err, &e) {
			t.Errorf("got %v", err)
		}
	}
	t.Run("no bus", func(t *testing.T) {
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+shortDir(t)+"/none")
		unavailable(t)
	})
	t.Run("no address", func(t *testing.T) {
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "nonsense")
		unavailable(t)
	})
	t.Run("no logind", func(t *testing.T) {
		systemBus(t)
		unavailable(t)
	})
	t.Run("a silent bus", func(t *testing.T) {
		l, err := net.Listen("unix", shortDir(t)+"/s")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+l.Addr().String())
		before := connectTimeout
		defer func() { connectTimeout = before }()
		connectTimeout = 50 * time.Millisecond
		unavailable(t)

		// Another bus, since nobody knows whether the first was reached in that time.
		if l, err = net.Listen("unix", shortDir(t)+"/s"); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+l.Addr().String())
		connectTimeout = time.Hour
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Watch(ctx, nil) }()
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("got %v", err)
		}
	})
}
