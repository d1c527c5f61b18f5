package sshcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh/agent"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/sim"
	"vast-ssh/internal/sshsession"
	"vast-ssh/internal/unixsock"
)

const (
	// demoTimeout bounds the whole demo.
	demoTimeout = 3 * time.Minute
	// demoLastWords bounds the wait for a ProxyCommand, which says why there is no login when its ssh has ended.
	demoLastWords = 20 * time.Second
)

func demoCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "see the main job done on a simulated account, in a temporary HOME",
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return noArguments(c)
			}
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, demoTimeout)
			defer cancel()
			return runDemo(ctx, env)
		},
		Subcommands: []*cli.Command{{
			Name:            "login",
			Usage:           "log in without an ssh client",
			Hidden:          true,
			SkipFlagParsing: true,
			Action: func(c *cli.Context) error {
				if c.NArg() < 2 {
					return &voice.UsageError{Reason: "demo login takes an instance and a command"}
				}
				return loginInProcess(c.Context, env, c.Args().First(), strings.Join(c.Args().Tail(), " "))
			},
		}},
	}
}

// demo narrates steps in a world of its own.
type demo struct {
	*demoWorld
	env *Env
	// client is what stands before an instance and a command: nothing where there is an ssh program.
	client []string
	step   int
}

func runDemo(ctx context.Context, env *Env) (err error) {
	world, err := newDemoWorld()
	if err != nil {
		return err
	}
	d := &demo{demoWorld: world, env: env}
	defer func() { err = errors.Join(err, world.close()) }()

	d.print("A simulated account with two instances, in a temporary HOME. Nothing of yours is touched.")
	if _, err := exec.LookPath("ssh"); err != nil {
		d.client = []string{"demo", "login"}
		d.print("There is no ssh program here, so the logins use the client built into vast-ssh.")
	}
	for _, step := range []func(context.Context) error{
		d.makeKey, d.list, d.firstContact, d.move, d.impostor, d.outsider,
	} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return fmt.Errorf("the demo did not go as it should: %w", err)
		}
	}
	d.print("Done. With a real account: export VAST_API_KEY=…, vast-ssh key init, vast-ssh key upload, vast-ssh ls")
	return nil
}

func (d *demo) print(line string) { fmt.Fprintln(d.env.Stdout, line) }

func (d *demo) say(line string) {
	d.step++
	d.print(fmt.Sprintf("%d. %s", d.step, line))
}

// run runs one of our own programs in the demo's HOME and shows the command and what it prints. want is the exit code to expect.
func (d *demo) run(ctx context.Context, want int, args ...string) error {
	out, code, err := d.quietly(ctx, args...)
	if err != nil {
		return err
	}
	d.print("   $ vast-ssh " + strings.Join(args, " "))
	for line := range strings.Lines(strings.ReplaceAll(strings.ReplaceAll(out, "\r", ""), sim.Banner, "")) {
		d.print("     " + strings.TrimRight(line, " \n"))
	}
	if code != want {
		return fmt.Errorf("vast-ssh %s: exit status %d", strings.Join(args, " "), code)
	}
	return nil
}

func (d *demo) quietly(ctx context.Context, args ...string) (out string, code int, err error) {
	cmd := exec.CommandContext(ctx, d.program, args...)
	cmd.Env = d.environ
	cmd.Dir = d.home
	cmd.WaitDelay = demoLastWords
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return both.String(), exit.ExitCode(), nil
	}
	return both.String(), 0, err
}

// login logs in to the instance of the demo. refused tells that the host key must be refused.
func (d *demo) login(ctx context.Context, refused bool, command ...string) error {
	want := 0
	if refused {
		want = sshFailed
		if d.client != nil {
			want = int(voice.HostKey)
		}
	}
	return d.run(ctx, want, append(append(d.client, demoLabel), command...)...)
}

// sshFailed is the status with which ssh reports a failure of its own.
const sshFailed = 255

func (d *demo) makeKey(ctx context.Context) error {
	d.say("You make a key, for your instances and nothing else. The API lets it into one that you have rented.")
	if err := d.run(ctx, 0, "key", "init"); err != nil {
		return err
	}
	return d.run(ctx, 0, "key", "attach", demoLabel)
}

func (d *demo) list(ctx context.Context) error {
	d.say("These are your instances.")
	return d.run(ctx, 0, "ls")
}

func (d *demo) firstContact(ctx context.Context) error {
	d.say("The first login pins the host keys by instance: both routes to it show the same.")
	if err := d.login(ctx, false, "nvidia-smi", "-L"); err != nil {
		return err
	}
	return d.run(ctx, 0, "pins")
}

func (d *demo) move(ctx context.Context) error {
	d.say("The machine moves to another address. Its name stays, and so does its pin.")
	if err := d.moveBox(); err != nil {
		return err
	}
	return d.login(ctx, false, "hostname")
}

func (d *demo) impostor(ctx context.Context) error {
	d.say("It moves again, and another tenant's machine, which lets everybody in, takes the old address.")
	if err := d.takeOldAddress(); err != nil {
		return err
	}
	if err := d.login(ctx, true, "hostname"); err != nil {
		return err
	}
	return d.login(ctx, false, "hostname")
}

func (d *demo) outsider(ctx context.Context) error {
	d.say("Somebody gets hold of the agent's socket, and asks for a signature of a git commit.")
	conn, err := unixsock.Dial(ctx, d.dirs.AgentSocket())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(demoTimeout))
	client := agent.NewClient(conn)
	keys, err := client.List()
	if err != nil || len(keys) != 1 {
		return fmt.Errorf("the agent lists %d keys: %w", len(keys), err)
	}
	if _, err := client.Sign(keys[0], []byte("SSHSIG\x00\x00\x00\x03git\x00\x00\x00\x00\x00\x00\x00\x06sha512")); err == nil {
		return errors.New("the agent signed it")
	}
	return d.run(ctx, 0, "why")
}

// loginInProcess runs a command on an instance without an ssh program.
func loginInProcess(ctx context.Context, env *Env, name, command string) error {
	dirs, cfg, err := env.load()
	if err != nil {
		return err
	}
	conn, target, err := connect(ctx, env, name, nil)
	if err != nil {
		return explain(ctx, env, target, err)
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	client, err := proxy.Login(ctx, conn, dirs.AgentSocket())
	if err != nil {
		return explain(ctx, env, target, err)
	}
	defer client.Close()
	session, err := sshsession.Open(ctx, client)
	if err != nil {
		return err
	}
	session.Stdout, session.Stderr = env.Stdout, env.Stderr
	return session.Run(command)
}
