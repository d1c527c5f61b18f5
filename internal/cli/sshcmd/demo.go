package sshcmd

import (
	"errors"

	"github.com/urfave/cli/v2"
)

func demoCommand(env *Env) *cli.Command {
	return &cli.Command{Name: "demo", Usage: "see the main job done on a simulated account, in a temporary HOME", Action: func(c *cli.Context) error { return errors.New("x") }}
}
