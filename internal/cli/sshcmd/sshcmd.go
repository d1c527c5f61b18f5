// Package sshcmd holds the verbs of vast-ssh and the way from an instance to ssh.
package sshcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/cli/cmdline"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/resolve"
)

// Main runs vast-ssh with the arguments args, of which the first is the program's name, and returns its exit code. It
// does not return when it becomes ssh.
func Main(ctx context.Context, env *Env, args []string) voice.Code {
	app := newApp(env)
	var err error
	if instance, ok := sshArguments(app, args[1:]); ok {
		if err = login(ctx, env, instance); is[*resolve.NotFoundError](err) {
			if verb := cmdline.Nearest(app, args[1]); verb != "" {
				err = voice.Hinted(err, fmt.Sprintf("did you mean the verb %q? vast-ssh %s", verb, verb))
			}
		}
	} else {
		err = app.RunContext(ctx, cmdline.Arrange(app, args))
	}
	var status exitStatus
	switch {
	case err == nil:
		return voice.Done
	case errors.As(err, &status):
		return voice.Code(status)
	}
	voice.Error(env.Stderr, err)
	return exitCode(err)
}

// exitStatus is the status of a program that has said itself what there is to say.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// sshArguments tells whether args are for ssh: everything is that does not begin with a verb or ask for help.
// The verb "ssh" stands before an instance that is named like a verb.
func sshArguments(app *cli.App, args []string) ([]string, bool) {
	if len(args) == 0 {
		return nil, false
	}
	switch first := args[0]; {
	case first == "ssh":
		return args[1:], true
	case first == "-h", first == "-V", strings.HasPrefix(first, "--"), first == "help", first == "version":
		return nil, false // ssh has no long options, and its -h and -V would speak of ssh
	case app.Command(first) != nil:
		return nil, false
	}
	return args, true
}

const appHelp = `{{.Name}} - {{.Usage}}

USAGE:
   vast-ssh <instance> [ssh options] [command]
   vast-ssh <verb> [options] [arguments]

   An instance is an id, vast-<id>, or a label that names one. Everything behind
   it goes to ssh as it is. "vast-ssh ssh <instance>" reaches an instance that is
   named like a verb.

VERBS:{{range .VisibleCommands}}
   {{join .Names ", "}}{{"\t"}}{{.Usage}}{{end}}

PLAIN SSH AND EDITORS:
   After this first line of ~/.ssh/config, "ssh vast-<id>" works everywhere:
   Include ~/.ssh/vast-ssh/config

EXIT CODES:
   0 done, 1 failed, 2 usage, 3 no valid API key, 4 no such instance, 5 host key
   refused, 6 not completed, 7 unreachable; logging in exits as ssh does, and
   run as the command does

ENVIRONMENT:
   VAST_API_KEY, VASTAI_API_KEY  the API key
   VAST_URL                      another API address
`

func newApp(env *Env) *cli.App {
	app := &cli.App{
		Name:                  "vast-ssh",
		Usage:                 "log in to your rented Vast.ai instances, pinned by instance",
		Version:               env.Version,
		CustomAppHelpTemplate: appHelp,
		HideHelpCommand:       true,
		Writer:                env.Stdout,
		ErrWriter:             env.Stderr,
		ExitErrHandler:        func(*cli.Context, error) {},
		CommandNotFound:       func(*cli.Context, string) {},
		OnUsageError:          usageError,
		Commands: []*cli.Command{
			lsCommand(env), showCommand(env), keyCommand(env), pinCommand(env), pinsCommand(env),
			whyCommand(env), configCommand(env), proxyCommand(env), runCommand(env), wipeCommand(env), demoCommand(env),
		},
	}
	tidy(app.Commands)
	return app
}

// tidy gives all commands the same behaviour on a wrong command line.
func tidy(commands []*cli.Command) {
	for _, cmd := range commands {
		cmd.OnUsageError = usageError
		cmd.HideHelpCommand = true
		if len(cmd.Subcommands) > 0 && cmd.Action == nil {
			cmd.Action = wrongSubcommand
		}
		tidy(cmd.Subcommands)
	}
}

func wrongSubcommand(c *cli.Context) error {
	next := helpOf(c)
	if c.NArg() == 0 {
		return &voice.UsageError{Reason: fmt.Sprintf("%q needs a verb of its own", c.Command.Name), Next: next}
	}
	return &voice.UsageError{Reason: fmt.Sprintf("unknown verb %q of %q", c.Args().First(), c.Command.Name), Next: next}
}

func usageError(c *cli.Context, err error, _ bool) error {
	return &voice.UsageError{Reason: err.Error(), Next: helpOf(c)}
}

// helpOf is the command that shows the help of a verb.
func helpOf(c *cli.Context) string { return strings.TrimSpace(c.Command.HelpName) + " --help" }

// oneArgument returns the only argument of a verb, which the usage calls name.
func oneArgument(c *cli.Context, name string) (string, error) {
	if c.NArg() != 1 {
		return "", &voice.UsageError{
			Reason: fmt.Sprintf("%s takes one argument, %s, and got %d", c.Command.Name, name, c.NArg()),
			Next:   helpOf(c),
		}
	}
	return c.Args().First(), nil
}

// self returns the absolute path of this program as it was installed, for files that name it.
func self() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// OS returns the environment of the running process.
func OS(version string) *Env {
	return &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version}
}
