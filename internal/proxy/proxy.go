// Package proxy opens the transport connection to an instance and watches its first key exchange: no byte of the
// server's key exchange reply can be read before the host key in it was found pinned for the instance, and no byte that the
// client sends in cipher leaves before the agent holds the witness. After that it is a plain connection, moved as fast as
// the kernel can.
//
// The same Conn serves the ProxyCommand (through Relay) and the in-process client (through Login).
package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
	"vast-ssh/known"
)

// Config says where to connect and what to demand. All fields but Through, Ask, Label, Client, Withdraw and Trace are required.
type Config struct {
	Instance  uint64
	Machine   uint64 // machine id, kept with new pins; 0 if unknown
	User      string // login user, for the witness
	Endpoints []resolve.Endpoint
	// Through, if set, is the instance from which the endpoints are reached. The Conn that Open returns closes it.
	Through *Jump

	Pins  *known.File
	Least known.Via // the least level of first contact
	// Ask, if set, must agree before pins of a first contact are written.
	Ask func(ctx context.Context, pins []known.Pin) error

	Label  string // what the user calls the instance, for the witness
	Client int    // pid of the client, for the witness; 0 if unknown
	// Witness hands what was seen to the agent. Its error ends the connection.
	Witness func(context.Context, ipc.Witness) error
	// Withdraw, if set, takes the witness back when the connection ends, and returns what the login was refused. It is
	// called once at most.
	Withdraw func(ipc.Witness) *ipc.Refusal

	// Delay is the head start that each endpoint has over the next one.
	Delay time.Duration
	// DialTimeout bounds the way from nothing to a server's identification line.
	DialTimeout time.Duration
	// HandshakeTimeout bounds the time from there to the key exchange reply. The client is part of it.
	HandshakeTimeout time.Duration

	// Trace, if set, is told of each step and the time it took.
	Trace func(step string, took time.Duration)
}

func (c *Config) trace(start time.Time, format string, args ...any) {
	if c.Trace != nil {
		c.Trace(fmt.Sprintf(format, args...), time.Since(start))
	}
}

// Open connects to the instance, meets it if it has no pins yet, and returns the connection with nothing of it read
// by a client yet. Errors are *UnreachableError, *FirstContactError, *RoutesDifferError, those of known.File, and ctx's.
func Open(ctx context.Context, cfg Config) (*Conn, error) {
	if cfg.Through != nil {
		cfg.Endpoints = cfg.Through.beyond(cfg.Endpoints)
	}
	start := time.Now()
	l, err := dial(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	cfg.trace(start, "%s answered on %s", l.endpoint.Route, l.endpoint.Addr())
	start = time.Now()
	pins, err := cfg.Pins.Introduce(ctx, cfg.Instance, func(ctx context.Context) ([]known.Pin, error) {
		return meet(ctx, &cfg, l.endpoint)
	})
	if err != nil {
		l.conn.Close()
		return nil, err
	}
	cfg.trace(start, "%d pins of %s, %s", len(pins), known.Name(cfg.Instance), pins[0].Via)
	return newConn(ctx, cfg, l), nil
}

// UnreachableError reports that no endpoint showed an SSH server.
type UnreachableError struct {
	Instance uint64
	Attempts []Attempt
}

// Attempt is one failed endpoint.
type Attempt struct {
	Endpoint resolve.Endpoint
	Err      error
}

func (e *UnreachableError) Error() string {
	var parts []string
	for _, a := range e.Attempts {
		parts = append(parts, fmt.Sprintf("%s %s: %v", a.Endpoint.Route, a.Endpoint.Addr(), a.Err))
	}
	return fmt.Sprintf("instance %d does not answer: %s", e.Instance, strings.Join(parts, "; "))
}

// Hint returns the next command to run.
func (e *UnreachableError) Hint() string {
	if forbidden := (*ForwardingError)(nil); errors.As(e, &forbidden) {
		return forbidden.Hint()
	}
	return fmt.Sprintf("the machine may still be starting; see its state with: vast-ssh show %d", e.Instance)
}

// Unwrap gives the errors of the attempts.
func (e *UnreachableError) Unwrap() []error {
	var errs []error
	for _, a := range e.Attempts {
		errs = append(errs, a.Err)
	}
	return errs
}

// FirstContactError reports that the first contact did not reach the level that was asked for. Nothing was pinned.
type FirstContactError struct {
	Instance uint64
	Least    known.Via
	Reached  known.Via
	Keys     []ssh.PublicKey
	Reason   string // why no higher level was reached, or empty
}

func (e *FirstContactError) Error() string {
	msg := fmt.Sprintf("instance %d is not pinned yet, and its first contact reaches the level %q where %q is asked for",
		e.Instance, e.Reached, e.Least)
	if e.Reason != "" {
		msg += ": " + e.Reason
	}
	return msg
}

// Hint returns the next command to run.
func (e *FirstContactError) Hint() string {
	return fmt.Sprintf("look at the fingerprint on the machine (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then: "+
		"vast-ssh pin %d --fingerprint SHA256:…", e.Instance)
}

// RoutesDifferError reports that two routes to one instance show different host keys, so that one of them ends at
// another machine. Nothing was pinned.
type RoutesDifferError struct {
	Instance uint64
	Shown    []Shown
}

// Shown is the host keys that one endpoint showed.
type Shown struct {
	Endpoint resolve.Endpoint
	Keys     []ssh.PublicKey
}

func (e *RoutesDifferError) Error() string {
	var parts []string
	for _, s := range e.Shown {
		parts = append(parts, fmt.Sprintf("%s %s shows %s", s.Endpoint.Route, s.Endpoint.Addr(), fingerprints(s.Keys)))
	}
	return fmt.Sprintf("the routes to instance %d end at different machines: %s", e.Instance, strings.Join(parts, ", "))
}

// Hint returns the next command to run.
func (e *RoutesDifferError) Hint() string {
	return fmt.Sprintf("look at the fingerprint on the machine (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then: "+
		"vast-ssh pin %d --fingerprint SHA256:…", e.Instance)
}

func fingerprints(keys []ssh.PublicKey) string {
	var parts []string
	for _, k := range keys {
		parts = append(parts, k.Type()+" "+ssh.FingerprintSHA256(k))
	}
	return strings.Join(parts, ", ")
}

// errNoKeys is for a server that shows no host key of a type that can be pinned.
var errNoKeys = errors.New("the server shows no host key of a type that can be pinned")
