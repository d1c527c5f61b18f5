package agentcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/launch"
	"vast-ssh/internal/term"
)

func startCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:   "start",
		Usage:  "start the agent in the background, if it is not running",
		Action: func(c *cli.Context) error { return env.start(c.Context) },
	}
}

// start returns when an agent is running.
func (e *Env) start(ctx context.Context) error {
	if err := e.configure(); err != nil {
		return err
	}
	program, err := launch.Program("vast-agent")
	if err != nil {
		return err
	}
	return launch.Ensure(ctx, launch.Agent{
		Program:       program,
		ControlSocket: e.Dirs.ControlSocket(),
		StartLock:     e.Dirs.StartLock(),
		Log:           e.Dirs.AgentLog(),
	})
}

// dial connects to the running agent.
func (e *Env) dial(ctx context.Context) (*ipc.Client, error) {
	client, err := ipc.Dial(ctx, e.Dirs.ControlSocket())
	if notRunning(err) {
		return nil, errNotRunning
	}
	return client, err
}

func stopCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "stop",
		Usage: "let the agent finish what is in flight and end it",
		Action: func(c *cli.Context) error {
			client, err := ipc.Dial(c.Context, env.Dirs.ControlSocket())
			if notRunning(err) {
				fmt.Fprintln(env.Stderr, "the agent is not running")
				return nil
			}
			if err != nil {
				return err
			}
			defer client.Close()
			return client.Stop(c.Context)
		},
	}
}

var errNotRunning = voice.Hinted(errors.New("the agent is not running"), "vast-agent start")

func notRunning(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

func statusCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show the agent's key, what it has signed, and what it has refused and why",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON"}},
		Action: func(c *cli.Context) error {
			client, err := env.dial(c.Context)
			if err != nil {
				return err
			}
			defer client.Close()
			st, err := client.Status(c.Context)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				enc := json.NewEncoder(env.Stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(st)
			}
			printStatus(env, st)
			return nil
		},
	}
}

func printStatus(env *Env, st ipc.Status) {
	key := st.Key
	if st.KeyError != "" {
		key = "none: " + term.Safe(st.KeyError)
	}
	fmt.Fprintf(env.Stdout, "running     pid %d since %s, version %s\n", st.PID, st.Started.Local().Format(time.DateTime), st.Version)
	fmt.Fprintf(env.Stdout, "socket      %s\n", env.Dirs.AgentSocket())
	fmt.Fprintf(env.Stdout, "key         %s (custody: %s)\n", key, st.Custody)
	fmt.Fprintf(env.Stdout, "state       %s\n", keyState(st))
	fmt.Fprintf(env.Stdout, "policy      accept = %q, confirm = %q\n", st.Accept, st.Confirm)
	fmt.Fprintf(env.Stdout, "sandbox     %s\n", term.Safe(st.Sandbox))
	fmt.Fprintf(env.Stdout, "signatures  %d given, %d requests refused\n", st.Signatures, st.Refused)
	for _, r := range st.Refusals {
		fmt.Fprintf(env.Stdout, "refused     %s\n", voice.Refusal(r))
	}
}

// keyState tells where the private key is.
func keyState(st ipc.Status) string {
	switch {
	case st.Locked != ipc.Unlocked:
		return string(st.Locked) + "; unlock it with: vast-agent unlock"
	case st.Memory == "":
		return "not in memory; it is loaded when it is first needed"
	case st.Memory == "locked":
		return "in locked memory"
	}
	return "in memory that may be swapped out: " + term.Safe(st.Memory)
}
