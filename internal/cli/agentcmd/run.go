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

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/chainlog"
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

// handOverTimeout is how long an agent that systemd started waits for one that was started by hand and has lost its
// sockets to systemd: until that one has noticed and finished what is in flight.
const handOverTimeout = lookout + drainTimeout + time.Second

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
	// A signal to lock the key must not be lost for coming early.
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	defer signal.Stop(told)
	if err := env.configure(); err != nil {
		return err
	}
	inherited, err := unixsock.Inherited(env.Dirs.AgentSocket(), env.Dirs.ControlSocket())
	if err != nil {
		return err
	}
	wait := lockTimeout
	if inherited != nil {
		wait = handOverTimeout
	}
	unlock, err := single(ctx, env, wait)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := newDaemon(ctx, env, inherited)
	if err != nil {
		return err
	}
	defer d.close()

	stopping, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGHUP) // the terminal it was started from has closed
	d.stop = stop

	serving, end := context.WithCancel(ctx)
	defer end()
	var servers sync.WaitGroup
	servers.Go(func() {
		unixsock.Serve(serving, d.agentSocket, maxAgentConns, func(ctx context.Context, c *unixsock.Conn) {
			d.names.Look(c.Peer)
			d.agent.Serve(ctx, c, c.Peer)
		})
	})
	servers.Go(func() {
		unixsock.Serve(serving, d.controlSocket, maxControlConns, func(ctx context.Context, c *unixsock.Conn) {
			ipc.Serve(ctx, c, d)
		})
	})
	servers.Go(func() { d.watchLocks(serving, told) })
	servers.Go(func() { d.watchScreen(serving) })
	ready()

	awaitStop(stopping, d.agentSocket, d.controlSocket)
	// The sockets go first, so that a new agent can be started, then what is in flight is finished, and the
	// connections close last: that tells whoever asked for the stop that it is done.
	d.controlSocket.Close()
	d.agentSocket.Close()
	draining, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	drainErr := d.agent.Drain(draining)
	d.recorder.event(chainlog.Stopped, "", "")
	d.close()
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
func single(ctx context.Context, env *Env, wait time.Duration) (unlock func(), err error) {
	if err := env.Dirs.CheckSockets(); err != nil {
		return nil, err
	}
	if err := atomicfile.EnsureDir(env.Dirs.State); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	unlock, err = atomicfile.Lock(ctx, env.Dirs.AgentLock())
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, errRunning
	}
	return unlock, err
}
