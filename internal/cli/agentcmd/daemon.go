package agentcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"vast-ssh/agent"
	"vast-ssh/config"
	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/companion"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/launch"
	"vast-ssh/internal/logind"
	"vast-ssh/internal/sandbox"
	"vast-ssh/internal/unixsock"
)

// daemon is what a running agent is made of. It answers the control socket.
type daemon struct {
	env       *Env
	started   time.Time
	stop      func()
	sandbox   string
	policies  *policies
	keys      *keys
	companion *companion.Client
	names     *names
	recorder  *recorder
	agent     *agent.Agent

	agentSocket   *unixsock.Listener
	controlSocket *unixsock.Listener

	closing sync.Once
}

// newDaemon brings everything up. From its end on the process reads no file of others and starts no program.
func newDaemon(ctx context.Context, env *Env, inherited []*unixsock.Listener) (_ *daemon, err error) {
	d := &daemon{env: env, started: time.Now()}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	d.policies = &policies{path: env.Dirs.ConfigFile(), getenv: env.Getenv}
	store, err := env.Store()
	if err != nil {
		return nil, err
	}
	d.keys = newKeys(store, env.Dirs.PublicKey())
	if err := d.listen(inherited); err != nil {
		return nil, err
	}
	if err := d.startCompanion(ctx); err != nil {
		return nil, err
	}
	log, err := chainlog.Open(env.Dirs.Decisions())
	if err != nil {
		return nil, err
	}
	for _, p := range log.Damage() {
		voice.Warn(env.Stderr, "the log of decisions was damaged: %v", p)
	}
	d.recorder = &recorder{log: log, names: d.names, companion: d.companion, policies: d.policies,
		notes: make(chan struct{}, maxNotes)}
	d.agent, err = agent.New(agent.Config{
		Keys:     d.keys,
		Pins:     pins{env.Pins()},
		Log:      d.recorder,
		Policy:   d.policies.Policy,
		Approver: &approver{d.companion, d.names},
		Comment:  "vast-ssh",
	})
	if err != nil {
		return nil, err
	}
	if d.sandbox, err = restrict(env); err != nil {
		return nil, err
	}
	d.recorder.event(chainlog.Started, "", fmt.Sprintf("version %s; sandbox: %s", env.Version, d.sandbox))
	return d, nil
}

// maxPerPeer is how many connections to a socket one process may have at a time; more of its own wait.
const maxPerPeer = 32

// listen takes the sockets that the service manager passed, or makes them.
func (d *daemon) listen(inherited []*unixsock.Listener) (err error) {
	if inherited != nil {
		d.agentSocket, d.controlSocket = inherited[0], inherited[1]
	} else {
		if d.agentSocket, err = unixsock.Listen(d.env.Dirs.AgentSocket()); err != nil {
			return err
		}
		if d.controlSocket, err = unixsock.Listen(d.env.Dirs.ControlSocket()); err != nil {
			return err
		}
	}
	d.agentSocket.PerPeer = maxPerPeer
	d.controlSocket.PerPeer = maxPerPeer
	return nil
}

func (d *daemon) startCompanion(ctx context.Context) error {
	program, err := launch.Program("vast-agent")
	if err != nil {
		return err
	}
	options := companion.Options{Askpass: d.env.Config.Askpass, Stderr: os.Stderr}
	if d.companion, err = companion.Start(ctx, program, options); err != nil {
		return err
	}
	d.names = newNames(d.companion)
	return nil
}

// restrict leaves the process its own files and nothing else. A keyring may listen on an abstract socket.
func restrict(env *Env) (string, error) {
	dirs := env.Dirs
	if err := atomicfile.EnsureDir(dirs.SSH); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dirs.Config, 0o700); err != nil {
		return "", err
	}
	rules := sandbox.Rules{
		Write:           []string{dirs.State},
		Read:            []string{dirs.SSH, dirs.Config, "/proc"},
		AbstractSockets: env.Config.Custody == config.CustodyKeyring,
	}
	// People link their configuration to where they keep it.
	if target, err := filepath.EvalSymlinks(dirs.ConfigFile()); err == nil {
		rules.Read = append(rules.Read, filepath.Dir(target))
	}
	return sandbox.Restrict(rules)
}

// close ends what newDaemon brought up, the key first.
func (d *daemon) close() {
	d.closing.Do(func() {
		if d.keys != nil {
			d.keys.Lock()
		}
		for _, s := range []*unixsock.Listener{d.controlSocket, d.agentSocket} {
			if s != nil {
				s.Close()
			}
		}
		if d.recorder != nil {
			d.recorder.log.Close()
		}
		if d.companion != nil {
			d.companion.Close()
		}
	})
}

// watchLocks locks the key for each signal that is told, and when the key has not been used for as long as the
// configuration says.
func (d *daemon) watchLocks(ctx context.Context, told <-chan os.Signal) {
	tick := time.NewTicker(lookout)
	defer tick.Stop()
	idleLock := d.env.Config.IdleLock
	for {
		select {
		case <-ctx.Done():
			return
		case <-told:
			d.lock("a signal")
		case now := <-tick.C:
			idleLock = d.lockIdle(now, idleLock)
		}
	}
}

// lockIdle locks the key if it has not been used for as long as the configuration says, or where that is broken as last,
// which it said before. It returns what holds now.
func (d *daemon) lockIdle(now time.Time, last time.Duration) time.Duration {
	if cfg, err := d.policies.Config(); err == nil {
		last = cfg.IdleLock
	}
	if idle, held := d.keys.Idle(now); held && last != 0 && idle >= last {
		d.lock(fmt.Sprintf("not used for %v", last))
	}
	return last
}

// screenRetry is the pause before logind is asked again, when the bus was restarted or is not there.
const screenRetry = 30 * time.Second

// watchScreen locks a key that has a passphrase when the user leaves the machine alone. For one that has none it would be
// in the way and stop nobody: whoever can ask for the key can unlock it.
func (d *daemon) watchScreen(ctx context.Context) {
	for {
		err := logind.Watch(ctx, d.left)
		if errors.Is(err, logind.ErrUnsupported) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(screenRetry):
		}
	}
}

// left is called when the user leaves the machine alone. A configuration that is broken does not say that the key may stay.
func (d *daemon) left(e logind.Event) {
	if cfg, err := d.policies.Config(); (err != nil || cfg.ScreenLock) && d.keys.Guarded() {
		d.lock(e.String())
	}
}

// lock zeroes the key, and has people asked again for what they have agreed to, until it was locked.
func (d *daemon) lock(why string) {
	unlocked := d.keys.Lock()
	d.agent.ForgetConsent()
	if unlocked {
		d.recorder.event(chainlog.Locked, "", why)
	}
}

func (d *daemon) Witness(ctx context.Context, w ipc.Witness) error { return d.agent.Witness(ctx, w) }

func (d *daemon) Withdraw(w ipc.Witness) *ipc.Refusal { return d.agent.Withdraw(w) }

func (d *daemon) Lock() { d.lock("vast-agent lock") }

func (d *daemon) Unlock(ctx context.Context, passphrase []byte) error {
	locked := d.keys.Locked() || len(passphrase) > 0
	err := d.keys.Unlock(ctx, passphrase)
	switch {
	case err == nil && locked:
		d.recorder.event(chainlog.Unlocked, "", "")
	case refusedFor(err, ipc.WrongPassphrase):
		d.recorder.event(chainlog.Refused, ipc.WrongPassphrase, "a wrong passphrase was given")
	}
	return err
}

func (d *daemon) Status(ctx context.Context) ipc.Status {
	st := d.agent.Status(ctx)
	st.PID = os.Getpid()
	st.Version = d.env.Version
	st.Started = d.started.UTC().Truncate(time.Second)
	st.Sandbox = d.sandbox
	st.LogSeq, st.LogHead = d.recorder.log.Head()
	d.keys.Describe(&st)
	return st
}

func (d *daemon) Stop() { d.stop() }
