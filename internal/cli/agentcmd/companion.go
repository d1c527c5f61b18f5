package agentcmd

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/companion"
)

// companionCommand is the process beside the agent, which the agent starts itself. It holds no key, but its word is a
// person's consent: it is as closed to other processes as the agent is.
func companionCommand() *cli.Command {
	return &cli.Command{
		Name:   "companion",
		Usage:  "name processes and ask people for the agent that started this",
		Hidden: true,
		Action: func(c *cli.Context) error {
			if err := harden(); err != nil {
				return err
			}
			conn, err := companion.Inherited()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return companion.Serve(ctx, conn, os.Stderr)
		},
	}
}
