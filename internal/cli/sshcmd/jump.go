package sshcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/sshconf"
	"vast-ssh/known"
)

// way is how to get to an instance.
type way struct {
	through []stop // instances to log in at first, in their order
	name    string
	client  int // pid of the ssh client that comes after, or 0: it is this process
}

// stop is an instance on the way to another one.
type stop struct {
	user string // empty for the configured one
	name string
}

var stopUser = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// parseStops reads what follows a -J: "[user@]instance", several of them with commas between. An instance has one SSH
// port, so a port makes no sense.
func parseStops(text string) ([]stop, error) {
	var stops []stop
	for part := range strings.SplitSeq(text, ",") {
		var s stop
		s.name = strings.TrimPrefix(part, "ssh://")
		if user, name, ok := strings.Cut(s.name, "@"); ok {
			if !stopUser.MatchString(user) {
				return nil, &voice.UsageError{Reason: fmt.Sprintf("%.64q is not a user name", user)}
			}
			s.user, s.name = user, name
		}
		if inside, ok := strings.CutPrefix(s.name, "["); ok { // ssh -G takes an id for an address
			s.name = strings.TrimSuffix(inside, "]")
		}
		switch {
		case s.name == "":
			return nil, &voice.UsageError{
				Reason: fmt.Sprintf("%.64q names no instance to go through", text),
				Next:   "vast-ssh ls",
			}
		case strings.ContainsAny(s.name, ":/"):
			return nil, &voice.UsageError{
				Reason: fmt.Sprintf("%.64q is not an instance to go through: give an id or a label, without a port", s.name),
				Next:   "vast-ssh ls",
			}
		}
		stops = append(stops, s)
	}
	return stops, nil
}

// findStops resolves the instances on the way, and to is where it leads.
func findStops(ctx context.Context, r *resolve.Resolver, stops []stop, to resolve.Target) ([]resolve.Target, error) {
	ids := []uint64{to.ID}
	var targets []resolve.Target
	for _, s := range stops {
		t, err := find(ctx, r, s.name)
		if is[*resolve.NotFoundError](err) {
			return nil, voice.Hinted(fmt.Errorf("%q is none of your instances, "+
				"and through another machine nobody here sees whom the session is with: %w", s.name, err), "vast-ssh ls")
		}
		if err != nil {
			return nil, err
		}
		if slices.Contains(ids, t.ID) {
			return nil, &voice.UsageError{Reason: fmt.Sprintf("instance %d is on the way twice", t.ID)}
		}
		ids = append(ids, t.ID)
		targets = append(targets, t)
	}
	return targets, nil
}

// jumpOptions are what ssh is given in place of the user's -J: its own way of jumping keeps the session from our proxy.
// text is what ssh made of -J or ProxyJump.
func jumpOptions(ctx context.Context, env *Env, text string, to resolve.Target) ([]string, error) {
	stops, err := parseStops(text)
	if err != nil {
		return nil, err
	}
	r, err := env.resolver()
	if err != nil {
		return nil, err
	}
	targets, err := findStops(ctx, r, stops, to)
	if err != nil {
		return nil, err
	}
	var through []string
	for i, t := range targets {
		name := known.Name(t.ID)
		if user := stops[i].user; user != "" {
			name = user + "@" + name
		}
		through = append(through, name)
	}
	params, err := sshParams(env)
	if err != nil {
		return nil, err
	}
	command, err := sshconf.ProxyCommand(params, through...)
	if err != nil {
		return nil, err
	}
	return []string{"-o", "ProxyCommand=" + command}, nil
}

// withoutJump takes the -J out of arguments for ssh, beside which ssh takes no ProxyCommand. Only ssh knows its options,
// so it is asked: of all ways to leave out something like a -J, that is the one after which ssh takes the options and
// everything else means what it meant. before is what ssh -G said of args.
func withoutJump(ctx context.Context, ssh, config string, options, args []string, before []byte) ([]string, error) {
	want := settings(before)
	for _, without := range removals(args) {
		asked := slices.Concat([]string{"-F", config, "-G"}, options, without)
		out, err := exec.CommandContext(ctx, ssh, asked...).Output()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil && slices.Equal(settings(out), want) {
			return without, nil
		}
	}
	return nil, voice.Hinted(errors.New("the -J stands where it cannot be told from the other options"),
		"put it first: vast-ssh -J <instance> <instance>")
}

// removals are args, and args without each thing that could be a -J and its value: "-J a", "-Ja", "-vJ a", "-vJa".
func removals(args []string) [][]string {
	all := [][]string{args}
	for i, arg := range args {
		if len(arg) < 2 || arg[0] != '-' || arg[1] == '-' {
			continue
		}
		for k := 1; k < len(arg); k++ {
			if arg[k] != 'J' {
				continue
			}
			without := slices.Clone(args[:i])
			if k > 1 {
				without = append(without, arg[:k])
			}
			rest := i + 1
			if k == len(arg)-1 {
				rest++
			}
			if rest <= len(args) {
				all = append(all, append(without, args[rest:]...))
			}
		}
	}
	return all
}

// settings are the lines of ssh -G that have nothing to do with a proxy.
func settings(out []byte) []string {
	var lines []string
	for line := range bytes.Lines(out) {
		if !bytes.HasPrefix(line, []byte("proxyjump ")) && !bytes.HasPrefix(line, []byte("proxycommand ")) {
			lines = append(lines, string(line))
		}
	}
	return lines
}

// forward is what ssh -J makes of an instance in the middle: "ssh [-l user] … -W '[host]:port' name".
type forward struct {
	user string // of the login in the middle; empty for the configured one
	to   string // the host that the middle is to connect to
}

// parseForward reads the arguments of a process. Anything but what OpenSSH itself writes for -J (ssh.c, "implicit
// ProxyCommand") is none, and so is a way to another port than that of SSH.
func parseForward(args []string) (f forward, ok bool) {
	named := false
	for i := 1; i < len(args); i++ {
		switch arg := args[i]; {
		case slices.Contains([]string{"-l", "-p", "-J", "-F", "-W"}, arg) && i+1 < len(args):
			i++
			switch arg {
			case "-l":
				f.user = args[i]
			case "-W":
				f.to = args[i]
			}
		case strings.HasPrefix(arg, "-v") && strings.Trim(arg[1:], "v") == "":
		case i < len(args)-1, strings.HasPrefix(arg, "-"):
			return forward{}, false
		default:
			named = true
		}
	}
	host, ours := strings.CutSuffix(f.to, ":22")
	f.to = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	ours = ours && named && strings.HasPrefix(f.to, "vast-") && (f.user == "" || stopUser.MatchString(f.user))
	return f, ours
}

// detour is an ssh -J that came to us with its first part only.
type detour struct {
	way
	in, out *os.File // of the connection to the last instance
}

// errNoDetour is for what ssh -J asks where it cannot be given.
var errNoDetour = errors.New("ssh -J leaves the session with the other instance to ssh alone, " +
	"and nobody here sees whom it is with")

// detourOf finds out whether this proxy runs for an ssh -J, whose way leads through name to another instance. Then the
// ssh that has started us was started by another one, in the middle of whose connection it stands:
//
//	ssh -J vast-a vast-b  ⇄  ssh -W '[vast-b]:22' vast-a  ⇄  vast-ssh proxy vast-a
//
// and would have vast-a connect to a name that it does not know, for a session that nobody here can witness. It reads
// nothing from its standard input before it has logged in at vast-a. So that stays undone, and the connection to vast-b
// is made here and goes to the standard input and output of that ssh: the pipes from and to the first one.
//
// The result is nil if there is no such ssh, or if it wants something else.
func detourOf(ctx context.Context, env *Env, name string) (*detour, error) {
	d := &detour{way: way{name: name}}
	holder, first := 0, os.Getppid()
	for pid := first; ; {
		parent, args, err := process(pid)
		if err != nil {
			break
		}
		f, ok := parseForward(args)
		if !ok {
			d.client = pid
			break
		}
		d.through = append(d.through, stop{f.user, d.name})
		d.name, holder = f.to, pid
		pid = parent
	}
	if holder == 0 {
		return nil, nil
	}
	r, err := env.resolver()
	if err != nil {
		return nil, err
	}
	switch _, err := find(ctx, r, d.name); {
	case is[*resolve.NotFoundError](err), is[*resolve.NameError](err):
		return nil, nil // a machine that the instance knows by this name
	case err != nil:
		return nil, err
	}
	if d.in, d.out, err = stdio(holder); err != nil {
		return nil, voice.Hinted(fmt.Errorf("%w (%w)", errNoDetour, err),
			fmt.Sprintf("vast-ssh -J %s %s", joinStops(d.through), d.name))
	}
	// If it has ended meanwhile, its number may be another's.
	_, args, err := process(holder)
	if f, ok := parseForward(args); err != nil || !ok || f.to != d.name || os.Getppid() != first {
		d.in.Close()
		d.out.Close()
		return nil, errNoDetour
	}
	return d, nil
}

func joinStops(stops []stop) string {
	var parts []string
	for _, s := range stops {
		parts = append(parts, s.name)
	}
	return strings.Join(parts, ",")
}
