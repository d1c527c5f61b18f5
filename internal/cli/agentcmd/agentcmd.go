// Package agentcmd holds the verbs of vast-agent.
package agentcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"vast-ssh/config"
	"vast-ssh/internal/cli/cmdline"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/custody"
	"vast-ssh/known"
)

// Env is what a run of the program works with.
type Env struct {
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Version        string

	// Dirs is set before a verb runs.
	Dirs config.Dirs
	// Config is set by configure. Verbs that end or show a running agent work without: it may be broken by now.
	Config *config.Config
}

// Pins is the file of pins.
func (e *Env) Pins() *known.File { return known.Open(e.Dirs.KnownHosts()) }

// Store is where the configuration keeps the private key.
func (e *Env) Store() (custody.Store, error) {
	return custody.Open(string(e.Config.Custody), e.Dirs.PrivateKey())
}

func (e *Env) locate(*cli.Context) error {
	var err error
	e.Dirs, err = config.LocateDirs(e.Getenv)
	return err
}

func (e *Env) configure() error {
	var err error
	e.Config, err = config.Load(e.Dirs.ConfigFile(), e.Getenv)
	return err
}

// Main runs vast-agent with the arguments args, of which the first is the program's name, and returns its exit code.
func Main(ctx context.Context, env *Env, args []string) voice.Code {
	app := &cli.App{
		Name:            "vast-agent",
		Usage:           "an ssh-agent that signs for your own pinned Vast.ai instances and nothing else",
		Version:         env.Version,
		HideHelpCommand: true,
		Writer:          env.Stdout,
		ErrWriter:       env.Stderr,
		Commands: []*cli.Command{
			runCommand(env), startCommand(env), stopCommand(env), statusCommand(env),
			lockCommand(env), unlockCommand(env),
			logCommand(env),
			installCommand(env),
			companionCommand(),
		},
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    usageError,
		CommandNotFound: func(*cli.Context, string) {},
		Before:          env.locate,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return &voice.UsageError{Reason: fmt.Sprintf("unknown verb %q", c.Args().First()), Next: "vast-agent --help"}
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, cmd := range app.Commands {
		cmd.OnUsageError = usageError
		cmd.HideHelpCommand = true
		cmd.Before = noArguments
	}
	if err := app.RunContext(ctx, cmdline.Arrange(app, args)); err != nil {
		voice.Error(env.Stderr, err)
		return exitCode(err)
	}
	return voice.Done
}

func noArguments(c *cli.Context) error {
	if c.NArg() > 0 {
		return &voice.UsageError{Reason: fmt.Sprintf("%s takes no argument", c.Command.Name),
			Next: "vast-agent " + c.Command.Name + " --help"}
	}
	return nil
}

func usageError(c *cli.Context, err error, _ bool) error {
	return &voice.UsageError{Reason: err.Error(), Next: strings.TrimSpace(filepath.Base(c.App.Name)+" "+c.Command.Name) + " --help"}
}

func exitCode(err error) voice.Code {
	var usage *voice.UsageError
	var cfg *config.Error
	if errors.As(err, &usage) || errors.As(err, &cfg) {
		return voice.Usage
	}
	return voice.Failed
}
