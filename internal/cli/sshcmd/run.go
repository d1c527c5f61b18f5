package sshcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/cli/meter"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/job"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
)

const runHelp = `A directory's content goes into the directory DST, a file goes into it under its own name, and DST is made where it
is missing. Of the colons in --put the last one counts and in --get the first: a local path may have colons in it.

The command runs in the login directory without a terminal and with empty input. A single word is given to a shell as it
is; of several, each reaches the program exactly as it was given here. It goes on when the connection is lost, and when this
program ends: --attach follows it again, from the beginning of its output. It takes every --get again, since none is kept.
Its output is kept in files: a > /dev/stderr in it cuts off what it has said there before, and >&2 does not.
What it leaves running in the background is not waited for, and a wipe ends it.

With --wipe nothing is wiped while something that a --get was to bring is not here: a link that leads out of the results,
or a special file. Nor is it when a --get has brought no file at all, or while another run goes on there. Links that lead
to other results are made here, too.
Before it wipes, it asks: say --yes where nobody will be there to answer. What is wiped, and how: vast-ssh wipe --help

The exit status is the command's. It is 6 if the results are not all here and verified, if the end is not known, or if the
wipe has left something. What fails before the command is started, or found, has the exit codes of vast-ssh --help.`

func runCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:        "run",
		Usage:       "upload, run a command that needs no lasting connection, download and verify its results, wipe",
		ArgsUsage:   "<instance> -- <command> [arguments]",
		Description: runHelp,
		Flags: []cli.Flag{
			&cli.GenericFlag{Name: "put", Value: new(repeated), Usage: "upload `SRC:DST`, from here to there, before the command starts; may be repeated"},
			&cli.GenericFlag{Name: "get", Value: new(repeated), Usage: "download `SRC:DST`, from there to here, when it has ended; may be repeated"},
			&cli.BoolFlag{Name: "wipe", Usage: "wipe the instance when the command succeeded and the results are verified"},
			&cli.BoolFlag{Name: "wipe-always", Usage: "wipe also when the command failed; the results must be verified all the same"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask before wiping"},
			&cli.StringFlag{Name: "attach", Usage: "follow the run `RUN-ID` instead of starting one"},
			&cli.BoolFlag{Name: "no-get", Usage: "there are no results, so that --attach may wipe without --get"},
			&cli.BoolFlag{Name: "force", Usage: "replace local files that differ from the results"},
			&cli.BoolFlag{Name: "keep", Usage: "leave the run's directory on the instance"},
			&cli.BoolFlag{Name: "json", Usage: "print a report as JSON at the end; the command's output goes to stderr"},
		},
		Action: func(c *cli.Context) error {
			o, err := readRun(c)
			if err != nil {
				return err
			}
			return (&running{env: env, c: c, opts: o, name: o.instance, wipe: wipeAfterRun, others: (*job.Run).Others}).all(c.Context)
		},
	}
}

// repeated is an option that may be given several times. The library's own splits its values at commas.
type repeated []string

func (r *repeated) Set(value string) error {
	*r = append(*r, value)
	return nil
}

func (r *repeated) String() string { return strings.Join(*r, " ") }

// runOptions is the command line of a run.
type runOptions struct {
	instance   string
	command    []string
	puts, gets []job.Transfer
	getSpecs   []string
	attach     string
}

func readRun(c *cli.Context) (o runOptions, err error) {
	wrong := func(format string, args ...any) error {
		return &voice.UsageError{Reason: fmt.Sprintf(format, args...), Next: helpOf(c)}
	}
	args := c.Args().Slice()
	o.attach = c.String("attach")
	switch {
	case len(args) == 0 || args[0] == "--":
		return o, wrong("run needs an instance, in front of the --")
	case c.IsSet("attach") && len(args) > 1:
		return o, wrong("--attach takes no command: the run has one")
	case c.IsSet("attach") && !job.ValidID(o.attach):
		return o, wrong("%q is not the id of a run", o.attach)
	case !c.IsSet("attach") && (len(args) < 3 || args[1] != "--"):
		return o, wrong("run needs a command, behind a -- that follows the instance")
	}
	o.instance = args[0]
	if !c.IsSet("attach") {
		o.command = args[2:]
	}
	for _, spec := range *c.Generic("put").(*repeated) {
		t, err := job.ParsePut(spec)
		if err != nil {
			return o, wrong("--put %v", err)
		}
		o.puts = append(o.puts, t)
	}
	o.getSpecs = *c.Generic("get").(*repeated)
	for _, spec := range o.getSpecs {
		t, err := job.ParseGet(spec)
		if err != nil {
			return o, wrong("--get %v", err)
		}
		o.gets = append(o.gets, t)
	}
	switch {
	case c.Bool("no-get") && len(o.gets) > 0:
		return o, wrong("--no-get says that there is no --get")
	case c.IsSet("attach") && wipes(c) && len(o.gets) == 0 && !c.Bool("no-get"):
		return o, wrong("--attach does not know the --get of the run, and --wipe would take the results: " +
			"give each --get again, or --no-get if there was none")
	}
	if wipes(c) && !c.Bool("yes") && !term.Available() {
		return o, wrong("there is no terminal to confirm the wipe at: say --yes")
	}
	if c.IsSet("attach") && len(o.puts) > 0 {
		return o, wrong("--attach takes no --put: the command has been started")
	}
	return o, nil
}

// wipes reports whether a wipe may follow.
func wipes(c *cli.Context) bool { return c.Bool("wipe") || c.Bool("wipe-always") }

// incompleteError says that something remains to be done.
type incompleteError struct{ error }

func (e *incompleteError) Unwrap() error { return e.error }

// runReport is what --json prints.
type runReport struct {
	Instance uint64      `json:"instance"`
	Run      string      `json:"run"`
	Started  bool        `json:"started"`
	Status   *int        `json:"status"` // null if it is not known
	Verified bool        `json:"verified"`
	Results  *job.Report `json:"results,omitempty"`
	Wiped    bool        `json:"wiped"`
	Error    string      `json:"error,omitempty"`
}

// running is one use of the verb.
type running struct {
	env  *Env
	c    *cli.Context
	opts runOptions
	name string // of the instance, its id once that is known
	run  *job.Run
	rep  runReport
	// wipe wipes the instance when its results are verified. yes says not to ask, and an error of last, which is called when all
	// else is decided, not to begin.
	wipe func(ctx context.Context, env *Env, id uint64, yes bool, last func(context.Context) error) error
	// others returns the other runs of the instance whose commands go on.
	others func(*job.Run, context.Context) ([]string, error)
	told   time.Time // when progress was told last
	cut    bool      // a lost connection was told
}

func (x *running) all(ctx context.Context) error {
	// The first signal ends the following and leaves the command alone; the next one ends this program.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := x.steps(ctx)
	if x.run != nil {
		x.run.Close()
	}
	var status exitStatus
	if err != nil && !errors.As(err, &status) {
		x.rep.Error = err.Error()
	}
	if x.c.Bool("json") && x.rep.Run != "" {
		if err := printJSON(x.env, x.rep); err != nil {
			return err
		}
	}
	return err
}

func (x *running) steps(ctx context.Context) error {
	if err := x.begin(ctx); err != nil {
		return err
	}
	status, err := x.run.Follow(ctx)
	var lost *job.LostError
	switch {
	case errors.As(err, &lost): // its results are worth having all the same
	case is[*job.NoRunError](err):
		return err
	case err != nil && ctx.Err() == nil && x.rep.Instance == 0 && final(err): // nobody knows anything of such a run
		return err
	case err != nil && ctx.Err() == nil:
		return x.unfinished(ctx, err, "the command may still be running on the instance")
	case err != nil:
		return x.unfinished(ctx, err, "the command keeps running on the instance")
	default:
		x.rep.Status = &status
	}
	if err := x.fetch(ctx); err != nil {
		return err
	}
	if lost != nil {
		return &incompleteError{lost}
	}
	if err := x.end(ctx, status); err != nil {
		return err
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// begin brings the command to where it can be followed.
func (x *running) begin(ctx context.Context) error {
	if err := x.ready(ctx); err != nil {
		return err
	}
	stdout := io.Writer(x.env.Stdout)
	if x.c.Bool("json") {
		stdout = x.env.Stderr
	}
	id := x.opts.attach
	if id == "" {
		id = job.NewID()
	}
	var err error
	if x.run, err = job.New(job.Config{
		Dial: x.dial, Final: final, ID: id, Puts: x.opts.puts, Gets: x.opts.gets, Command: x.opts.command,
		Stdout: stdout, Stderr: x.env.Stderr, Progress: x.tell, Overwrite: x.c.Bool("force"),
	}); err != nil {
		return err
	}
	x.rep.Run = id
	if x.opts.attach != "" {
		x.rep.Started = true
		return x.run.CheckGets()
	}
	if err := x.run.Prepare(ctx); err != nil {
		if ctx.Err() != nil {
			return &incompleteError{errors.New("interrupted; the command was not started")}
		}
		return fmt.Errorf("the command was not started: %w", err)
	}
	if n, size := x.run.Uploaded(); n > 0 {
		fmt.Fprintf(x.env.Stderr, "%s, uploaded and verified\n", counted(int64(n), size))
	}
	x.rep.Started = true // or so it must be taken
	if err := x.run.Start(ctx); err != nil {
		return x.unfinished(ctx, err, "it is not known whether the command was started")
	}
	fmt.Fprintf(x.env.Stderr, "run %s on instance %d; to follow it again: %s\n", id, x.rep.Instance, x.again(false))
	return nil
}

// ready brings up what a login needs.
func (x *running) ready(ctx context.Context) error {
	if _, err := publicKey(ctx, x.env); err != nil {
		if is[*custody.MissingError](err) {
			return voice.Hinted(errors.New("you have no key for your instances yet"), "vast-ssh key init")
		}
		return err
	}
	if err := x.env.agent(ctx); err != nil {
		return err
	}
	return unlocked(ctx, x.env)
}

// dial logs in at the instance. From the second time on it goes by the id, since a label may come to name another one.
func (x *running) dial(ctx context.Context) (*ssh.Client, error) {
	conn, target, err := connect(ctx, x.env, x.name, tracer(x.env))
	if err != nil {
		return nil, explain(ctx, x.env, target, err)
	}
	if x.rep.Instance == 0 {
		x.rep.Instance, x.name = target.ID, fmt.Sprint(target.ID)
	}
	client, err := proxy.Login(ctx, conn, x.env.dirs.AgentSocket())
	if err != nil {
		if r := conn.Refusal(); r != nil {
			return nil, &proxy.RefusedError{Refusal: r}
		}
		return nil, explain(ctx, x.env, target, err)
	}
	return client, nil
}

// final reports whether an error of dial would be the same the next time.
func final(err error) bool {
	var wrong *wrongHostKey
	if errors.As(err, &wrong) {
		return !wrong.moved
	}
	switch exitCode(err) {
	case voice.HostKey, voice.NoInstance, voice.NoKey, voice.Usage:
		return true
	}
	return is[*resolve.NotRunningError](err)
}

// unfinished is the end of a run that can be taken up again.
func (x *running) unfinished(ctx context.Context, err error, state string) error {
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	hint := x.again(is[*job.ConflictError](err))
	if first := x.before(err); first != "" {
		hint = first + "; then: " + hint
	}
	return voice.Hinted(&incompleteError{fmt.Errorf("%w; %s", err, state)}, hint)
}

// before is what has to be done before a run is taken up again that would end with the same error, or empty.
func (x *running) before(err error) string {
	var h voice.Hinter
	switch {
	case errors.As(err, &h) && h.Hint() != "":
		return h.Hint()
	case is[*job.MissingError](err):
		return fmt.Sprintf("see what is there: vast-ssh %d", x.rep.Instance)
	case is[*job.ConflictError](err) && x.c.Bool("force"):
		return "move away what is there"
	}
	return ""
}

// again is the command that takes a run up, with more to download.
func (x *running) again(force bool, more ...string) string {
	words := []string{"vast-ssh", "run", word(x.name), "--attach", x.rep.Run}
	for _, spec := range append(x.opts.getSpecs[:len(x.opts.getSpecs):len(x.opts.getSpecs)], more...) {
		words = append(words, "--get", word(spec))
	}
	for _, name := range []string{"wipe", "wipe-always", "yes", "force", "keep", "json"} {
		if x.c.Bool(name) || name == "force" && force {
			words = append(words, "--"+name)
		}
	}
	if wipes(x.c) && len(x.opts.getSpecs) == 0 {
		words = append(words, "--no-get")
	}
	return strings.Join(words, " ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9@%+:,./_-][A-Za-z0-9@%+=:,./_~-]*$`)

// word quotes s for a shell if it has to be. A tilde in front, which is the instance's home, would become the one of this computer.
func word(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// fetch has the results on the local disk, verified, or returns an error.
func (x *running) fetch(ctx context.Context) error {
	results, err := x.run.Fetch(ctx)
	if err != nil {
		state := "the results are not all here"
		if x.rep.Status != nil && *x.rep.Status != 0 {
			state = fmt.Sprintf("the command failed with status %d, and %s", *x.rep.Status, state)
		}
		return x.unfinished(ctx, err, state)
	}
	x.rep.Verified = len(results.Missing()) == 0
	if len(x.opts.gets) == 0 {
		return nil
	}
	x.rep.Results = &results
	for i, s := range results.Skipped {
		if i == 10 {
			voice.Warn(x.env.Stderr, "%d more were not downloaded", len(results.Skipped)-i)
			break
		}
		voice.Warn(x.env.Stderr, "%.200q was not downloaded: it is %s", s.Path, s.Reason)
	}
	for _, p := range results.Empty {
		voice.Warn(x.env.Stderr, "there was no file to download at %.200q", p)
	}
	fmt.Fprintf(x.env.Stderr, "%s, downloaded and verified\n", counted(int64(results.Files), results.Bytes))
	return nil
}

// held returns an error if a wipe would take results that are not here.
func (x *running) held() error {
	if x.rep.Results == nil {
		return nil
	}
	missing := x.rep.Results.Missing()
	if len(missing) == 0 {
		return nil
	}
	err := fmt.Errorf("instance %d was not wiped, since results would go that were not downloaded: %.200q, %s",
		x.rep.Instance, missing[0].Path, missing[0].Reason)
	if more := len(missing) - 1; more > 0 {
		err = fmt.Errorf("%w, and %d more", err, more)
	}
	return voice.Hinted(&incompleteError{err}, x.wayOn(missing))
}

// alone returns an error if a wipe would end the command of another run, whose results are not here yet.
func (x *running) alone(ctx context.Context) error {
	ids, err := x.others(x.run, ctx)
	x.run.Close() // a wipe would end it
	if err != nil {
		return x.unfinished(ctx, err, "the results are here, and the instance was not wiped")
	}
	if len(ids) == 0 {
		return nil
	}
	return voice.Hinted(&incompleteError{
		fmt.Errorf("instance %d was not wiped, since another run goes on there: %s", x.rep.Instance, ids[0]),
	}, fmt.Sprintf("vast-ssh run %d --attach %s   (or end all of it: vast-ssh wipe %d)", x.rep.Instance, ids[0], x.rep.Instance))
}

// maxWays is how many results a hint names.
const maxWays = 10

// wayOn is the command that downloads what links lead to, or says that all of that can go.
func (x *running) wayOn(missing []job.Skipped) string {
	var gets []string
	for _, s := range missing {
		if s.Local != "" && !strings.Contains(s.Path, ":") && len(gets) < maxWays {
			gets = append(gets, s.Path+":"+s.Local)
		}
	}
	if len(gets) == 0 {
		return fmt.Sprintf("if nothing of it is needed: vast-ssh wipe %d", x.rep.Instance)
	}
	return x.again(false, gets...)
}

// end wipes the instance, or removes from it what the run has left there. The results are verified.
func (x *running) end(ctx context.Context, status int) error {
	always := x.c.Bool("wipe-always")
	switch {
	case always, x.c.Bool("wipe") && status == 0:
		if err := x.held(); err != nil {
			return err
		}
		if err := x.alone(ctx); err != nil {
			return err
		}
		// Another run may begin while this one waits for a plan and for an answer.
		if err := x.wipe(ctx, x.env, x.rep.Instance, x.c.Bool("yes"), x.alone); err != nil {
			return x.notWiped(err)
		}
		x.rep.Wiped = true
		return nil
	case x.c.Bool("wipe"):
		voice.Warn(x.env.Stderr, "the command failed with status %d, so nothing was wiped: vast-ssh wipe %s", status, word(x.name))
	}
	if x.c.Bool("keep") {
		return nil
	}
	if err := x.run.Remove(ctx); err != nil {
		voice.Warn(x.env.Stderr, "the directory ~/.vast-ssh-run/%s stays on the instance: %v", x.rep.Run, err)
	}
	return nil
}

// notWiped is the end of a run whose results are here and whose instance may be, too. An error of a wipe that tells how to go on
// tells of the instance, too; one of the time before knows nothing of what comes after it.
func (x *running) notWiped(err error) error {
	retry := fmt.Sprintf("vast-ssh wipe %d", x.rep.Instance)
	var h voice.Hinter
	if errors.As(err, &h) && h.Hint() != "" {
		if strings.Contains(h.Hint(), retry) {
			return &incompleteError{err}
		}
		retry = h.Hint() + "; then: " + retry
	}
	return voice.Hinted(&incompleteError{
		fmt.Errorf("instance %d is not known to be wiped and destroyed, and may cost money: %w", x.rep.Instance, err),
	}, retry)
}

// tellEvery is how often progress is told.
const tellEvery = 10 * time.Second

var doing = map[job.Step]string{
	job.Read: "read", job.Sent: "uploaded", job.Got: "downloaded", job.Verify: "verified",
}

// tell tells what goes on, on stderr.
func (x *running) tell(ev job.Event) {
	switch {
	case ev.Step == job.Cut:
		if !x.cut {
			voice.Warn(x.env.Stderr, "the connection is lost, and is tried again: %v", ev.Err)
		}
		x.cut = true
	case ev.Step == job.Back:
		if x.cut { // and not closed by ourselves
			fmt.Fprintln(x.env.Stderr, "connected again")
		}
		x.cut = false
	case ev.Step == job.Short:
		voice.Warn(x.env.Stderr, "the command has cut its own output short, as \"> /dev/stdout\" does, so that some of it is lost")
	case x.told.IsZero():
		x.told = time.Now()
	case time.Since(x.told) >= tellEvery:
		x.told = time.Now()
		fmt.Fprintf(x.env.Stderr, "%s of %s %s\n", meter.Size(ev.Bytes), meter.Size(ev.Total), doing[ev.Step])
	}
}
