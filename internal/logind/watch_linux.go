package logind

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of org.freedesktop.login1(5).
const (
	service      = "org.freedesktop.login1"
	managerPath  = "/org/freedesktop/login1"
	sessionsPath = "/org/freedesktop/login1/session"
	session      = "org.freedesktop.login1.Session"
	manager      = "org.freedesktop.login1.Manager"
	properties   = "org.freedesktop.DBus.Properties"
	bus          = "org.freedesktop.DBus"
)

// connectTimeout bounds the way to logind. Tests make it shorter.
var connectTimeout = 10 * time.Second

// askTimeout bounds one question to logind.
const askTimeout = 5 * time.Second

// Watch calls event, one call at a time, when a session of this user locks its screen and when the machine goes to
// sleep, until ctx ends or the bus goes away. It returns an error in every case, an *UnavailableError if it could not
// begin. The address of the bus is DBUS_SYSTEM_BUS_ADDRESS, or the usual one.
//
// What happens again while event has not been told of it is told once. What is already locked when Watch begins is no
// event. Nothing holds the machine up: it may sleep before event returns, which then goes on when it wakes.
func Watch(ctx context.Context, event func(Event)) error {
	w := &watcher{wake: make(chan struct{}, 1)}
	var cancel context.CancelFunc
	w.ctx, cancel = context.WithCancel(ctx)
	defer cancel() // closes the connection
	late := time.AfterFunc(connectTimeout, cancel)
	err := w.connect()
	if !late.Stop() {
		err = errors.New("the system bus does not answer")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &UnavailableError{err}
	}
	for {
		closed := false
		select {
		case <-w.wake:
		case <-w.conn.Context().Done():
			closed = true
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, o := range w.take() {
			if o.event == Sleeping || w.own(o) {
				event(o.event)
			}
		}
		if closed {
			return errors.New("the system bus has closed the connection")
		}
	}
}

// occurrence is what logind told, and of which of its objects.
type occurrence struct {
	event Event
	path  dbus.ObjectPath
	owner string // of the name of logind then
}

// watcher is a connection to the bus and its dbus.SignalHandler.
type watcher struct {
	ctx  context.Context
	conn *dbus.Conn
	wake chan struct{} // holds something when there is something to take

	mu      sync.Mutex   // protects the following
	owner   string       // unique name of logind on the bus; empty if it is not there
	changed bool         // the bus has told of another owner
	untold  []occurrence // no two are the same, so that there are few: one for each session
}

func (w *watcher) connect() error {
	var err error
	w.conn, err = dbus.ConnectSystemBus(dbus.WithContext(w.ctx), dbus.WithSignalHandler(w),
		dbus.WithAuth(dbus.AuthExternal(strconv.Itoa(os.Geteuid()))))
	if err != nil {
		return err
	}
	for _, rule := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(bus), dbus.WithMatchInterface(bus), dbus.WithMatchMember("NameOwnerChanged"),
			dbus.WithMatchArg(0, service)},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(session), dbus.WithMatchMember("Lock")},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged"),
			dbus.WithMatchPathNamespace(sessionsPath), dbus.WithMatchArg(0, session)},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(manager), dbus.WithMatchMember("PrepareForSleep"),
			dbus.WithMatchObjectPath(managerPath)},
	} {
		if err := w.conn.AddMatchSignalContext(w.ctx, rule...); err != nil {
			return err
		}
	}
	var owner string
	if err := w.conn.BusObject().CallWithContext(w.ctx, bus+".GetNameOwner", 0, service).Store(&owner); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// A change that was told meanwhile is the newer word.
	if !w.changed {
		w.owner = owner
	}
	return nil
}

// DeliverSignal is called for each signal in the order of their arrival, and no reply is read before it returns. Match
// rules hold back what is sent to all, but anybody may send a signal to this connection alone: what counts is the
// sender, which the bus fills in.
func (w *watcher) DeliverSignal(_, _ string, s *dbus.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.Sender == bus {
		var name, before, after string
		if s.Name == bus+".NameOwnerChanged" && dbus.Store(s.Body, &name, &before, &after) == nil && name == service {
			w.owner, w.changed = after, true
		}
		return
	}
	if w.owner == "" || s.Sender != w.owner {
		return
	}
	o := occurrence{meaning(s), s.Path, s.Sender}
	if o.event == 0 || slices.Contains(w.untold, o) {
		return
	}
	w.untold = append(w.untold, o)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []occurrence {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.untold
	w.untold = nil
	return all
}

// meaning returns the event that s tells of if it is about this user, or 0.
func meaning(s *dbus.Signal) Event {
	switch s.Name {
	case manager + ".PrepareForSleep":
		var begins bool
		if s.Path == managerPath && dbus.Store(s.Body, &begins) == nil && begins {
			return Sleeping
		}
	case session + ".Lock":
		return ScreenLocked
	case properties + ".PropertiesChanged":
		var of string
		var values map[string]dbus.Variant
		var invalid []string
		if dbus.Store(s.Body, &of, &values, &invalid) != nil || of != session {
			return 0
		}
		if locked, _ := values["LockedHint"].Value().(bool); locked {
			return ScreenLocked
		}
	}
	return 0
}

// own reports whether a session is this user's. One whose user cannot be found out counts as ours; one that has gone
// does not.
func (w *watcher) own(o occurrence) bool {
	ctx, cancel := context.WithTimeout(w.ctx, askTimeout)
	defer cancel()
	var v dbus.Variant
	err := w.conn.Object(o.owner, o.path).CallWithContext(ctx, properties+".Get", 0, session, "User").Store(&v)
	var refused dbus.Error
	if errors.As(err, &refused) && refused.Name == "org.freedesktop.DBus.Error.UnknownObject" {
		return false
	}
	var user struct {
		UID  uint32
		Path dbus.ObjectPath
	}
	if err != nil || v.Store(&user) != nil {
		return true
	}
	return int64(user.UID) == int64(os.Getuid())
}
