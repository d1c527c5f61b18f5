package sshcmd

import (
	"context"
	"os"
	"sync"
	"time"

	"vast-ssh/config"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/launch"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/vast"
	"vast-ssh/known"
)

// Env is what a run of the program works with. The parts behind methods are made when they are first needed, so that a
// verb pays and fails only for what it uses.
type Env struct {
	Stdin, Stdout, Stderr *os.File
	Getenv                func(string) string
	Version               string

	// quiet is set where stderr may be part of an SSH stream: warnings are left out.
	quiet bool

	once sync.Once
	dirs config.Dirs
	cfg  *config.Config
	err  error
}

// load finds the directories and reads the configuration.
func (e *Env) load() (config.Dirs, *config.Config, error) {
	e.once.Do(func() {
		if e.dirs, e.err = config.LocateDirs(e.Getenv); e.err != nil {
			return
		}
		e.cfg, e.err = config.Load(e.dirs.ConfigFile(), e.Getenv)
	})
	return e.dirs, e.cfg, e.err
}

// api makes an API client with the user's key.
func (e *Env) api() (*vast.Client, error) {
	dirs, cfg, err := e.load()
	if err != nil {
		return nil, err
	}
	key, err := vast.FindKey(e.Getenv, dirs.Home)
	if err != nil {
		return nil, err
	}
	if key.Warning != "" && !e.quiet {
		voice.Warn(e.Stderr, "%s", key.Warning)
	}
	return vast.New(vast.Config{
		URL:       cfg.APIURL,
		Key:       key.Value,
		Fallback:  key.Fallback,
		UserAgent: "vast-ssh/" + e.Version,
		Timeout:   cfg.APITimeout,
	})
}

// resolver finds instances by name.
func (e *Env) resolver() (*resolve.Resolver, error) {
	dirs, cfg, err := e.load()
	if err != nil {
		return nil, err
	}
	return resolve.New(resolve.Config{
		API:      func() (resolve.API, error) { return e.api() },
		CacheDir: dirs.Cache,
		Fresh:    max(cfg.CacheFresh, 1), // 0 is resolve's default, and "never" here
	}), nil
}

func (e *Env) pins() (*known.File, error) {
	dirs, _, err := e.load()
	if err != nil {
		return nil, err
	}
	return known.Open(dirs.KnownHosts()), nil
}

func (e *Env) store() (custody.Store, error) {
	dirs, cfg, err := e.load()
	if err != nil {
		return nil, err
	}
	return custody.Open(string(cfg.Custody), dirs.PrivateKey())
}

// agent returns when an agent is running.
func (e *Env) agent(ctx context.Context) error {
	dirs, _, err := e.load()
	if err != nil {
		return err
	}
	if err := dirs.CheckSockets(); err != nil {
		return err
	}
	program, err := launch.Program("vast-agent")
	if err != nil {
		return err
	}
	return launch.Ensure(ctx, launch.Agent{
		Program:       program,
		ControlSocket: dirs.ControlSocket(),
		StartLock:     dirs.StartLock(),
		Log:           dirs.AgentLog(),
	})
}

// witness hands a witness to the agent.
func (e *Env) witness(ctx context.Context, w ipc.Witness) error {
	dirs, _, err := e.load()
	if err != nil {
		return err
	}
	client, err := ipc.Dial(ctx, dirs.ControlSocket())
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Witness(ctx, w)
}

// withdrawTimeout bounds the last word to the agent, when the connection has ended.
const withdrawTimeout = 5 * time.Second

// withdraw takes a witness back and returns what its login was refused. An agent that does not hear it forgets the witness
// a little later by itself.
func (e *Env) withdraw(w ipc.Witness) *ipc.Refusal {
	ctx, cancel := context.WithTimeout(context.Background(), withdrawTimeout)
	defer cancel()
	client, err := ipc.Dial(ctx, e.dirs.ControlSocket())
	if err != nil {
		return nil
	}
	defer client.Close()
	refused, err := client.Withdraw(ctx, w)
	if err != nil {
		return nil
	}
	return refused
}
