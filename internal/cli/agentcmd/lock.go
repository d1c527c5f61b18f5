package agentcmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/companion"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/term"
)

var errDenied = errors.New("the answer was no")

func lockCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "lock",
		Usage: "zero the key in memory and refuse all logins until it is unlocked",
		Action: func(c *cli.Context) error {
			client, err := env.dial(c.Context)
			if err != nil {
				return err
			}
			defer client.Close()
			return client.Lock(c.Context)
		},
	}
}

func unlockCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "unlock",
		Usage: "load the key, and ask for its passphrase if it has one: on the terminal, or with SSH_ASKPASS",
		Action: func(c *cli.Context) error {
			if err := env.start(c.Context); err != nil {
				return err
			}
			client, err := env.dial(c.Context)
			if err != nil {
				return err
			}
			defer client.Close()
			return unlock(c.Context, client, askPassphrase)
		},
	}
}

// attempts is how often a passphrase is asked for.
const attempts = 3

// unlock asks for a passphrase only where the key has one.
func unlock(ctx context.Context, client *ipc.Client, ask func(context.Context, string) ([]byte, error)) error {
	err := client.Unlock(ctx, nil)
	if !refusedFor(err, ipc.KeyLocked) {
		return err
	}
	prompt := "Passphrase of the key for your instances: "
	for range attempts {
		passphrase, askErr := ask(ctx, prompt)
		if askErr != nil {
			return askErr
		}
		err = client.Unlock(ctx, passphrase)
		clear(passphrase)
		if !refusedFor(err, ipc.WrongPassphrase) {
			return err
		}
		prompt = "That is not it. Passphrase: "
	}
	return err
}

func refusedFor(err error, reason string) bool {
	var refused *ipc.RefusedError
	return errors.As(err, &refused) && refused.Reason == reason
}

// askPassphrase asks on the terminal, or where there is none with an askpass program.
func askPassphrase(ctx context.Context, prompt string) ([]byte, error) {
	passphrase, err := term.Passphrase(ctx, prompt)
	if !errors.Is(err, term.ErrNoTerminal) {
		return passphrase, err
	}
	passphrase, err = companion.Ask(ctx, "", prompt)
	if err != nil {
		return nil, voice.Hinted(fmt.Errorf("there is no terminal to ask for the passphrase on, and %w", err),
			"vast-agent unlock   (in a terminal)")
	}
	return passphrase, nil
}
