package wipe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sshsession"
	"vast-ssh/internal/wipe/catalogue"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// Plan is what a wipe would do to one instance.
type Plan struct {
	Instance uint64         `json:"instance"`
	Label    string         `json:"label,omitempty"`
	Scope    Scope          `json:"scope"`
	Destroy  Policy         `json:"destroy"`
	Groups   []Count        `json:"groups"`
	Total    protocol.Tally `json:"total"`
	Deleted  protocol.Tally `json:"deleted_but_open"`
	// Volumes are those that are mounted, and whether they would be wiped.
	Volumes   []Volume           `json:"volumes,omitempty"`
	Processes []protocol.Process `json:"processes,omitempty"`
	// IPC is the number of System V segments and of message queues, which are removed with the processes.
	IPC  int64 `json:"ipc,omitempty"`
	Jobs []Job `json:"scheduled_jobs,omitempty"`
	// DropJobs says that the scheduled jobs would be deleted.
	DropJobs bool     `json:"drop_jobs,omitempty"`
	Secrets  []Secret `json:"secrets,omitempty"`
	// Left are the files that stay, those that are not worth a line by number.
	Left        []Left                  `json:"left,omitempty"`
	Counts      map[protocol.Code]int64 `json:"left_counts,omitempty"`
	Unreachable []string                `json:"unreachable"`
	// Helper says how the far side works, and Reason why it is not the helper.
	Helper deploy.Kind `json:"far_side"`
	Reason string      `json:"far_side_reason,omitempty"`
	// Done says that an earlier wipe has removed everything, the login included: only the destruction is left.
	Done *time.Time `json:"data_wiped_at,omitempty"`
}

// Count is a group and what is in it.
type Count struct {
	Group
	protocol.Tally
}

// Volume is a file system of the machine that is mounted into the container.
type Volume struct {
	protocol.Mount
	Wiped bool `json:"wiped"`
}

// Job is a scheduled job of the instance, which the provider runs without the machine's knowing.
type Job struct {
	ID   uint64 `json:"id"`
	What string `json:"what"`
	// Other is the instance that it was made for, if that is another. Such a job is left alone.
	Other uint64 `json:"other_instance,omitempty"`
}

// Secret is a place where credentials of a tool were.
type Secret struct {
	Tool string `json:"tool"`
	What string `json:"what"`
	Path string `json:"path"`
}

// Left is a file that a rule named and that was not removed.
type Left struct {
	Code protocol.Code `json:"code"`
	Path string        `json:"path"`
	Text string        `json:"text,omitempty"`
}

// Wipe is one that was planned and can be run.
type Wipe struct {
	cfg    Config
	Plan   Plan
	set    ruleSet
	req    protocol.Request
	client *ssh.Client // of the plan, or nil
	facts  *deploy.Facts
	report *Report
	// expected is the total of a script, once it has said how far it is.
	expected *protocol.Tally
	told     map[protocol.Phase]bool // that it has begun
	// done is the most that any connection has reported, and heard when the far side has said anything last.
	done  protocol.Tally
	heard time.Time
}

// NotRunningError says that an instance has to run to be wiped.
type NotRunningError struct {
	ID     uint64
	Status string
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("instance %d does not run (its status is %q): its files can be reached while it runs only, and stay until it is destroyed",
		e.ID, e.Status)
}

// Hint says how to go on.
func (e *NotRunningError) Hint() string {
	return fmt.Sprintf("start it, and run this again: vastai start instance %d", e.ID)
}

// LessError says that an earlier wipe has removed the login, and that more is meant now than then.
type LessError struct {
	ID    uint64
	At    time.Time
	Scope Scope  // of the earlier one
	More  string // the option that it did not have
}

func (e *LessError) Error() string {
	return fmt.Sprintf("instance %d was wiped on %s, the login included, and without %q: what that means cannot be reached any more",
		e.ID, e.At.Local().Format(time.DateTime), e.More)
}

// Hint says how to go on.
func (e *LessError) Hint() string {
	return fmt.Sprintf("destroy it as it is: vast-ssh wipe %d --scope %s --destroy always", e.ID, e.Scope)
}

// LostError says that the connection ended before there was a plan. Nothing was touched.
type LostError struct {
	ID  uint64
	Err error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("the connection to instance %d ended before there was a plan: %v", e.ID, e.Err)
}

func (e *LostError) Unwrap() error { return e.Err }

// Hint says how to go on.
func (e *LostError) Hint() string { return "try it again: nothing was touched" }

// SharedVolumeError says that a volume must not be wiped because it may have other users.
type SharedVolumeError struct {
	ID     uint64
	Reason string
}

func (e *SharedVolumeError) Error() string {
	return fmt.Sprintf("the volumes of instance %d are not touched: %s", e.ID, e.Reason)
}

// Hint says how to go on without.
func (e *SharedVolumeError) Hint() string {
	return "run it again without --volumes"
}

const (
	// planTimeout bounds a plan, which reads every directory of the machine.
	planTimeout = 15 * time.Minute
	// maxEnvironment is how many names of variables the report lists.
	maxEnvironment = 500
)

// Prepare looks at an instance and says what a run would do. Nothing is changed but for a connection to the machine and a
// program that is brought there into memory and removes itself.
func Prepare(ctx context.Context, cfg Config) (*Wipe, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Minute
	}
	if cfg.Silence == 0 {
		cfg.Silence = 45 * time.Second
	}
	if cfg.Pause == 0 {
		cfg.Pause = time.Second
	}
	in := cfg.Instance
	w := &Wipe{
		cfg: cfg, told: make(map[protocol.Phase]bool),
		Plan: Plan{Instance: in.ID, Label: in.Label, Scope: cfg.Options.Scope, Destroy: cfg.Options.Destroy, DropJobs: cfg.Options.DropJobs},
	}
	if err := w.jobs(ctx); err != nil {
		return nil, err
	}
	if in.ActualStatus != "running" {
		if err := w.earlier(ctx, &NotRunningError{in.ID, in.ActualStatus}); err != nil {
			return nil, err
		}
		return w, nil // the container may have ended with the last act of the wipe
	}
	cfg.notify("connecting to instance %d", in.ID)
	client, err := w.connect(ctx)
	if err != nil {
		if err := w.earlier(ctx, err); err != nil {
			return nil, err
		}
		return w, nil
	}
	w.client = client
	if err := w.plan(ctx, client); err != nil {
		defer w.Close()
		if ctx.Err() == nil && !sshsession.Alive(ctx, client) {
			err = &LostError{in.ID, err}
		}
		return nil, err
	}
	return w, nil
}

// earlier takes up the report of a wipe of this very instance that removed everything and could not destroy it, when a connection
// fails in a way that fits: with err. A machine whose login is removed may have no host key to begin with. But one that shows
// another key is another, and one that has let somebody in since has been used again: a restart brings the login back. Nor is
// anything clean of which that wipe meant less. It returns the error of Prepare where there is nothing to take up.
func (w *Wipe) earlier(ctx context.Context, err error) error {
	r := lastReport(w.cfg.Dir, w.cfg.Instance)
	usedAgain := r != nil && w.cfg.LoggedIn != nil && w.cfg.LoggedIn(ctx, r.loginEnd())
	closed := w.cfg.Refused(err) || w.cfg.Closed(err)
	var ended *NotRunningError
	switch {
	case r == nil || r.Destroyed == DestroyGone:
		return err
	case r.Data == Clean && r.LoginRemoved && !usedAgain:
		if !closed && w.cfg.Retry != nil && !w.cfg.Retry(err) {
			return err
		}
	case r.LoginBegun && r.Remains() == 0 && closed && !usedAgain:
		// The machine's last word was lost, or heard by a program that did not live to write it down.
		r.Data, r.Problem, r.LoginRemoved, r.LoginUnconfirmed = Clean, "", true, true
	case r.LoginBegun && w.cfg.Options.Destroy == Always && (closed || errors.As(err, &ended)):
		// What is left cannot be reached any more.
		if usedAgain {
			r.Data, r.Problem, r.LoginRemoved = Incomplete, "it was logged in to again after its wipe", false
		}
	default:
		return err
	}
	if less := w.cfg.Options.beyond(r); less != "" && r.Data == Clean {
		if w.cfg.Options.Destroy != Always {
			return &LessError{w.cfg.Instance.ID, r.loginEnd(), r.Scope, less}
		}
		r.Data, r.Problem = Incomplete, "what was to be wiped besides cannot be reached any more: "+less
	}
	r.DataEnded = r.loginEnd()
	w.report, w.Plan.Done, w.Plan.Scope = r, &r.DataEnded, r.Scope
	return nil
}

// beyond returns an option by which more is meant than by the wipe of a report, or nothing.
func (o Options) beyond(r *Report) string {
	scopes := []Scope{Secrets, Workspace, All}
	if slices.Index(scopes, o.Scope) > slices.Index(scopes, r.Scope) {
		return "--scope " + string(o.Scope)
	}
	for _, name := range o.Paths {
		if !slices.Contains(r.Paths, name) {
			return "--path " + name
		}
	}
	if o.Volumes && len(r.Volumes) == 0 && r.Counts[protocol.Volume] > 0 {
		return "--volumes"
	}
	return ""
}

// Close ends the connection that Prepare has left open.
func (w *Wipe) Close() {
	if w.client != nil {
		w.client.Close()
		w.client = nil
	}
}

// jobs asks for the scheduled jobs, which go on copying whatever happens to the machine.
func (w *Wipe) jobs(ctx context.Context) error {
	jobs, err := w.cfg.API.ScheduledJobs(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if w.cfg.Options.DropJobs {
			return fmt.Errorf("the scheduled jobs that are to be deleted cannot be listed: %w", err)
		}
		w.Plan.Unreachable = append(w.Plan.Unreachable, fmt.Sprintf("scheduled jobs of the account, which could not be listed: %v", err))
		return nil
	}
	for _, j := range jobs {
		if !j.Concerns(w.cfg.Instance.ID) {
			continue
		}
		job := Job{ID: j.ID, What: j.String()}
		if j.Instance != w.cfg.Instance.ID {
			job.Other = j.Instance
		}
		w.Plan.Jobs = append(w.Plan.Jobs, job)
	}
	return nil
}

func (w *Wipe) plan(ctx context.Context, client *ssh.Client) error {
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	facts, err := deploy.Probe(ctx, client, label(w.cfg.Instance.ID), catalogue.Variables())
	if err != nil {
		return err
	}
	w.facts = facts
	p, err := w.ask(ctx, client, nil)
	if err != nil {
		return err
	}
	if volumes := writable(p.Volumes); w.cfg.Options.Volumes && len(volumes) > 0 {
		if err := w.mayWipeVolumes(ctx, volumes); err != nil {
			return err
		}
		if p, err = w.ask(ctx, client, paths(volumes)); err != nil {
			return err
		}
	}
	w.fill(p)
	return nil
}

// writable are the volumes that can be wiped. One whose name is not UTF-8 arrives under another, with U+FFFD in it, which may be
// that of a second volume: so none with such a name is meant.
func writable(list []protocol.Mount) []protocol.Mount {
	return slices.DeleteFunc(slices.Clone(list), func(m protocol.Mount) bool {
		return m.ReadOnly || strings.ContainsRune(m.Path, utf8.RuneError)
	})
}

func paths(mounts []protocol.Mount) []string {
	var list []string
	for _, m := range mounts {
		list = append(list, m.Path)
	}
	return list
}

// ask has the far side make a plan.
func (w *Wipe) ask(ctx context.Context, client *ssh.Client, volumes []string) (*protocol.Plan, error) {
	o := w.cfg.Options
	w.set = build(o, w.facts, catalogue.Entries(), volumes)
	w.req = protocol.Request{
		Label: label(w.cfg.Instance.ID), Op: protocol.OpPlan, Rules: w.set.rules, Keep: w.set.keep, KeepGlobs: w.set.keepGlobs,
		Named: slices.Concat(o.Keep, o.Paths), Volumes: volumes,
		Packages: o.Scope == All, Processes: true,
	}
	s, err := deploy.Start(ctx, client, w.facts, w.req)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	w.Plan.Helper = s.Kind
	if s.Reason != nil {
		w.Plan.Reason = s.Reason.Error()
	}
	defer context.AfterFunc(ctx, func() { client.Close() })()
	for {
		m, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, fmt.Errorf("wait for the plan: %w", err)
		case m.Plan != nil:
			return m.Plan, w.set.checkPlan(m.Plan)
		}
	}
}

// mayWipeVolumes refuses unless the API says that what is mounted are volumes of the instance without another user. An API that
// does not say which volumes there are says nothing.
func (w *Wipe) mayWipeVolumes(ctx context.Context, mounts []protocol.Mount) error {
	id := w.cfg.Instance.ID
	volumes, err := w.cfg.API.Volumes(ctx)
	if err != nil {
		return err
	}
	instances, err := w.cfg.API.Instances(ctx)
	if err != nil {
		return err
	}
	mine, known := make(map[uint64]bool), make(map[uint64]string)
	// The answer for one instance may leave its volumes out, where the list names them.
	for _, in := range append(instances, w.cfg.Instance) {
		for _, u := range in.Volumes {
			if in.ID == id {
				mine[u.ID] = true
				known[u.ID] = cmp.Or(known[u.ID], u.Path)
			}
		}
	}
	for _, v := range volumes {
		if slices.Contains(v.Instances, id) {
			mine[v.ID] = true
		}
	}
	if len(mine) == 0 {
		return &SharedVolumeError{id, "the API lists no volume of this instance, so that nobody can tell who else uses what is mounted"}
	}
	if name := unnamed(mounts, mine, known); name != "" {
		return &SharedVolumeError{id, fmt.Sprintf("what is mounted at %q is no volume that the API names", name)}
	}
	shared := func(volume, other uint64) error {
		return &SharedVolumeError{id, fmt.Sprintf("volume %d is also used by instance %d", volume, other)}
	}
	// Either list may leave users out: each is asked.
	for _, v := range volumes {
		for _, other := range v.Instances {
			if mine[v.ID] && other != id {
				return shared(v.ID, other)
			}
		}
	}
	for _, in := range instances {
		for _, u := range in.Volumes {
			if mine[u.ID] && in.ID != id {
				return shared(u.ID, in.ID)
			}
		}
	}
	return nil
}

// wiped are the volumes of the plan that are to be wiped.
func (w *Wipe) wiped() []protocol.Mount {
	var list []protocol.Mount
	for _, v := range w.Plan.Volumes {
		if v.Wiped {
			list = append(list, v.Mount)
		}
	}
	return list
}

// unnamed returns a mount that is none of the instance's volumes, whose paths may be known. Where they are not, there may be as
// many mounts as volumes. What a program serves, which may be a disk on the other side of the world, is none by its number.
func unnamed(mounts []protocol.Mount, volumes map[uint64]bool, paths map[uint64]string) string {
	known := make(map[string]bool)
	for _, name := range paths {
		known[name] = true
	}
	free := 0
	for id := range volumes {
		if paths[id] == "" {
			free++
		}
	}
	for _, m := range mounts {
		if known[m.Path] {
			continue
		}
		if free--; free < 0 || protocol.Served(m.Type) {
			return m.Path
		}
	}
	return ""
}

// fill makes the far side's plan one for people.
func (w *Wipe) fill(p *protocol.Plan) {
	w.Plan.Total, w.Plan.Deleted, w.Plan.Processes, w.Plan.IPC = p.Total, p.Deleted, p.Processes, p.IPC
	for i, t := range p.Groups {
		if t.Files > 0 {
			w.Plan.Groups = append(w.Plan.Groups, Count{w.set.groups[i], t})
		}
	}
	for _, m := range p.Volumes {
		w.Plan.Volumes = append(w.Plan.Volumes, Volume{m, slices.Contains(w.req.Volumes, m.Path)})
	}
	w.Plan.Secrets = append(w.set.secrets(p.Secrets), environmentSecrets(p.Environment)...)
	w.Plan.Left, w.Plan.Counts = left(p.Items), p.Counts
	w.Plan.Unreachable = append(w.Plan.Unreachable, unreachable(p, w.Plan.Volumes)...)
}

func (s *ruleSet) secrets(list []protocol.Secret) []Secret {
	var out []Secret
	for _, found := range list {
		e := s.entries[found.Rule]
		out = append(out, Secret{Tool: e.Tool, What: e.What, Path: found.Path})
	}
	return out
}

// environmentPath stands for a file's path where a secret is in the environment that the provider starts the container with.
const environmentPath = "environment of the container"

// environmentSecrets are the secrets among the variables of the container, by name.
func environmentSecrets(names []string) []Secret {
	known := make(map[string]catalogue.Entry)
	for _, e := range catalogue.Entries() {
		if e.Kind == catalogue.Environment {
			for _, name := range e.Paths {
				known[name] = e
			}
		}
	}
	var out []Secret
	for _, name := range names {
		e, listed := known[name]
		if !listed {
			e = catalogue.Entry{Tool: "unknown tool", What: "secret by its name"}
		}
		if (listed || catalogue.IsSecretName(name)) && len(out) < maxEnvironment {
			out = append(out, Secret{Tool: e.Tool, What: e.What + " " + name, Path: environmentPath})
		}
	}
	return out
}

func left(items []protocol.Item) []Left {
	var out []Left
	for _, it := range items {
		out = append(out, Left{it.Code, it.Path, it.Text})
	}
	return out
}

// several writes a number of things.
func several(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// unreachable says what nobody in the container can remove.
func unreachable(p *protocol.Plan, volumes []Volume) []string {
	list := []string{
		"blocks of files that were deleted, moved or replaced before this wipe: they are free, and the machine's",
		"what the machine's owner keeps: logs of the container, snapshots and backups, copies in memory while it ran",
		"what the provider keeps: the environment and the onstart script of the instance, and logs that were asked for",
	}
	if n := p.Counts[protocol.Image]; n > 0 {
		list = append(list, several(n, "file")+" that came with the image: the layers of an image cannot be written to")
	}
	if p.SwapBytes > 0 {
		list = append(list, fmt.Sprintf("the machine's swap of %d MiB, into which anything in memory may have gone", p.SwapBytes>>20))
	}
	for _, v := range volumes {
		if !v.Wiped {
			list = append(list, fmt.Sprintf("the volume at %q, which outlives the instance", v.Path))
		}
	}
	return list
}

var (
	// errEnded is for a connection that ended without a word.
	errEnded = errors.New("the connection ended")
	// errOvertaken is for a far side that has stopped without being told to by this run.
	errOvertaken = errors.New("the work on the machine was stopped by another wipe of it, or with the machine")
)
