package sshcmd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/config"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
	"vast-ssh/known"
)

// login prepares everything that ssh reads and becomes ssh with the user's own arguments. Nothing of this process
// remains but the ProxyCommand that ssh starts.
func login(ctx context.Context, env *Env, args []string) error {
	if len(args) == 0 {
		return &voice.UsageError{Reason: "ssh needs an instance", Next: "vast-ssh ls"}
	}
	dirs, cfg, err := env.load()
	if err != nil {
		return err
	}
	if _, err := publicKey(ctx, env); err != nil {
		if is[*custody.MissingError](err) {
			return voice.Hinted(errors.New("you have no key for your instances yet"), "vast-ssh key init")
		}
		return err
	}
	ssh, err := sshProgram(cfg)
	if err != nil {
		return err
	}
	if err := writeLogin(env); err != nil {
		return err
	}
	dest, err := destination(ctx, env, ssh, dirs.LoginConfig(), args)
	if err != nil {
		return err
	}
	target, err := prepare(ctx, env, dest)
	if err != nil {
		return err
	}
	name := known.Name(target.ID)
	options := []string{"-o", "HostName=" + name, "-o", "HostKeyAlias=" + name}
	if dest.jump != "" {
		jump, err := jumpOptions(ctx, env, dest.jump, target)
		if err != nil {
			return err
		}
		if args, err = withoutJump(ctx, ssh, dirs.LoginConfig(), jump, args, dest.answer); err != nil {
			return err
		}
		options = append(options, jump...)
	}
	if args[0] == dest.name && !hostName.MatchString(dest.name) {
		args = append([]string{name}, args[1:]...) // a label that ssh does not take for a host name
	}
	argv := slices.Concat([]string{ssh, "-F", dirs.LoginConfig()}, options, args)
	environ := os.Environ()
	if dest.verbose {
		environ = append(environ, verboseEnv+"=1")
	}
	if err := unix.Exec(ssh, argv, environ); err != nil {
		return fmt.Errorf("run %s: %w", ssh, err)
	}
	return nil
}

// hostName is what every ssh takes for a host name. Since OpenSSH 9.6 names with a shell's characters are refused.
var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// prepare resolves the instance and brings up what a connection to it needs.
func prepare(ctx context.Context, env *Env, dest dest) (resolve.Target, error) {
	trace := func(string, time.Time) {}
	if dest.verbose {
		trace = func(step string, start time.Time) {
			fmt.Fprintf(env.Stderr, "vast-ssh: %s (%v)\n", step, time.Since(start).Round(100*time.Microsecond))
		}
	}
	r, err := env.resolver()
	if err != nil {
		return resolve.Target{}, err
	}
	start := time.Now()
	target, err := find(ctx, r, dest.name)
	if err != nil {
		return target, err
	}
	trace(fmt.Sprintf("%q is instance %d, label %q, by %s", dest.name, target.ID, target.Label, target.Source), start)
	for _, e := range target.Endpoints {
		trace(fmt.Sprintf("route %s %s", e.Route, e.Addr()), start)
	}
	switch {
	case target.Problem != nil && target.Source == resolve.StaleCache:
		voice.Warn(env.Stderr, "the address may be old: %v", target.Problem)
	case target.Problem != nil:
		voice.Warn(env.Stderr, "the address could not be kept: %v", target.Problem)
	}
	start = time.Now()
	if err := env.agent(ctx); err != nil {
		return target, err
	}
	trace("the agent is running", start)
	if !dest.batch {
		if err := unlocked(ctx, env); err != nil {
			return target, err
		}
	}
	start = time.Now()
	if err := writeHosts(env, r); err != nil {
		voice.Warn(env.Stderr, "the hosts could not be written for ssh and editors: %v", err)
	}
	trace("wrote what ssh reads", start)
	return target, warnShared(env, target.ID)
}

// warnShared tells of a host key that another instance shows too: such a key names an image and not a machine.
func warnShared(env *Env, id uint64) error {
	file, err := env.pins()
	if err != nil {
		return err
	}
	pins, err := file.Pins()
	if err != nil {
		return err
	}
	for print, ids := range known.Shared(pins) {
		for _, other := range ids {
			if other == id {
				voice.Warn(env.Stderr, "host key %s is that of the instances %v: an image with a key baked in; whoever has the image can pose as them", print, ids)
				break
			}
		}
	}
	return nil
}

// sshProgram finds the ssh to become.
func sshProgram(cfg *config.Config) (string, error) {
	if cfg.SSH != "" {
		return cfg.SSH, nil
	}
	path, err := exec.LookPath("ssh")
	if err != nil {
		return "", voice.Hinted(errors.New("there is no ssh program in PATH"),
			"install an OpenSSH client, or set ssh = \"/path/to/ssh\" in the configuration")
	}
	return path, nil
}

// attempts is how often a passphrase is asked for.
const attempts = 3

// unlocked has the key unlocked if it waits for that and there is a terminal to ask at: later there is ssh, which could say
// no more than that the agent refused.
func unlocked(ctx context.Context, env *Env) error {
	client, err := ipc.Dial(ctx, env.dirs.ControlSocket())
	if err != nil {
		return err
	}
	defer client.Close()
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	question := "Passphrase of the key for your instances: "
	switch {
	case st.Locked == ipc.Locked:
		question = "The key is locked. Its passphrase, or Enter if it has none: "
	case st.Locked == ipc.Unlocked && st.Memory != "":
		return nil
	case st.Locked == ipc.Unlocked:
		// The agent has not needed the key so far, and does not know whether it has a passphrase.
		if err := client.Unlock(ctx, nil); !refusedFor(err, ipc.KeyLocked) {
			return nil // what else there is to say is told by the proxy
		}
	}
	for range attempts {
		var passphrase []byte
		passphrase, err = term.Passphrase(ctx, question)
		if errors.Is(err, term.ErrNoTerminal) {
			return nil // the proxy tells what the agent says
		}
		if err != nil {
			return err
		}
		err = client.Unlock(ctx, passphrase)
		clear(passphrase)
		if !refusedFor(err, ipc.WrongPassphrase) && !refusedFor(err, ipc.KeyLocked) {
			return err
		}
		question = "That is not it. Passphrase: "
	}
	return err
}

func refusedFor(err error, reason string) bool {
	var refused *ipc.RefusedError
	return errors.As(err, &refused) && refused.Reason == reason
}

// dest is what the user's arguments mean to ssh.
type dest struct {
	name    string // the instance as it was typed, without a user
	jump    string // the value of -J or ProxyJump
	verbose bool
	batch   bool   // nobody is to be asked anything
	answer  []byte // all that ssh said, if it was asked
}

// askTimeout bounds the question to ssh, which does no network work.
const askTimeout = 10 * time.Second

// destination finds the instance among the arguments. Most often it is the first. Where options come before it, or
// something like a -v may come behind, ssh itself is asked (ssh -G), since only it knows its options.
func destination(ctx context.Context, env *Env, ssh, config string, args []string) (dest, error) {
	options := 0
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			options++
		}
	}
	if first := args[0]; !strings.HasPrefix(first, "-") && !strings.ContainsAny(first, "@/") && options == 0 {
		return dest{name: first}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, ssh, append([]string{"-F", config, "-G"}, args...)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		// ssh has an opinion on these arguments: let it be heard in its own words.
		env.Stderr.Write(complaint.Bytes())
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return dest{}, exitStatus(exit.ExitCode())
		}
		return dest{}, err
	}
	return parseAnswer(out.Bytes())
}

// parseAnswer reads the lines that matter from the output of ssh -G.
func parseAnswer(out []byte) (dest, error) {
	d := dest{answer: out}
	hostname := ""
	for scanner := bufio.NewScanner(bytes.NewReader(out)); scanner.Scan(); {
		key, value, _ := strings.Cut(scanner.Text(), " ")
		switch key {
		case "host":
			d.name = value
		case "hostname":
			hostname = value
		case "proxyjump":
			d.jump = value
		case "batchmode":
			d.batch = value == "yes"
		case "loglevel":
			d.verbose = strings.HasPrefix(value, "DEBUG")
		}
	}
	if d.name == "" { // before OpenSSH 8.7 there is no line "host"
		d.name = hostname
	}
	if d.name == "" {
		return d, errors.New("ssh -G names no host")
	}
	return d, nil
}
