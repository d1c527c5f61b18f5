// Package config reads the configuration file of vast-ssh and knows where its files live.
//
// The file is TOML, optional, and small: a few flat keys, strings and arrays of them, each with a default. It is read strictly, because a setting
// that is silently ignored is a protection that is silently off: an unknown key, a value of another type and a value
// out of range are errors that name the line. No key holds a secret, and no error repeats a value.
package config

import (
	"slices"
	"time"
)

// Config is the effective configuration. Get one from Load.
type Config struct {
	// Custody is where the private key lives.
	Custody Custody
	// FirstContact is the least level of first contact at which a host key is pinned.
	FirstContact FirstContact
	// User is the login user on the instances.
	User string
	// Users are further users that the agent signs logins for.
	Users []UserAt
	// Accept is what the agent takes for a proof of where a session ends.
	Accept Accept
	// Hops are the ways from one instance to another that the agent signs for through agent forwarding.
	Hops []Hop
	// Confirm says when a person is asked before a signature is given.
	Confirm Confirm
	// Askpass is the absolute path of the program that asks, or empty: SSH_ASKPASS, or one that is installed.
	Askpass string
	// Notify shows refusals on the desktop.
	Notify bool
	// IdleLock is how long after its last use the key is locked. Zero is never.
	IdleLock time.Duration
	// ScreenLock locks a key that has a passphrase when the screen locks or the machine sleeps.
	ScreenLock bool
	// WitnessLife is how long the agent keeps a witness that no session has used.
	WitnessLife time.Duration
	// CacheFresh is how long a cached address is used without asking the API. Zero asks every time.
	CacheFresh time.Duration
	// APITimeout bounds one request to the API.
	APITimeout time.Duration
	// DialTimeout bounds one connection attempt to an instance.
	DialTimeout time.Duration
	// GatewayDelay is the head start of the direct route over the gateway.
	GatewayDelay time.Duration
	// SSH is the absolute path of the ssh program, or empty: the one found in PATH.
	SSH string
	// APIURL is the address of the Vast.ai API: https, or http to this machine.
	APIURL string

	values []Value
}

// Custody names a place for the private key.
type Custody string

const (
	CustodyFile    Custody = "file"    // a file of its own beside the pins
	CustodyKeyring Custody = "keyring" // the keyring of the operating system
)

// UserAt is a login user at one instance, or at every instance if Instance is 0.
type UserAt struct {
	Name     string
	Instance uint64
}

// Hop is the way from a login at the instance From to the instance To.
type Hop struct{ From, To uint64 }

// Accept names a proof of where a session ends.
type Accept string

const (
	AcceptWitness Accept = "witness" // our proxy saw the key exchange
	AcceptBind    Accept = "bind"    // that, or the client's own session-bind@openssh.com alone
)

// Confirm says when a person is asked.
type Confirm string

const (
	ConfirmNever  Confirm = "never"
	ConfirmFirst  Confirm = "first"  // at the first login to an instance since the key was unlocked
	ConfirmAlways Confirm = "always" // at every login
)

// FirstContact names what it takes to trust the host key of an instance that was never met.
type FirstContact string

const (
	ContactTOFU    FirstContact = "tofu"     // the key that the first connection shows
	ContactTwoPath FirstContact = "two-path" // the key that the direct route and the gateway both show
	ContactManual  FirstContact = "manual"   // only a key pinned by hand before
	ContactAsk     FirstContact = "ask"      // the key that a person confirms at the terminal
)

// Value is one effective setting, as `vast-ssh config show` presents it.
type Value struct {
	Key    string `json:"key"`
	Text   string `json:"value"`  // as it stands in the file or the environment; printable
	Source string `json:"source"` // "default", "file:LINE" or "environment NAME"
}

// Values returns all settings in the order of the documentation.
func (c *Config) Values() []Value {
	return slices.Clone(c.values)
}
