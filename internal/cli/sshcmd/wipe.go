package sshcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/cli/meter"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
	"vast-ssh/internal/vast"
	"vast-ssh/internal/wipe"
	"vast-ssh/internal/wipe/destroy"
)

const wipeHelp = `Shows what it would do, asks, does it, destroys the instance and makes sure that it is gone. The instance has to run, and
to have been logged in to before, so that its host key is pinned. Running it again finishes what was left.

The scopes:
  secrets    the places where known tools keep credentials
  workspace  that; histories, caches and traces of known tools; /workspace; and all else that was created or changed
  all        that; and what the package manager has installed since the instance was created

A PATH is absolute, and a directory means all that is in it.

It exits with 6 if something is left: files, or an instance that is not confirmed gone.`

func wipeCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:        "wipe",
		Usage:       "overwrite and remove what you left on an instance, then destroy it",
		ArgsUsage:   "<instance>...",
		Description: wipeHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "scope", Value: string(wipe.Workspace), Usage: "wipe `SCOPE`: secrets, workspace or all"},
			&cli.GenericFlag{Name: "path", Value: new(repeated), Usage: "wipe `PATH` on the instance, too; may be repeated"},
			&cli.GenericFlag{Name: "keep", Value: new(repeated), Usage: "leave `PATH` on the instance alone; may be repeated"},
			&cli.BoolFlag{Name: "volumes", Usage: "wipe the instance's volumes, too, unless another instance uses one"},
			&cli.BoolFlag{Name: "drop-jobs", Usage: "delete the instance's scheduled jobs at the provider"},
			&cli.StringFlag{Name: "destroy", Value: string(wipe.IfClean), Usage: "destroy the instance `WHEN`: if-clean, always or never"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done, and do nothing"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask: needed where there is no terminal"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return &voice.UsageError{Reason: "wipe needs an instance", Next: "vast-ssh ls"}
			}
			order := wipeOrder{
				options: wipe.Options{
					Scope: wipe.Scope(c.String("scope")), Destroy: wipe.Policy(c.String("destroy")),
					Paths: *c.Generic("path").(*repeated), Keep: *c.Generic("keep").(*repeated),
					Volumes: c.Bool("volumes"), DropJobs: c.Bool("drop-jobs"),
				},
				dry: c.Bool("dry-run"), yes: c.Bool("yes"), json: c.Bool("json"), out: env.Stdout,
			}
			// The first signal ends a run between two blocks, with a report; the next one ends this program.
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			return wipeInstances(ctx, env, order, c.Args().Slice())
		},
	}
}

// wipeOrder is what the command line says.
type wipeOrder struct {
	options        wipe.Options
	dry, yes, json bool
	out            io.Writer // of the report
	// last, if set, is asked when the plan is made and confirmed, which may take hours. Its error ends the wipe.
	last func(ctx context.Context) error
}

// again is the command that takes the order up for some of its instances.
func (o wipeOrder) again(ids ...uint64) string {
	words := []string{"vast-ssh", "wipe"}
	for _, id := range ids {
		words = append(words, fmt.Sprint(id))
	}
	if o.options.Scope != wipe.Workspace {
		words = append(words, "--scope", string(o.options.Scope))
	}
	for _, name := range o.options.Paths {
		words = append(words, "--path", word(name))
	}
	for _, name := range o.options.Keep {
		words = append(words, "--keep", word(name))
	}
	if o.options.Destroy != wipe.IfClean {
		words = append(words, "--destroy", string(o.options.Destroy))
	}
	for _, flag := range []struct {
		name string
		set  bool
	}{{"--volumes", o.options.Volumes}, {"--drop-jobs", o.options.DropJobs}, {"--yes", o.yes}, {"--json", o.json}} {
		if flag.set {
			words = append(words, flag.name)
		}
	}
	return strings.Join(words, " ")
}

// incomplete is the error for what was meant and is still there. next is the command that goes on, or empty.
func incomplete(next, format string, args ...any) error {
	return &incompleteError{voice.Hinted(fmt.Errorf(format, args...), next)}
}

// wipeAfterRun wipes and destroys an instance after a run whose results are verified. What it tells is for people, since
// stdout is the run's. last is that of wipeOrder.
func wipeAfterRun(ctx context.Context, env *Env, id uint64, yes bool, last func(context.Context) error) error {
	return wipeInstances(ctx, env, wipeOrder{
		options: wipe.Options{Scope: wipe.Workspace, Destroy: wipe.IfClean}, yes: yes, out: env.Stderr, last: last,
	}, []string{fmt.Sprint(id)})
}

// wipeInstances plans for all instances before it touches one.
func wipeInstances(ctx context.Context, env *Env, order wipeOrder, names []string) (err error) {
	begun := false
	defer func() {
		if !begun && err != nil && (ctx.Err() != nil || errors.Is(err, context.Canceled)) {
			err = errInterrupted
		}
	}()
	if err := order.options.Check(); err != nil {
		return err
	}
	api, err := env.api()
	if err != nil {
		return err
	}
	instances, err := lookUpAll(ctx, api, names)
	if err != nil {
		return wentMeanwhile(env, err)
	}
	// Where the agent cannot be had, the login says so.
	if env.agent(ctx) == nil {
		if err := unlocked(ctx, env); err != nil {
			return err
		}
	}
	wipes, err := prepareAll(ctx, env, api, order.options, instances)
	defer func() {
		for _, w := range wipes {
			w.Close()
		}
	}()
	if err != nil {
		return err
	}
	plans := make([]wipe.Plan, len(wipes))
	for i, w := range wipes {
		plans[i] = w.Plan
	}
	if order.dry {
		if order.json {
			return printJSON(env, plans)
		}
		return printPlans(env.Stdout, plans)
	}
	if !order.json || !order.yes { // nobody is asked without them
		if err := printPlans(env.Stderr, plans); err != nil {
			return err
		}
	}
	if !order.yes {
		if err := confirmWipe(ctx, plans); err != nil {
			return err
		}
	}
	if order.last != nil {
		if err := order.last(ctx); err != nil {
			return err
		}
	}
	begun = true
	return runAll(ctx, env, api, order, wipes)
}

// lookUpAll finds the instances, each once. A name that is not clear ends it.
func lookUpAll(ctx context.Context, api *vast.Client, names []string) ([]vast.Instance, error) {
	var list []vast.Instance
	for _, name := range names {
		in, err := lookUp(ctx, api, name)
		if label, ok := strings.CutPrefix(name, "vast-"); ok && is[*resolve.NotFoundError](err) {
			in, err = lookUp(ctx, api, label)
		}
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(list, func(other vast.Instance) bool { return other.ID == in.ID }) {
			list = append(list, in)
		}
	}
	return list, nil
}

// wentMeanwhile adds to the error for an id that the API does not know what was left open by the last wipe of it. An API key of
// another account gets the same answer, so nothing is taken away because of it.
func wentMeanwhile(env *Env, err error) error {
	var gone *vast.NotFoundError
	if !errors.As(err, &gone) {
		return err
	}
	dirs, _, loaded := env.load()
	if loaded != nil {
		return err
	}
	report := wipe.Unconfirmed(dirs.WipeReports(), gone.ID)
	if report == "" {
		return err
	}
	return voice.Hinted(fmt.Errorf("%w; its last wipe has not seen it gone: %q", err, report),
		fmt.Sprintf("if it was in this account, it is gone, and its host key can go, too: vast-ssh pins rm %d", gone.ID))
}

// stillEvery is how often somebody who waits for a plan hears that it goes on.
const stillEvery = 15 * time.Second

// stillLooking says so again and again, until it is stopped.
func stillLooking(w io.Writer, every time.Duration) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				fmt.Fprintln(w, "still counting files")
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// planners is how many instances are looked at at a time.
const planners = 4

// prepareAll plans for every instance. Those that came to be are returned with an error, too, to be closed.
func prepareAll(ctx context.Context, env *Env, api *vast.Client, o wipe.Options, instances []vast.Instance) ([]*wipe.Wipe, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, in := range instances {
		fmt.Fprintf(env.Stderr, "looking at instance %s\n", named(in.ID, in.Label))
	}
	defer stillLooking(env.Stderr, stillEvery)()
	wipes, errs := make([]*wipe.Wipe, len(instances)), make([]error, len(instances))
	places := make(chan struct{}, planners)
	var all sync.WaitGroup
	for i, in := range instances {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			cfg, err := wipeConfig(env, api, o, in)
			if err == nil {
				cfg.Notify = nil
				wipes[i], err = wipe.Prepare(ctx, cfg)
			}
			if err != nil {
				errs[i] = err
				cancel()
			}
		})
	}
	all.Wait()
	wipes = slices.DeleteFunc(wipes, func(w *wipe.Wipe) bool { return w == nil })
	// The first that failed by itself, and not because another did.
	var first error
	for _, err := range errs {
		if err != nil && (first == nil || errors.Is(first, context.Canceled)) {
			first = err
		}
	}
	return wipes, first
}

var (
	errNotConfirmed = errors.New("not confirmed: nothing was touched")
	errInterrupted  = errors.New("interrupted: nothing was touched")
)

// confirmWipe has a person type what is about to go: the label or the id of one instance, or the number of several.
func confirmWipe(ctx context.Context, plans []wipe.Plan) error {
	question, accepted := confirmation(plans)
	answer, err := term.Line(ctx, question)
	if errors.Is(err, term.ErrNoTerminal) {
		return voice.Hinted(errors.New("there is no terminal to confirm at: nothing was touched"),
			"look at the plan (--dry-run), then run it again with --yes")
	}
	if err != nil {
		return err
	}
	if !slices.Contains(accepted, answer) {
		return errNotConfirmed
	}
	return nil
}

// confirmation is what is asked before a wipe, and the answers to it.
func confirmation(plans []wipe.Plan) (question string, accepted []string) {
	if len(plans) != 1 {
		return fmt.Sprintf("Type %d to go on: ", len(plans)), []string{fmt.Sprint(len(plans))}
	}
	id := fmt.Sprint(plans[0].Instance)
	if label := strings.TrimSpace(plans[0].Label); label != "" { // a line has no blanks around, and an empty one is no answer
		return fmt.Sprintf("Type %s or %s to go on: ", term.SafeN(label, 100), id), []string{id, label}
	}
	return fmt.Sprintf("Type %s to go on: ", id), []string{id}
}

// runAll wipes one instance after the other, and destroys each as soon as its data is done. A reader of the output that goes
// away, as tee does at a Ctrl-C, does not end the program from here on.
func runAll(ctx context.Context, env *Env, api *vast.Client, order wipeOrder, wipes []*wipe.Wipe) error {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // and not ignored, which the programs that it starts would inherit
	reports := []*wipe.Report{}
	var failed error
	var again []uint64 // what is not done
	for _, w := range wipes {
		if ctx.Err() != nil {
			fmt.Fprintf(env.Stderr, "instance %s was not begun\n", named(w.Plan.Instance, w.Plan.Label))
			again = append(again, w.Plan.Instance)
			continue
		}
		if len(wipes) > 1 {
			fmt.Fprintf(env.Stderr, "wiping instance %s\n", named(w.Plan.Instance, w.Plan.Label))
		}
		r, err := wipeOne(ctx, env, api, order, w)
		if r != nil {
			reports = append(reports, r)
		}
		if err != nil {
			again = append(again, w.Plan.Instance)
			if failed == nil {
				failed = err
			}
		}
		if r != nil && !order.json {
			printReport(order.out, r)
		}
		if err != nil && len(wipes) > 1 {
			voice.Error(env.Stderr, err)
		}
	}
	if order.json {
		if err := printJSON(env, reports); err != nil && failed == nil {
			return err // what is left of an instance is worse
		}
	}
	if len(again) > 0 && len(wipes) > 1 {
		return incomplete(order.again(again...), "%d of %d instances are not wiped and destroyed as asked", len(again), len(wipes))
	}
	return failed
}

// wipeOne wipes an instance, destroys it if that is wanted, and takes away what is here of it.
func wipeOne(ctx context.Context, env *Env, api *vast.Client, order wipeOrder, w *wipe.Wipe) (*wipe.Report, error) {
	m := meter.New(env.Stderr, term.Width(env.Stderr) > 0)
	w.Notify(func(ev wipe.Event) {
		switch p := ev.Progress; {
		case p == nil:
			m.Say(term.Safe(ev.Step))
		case p.TotalFiles > 0:
			m.Set(p.Files, p.Bytes, p.TotalFiles, p.TotalBytes)
		}
	})
	r, kept := w.Run(ctx)
	m.Close()
	if r == nil {
		return nil, kept
	}
	if err := endWipe(ctx, env, api, order, w, r); err != nil {
		return r, err
	}
	if kept != nil {
		return r, incomplete("", "instance %d is done, and there is no report of it: %v", r.Instance, kept)
	}
	return r, nil
}

// endWipe destroys the instance if that is wanted, and says what is not as it was asked for.
func endWipe(ctx context.Context, env *Env, api *vast.Client, order wipeOrder, w *wipe.Wipe, r *wipe.Report) error {
	retry := order.again(r.Instance)
	policy := order.options.Destroy
	switch {
	case r.Data == wipe.Stopped:
		return incomplete(retry, "the wipe of instance %d was stopped: what is left is still there, and the instance runs and costs money", r.Instance)
	case policy == wipe.Never && r.Data == wipe.Clean:
	case policy != wipe.Always && r.Data != wipe.Clean && destroy.Gone(ctx, destruction(env, api, r.Instance)) == nil:
		if err := destroyed(env, w, r, nil); err != nil {
			return err
		}
		return incomplete("", "instance %d was destroyed by somebody else before it was clean: %s", r.Instance, r.Problem)
	case policy != wipe.Always && r.Data != wipe.Clean:
		return incomplete(retry+"   (or destroy it as it is: --destroy always)",
			"instance %d is not clean (%s), and was not destroyed: it costs money", r.Instance, r.Problem)
	case ctx.Err() != nil:
		return incomplete(retry, "instance %d is wiped and was not destroyed, since that was interrupted: it costs money", r.Instance)
	default:
		err := destroyInstance(ctx, env, api, w, r)
		if is[*destroy.UnknownError](err) { // the same order again: without --destroy always one that is not clean is not taken up
			return voice.Hinted(err, fmt.Sprintf("in a moment, run again: %s   (and see: vast-ssh show %d)", retry, r.Instance))
		}
		if err != nil {
			return err
		}
	}
	switch {
	case r.Data != wipe.Clean && policy == wipe.Always:
		return incomplete("", "instance %d is destroyed, and was not clean: %s", r.Instance, r.Problem)
	case r.Data != wipe.Clean:
		return incomplete(retry, "instance %d is not clean: %s", r.Instance, r.Problem)
	}
	mine := slices.DeleteFunc(slices.Clone(r.JobsLeft), func(j wipe.Job) bool { return j.Other != 0 })
	if order.options.DropJobs && len(mine) > 0 {
		return incomplete("delete by hand what is left: https://cloud.vast.ai/", "scheduled jobs could not be deleted: %d", len(mine))
	}
	return nil
}

// destroyInstance destroys an instance and, when it is gone, what this computer knows of it.
func destroyInstance(ctx context.Context, env *Env, api *vast.Client, w *wipe.Wipe, r *wipe.Report) error {
	return destroyed(env, w, r, destroy.Run(ctx, destruction(env, api, r.Instance)))
}

func destruction(env *Env, api *vast.Client, id uint64) destroy.Config {
	return destroy.Config{API: api, ID: id, Progress: func(step string) { fmt.Fprintln(env.Stderr, term.Safe(step)) }}
}

// destroyed keeps in the report what became of a destruction, of which err is the error, and takes away what is here of an
// instance that is gone.
func destroyed(env *Env, w *wipe.Wipe, r *wipe.Report, err error) error {
	r.Destroyed, r.DestroyProblem = wipe.DestroyGone, ""
	var unknown *destroy.UnknownError
	switch {
	case errors.As(err, &unknown):
		r.Destroyed, r.DestroySent = wipe.DestroyUnknown, unknown.Sent
	case err != nil:
		r.Destroyed = wipe.DestroyRefused
	}
	if err != nil {
		r.DestroyProblem = err.Error()
	} else {
		r.TracesRemoved, r.TracesRemaining = forgetInstance(env, r.Instance)
	}
	kept := w.Keep(r)
	if err == nil && kept != nil {
		return incomplete("", "instance %d is gone, and its report does not say so: %v", r.Instance, kept)
	}
	return errors.Join(err, kept)
}
