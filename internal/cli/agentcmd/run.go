package agentcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"vast-ssh/agent"
	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/launch"
	"vast-ssh/internal/unixsock"
)

// The most connections served at a time. More wait in the kernel's queue.
const (
	maxAgentConns   = 128
	maxControlConns = 128
)

// drainTimeout bounds the wait for what is in flight when the agent stops.
const drainTimeout = 5 * time.Second

// lockTimeout is how long a second agent waits to be the only one.
const lockTimeout = 200 * time.Millisecond

var errRunning = errors.New("a vast-agent is running already")

func runCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "run the agent in the foreground, until it is told to stop",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "report", Hidden: true, Usage: "report the start on the file descriptor that the starter gave"},
		},
		Action: func(c *cli.Context) error {
			if !c.Bool("report") {
				return run(c.Context, env, func() {
					fmt.Fprintf(env.Stderr, "vast-agent is listening on %s\n", env.Dirs.AgentSocket())
				})
			}
			pipe := os.NewFile(launch.ReadyFD, "report")
			if pipe == nil {
				return errors.New("there is no one to report to")
			}
			syscall.CloseOnExec(launch.ReadyFD)
			reported := false
			err := run(c.Context, env, func() {
				fmt.Fprint(pipe, launch.Ready)
				pipe.Close()
				reported = true
			})
			if err != nil && !reported {
				fmt.Fprintln(pipe, err)
			}
			return err
		},
	}
}

// run serves the two sockets until a signal or a request to stop. ready is called when both are open.
func run(ctx context.Context, env *Env, ready func()) error {
	if err := harden(); err != nil {
		return err
	}
	if err := env.configure(); err != nil {
		return err
	}
	unlock, err := single(ctx, env)
	if err != nil {
		return err
	}
	defer unlock()
	a, keys, err := newAgent(env)
	if err != nil {
		return err
	}
	agentSocket, err := unixsock.Listen(env.Dirs.AgentSocket())
	if err != nil {
		return err
	}
	defer agentSocket.Close()
	controlSocket, err := unixsock.Listen(env.Dirs.ControlSocket())
	if err != nil {
		return err
	}
	defer controlSocket.Close()

	stopping, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGHUP) // the terminal it was started from has closed

	serving, end := context.WithCancel(ctx)
	defer end()
	var servers sync.WaitGroup
	servers.Go(func() {
		unixsock.Serve(serving, agentSocket, maxAgentConns, func(ctx context.Context, c *unixsock.Conn) {
			a.Serve(ctx, c, c.Peer)
		})
	})
	control := &handler{agent: a, keys: keys, env: env, started: time.Now(), stop: stop}
	servers.Go(func() {
		unixsock.Serve(serving, controlSocket, maxControlConns, func(ctx context.Context, c *unixsock.Conn) {
			ipc.Serve(ctx, c, control)
		})
	})
	ready()

	awaitStop(stopping, agentSocket, controlSocket)
	// The sockets go first, so that a new agent can be started, then what is in flight is finished, and the
	// connections close last: that tells whoever asked for the stop that it is done.
	controlSocket.Close()
	agentSocket.Close()
	draining, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	drainErr := a.Drain(draining)
	unlock()
	end()
	servers.Wait()
	return drainErr
}

// lookout is how often the agent looks whether its sockets can be found.
const lookout = 5 * time.Second

// awaitStop returns when the agent is told to stop, or when one of its sockets was removed: it would be in the way of a
// new agent, and out of reach.
func awaitStop(ctx context.Context, sockets ...*unixsock.Listener) {
	tick := time.NewTicker(lookout)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if slices.ContainsFunc(sockets, (*unixsock.Listener).Lost) {
				return
			}
		}
	}
}

// single makes this process the only agent of its state directory for as long as it lives.
func single(ctx context.Context, env *Env) (unlock func(), err error) {
	if err := env.Dirs.CheckSockets(); err != nil {
		return nil, err
	}
	if err := atomicfile.EnsureDir(env.Dirs.State); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	unlock, err = atomicfile.Lock(ctx, env.Dirs.AgentLock())
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, errRunning
	}
	return unlock, err
}

func newAgent(env *Env) (*agent.Agent, *keys, error) {
	store, err := env.Store()
	if err != nil {
		return nil, nil, err
	}
	k := &keys{store: store, path: env.Dirs.PublicKey()}
	a, err := agent.New(agent.Config{
		Keys:        k,
		Pins:        pins{env.Pins()},
		Comment:     "vast-ssh",
		WitnessLife: env.Config.WitnessLife,
	})
	return a, k, err
}

// handler answers the control socket.
type handler struct {
	agent   *agent.Agent
	keys    *keys
	env     *Env
	started time.Time
	stop    func()
}

func (h *handler) Witness(ctx context.Context, w ipc.Witness) error { return h.agent.Witness(ctx, w) }

func (h *handler) Withdraw(w ipc.Witness) *ipc.Refusal { return h.agent.Withdraw(w) }

func (h *handler) Lock() {}

func (h *handler) Unlock(context.Context, []byte) error { return nil }

func (h *handler) Status(ctx context.Context) ipc.Status {
	st := h.agent.Status(ctx)
	st.PID = os.Getpid()
	st.Version = h.env.Version
	st.Started = h.started.UTC().Truncate(time.Second)
	st.Custody = h.keys.store.Name()
	return st
}

func (h *handler) Stop() { h.stop() }
