// Package sim is a Vast.ai that exists on this machine only: an account behind an HTTP server on loopback, and
// instances that answer ssh. The demo of vast-ssh lives in it, and tests ask it instead of the network.
//
// An Account answers with the paths, shapes, quirks and refusals of the public API as far as they are documented or
// were observed, closely enough for the official command line tool. Where the sources disagree, Shapes chooses. It
// keeps a ledger of what it was asked, and marks every request that the API does not know.
//
// A Box is an instance without a container: an ssh server with a few commands of its own over a private directory.
// It runs no program. Package internal/sim/sshd, for tests, puts OpenSSH's server in its place.
package sim

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/secret"
)

// Scope is a permission category of an API key.
type Scope string

// The categories that the simulated endpoints need.
const (
	InstanceRead  Scope = "instance_read"
	InstanceWrite Scope = "instance_write"
	UserRead      Scope = "user_read"
	UserWrite     Scope = "user_write"
)

// Key is an API key that the account accepts.
type Key struct {
	Value secret.Value
	// Scopes are the permissions. None means all of them.
	Scopes []Scope
	// Team is a key of a team's context, which cannot create account ssh keys.
	Team bool
}

// Change is something that happened to the container of an instance.
type Change string

// The changes that Options.OnChange is told.
const (
	Started   Change = "started"
	Stopped   Change = "stopped"
	Rebooted  Change = "rebooted"
	Recycled  Change = "recycled"
	Destroyed Change = "destroyed"
)

// Options are the properties of an account. The zero Options are one new key with all scopes and no rate limits.
//
// Hooks run before the request that caused them is answered (OnAttach and OnDetach: AttachDelay later). They may call
// the account's methods, and none runs after Close has returned.
type Options struct {
	Keys []Key
	// Pace scales the intervals that the API demands between two requests of one key to one endpoint: 1 is as
	// documented, 0 is none.
	Pace float64
	// Now is the clock of Pace and of the times in answers. Nil means time.Now.
	Now func() time.Time
	// Shapes are the answers to give where the sources disagree.
	Shapes Shapes
	// BootReads is for how many reads of its row an instance shows each passing status (such as "loading") after
	// a start, stop, reboot or recycle. Add has Instance.Walk for that.
	BootReads int
	// LingerReads is for how many reads the row of an instance stays after it was destroyed.
	LingerReads int
	// LogReads is how many times the URL of a log answers 403 before it has the log. 0 means once; negative,
	// never.
	LogReads int
	// AttachDelay is how long a key takes from the API to the instance, or off it.
	AttachDelay time.Duration
	// OnAttach is told a key that arrived at an instance: one attached to it, or an account key when the
	// container is created (by Add and by a recycle, without delay).
	OnAttach func(id uint64, authorizedKey string)
	// OnDetach is told a key that was detached from an instance.
	OnDetach func(id uint64, authorizedKey string)
	// OnChange is told what happened to an instance. At Recycled it may Move the instance; if it does not, the
	// direct port becomes another one, at which nobody listens.
	OnChange func(id uint64, change Change)
	// OnCommand answers the execute endpoint with what the command prints. Nil prints nothing.
	OnCommand func(id uint64, command string) string
}

// Shapes chooses among answers that were all documented or observed. The zero value is the best attested set.
type Shapes struct {
	// OldListOK answers the withdrawn list with status 200 instead of 410, and the same body.
	OldListOK bool
	// GoneIs404 answers for an unknown instance with 404 no_such_instance instead of {"instances": null}.
	GoneIs404 bool
	// DestroyedIsNotFound names a second destruction not_found instead of no_such_instance.
	DestroyedIsNotFound bool
	// BadKeyIs404 answers a bad API key with 404 auth_error instead of 401.
	BadKeyIs404 bool
	// PortsByID is the form of ports when one instance is asked for.
	PortsByID PortsForm
	// PaddedIP puts white space around public_ipaddr.
	PaddedIP bool
	// DualStackPorts adds a second binding, for IPv6, to every port.
	DualStackPorts bool
	// NoJupyterShift shows the gateway's true port for jupyter run types too, instead of one less.
	NoJupyterShift bool
	// StoppedIsExited shows a stopped instance with actual_status "exited".
	StoppedIsExited bool
	// KeyField calls the key in the account's list "key" instead of "public_key".
	KeyField bool
	// WrappedKeys lists account keys as {"ssh_keys": [...]} instead of a bare array.
	WrappedKeys bool
	// NoKeysIs404 answers 404 when the account has no keys, instead of an empty list.
	NoKeysIs404 bool
	// KeysReachInstances gives a new account key to the existing instances too, not only to later ones.
	KeysReachInstances bool
	// InstanceKeysArray lists the keys of an instance as an array instead of a string that holds one.
	InstanceKeysArray bool
	// BornKeysListed lists the account keys that an instance was created with among its own, which can then be
	// detached from it. Otherwise they are the container's alone.
	BornKeysListed bool
	// DuplicateAttachIs400 answers a repeated attach with 400 instead of 200, and the same body.
	DuplicateAttachIs400 bool
	// ThrottleJSON answers 429 with a JSON detail instead of plain text.
	ThrottleJSON bool
}

// PortsForm is a form of an instance's ports.
type PortsForm int

// The forms that were documented or observed.
const (
	PortsMap PortsForm = iota
	PortsArray
	PortsNull
	PortsAbsent
)

// SSHKey is a key of the account or of an instance.
type SSHKey struct {
	ID uint64
	// PublicKey is the line of authorized_keys as it was sent.
	PublicKey string
	CreatedAt time.Time
}

// Account is a simulated account and its API server. All methods may be called from several goroutines.
type Account struct {
	opts    Options
	server  *http.Server
	closing chan struct{}
	// working counts the requests and the delayed hooks.
	working sync.WaitGroup

	// mu protects the following.
	mu        sync.Mutex
	url       string
	closed    bool
	instances map[uint64]*instance
	keys      []SSHKey
	volumes   []Volume
	jobs      []Job
	lastID    uint64
	objects   map[string]*object
	last      map[visit]time.Time
	faults    []*Fault
	halted    bool // by a fault
	ledger    []Request
}

// instance is an Instance with what only the account knows.
type instance struct {
	Instance
	keys []SSHKey
	// born are the account keys at the creation of the instance.
	born  []string
	moves int
	// destroyed, and the row can still be read so many times.
	destroyed bool
	linger    int
}

// firstID is less than every id that the account gives out.
const firstID = 4_000_000

// NewAccount returns an account without instances. It answers after Start.
func NewAccount(opts Options) *Account {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if len(opts.Keys) == 0 {
		opts.Keys = []Key{{Value: secret.New(randomHex(32))}}
	}
	if opts.LogReads == 0 {
		opts.LogReads = 1
	}
	return &Account{
		opts: opts, closing: make(chan struct{}), lastID: firstID,
		instances: make(map[uint64]*instance), objects: make(map[string]*object), last: make(map[visit]time.Time),
	}
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// Start starts the server on a free port of 127.0.0.1.
func (a *Account) Start() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("simulated account: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.server != nil {
		l.Close()
		return errors.New("simulated account: started twice, or after Close")
	}
	a.url = "http://" + l.Addr().String()
	a.server = &http.Server{
		Handler: http.HandlerFunc(a.serveHTTP), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	a.working.Go(func() { a.server.Serve(l) })
	return nil
}

// URL returns the address of the API without a slash at the end, to be used as VAST_URL. It is empty before Start.
func (a *Account) URL() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.url
}

// Key returns the first API key.
func (a *Account) Key() secret.Value { return a.opts.Keys[0].Value }

// Close ends the server, hanging requests included, and returns when no hook runs any more.
func (a *Account) Close() {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	a.closed = true
	server := a.server
	a.mu.Unlock()
	close(a.closing)
	if server != nil {
		server.Close()
	}
	a.working.Wait()
}

// begin counts a piece of work for Close, and reports false when there is to be none.
func (a *Account) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.working.Add(1)
	return true
}

// Add creates an instance and returns its id, which is a new one if i.ID is 0. An id that is in use is replaced.
func (a *Account) Add(i Instance) uint64 {
	a.mu.Lock()
	if i.ID == 0 {
		i.ID = a.lastID + 1
	}
	a.lastID = max(a.lastID, i.ID)
	i.setDefaults(a.opts.Now())
	row := &instance{Instance: i}
	for _, k := range a.keys {
		if a.opts.Shapes.BornKeysListed {
			row.keys = append(row.keys, SSHKey{ID: a.newID(), PublicKey: k.PublicKey, CreatedAt: a.opts.Now()})
			continue
		}
		row.born = append(row.born, k.PublicKey)
	}
	a.instances[i.ID] = row
	hooks := a.arrivals(row)
	a.mu.Unlock()
	runAll(hooks)
	return i.ID
}

// arrivals returns the hooks that give a new container of the instance its keys. It needs mu.
func (a *Account) arrivals(row *instance) []func() {
	if a.opts.OnAttach == nil {
		return nil
	}
	var hooks []func()
	give := func(id uint64, key string) { hooks = append(hooks, func() { a.opts.OnAttach(id, key) }) }
	for _, key := range row.born {
		give(row.ID, key)
	}
	for _, key := range row.keys {
		give(row.ID, key.PublicKey)
	}
	return hooks
}

func runAll(hooks []func()) {
	for _, hook := range hooks {
		hook()
	}
}

// Get returns an instance as it is now, without counting as a read of its row.
func (a *Account) Get(id uint64) (Instance, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	row := a.instances[id]
	if row == nil || row.destroyed {
		return Instance{}, false
	}
	i := row.Instance
	i.Walk = slices.Clone(i.Walk)
	i.ExtraEnv = slices.Clone(i.ExtraEnv)
	return i, true
}

// Update changes an instance in place. The function must not call the account, and cannot change the id.
// An unknown instance is left alone.
func (a *Account) Update(id uint64, change func(*Instance)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if row := a.instances[id]; row != nil {
		change(&row.Instance)
		row.ID = id
	}
}

// Move gives an instance other addresses, "host:port" or empty for none.
func (a *Account) Move(id uint64, direct, gateway string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if row := a.instances[id]; row != nil {
		row.Direct, row.Gateway = direct, gateway
		row.moves++
	}
}

// SetStatus sets the actual_status of an instance and ends its walk. StatusNull is JSON's null.
func (a *Account) SetStatus(id uint64, status string) {
	a.Update(id, func(i *Instance) { i.Status, i.Walk = status, nil })
}

// Recycle does what the API's recycle does: a new container with other ports on the same machine.
func (a *Account) Recycle(id uint64) {
	a.mu.Lock()
	row := a.instances[id]
	var hooks []func()
	if row != nil {
		hooks = a.recycle(row)
	}
	a.mu.Unlock()
	runAll(hooks)
}

// recycle needs mu; the hooks it returns must be run without.
func (a *Account) recycle(row *instance) []func() {
	id, before := row.ID, row.moves
	a.walk(row, "running", "recycling", "loading")
	hooks := []func(){func() {
		a.changed(id, Recycled)
		a.mu.Lock()
		defer a.mu.Unlock()
		if row.moves == before {
			row.Direct = nextPort(row.Direct)
		}
	}}
	return append(hooks, a.arrivals(row)...)
}

// nextPort returns addr with another port.
func nextPort(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	n, _ := strconv.Atoi(port)
	if n++; n > 65535 {
		n = 20000
	}
	return net.JoinHostPort(host, strconv.Itoa(n))
}

func (a *Account) changed(id uint64, change Change) {
	if a.opts.OnChange != nil {
		a.opts.OnChange(id, change)
	}
}

// Remove takes an instance away at once, as when it was destroyed elsewhere.
func (a *Account) Remove(id uint64) {
	a.mu.Lock()
	row := a.instances[id]
	delete(a.instances, id)
	a.mu.Unlock()
	if row != nil && !row.destroyed {
		a.changed(id, Destroyed)
	}
}

// AccountKeys returns the ssh keys of the account, oldest first.
func (a *Account) AccountKeys() []SSHKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.keys)
}

// InstanceKeys returns the ssh keys attached to an instance, oldest first.
func (a *Account) InstanceKeys(id uint64) []SSHKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	if row := a.instances[id]; row != nil {
		return slices.Clone(row.keys)
	}
	return nil
}

// later runs a hook after the attach delay, or now when there is none.
func (a *Account) later(hook func()) {
	if a.opts.AttachDelay <= 0 {
		hook()
		return
	}
	if !a.begin() {
		return
	}
	go func() {
		defer a.working.Done()
		timer := time.NewTimer(a.opts.AttachDelay)
		defer timer.Stop()
		select {
		case <-timer.C:
			hook()
		case <-a.closing:
		}
	}()
}

// newID returns an id that no key and no instance has. It needs mu.
func (a *Account) newID() uint64 {
	a.lastID++
	return a.lastID
}

// sameKey reports whether two lines of authorized_keys hold the same key, whatever their comments.
func sameKey(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	return len(x) > 1 && len(y) > 1 && x[0] == y[0] && x[1] == y[1]
}

// validKey reports whether the API would take the text for a public key.
func validKey(text string) bool {
	_, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	return err == nil && len(strings.TrimSpace(string(rest))) == 0
}
