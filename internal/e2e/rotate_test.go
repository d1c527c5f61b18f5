package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/custody"
	"vast-ssh/internal/rotate"
	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

// rotator is a user with three instances, each met: the first was created with the account's key, the second has it
// attached, the third has both.
type rotator struct {
	*World
	boxes []*Instance
	old   *custody.Key
}

func newRotator(t *testing.T, opts sim.Options) *rotator {
	t.Helper()
	testenv.NeedProgram(t, "sshd")
	testenv.NeedProgram(t, "ssh")
	t.Parallel()
	r := &rotator{World: NewWith(t, opts)}
	r.Must("vast-ssh", "key", "init")
	second := r.AddInstance("", sshd.Config{})
	r.Must("vast-ssh", "key", "upload")
	r.boxes = []*Instance{r.AddInstance("first", sshd.Config{}), second, r.AddInstance("third", sshd.Config{})}
	for _, in := range r.boxes[1:] {
		r.Must("vast-ssh", "key", "attach", idOf(in))
	}
	r.old = r.key(r.store())
	r.waitFor("the key to arrive", func() bool { return r.admits(r.boxes[1], r.old) })
	for _, in := range r.boxes {
		r.Must("vast-ssh", idOf(in), "true")
	}
	return r
}

func (r *rotator) store() custody.Store {
	r.T.Helper()
	store, err := custody.Open("file", r.Dirs.PrivateKey())
	if err != nil {
		r.T.Fatal(err)
	}
	return store
}

// key loads the key in a slot of custody, or returns nil if it is empty.
func (r *rotator) key(slot custody.Store) *custody.Key {
	r.T.Helper()
	key, err := slot.Load(context.Background(), nil)
	var missing *custody.MissingError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		r.T.Fatal(err)
	}
	r.T.Cleanup(key.Destroy)
	return key
}

// admits reports whether an instance lets a key in, by a login of its own.
func (r *rotator) admits(in *Instance, key ssh.Signer) bool {
	r.T.Helper()
	client, err := ssh.Dial("tcp", in.Addr(), &ssh.ClientConfig{
		User: in.User(), Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(in.HostKeys()[0]),
		Timeout: runTimeout,
	})
	if err == nil {
		client.Close()
		return true
	}
	if !strings.Contains(err.Error(), "unable to authenticate") {
		r.T.Fatalf("instance %d: %v", in.ID, err)
	}
	return false
}

// waitFor waits for an event of another process that tells nobody.
func (r *rotator) waitFor(what string, happened func() bool) {
	r.T.Helper()
	for deadline := time.Now().Add(runTimeout); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.T.Fatalf("waited %v for %s", runTimeout, what)
		}
	}
}

// safe checks that each instance lets in a key that custody holds.
func (r *rotator) safe(where string) {
	r.T.Helper()
	store := r.store()
	var held []*custody.Key
	for _, slot := range []custody.Store{store, store.Next(), store.Previous()} {
		if key := r.key(slot); key != nil {
			held = append(held, key)
		}
	}
	for _, in := range r.boxes {
		if !slices.ContainsFunc(held, func(k *custody.Key) bool { return r.admits(in, k) }) {
			r.T.Errorf("%s: instance %d lets in none of the %d keys that custody holds", where, in.ID, len(held))
		}
	}
}

// clean checks that the rotation is over, which had to do with so many instances: one key in custody, the old one refused
// everywhere, the new one in use.
func (r *rotator) clean(instances int) {
	r.T.Helper()
	store := r.store()
	key := r.key(store)
	if r.key(store.Next()) != nil || r.key(store.Previous()) != nil {
		r.T.Error("custody holds more than one key")
	}
	if bytes.Equal(key.PublicKey().Marshal(), r.old.PublicKey().Marshal()) {
		r.T.Fatal("the key is the old one")
	}
	for _, in := range r.boxes {
		if r.admits(in, r.old) {
			r.T.Errorf("instance %d lets the old key in", in.ID)
		}
		if !r.admits(in, key) {
			r.T.Errorf("instance %d refuses the new key", in.ID)
		}
		r.Must("vast-ssh", idOf(in), "true")
		r.listed(fmt.Sprintf("instance %d", in.ID), r.Account.InstanceKeys(in.ID), key)
	}
	r.listed("the account", r.Account.AccountKeys(), key)
	if _, err := os.Stat(filepath.Join(r.Dirs.State, "rotation.json")); err == nil {
		r.T.Error("the journal is still there")
	}
	records, err := os.ReadFile(filepath.Join(r.Dirs.State, "rotations.jsonl"))
	var rep rotate.Report
	if err != nil || bytes.Count(records, []byte("\n")) != 1 || json.Unmarshal(records, &rep) != nil {
		r.T.Fatalf("records %q, %v", records, err)
	}
	if rep.Phase != rotate.Done || rep.Old != fingerprintOf(r.old.PublicKey()) || rep.New != fingerprintOf(key.PublicKey()) ||
		len(rep.Instances) != instances {
		r.T.Errorf("record %+v", rep)
	}
}

func (r *rotator) listed(who string, keys []sim.SSHKey, key *custody.Key) {
	r.T.Helper()
	want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
	if len(keys) != 1 || !strings.HasPrefix(keys[0].PublicKey, want) {
		r.T.Errorf("%s has the keys %v", who, keys)
	}
}

// TestRotate has keys that take their time to the instances, an instance that is rented meanwhile and one that is destroyed. No
// key arrives before both have happened.
func TestRotate(t *testing.T) {
	var arriving sync.RWMutex
	var last atomic.Uint64 // of the instances that have to wait for it
	r := newRotator(t, sim.Options{AttachDelay: 2 * time.Second, OnAttach: func(id uint64, _ string) {
		if id <= last.Load() {
			arriving.RLock()
			defer arriving.RUnlock()
		}
	}})
	ctx, cancel := context.WithTimeout(context.Background(), 2*runTimeout)
	defer cancel()
	cmd := r.Command(ctx, nil, "vast-ssh", "key", "rotate", "--json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	attached := r.Account.Count(sim.AttachEndpoint)
	last.Store(r.boxes[2].ID)
	arriving.Lock()
	arrive := sync.OnceFunc(arriving.Unlock)
	defer arrive()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.waitFor("the first key to be attached", func() bool { return r.Account.Count(sim.AttachEndpoint) > attached })
	late := r.AddInstance("late", sshd.Config{})
	r.Account.Remove(r.boxes[2].ID)
	r.boxes = r.boxes[:2]
	arrive()
	cmd.Wait()
	// Nobody has met the new one, so it cannot be shown to let the new key in.
	if code := cmd.ProcessState.ExitCode(); code != 6 || !strings.Contains(stderr.String(), "instance "+idOf(late)) {
		t.Fatalf("exit %d\n%s", code, &stderr)
	}
	var rep rotate.Report
	if err := json.Unmarshal(stdout.Bytes(), &rep); err != nil || rep.Phase != rotate.Attaching || len(rep.Instances) != 4 {
		t.Errorf("report %s, %v", &stdout, err)
	}
	r.boxes = append(r.boxes, late)
	r.safe("paused")
	for _, in := range r.boxes {
		r.Must("vast-ssh", idOf(in), "true")
	}
	r.Must("vast-ssh", "key", "rotate")
	r.clean(4)
}

// killPoints are calls of the API during which a rotation is killed, one run after the other: each run goes on where the one
// before was killed. Late is after the API has done what was asked.
var killPoints = []struct {
	at   sim.Endpoint
	skip int
	late bool
}{
	{at: sim.ListEndpoint},                      // nothing is done
	{at: sim.AccountKeysEndpoint, skip: 1},      // the key is made
	{at: sim.AddAccountKeyEndpoint},             //
	{at: sim.AddAccountKeyEndpoint, late: true}, //
	{at: sim.AttachEndpoint},                    //
	{at: sim.AttachEndpoint, late: true},        //
	{at: sim.AttachEndpoint, skip: 1},           // one instance has it
	{at: sim.ListEndpoint, skip: 1},             // all have it
	{at: sim.AccountKeysEndpoint, skip: 1},      // the new key is in use
	{at: sim.DeleteAccountKeyEndpoint},          //
	{at: sim.DeleteAccountKeyEndpoint, late: true},
	{at: sim.KeysEndpoint},
	{at: sim.AttachEndpoint, late: true}, // of the old key, to make it one that can be detached
	{at: sim.DetachEndpoint},
	{at: sim.DetachEndpoint, late: true},
	{at: sim.ListEndpoint, skip: 1}, // all is done, and not written down
}

func TestRotateKilled(t *testing.T) {
	r := newRotator(t, sim.Options{})
	for i, p := range killPoints {
		where := fmt.Sprintf("killed at %s (skip %d, late %v)", p.at, p.skip, p.late)
		hung := r.hangs()
		r.Account.Fault(sim.Fault{Endpoint: p.at, Skip: p.skip, Late: p.late, Hang: true, Halt: true})
		ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
		cmd := r.Command(ctx, nil, "vast-ssh", "key", "rotate")
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		r.waitFor(where, func() bool {
			select {
			case err := <-ended:
				t.Fatalf("%s: it came to an end: %v\n%s", where, err, &said)
			default:
			}
			return r.hangs() > hung
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-ended
		cancel()
		r.Account.Resume()
		r.safe(where)
		r.Must("vast-ssh", idOf(r.boxes[i%len(r.boxes)]), "true")
	}
	r.Must("vast-ssh", "key", "rotate")
	r.clean(3)
}

// hangs is how many requests of the account hang or have.
func (r *rotator) hangs() int {
	n := 0
	for _, req := range r.Account.Ledger() {
		if req.Fault {
			n++
		}
	}
	return n
}

// TestRotateImpostor has another machine at the address of an instance: it is named, and gets no login.
func TestRotateImpostor(t *testing.T) {
	r := newRotator(t, sim.Options{})
	in := r.boxes[2]
	addrs := in.Addrs()
	in.Stop()
	machine := r.Impostor(addrs, strings.TrimSpace(r.Must("vast-ssh", "key", "show")))
	res := r.Run("vast-ssh", "key", "rotate")
	if res.Code != 6 || !strings.Contains(res.Stderr, "instance "+idOf(in)+" (\"third\"): the host key on direct") {
		t.Fatalf("exit %d\n%s", res.Code, res.Stderr)
	}
	if strings.Contains(machine.Log(), "publickey") {
		t.Errorf("the other machine was shown a key:\n%s", machine.Log())
	}
	if r.key(r.store().Previous()) != nil || r.Account.Count(sim.DetachEndpoint) != 0 {
		t.Error("the new key is in use")
	}
	machine.Stop()
	in.Restart()
	r.safe("paused")
	r.Must("vast-ssh", "key", "rotate")
	r.clean(3)
}

// TestRotateBetweenCustodyAndFile has the process die when custody has made the new key the current one and the public key
// file names the old one still. Logins go on with the old key.
func TestRotateBetweenCustodyAndFile(t *testing.T) {
	r := newRotator(t, sim.Options{})
	r.Account.Fault(sim.Fault{Endpoint: sim.AccountKeysEndpoint, Skip: 2, Status: 500})
	if res := r.Run("vast-ssh", "key", "rotate"); res.Code != 7 {
		t.Fatalf("exit %d\n%s", res.Code, res.Stderr)
	}
	store := r.store()
	if r.key(store.Previous()) == nil {
		t.Fatal("the new key is not in use")
	}
	// Back to the moment before the file was written.
	if err := custody.WritePublic(r.Dirs.PublicKey(), r.old.PublicKey(), custody.DefaultComment); err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(r.Dirs.State, "rotation.json")
	data, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(journal, bytes.Replace(data, []byte(`"detaching"`), []byte(`"swapping"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Must("vast-agent", "stop")
	for _, in := range r.boxes {
		r.Must("vast-ssh", idOf(in), "true")
	}
	r.Must("vast-ssh", "key", "rotate")
	r.clean(3)
}
