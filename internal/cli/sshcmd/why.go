package sshcmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
)

// next is what a person can do about a refusal, by its reason.
var next = map[string]string{
	"no-witness":        "connect with vast-ssh <instance>, or let your client use the ProxyCommand of ~/.ssh/vast-ssh/config",
	"not-userauth":      "sign commits and files with another key: this one is for your instances only",
	"other-key":         "set IdentitiesOnly yes, as ~/.ssh/vast-ssh/config does",
	"other-user":        "log in as a user that users in the configuration names: vast-ssh config show",
	"not-pinned":        "vast-ssh pins",
	"forwarded":         "connect from this machine, with vast-ssh -J if you go through another one",
	"other-hop":         "connect from this machine with vast-ssh -J, or name the way in hops: vast-ssh config show",
	"locked":            "vast-agent unlock",
	"key-unavailable":   "vast-ssh key show",
	"bad-configuration": "vast-ssh config show",
	"unused":            "let it in, and wait 20 seconds: vast-ssh key attach <instance>",
}

func whyCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:      "why",
		Usage:     "tell why the agent refused, last refusal last",
		ArgsUsage: "[<instance>]",
		Flags:     []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			about := func(chainlog.Record) bool { return true }
			if c.NArg() > 0 {
				name, err := oneArgument(c, "<instance>")
				if err != nil {
					return err
				}
				id, label, err := resolve.ParseName(name)
				if err != nil {
					return err
				}
				about = func(r chainlog.Record) bool { return id != 0 && r.Instance == id || id == 0 && r.Label == label }
			}
			return why(c, env, about)
		},
	}
}

// told is a refusal as why reports it.
type told struct {
	ipc.Refusal
	Label string             `json:"label,omitempty"`
	User  string             `json:"user,omitempty"`
	Route string             `json:"route,omitempty"`
	Chain []chainlog.Process `json:"chain,omitempty"`
}

func why(c *cli.Context, env *Env, about func(chainlog.Record) bool) error {
	dirs, _, err := env.load()
	if err != nil {
		return err
	}
	refusals, since, err := refusalsIn(c.Context, dirs.Decisions(), about)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		all := make([]told, len(refusals))
		for i, r := range refusals {
			all[i] = tell(r)
		}
		return printJSON(env, all)
	}
	switch {
	case since.IsZero():
		fmt.Fprintln(env.Stderr, "no decisions recorded")
	case len(refusals) == 0:
		fmt.Fprintf(env.Stderr, "the agent has refused nothing since %s; a refused host key is told at the login itself\n",
			since.Local().Format(time.DateTime))
	}
	for i, r := range refusals {
		fmt.Fprintln(env.Stdout, voice.Refused(r))
		hint := nextOf(r)
		if hint != "" && (i == len(refusals)-1 || nextOf(refusals[i+1]) != hint) {
			fmt.Fprintf(env.Stderr, "hint: %s\n", hint)
		}
	}
	return nil
}

// nextOf is what a person can do about r, or nothing.
func nextOf(r chainlog.Record) string {
	hint := next[r.Reason]
	if r.Instance != 0 {
		hint = strings.ReplaceAll(hint, "<instance>", strconv.FormatUint(r.Instance, 10))
	}
	return hint
}

// maxTold is how many refusals why tells.
const maxTold = 64

// refusalsIn reads the last refusals from the log in dir, last one last, and the time of the oldest record, which is
// zero without one. Refusals that are alike are one, as in the agent's status.
func refusalsIn(ctx context.Context, dir string, about func(chainlog.Record) bool) (
	refusals []chainlog.Record, since time.Time, err error) {
	err = chainlog.Read(ctx, dir, func(r chainlog.Record) error {
		if since.IsZero() {
			since = r.At
		}
		if r.Verdict != chainlog.Refused && r.Verdict != chainlog.Unused || !about(r) {
			return nil
		}
		r.Count = max(r.Count, 1)
		like := slices.IndexFunc(refusals, func(k chainlog.Record) bool {
			return k.Reason == r.Reason && k.PID == r.PID && k.Instance == r.Instance && k.HostKey == r.HostKey
		})
		if like >= 0 {
			r.Count += refusals[like].Count
			refusals = slices.Delete(refusals, like, like+1)
		} else if len(refusals) == maxTold {
			refusals = slices.Delete(refusals, 0, 1)
		}
		refusals = append(refusals, r)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return refusals, since, err
}

func tell(r chainlog.Record) told {
	return told{
		Refusal: ipc.Refusal{
			At: r.At, Reason: r.Reason, Sentence: r.Sentence, Hint: nextOf(r), Count: r.Count, Instance: r.Instance,
			HostKey: r.HostKey, PID: r.PID, Program: r.Program,
		},
		Label: r.Label, User: r.User, Route: r.Route, Chain: r.Chain,
	}
}
