package sshcmd

import (
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/cli/voice"
)

func configCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "show the configuration: config show",
		Subcommands: []*cli.Command{{
			Name:  "show",
			Usage: "print every value and where it comes from",
			Flags: []cli.Flag{jsonFlag()},
			Action: func(c *cli.Context) error {
				if c.NArg() > 0 {
					return noArguments(c)
				}
				dirs, cfg, err := env.load()
				if err != nil {
					return err
				}
				values := cfg.Values()
				if c.Bool("json") {
					return printJSON(env, values)
				}
				w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
				for _, v := range values {
					fmt.Fprintf(w, "%s\t= %s\t# %s\n", v.Key, v.Text, v.Source)
				}
				fmt.Fprintf(w, "# file: %s\n", dirs.ConfigFile())
				return w.Flush()
			},
		}},
	}
}

func noArguments(c *cli.Context) error {
	return &voice.UsageError{Reason: fmt.Sprintf("%s takes no argument", c.Command.Name), Next: helpOf(c)}
}
