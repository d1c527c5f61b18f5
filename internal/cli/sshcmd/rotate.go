package sshcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/rotate"
	"vast-ssh/internal/term"
	"vast-ssh/internal/vast"
)

func rotateCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "rotate",
		Usage: "replace the key by a new one on all instances; run it again to complete what was interrupted",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "show what there is to do, and do nothing"},
			&cli.BoolFlag{Name: "status", Usage: "show the rotation under way"},
			&cli.BoolFlag{Name: "abort", Usage: "take the new key off again; the old one must still be in use"},
			&cli.StringSliceFlag{Name: "leave", Usage: "go on without the instance `ID`, which keeps the keys it has"},
			&cli.StringSliceFlag{Name: "forget", Usage: "give up the instance `ID`, though it may let in the old key only"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return noArguments(c)
			}
			// An end by a signal is one between two steps where it can be.
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return rotateKey(ctx, c, env)
		},
	}
}

func rotateKey(ctx context.Context, c *cli.Context, env *Env) error {
	opts, err := rotateOptions(c)
	if err != nil {
		return err
	}
	r := &rotation{env: env}
	defer r.wipe()
	engine, err := r.engine(ctx, !c.Bool("status"))
	if err != nil {
		return err
	}
	var rep rotate.Report
	show := printRotation
	switch {
	case c.Bool("status"):
		rep, err = engine.Status()
	case c.Bool("dry-run"):
		rep, err = engine.Plan(ctx)
		show = printPlan
	case c.Bool("abort"):
		rep, err = engine.Abort(ctx)
		show = printOutcome
	default:
		rep, err = engine.Rotate(ctx, opts)
		show = printOutcome
	}
	if c.Bool("json") && rep.Phase != "" {
		if err := printJSON(env, rep); err != nil {
			return err
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return voice.Hinted(errors.New("the rotation was interrupted, and is not complete"), "vast-ssh key rotate")
	case err != nil && rep.Phase != "" && !is[*rotate.PausedError](err) && !is[*rotate.InUseError](err):
		return fmt.Errorf("the rotation is not complete: %w", err)
	case err == nil && !c.Bool("json"):
		show(env, rep)
	}
	return err
}

// rotateOptions reads the decisions, and refuses options that contradict one another.
func rotateOptions(c *cli.Context) (rotate.Options, error) {
	var opts rotate.Options
	modes := 0
	for _, name := range []string{"status", "dry-run", "abort"} {
		if c.Bool(name) {
			modes++
		}
	}
	for name, ids := range map[string]*[]uint64{"leave": &opts.Leave, "forget": &opts.Forget} {
		for _, text := range c.StringSlice(name) {
			id, _, err := resolve.ParseName(text)
			if err != nil || id == 0 {
				return opts, &voice.UsageError{Reason: fmt.Sprintf("%q is not an instance id", text), Next: helpOf(c)}
			}
			*ids = append(*ids, id)
		}
	}
	if modes > 1 || modes == 1 && len(opts.Leave)+len(opts.Forget) > 0 {
		return opts, &voice.UsageError{Reason: "these options do not go together", Next: helpOf(c)}
	}
	return opts, nil
}

// rotation is what a run of the verb holds besides the environment.
type rotation struct {
	env        *Env
	passphrase []byte // as it was typed; nil if nobody was asked
}

func (r *rotation) wipe() { clear(r.passphrase) }

// engine makes the engine. Without the API it can tell its status only.
func (r *rotation) engine(ctx context.Context, withAPI bool) (*rotate.Engine, error) {
	dirs, _, err := r.env.load()
	if err != nil {
		return nil, err
	}
	var api *vast.Client
	if withAPI {
		if api, err = r.env.api(); err != nil {
			return nil, err
		}
	}
	store, err := r.env.store()
	if err != nil {
		return nil, err
	}
	pins, err := r.env.pins()
	if err != nil {
		return nil, err
	}
	return rotate.New(rotate.Config{
		Dir:       dirs.State,
		PublicKey: dirs.PublicKey(),
		API:       api,
		Store:     store,
		Logins: &rotate.Wire{
			Config:      func(t resolve.Target) (proxy.Config, error) { return proxyConfig(r.env, t, nil) },
			Pins:        pins,
			Agent:       r.env.agent,
			AgentSocket: dirs.AgentSocket(),
		},
		Passphrase: func() ([]byte, error) { return r.ask(ctx) },
		Swapped:    r.unlock,
		Progress:   r.tell,
	}), nil
}

// ask asks for the passphrase once, and gives a copy, which the receiver wipes.
func (r *rotation) ask(ctx context.Context) ([]byte, error) {
	if r.passphrase == nil {
		typed, err := term.Passphrase(ctx, "Passphrase of the key, which the new one has too: ")
		if errors.Is(err, term.ErrNoTerminal) {
			return nil, voice.Hinted(errors.New("the key has a passphrase, and there is no terminal to ask for it on"),
				"vast-ssh key rotate   (in a terminal)")
		}
		if err != nil {
			return nil, err
		}
		r.passphrase = typed
	}
	return bytes.Clone(r.passphrase), nil
}

// unlock gives the passphrase that was typed to the agent, which knows it for the old key only. A key that was locked by
// a person stays so.
func (r *rotation) unlock(ctx context.Context) error {
	if r.passphrase == nil {
		return nil
	}
	if err := r.env.agent(ctx); err != nil {
		return err
	}
	client, err := ipc.Dial(ctx, r.env.dirs.ControlSocket())
	if err != nil {
		return err
	}
	defer client.Close()
	if st, err := client.Status(ctx); err != nil || st.Locked == ipc.Locked {
		return err
	}
	return client.Unlock(ctx, r.passphrase)
}

// said are the steps as they are told.
var said = map[rotate.Step]string{
	rotate.StepResumed:      "going on with the rotation that was not completed",
	rotate.StepMade:         "a new key is made",
	rotate.StepAccountAdded: "the account has the new key too",
	rotate.StepAttached:     "gets the new key",
	rotate.StepVerified:     "lets the new key in",
	rotate.StepSwapped:      "the new key is in use",
	rotate.StepAccountFreed: "the account has the old key no longer",
	rotate.StepDetached:     "loses the old key",
	rotate.StepDone:         "refuses the old key and lets the new one in",
	rotate.StepTakenBack:    "has the new key no longer",
	rotate.StepOldRemoved:   "the old private key is removed",
	rotate.StepNewRemoved:   "the new private key is removed",
	rotate.StepCopyRemoved:  "a copy of the old private key is removed",
}

// tell tells of a step on stderr.
func (r *rotation) tell(ev rotate.Event) {
	if ev.Instance == 0 {
		fmt.Fprintln(r.env.Stderr, said[ev.Step])
		return
	}
	fmt.Fprintf(r.env.Stderr, "instance %s %s\n", named(ev.Instance, ev.Label), said[ev.Step])
}

func named(id uint64, label string) string {
	if label == "" {
		return fmt.Sprint(id)
	}
	return fmt.Sprintf("%d (%s)", id, term.Safe(label))
}

// printOutcome tells how a rotation ended.
func printOutcome(env *Env, rep rotate.Report) {
	switch rep.Phase {
	case rotate.Aborted:
		fmt.Fprintf(env.Stderr, "the rotation was taken back: %s stays in use\n", rep.Old)
		return
	case rotate.Done:
		fmt.Fprintf(env.Stderr, "key %s took the place of %s\n", rep.New, rep.Old)
	case rotate.Left:
		fmt.Fprintf(env.Stderr, "key %s took the place of %s, but for what was left behind\n", rep.New, rep.Old)
	}
	for _, in := range rep.Instances {
		if in.Left && !in.Forgotten && in.Stage != rotate.Gone {
			voice.Warn(env.Stderr, "instance %s was left behind: when it can be reached again, run vast-ssh key rotate",
				named(in.ID, in.Label))
		}
	}
}

// printRotation shows the rotation under way.
func printRotation(env *Env, rep rotate.Report) {
	if rep.Phase == rotate.None {
		fmt.Fprintf(env.Stderr, "no rotation is under way; the key is %s\n", rep.Old)
		return
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "phase\t%s\n", rep.Phase)
	fmt.Fprintf(w, "began\t%s\n", rep.Started.Local().Format(time.DateTime))
	fmt.Fprintf(w, "old key\t%s\n", rep.Old)
	fmt.Fprintf(w, "new key\t%s\n", rep.New)
	printInstances(w, rep)
	w.Flush()
}

// printPlan shows what a rotation would do.
func printPlan(env *Env, rep rotate.Report) {
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	if rep.Phase == rotate.None {
		fmt.Fprintf(w, "old key\t%s\n", rep.Old)
		fmt.Fprintf(w, "new key\tis made\n")
	} else {
		fmt.Fprintf(w, "goes on\t%s\n", rep.Phase)
		fmt.Fprintf(w, "old key\t%s\n", rep.Old)
		fmt.Fprintf(w, "new key\t%s\n", rep.New)
	}
	switch rep.Account {
	case rotate.AccountOld, rotate.AccountBoth:
		fmt.Fprintf(w, "account\tits list gets the new key and loses the old one\n")
	default:
		fmt.Fprintf(w, "account\tits list has not the old key, and stays as it is\n")
	}
	printInstances(w, rep)
	w.Flush()
	blocks := func(in rotate.Instance) bool { return in.Problem != "" && !in.Left }
	if slices.ContainsFunc(rep.Instances, blocks) {
		fmt.Fprintln(env.Stderr, "hint: the rotation would stop before the new key is in use; put right what is named, "+
			"or leave it behind: vast-ssh key rotate --leave <id>")
	}
}

func printInstances(w *tabwriter.Writer, rep rotate.Report) {
	for _, in := range rep.Instances {
		state := string(in.Stage)
		if in.Left {
			state += ", left behind"
		}
		if in.Problem != "" {
			state += ": " + term.Safe(in.Problem)
		}
		fmt.Fprintf(w, "instance\t%s\t%s\n", named(in.ID, in.Label), state)
	}
}
