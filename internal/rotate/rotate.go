// Package rotate replaces the user's key by a new one on every instance, without a moment in which an instance lets in
// no key that the user holds.
//
// # Phases
//
// A rotation goes through phases, and the journal says in which it is:
//
//   - attaching: a new key is made in custody's slot for the next one. If the account's list has the old key it gets the new
//     one, so that an instance rented from here on lets both in. Each running instance gets the new key, and a login with it,
//     in this process, shows that it works. An instance that cannot be shown to work, because it is stopped, does not
//     answer, was never met or shows another host key, stops the rotation here with a *PausedError, unless it is left behind.
//   - swapping: all instances let both keys in. Custody makes the next key the current one and keeps the old one as the
//     previous; after that the public key file, by which ssh and the agent know the key, is replaced.
//   - detaching: the old key leaves the account's list, so that no instance comes into being with it. Then, for each
//     instance: a login as every client makes it, with the new key through the agent; the old key is detached; it is
//     refused; the new one still works.
//   - left: all is done but for instances that were left behind. The next run tries them again.
//   - aborting: the new key is taken off again. It is possible before the swap only.
//
// At the end the old private key is removed and the journal becomes a line of the record. The list of instances is asked
// for until it shows none that was not dealt with, at the end of attaching and of detaching: instances come and go.
//
// # Invariants
//
//   - A key is made current only after a list in which every instance has taken a signature of it in this run, or is left
//     behind by the user's word.
//   - The old key is detached from an instance only after a login with the new one through the agent in this run, and only
//     while the API lists the new key for that instance as well: what it does not list may be gone at the next refresh.
//   - If the new key is refused after the swap, the old one is attached again.
//   - The old private key is removed only when no instance needs it: each has taken the new one, is gone, or was forgotten.
//   - An instance is gone if the API says so when asked for it by its id, and not if all of a rotation's instances are
//     missing: that is what another account looks like.
//   - A key is taken off where its blob is that of the old one, or of the new one when aborting. Comments and names say
//     nothing.
//   - The public key file names a key that custody holds, at every moment: as the current one, or, from the promotion to
//     the writing of the file, as the previous one, which the agent therefore looks at too.
//
// # Interruptions
//
// Each step is written down after it was done, and each can be done twice: attaching what is attached and detaching what is
// gone are no errors. So a run that ends anywhere, by a fault of the API or by SIGKILL, is completed by the next one, which
// believes the journal in what was done to the account and nothing about logins: those are made again. The journal is
// replaced whole; it holds public keys, states and times. Without it, the slots of custody say how far the rotation was.
package rotate

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/vast"
)

// API is the part of the Vast.ai API that a rotation needs. *vast.Client implements it.
type API interface {
	Instances(ctx context.Context) ([]vast.Instance, error)
	Instance(ctx context.Context, id uint64) (vast.Instance, error)
	InstanceKeys(ctx context.Context, id uint64) ([]vast.SSHKey, error)
	AttachKey(ctx context.Context, id uint64, authorizedKey string) (already bool, err error)
	DetachKey(ctx context.Context, id, keyID uint64) error
	AccountKeys(ctx context.Context) ([]vast.SSHKey, error)
	AddAccountKey(ctx context.Context, authorizedKey string) (already bool, err error)
	DeleteAccountKey(ctx context.Context, keyID uint64) error
}

// Logins makes the logins that show what an instance lets in. The host key is compared with the pins in each, and an
// instance without a pin is not met: that is an *UnpinnedError.
type Logins interface {
	// Ready tells why there is no use in a login, from what the API says of the instance and from the pins, or nil.
	Ready(in vast.Instance) error
	// By logs in with key, in this process. The error of a key that the instance does not take is a *RefusedError.
	By(ctx context.Context, in vast.Instance, key ssh.Signer) error
	// ByAgent logs in as every client does, by the key that the agent serves, with the errors of By.
	ByAgent(ctx context.Context, in vast.Instance) error
	// Accepts asks the instance whether it would take a signature of key. Nothing is signed.
	Accepts(ctx context.Context, in vast.Instance, key ssh.PublicKey) (bool, error)
}

// Config is what an Engine needs. All fields but Passphrase, Swapped, Progress, Now and Pause are required.
type Config struct {
	// Dir holds the journal, the record and the lock. It is made when missing, with mode 0700.
	Dir       string
	PublicKey string // path of the public key file
	API       API
	Store     custody.Store
	Logins    Logins

	// Passphrase is asked for the passphrase of the key, if it has one, which the new key gets as well. What it returns is
	// zeroed. It may be called several times, and is one question to a person if it remembers the answer.
	Passphrase func() ([]byte, error)
	// Swapped is called when the new key is in use, before the first login by the agent: a key with a passphrase has to be
	// unlocked there. Its error ends the run.
	Swapped func(ctx context.Context) error
	// Progress is told of each step that was done, one at a time.
	Progress func(Event)

	Now   func() time.Time                                 // the clock; nil is time.Now
	Pause func(ctx context.Context, d time.Duration) error // waits for d or for the end of ctx; nil does so in real time
}

// Event is a step that was done. Instance is 0 where the step is about none.
type Event struct {
	Step     Step
	Instance uint64
	Label    string
}

// Step names what was done.
type Step string

// The steps.
const (
	StepResumed      Step = "resumed"       // an earlier run's rotation goes on
	StepMade         Step = "made"          // there is a new key
	StepAccountAdded Step = "account added" // the account's list has it
	StepAttached     Step = "attached"
	StepVerified     Step = "verified" // a login with the new key, in this run
	StepSwapped      Step = "swapped"  // the new key is in use
	StepAccountFreed Step = "account freed"
	StepDetached     Step = "detached"
	StepDone         Step = "done" // the old key is refused and the new one works
	StepTakenBack    Step = "taken back"
	StepOldRemoved   Step = "old removed"  // the private key
	StepNewRemoved   Step = "new removed"  // the private key, when aborting
	StepCopyRemoved  Step = "copy removed" // of the old private key, which is in use
)

// Engine rotates the key of one user.
type Engine struct {
	cfg   Config
	files files
}

// New returns an Engine. It touches nothing.
func New(cfg Config) *Engine {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Pause == nil {
		cfg.Pause = pause
	}
	return &Engine{cfg, files{atomicfile.Write, custody.WritePublic}}
}

// files are the ways to write a file.
type files struct {
	write       func(path string, data []byte) error
	writePublic func(path string, key ssh.PublicKey, comment string) error
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Options are a person's decisions about single instances.
type Options struct {
	// Leave are instances to leave behind: the rotation goes on without them. They let in what they let in now, and the old
	// private key is kept for those that have not taken the new one.
	Leave []uint64
	// Forget are instances to give up: the old key may be removed though they let in no other.
	Forget []uint64
}

// Rotate makes a new key and rotates to it, or completes the rotation of an earlier run. Nothing has been changed when it
// fails before StepMade. Errors are a *PausedError, a *BusyError, an *AccountError, a *StrayError, a *LostError, a
// *PairError, a *JournalError, a *NoRotationError, a *vast.NotFoundError, and others of the API, custody and files; the
// rotation goes on with the next call. The Report is of the state that was reached, also with an error.
func (e *Engine) Rotate(ctx context.Context, opts Options) (Report, error) {
	unlock, err := e.lock(ctx)
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	r, err := e.resume(ctx)
	if err == nil && r == nil {
		r, err = e.begin(ctx, opts)
	} else if err == nil {
		r.progress(StepResumed, 0)
		err = r.decide(ctx, opts)
	}
	if err != nil {
		return r.report(), err
	}
	err = r.proceed(ctx)
	return r.report(), err
}

// Abort takes back a rotation that has not come to the swap. Its errors are those of Rotate, an *InUseError after the
// swap, and a *NoRotationError if there is none under way.
func (e *Engine) Abort(ctx context.Context) (Report, error) {
	unlock, err := e.lock(ctx)
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	r, err := e.resume(ctx)
	switch {
	case err != nil:
		return Report{}, err
	case r == nil:
		return Report{}, &NoRotationError{}
	case r.j.Phase != Attaching && r.j.Phase != Aborting: // see resume
		return r.report(), &InUseError{}
	}
	if err = r.enter(Aborting); err == nil {
		err = r.proceed(ctx)
	}
	return r.report(), err
}

// lockTimeout is how long a second rotation waits for the first one to end.
const lockTimeout = 200 * time.Millisecond

func (e *Engine) lock(ctx context.Context) (unlock func(), err error) {
	if err := atomicfile.EnsureDir(e.cfg.Dir); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	unlock, err = atomicfile.Lock(waiting, filepath.Join(e.cfg.Dir, "rotation.lock"))
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, &BusyError{}
	}
	return unlock, err
}

// run is a rotation that this process works on.
type run struct {
	*Engine
	old, new         ssh.PublicKey
	oldLine, newLine string // as the API is given them

	mu sync.Mutex // protects the following
	j  *journal
}

func (e *Engine) newRun(j *journal) *run {
	return &run{Engine: e, old: j.oldKey, new: j.newKey, oldLine: j.OldKey, newLine: j.NewKey, j: j}
}

// proceed works through the phases until the rotation is closed or stops.
func (r *run) proceed(ctx context.Context) error {
	for {
		var err error
		switch r.j.Phase {
		case Attaching:
			err = r.attach(ctx)
		case Swapping:
			err = r.swap(ctx)
		case Detaching:
			err = r.detach(ctx)
		case Aborting:
			err = r.abort(ctx)
		default:
			return nil // Left, Done, Aborted
		}
		if err != nil {
			return err
		}
	}
}

// progress tells of a step. mu must be free.
func (r *run) progress(step Step, id uint64) {
	if r.cfg.Progress == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ev := Event{Step: step, Instance: id}
	if id != 0 {
		ev.Label = r.j.entry(id).Label
	}
	r.cfg.Progress(ev)
}

func (r *run) report() Report {
	if r == nil {
		return Report{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.j.Report.clone()
}

func same(a, b ssh.PublicKey) bool {
	return a != nil && b != nil && bytes.Equal(a.Marshal(), b.Marshal())
}
