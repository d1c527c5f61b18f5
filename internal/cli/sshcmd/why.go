package sshcmd

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
)

// next is what a person can do about a refusal, by its reason.
var next = map[string]string{
	"no-witness":      "connect with vast-ssh <instance>, or let your client use the ProxyCommand of ~/.ssh/vast-ssh/config",
	"not-userauth":    "sign commits and files with another key: this one is for your instances only",
	"other-key":       "set IdentitiesOnly yes, as ~/.ssh/vast-ssh/config does",
	"other-user":      "log in as the configured user: vast-ssh config show",
	"not-pinned":      "vast-ssh pins",
	"forwarded":       "connect from this machine, with ssh -J if you go through another one",
	"key-unavailable": "vast-ssh key show",
	"unused":          "let it in, and wait 20 seconds: vast-ssh key attach <instance>",
}

func whyCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:      "why",
		Usage:     "tell why the agent refused, last refusal last",
		ArgsUsage: "[<instance id>]",
		Flags:     []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			var only uint64
			if c.NArg() > 0 {
				name, err := oneArgument(c, "<instance id>")
				if err != nil {
					return err
				}
				if only, _, err = resolve.ParseName(name); err != nil || only == 0 {
					return &voice.UsageError{Reason: fmt.Sprintf("%q is not an instance id", name), Next: "vast-ssh why"}
				}
			}
			return why(c, env, only)
		},
	}
}

func why(c *cli.Context, env *Env, only uint64) error {
	dirs, _, err := env.load()
	if err != nil {
		return err
	}
	client, err := ipc.Dial(c.Context, dirs.ControlSocket())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return voice.Hinted(errors.New("the agent is not running, and remembers nothing from before"), "vast-agent start")
	}
	if err != nil {
		return err
	}
	defer client.Close()
	st, err := client.Status(c.Context)
	if err != nil {
		return err
	}
	refusals := []ipc.Refusal{}
	for _, r := range st.Refusals {
		if only == 0 || r.Instance == only {
			refusals = append(refusals, r)
		}
	}
	if c.Bool("json") {
		return printJSON(env, refusals)
	}
	if len(refusals) == 0 {
		fmt.Fprintf(env.Stderr, "the agent has refused nothing since %s; a refused host key is told at the login itself\n",
			st.Started.Local().Format(time.DateTime))
		return nil
	}
	for _, r := range refusals {
		fmt.Fprintln(env.Stdout, voice.Refusal(r))
	}
	if hint := next[refusals[len(refusals)-1].Reason]; hint != "" {
		fmt.Fprintf(env.Stderr, "hint: %s\n", hint)
	}
	return nil
}
