package agentcmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/term"
)

// lastLines is how many decisions are shown if nothing else is asked for.
const lastLines = 50

func logCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "log",
		Usage: "show the agent's decisions, or check that the record of them is whole",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with the decisions to come"},
			&cli.IntFlag{Name: "n", Value: lastLines, Usage: "how many of the last decisions to show"},
			&cli.BoolFlag{Name: "json", Usage: "print the lines as they are in the log"},
			&cli.BoolFlag{Name: "verify", Usage: "check that no record was changed, removed, or put in"},
		},
		Action: func(c *cli.Context) error {
			if c.Bool("verify") {
				if c.Bool("follow") || c.Bool("json") || c.IsSet("n") {
					return &voice.UsageError{Reason: "--verify shows no decisions", Next: "vast-agent log --verify"}
				}
				return verifyLog(c.Context, env)
			}
			if c.Int("n") < 0 {
				return &voice.UsageError{Reason: "-n is less than 0", Next: "vast-agent log --help"}
			}
			return showLog(c, env)
		},
	}
}

func showLog(c *cli.Context, env *Env) error {
	show := func(line []byte) error {
		text := string(line)
		if !c.Bool("json") {
			text = decision(line)
		}
		_, err := fmt.Fprintln(env.Stdout, text)
		return err
	}
	if c.Bool("follow") {
		return chainlog.Follow(c.Context, env.Dirs.Decisions(), c.Int("n"), show)
	}
	err := chainlog.Lines(c.Context, env.Dirs.Decisions(), c.Int("n"), show)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(env.Stderr, "no decisions recorded")
		return nil
	}
	return err
}

// maxUnreadable is how many characters are shown of a line that is no record.
const maxUnreadable = 100

func decision(line []byte) string {
	r, err := chainlog.Parse(line)
	if err != nil {
		return "not a record: " + term.SafeN(string(line), maxUnreadable)
	}
	return voice.Decision(r)
}

// brokenLogError tells where the log is not what the agent wrote.
type brokenLogError struct{ report chainlog.Report }

func (e *brokenLogError) Error() string {
	return fmt.Sprintf("the log of decisions is not as it was written: %s", e.report.Problems[0])
}

// Details returns the other places.
func (e *brokenLogError) Details() []string {
	var all []string
	for _, p := range e.report.Problems[1:] {
		all = append(all, p.String())
	}
	if more := e.report.Found - len(e.report.Problems); more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return all
}

func verifyLog(ctx context.Context, env *Env) error {
	// The head is asked for first: what the agent writes from now on is behind it.
	head, running, err := agentHead(ctx, env)
	if err != nil {
		return err
	}
	report, err := chainlog.VerifyTo(ctx, env.Dirs.Decisions(), head)
	switch {
	case errors.Is(err, fs.ErrNotExist) && head.Seq > 0:
		return fmt.Errorf("the log of decisions is gone: the agent has written %d records", head.Seq)
	case errors.Is(err, fs.ErrNotExist):
		fmt.Fprintln(env.Stderr, "no decisions recorded")
		return nil
	case err != nil:
		return err
	case report.Found > 0:
		return &brokenLogError{report}
	}
	printReport(env, report)
	if !running {
		fmt.Fprintln(env.Stderr, "no agent is running: records that were cut off at the end would not show")
	} else {
		fmt.Fprintln(env.Stdout, "the running agent's last record is there")
	}
	return nil
}

func printReport(env *Env, r chainlog.Report) {
	if r.Records == 0 {
		fmt.Fprintln(env.Stdout, "no records")
		return
	}
	fmt.Fprintf(env.Stdout, "whole: records %d to %d, of which the last has the hash %s\n", r.First, r.Last, r.Head)
	if r.Rotated {
		fmt.Fprintf(env.Stdout, "the records before %d are gone with the oldest files\n", r.First)
	}
}

// agentHead asks the running agent for the last record that it has written.
func agentHead(ctx context.Context, env *Env) (head chainlog.Head, running bool, err error) {
	client, err := ipc.Dial(ctx, env.Dirs.ControlSocket())
	if notRunning(err) {
		return chainlog.Head{}, false, nil
	}
	if err != nil {
		return chainlog.Head{}, false, err
	}
	defer client.Close()
	st, err := client.Status(ctx)
	return chainlog.Head{Seq: st.LogSeq, Hash: st.LogHead}, true, err
}
