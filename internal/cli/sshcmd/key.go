package sshcmd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/custody"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
)

func keyCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "key",
		Usage: "make, show, import or replace the one key for your instances, and let it into them",
		Subcommands: []*cli.Command{
			{
				Name:  "init",
				Usage: "make a new key; one that is there is never overwritten",
				Flags: []cli.Flag{passphraseFlag("ask for a passphrase that protects the key")},
				Action: func(c *cli.Context) error {
					if c.NArg() > 0 {
						return noArguments(c)
					}
					return initKey(c.Context, env, c.Bool("passphrase"))
				},
			},
			{
				Name:  "show",
				Usage: "print the public key",
				Flags: []cli.Flag{jsonFlag()},
				Action: func(c *cli.Context) error {
					if c.NArg() > 0 {
						return noArguments(c)
					}
					return showKey(c, env)
				},
			},
			{
				Name:      "import",
				Usage:     "take over an existing ed25519 key of OpenSSH",
				ArgsUsage: "<private key file>",
				Flags:     []cli.Flag{passphraseFlag("keep the passphrase of the file, or ask for one if it has none")},
				Action: func(c *cli.Context) error {
					path, err := oneArgument(c, "<private key file>")
					if err != nil {
						return err
					}
					return importKey(c.Context, env, path, c.Bool("passphrase"))
				},
			},
			{
				Name:      "attach",
				Usage:     "let the key into an instance that exists already",
				ArgsUsage: "<instance>",
				Action: func(c *cli.Context) error {
					name, err := oneArgument(c, "<instance>")
					if err != nil {
						return err
					}
					return attachKey(c.Context, env, name)
				},
			},
			{
				Name:  "upload",
				Usage: "add the key to your account, for the instances you will rent",
				Action: func(c *cli.Context) error {
					if c.NArg() > 0 {
						return noArguments(c)
					}
					return uploadKey(c.Context, env)
				},
			},
			rotateCommand(env),
		},
	}
}

func passphraseFlag(usage string) cli.Flag {
	return &cli.BoolFlag{Name: "passphrase", Usage: usage}
}

func initKey(ctx context.Context, env *Env, protect bool) error {
	key := custody.Generate()
	defer clear(key)
	var passphrase func() ([]byte, error)
	if protect {
		passphrase = func() ([]byte, error) { return newPassphrase(ctx) }
	}
	return saveKey(ctx, env, key, custody.DefaultComment, passphrase)
}

// newPassphrase asks for a passphrase twice.
func newPassphrase(ctx context.Context) ([]byte, error) {
	first, err := term.Passphrase(ctx, "Passphrase for the key: ")
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		return nil, voice.Hinted(errors.New("an empty passphrase protects nothing"), "leave --passphrase out")
	}
	second, err := term.Passphrase(ctx, "The same again: ")
	defer clear(second)
	if err == nil && !bytes.Equal(first, second) {
		err = errors.New("the two passphrases differ")
	}
	if err != nil {
		clear(first)
		return nil, err
	}
	return first, nil
}

// maxKeyFile bounds a key file to import, in bytes.
const maxKeyFile = 64 << 10

func importKey(ctx context.Context, env *Env, path string, protect bool) error {
	data, err := atomicfile.Read(path, maxKeyFile)
	if err != nil {
		return err
	}
	defer clear(data)
	var old []byte // the passphrase of the file
	key, comment, err := custody.ParseImport(data, func() ([]byte, error) {
		answer, err := term.Passphrase(ctx, fmt.Sprintf("Passphrase of %s: ", term.Safe(path)))
		old = bytes.Clone(answer)
		return answer, err
	})
	defer func() { clear(old); clear(key) }()
	if err != nil {
		return err
	}
	var passphrase func() ([]byte, error)
	if protect {
		passphrase = func() ([]byte, error) {
			if len(old) > 0 {
				return old, nil
			}
			return newPassphrase(ctx)
		}
	}
	if err := saveKey(ctx, env, key, comment, passphrase); err != nil {
		return err
	}
	if len(old) > 0 && !protect {
		voice.Warn(env.Stderr, "the key is stored without the passphrase of the file, which --passphrase would keep")
	}
	return nil
}

// saveKey puts a key into custody and its public half where ssh finds it. passphrase, if it is not nil, is called for
// the passphrase that protects the key.
func saveKey(ctx context.Context, env *Env, key ed25519.PrivateKey, comment string,
	passphrase func() ([]byte, error)) error {
	dirs, _, err := env.load()
	if err != nil {
		return err
	}
	store, err := env.store()
	if err != nil {
		return err
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := atomicfile.EnsureDir(dirs.SSH); err != nil {
		return err
	}
	stored := func() error {
		_, err := store.Public(ctx)
		return err
	}
	// A public key without its private one is most often a file that was not restored.
	if old, err := custody.ReadPublic(dirs.PublicKey()); err == nil && !bytes.Equal(old.Marshal(), public.Marshal()) &&
		is[*custody.MissingError](stored()) {
		return voice.Hinted(fmt.Errorf("there is a public key, and its private key is missing: %s", dirs.PublicKey()),
			"put the private key back, or remove that file and run the command again")
	}
	var secret []byte
	if passphrase != nil {
		if stored() == nil { // Save would say so too, after the question
			return voice.Hinted(&custody.ExistsError{Where: "private key"}, "vast-ssh key show")
		}
		if secret, err = passphrase(); err != nil {
			return err
		}
		defer clear(secret)
	}
	var exists *custody.ExistsError
	err = store.Save(ctx, key, comment, secret)
	if errors.As(err, &exists) {
		return voice.Hinted(err, "vast-ssh key show")
	}
	if err != nil {
		return err
	}
	if err := custody.WritePublic(dirs.PublicKey(), public, comment); err != nil {
		return voice.Hinted(fmt.Errorf("the key is made, and its public half could not be written: %w", err), "vast-ssh key show")
	}
	protected := ""
	if secret != nil {
		protected = ", with a passphrase"
	}
	fmt.Fprintf(env.Stderr, "key %s (custody: %s%s)\n", ssh.FingerprintSHA256(public), store.Name(), protected)
	fmt.Fprintln(env.Stderr, "for the instances you will rent: vast-ssh key upload")
	fmt.Fprintln(env.Stderr, "for one that you have rented:    vast-ssh key attach <instance>")
	if secret != nil {
		fmt.Fprintln(env.Stderr, "to let the agent use it:         vast-agent unlock")
	}
	return nil
}

// publicKey reads the public key, and restores its file from custody when only that is missing.
func publicKey(ctx context.Context, env *Env) (ssh.PublicKey, error) {
	dirs, _, err := env.load()
	if err != nil {
		return nil, err
	}
	key, err := custody.ReadPublic(dirs.PublicKey())
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	store, err := env.store()
	if err != nil {
		return nil, err
	}
	if key, err = store.Public(ctx); err != nil {
		return nil, err
	}
	return key, custody.WritePublic(dirs.PublicKey(), key, custody.DefaultComment)
}

func authorizedLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(custody.PublicLine(key, custody.DefaultComment)))
}

func showKey(c *cli.Context, env *Env) error {
	key, err := publicKey(c.Context, env)
	if err != nil {
		return err
	}
	store, err := env.store()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(env, map[string]string{
			"public_key": authorizedLine(key), "fingerprint": ssh.FingerprintSHA256(key), "custody": store.Name(),
		})
	}
	fmt.Fprintln(env.Stdout, authorizedLine(key))
	fmt.Fprintf(env.Stderr, "fingerprint %s (custody: %s)\n", ssh.FingerprintSHA256(key), store.Name())
	// The public half in its file is of no use if it is that of another key.
	stored, err := store.Public(c.Context)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored.Marshal(), key.Marshal()) {
		return voice.Hinted(errors.New("the public key file does not belong to the private key"),
			"remove "+env.dirs.PublicKey()+" and run: vast-ssh key show")
	}
	return nil
}

func attachKey(ctx context.Context, env *Env, name string) error {
	key, err := publicKey(ctx, env)
	if err != nil {
		return err
	}
	api, err := env.api()
	if err != nil {
		return err
	}
	id, label, err := resolve.ParseName(name)
	if err != nil {
		return err
	}
	if label != "" {
		in, err := lookUp(ctx, api, name)
		if err != nil {
			return err
		}
		id = in.ID
	}
	already, err := api.AttachKey(ctx, id, authorizedLine(key))
	if err != nil {
		return err
	}
	if already {
		fmt.Fprintf(env.Stderr, "instance %d has the key already\n", id)
		return nil
	}
	fmt.Fprintf(env.Stderr, "instance %d gets the key; it can take 20 seconds until it lets you in\n", id)
	return nil
}

func uploadKey(ctx context.Context, env *Env) error {
	key, err := publicKey(ctx, env)
	if err != nil {
		return err
	}
	api, err := env.api()
	if err != nil {
		return err
	}
	already, err := api.AddAccountKey(ctx, authorizedLine(key))
	if err != nil {
		return err
	}
	if already {
		fmt.Fprintln(env.Stderr, "the account has the key already")
		return nil
	}
	fmt.Fprintln(env.Stderr, "the account has the key now; instances rented from here on let it in")
	fmt.Fprintln(env.Stderr, "for one that you have rented before: vast-ssh key attach <instance>")
	return nil
}
