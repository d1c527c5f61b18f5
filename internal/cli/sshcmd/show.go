package sshcmd

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
	"vast-ssh/internal/vast"
	"vast-ssh/known"
)

// details is an instance as show reports it.
type details struct {
	row
	Intended string    `json:"intended_status"`
	Message  string    `json:"status_message,omitempty"`
	Runtype  string    `json:"image_runtype"`
	Machine  uint64    `json:"machine_id"`
	SSHName  string    `json:"ssh_name"`
	Pins     []pinInfo `json:"pins"`
}

func showCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:      "show",
		Usage:     "show an instance: its state, its addresses, its pins",
		ArgsUsage: "<instance>",
		Flags:     []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			name, err := oneArgument(c, "<instance>")
			if err != nil {
				return err
			}
			api, err := env.api()
			if err != nil {
				return err
			}
			in, err := lookUp(c.Context, api, name)
			if err != nil {
				return err
			}
			d, err := describe(env, in)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(env, d)
			}
			return printDetails(env, d)
		},
	}
}

// lookUp asks the API about an instance, running or not.
func lookUp(ctx context.Context, api *vast.Client, name string) (vast.Instance, error) {
	id, label, err := resolve.ParseName(name)
	if err != nil {
		return vast.Instance{}, err
	}
	if id != 0 {
		return api.Instance(ctx, id)
	}
	all, err := api.Instances(ctx)
	if err != nil {
		return vast.Instance{}, err
	}
	return resolve.ByLabel(all, label)
}

func describe(env *Env, in vast.Instance) (details, error) {
	rows, err := report(env, []vast.Instance{in})
	if err != nil {
		return details{}, err
	}
	file, err := env.pins()
	if err != nil {
		return details{}, err
	}
	pins, err := file.Of(in.ID)
	if err != nil {
		return details{}, err
	}
	return details{
		row: rows[0], Intended: in.IntendedStatus, Message: in.StatusMsg, Runtype: in.ImageRuntype, Machine: in.MachineID,
		SSHName: known.Name(in.ID), Pins: pinInfos(pins, known.Shared(pins)),
	}, nil
}

func printDetails(env *Env, d details) error {
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	field := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, term.Safe(fmt.Sprintf(format, args...)))
	}
	field("id", "%d", d.ID)
	field("ssh name", "%s", d.SSHName)
	field("label", "%s", orDash(d.Label))
	field("status", "%s (wanted: %s)", d.Status, orDash(d.Intended))
	if d.Message != "" {
		field("message", "%s", d.Message)
	}
	field("gpu", "%dx %s", d.GPUs, orDash(d.GPU))
	field("price", "$%.3f an hour", d.Price)
	field("run type", "%s", orDash(d.Runtype))
	field("machine", "%d", d.Machine)
	for _, r := range d.Routes {
		field("route", "%s %s", r.Route, r.Address)
	}
	if d.Problem != "" {
		field("route", "none: %s", d.Problem)
	}
	if len(d.Pins) == 0 {
		field("pin", "none yet: the first login makes it")
	}
	for _, p := range d.Pins {
		field("pin", "%s %s (%s, %s)", p.Type, p.Fingerprint, p.Via, p.At.Format(time.DateOnly))
	}
	if len(d.SharedBy) > 0 {
		field("warning", "the host key is also that of %v: an image with a key baked in", d.SharedBy)
	}
	return w.Flush()
}
