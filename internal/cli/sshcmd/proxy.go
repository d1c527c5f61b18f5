package sshcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
	"vast-ssh/known"
)

// verboseEnv asks the ProxyCommand for a report of its steps. Without it, it writes nothing on success: some clients
// never read its stderr, and some take it for the server's words.
const verboseEnv = "VAST_SSH_VERBOSE"

func proxyCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:      "proxy",
		Usage:     "connect stdin and stdout to an instance, for ssh's ProxyCommand",
		ArgsUsage: "<instance>",
		Flags: []cli.Flag{&cli.StringFlag{
			Name:  "jump",
			Usage: "go through the `INSTANCE` first, or through several with commas between, as ssh -J does",
		}},
		Action: func(c *cli.Context) error {
			name, err := oneArgument(c, "<instance>")
			if err != nil {
				return err
			}
			w := way{name: name, client: os.Getppid()}
			if c.IsSet("jump") {
				if w.through, err = parseStops(c.String("jump")); err != nil {
					return err
				}
			}
			return runProxy(c.Context, env, w)
		},
	}
}

func runProxy(ctx context.Context, env *Env, w way) error {
	// ssh ends a ProxyCommand with SIGHUP. A broken pipe is an end like any other.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGPIPE)
	env.quiet = true

	in, out := env.Stdin, env.Stdout
	if w.through == nil {
		d, err := detourOf(ctx, env, w.name)
		if err != nil {
			return err
		}
		if d != nil {
			w, in, out = d.way, d.in, d.out
			var leave func()
			ctx, leave = whileOpen(ctx, env.Stdin)
			defer leave()
		}
	}
	conn, target, err := follow(ctx, env, w, tracer(env))
	if err == nil {
		err = proxy.Relay(ctx, conn, in, out)
		// ssh has said no more than "Permission denied". On anything but a terminal this could be part of an SSH stream.
		if r := conn.Refusal(); r != nil && (err == nil || ctx.Err() != nil) && term.IsTerminal(env.Stderr) {
			return &proxy.RefusedError{Refusal: r}
		}
	}
	if ctx.Err() != nil {
		return exitStatus(1) // whoever sent the signal knows
	}
	return explain(ctx, env, target, err)
}

// partingTime is how long an ssh in the middle has to end before us. What it says when we are first is of no use to anybody.
const partingTime = 500 * time.Millisecond

// whileOpen gives a context that ends when nobody holds the other end of the pipe in any more. leave waits for that as
// well, for partingTime at most.
func whileOpen(ctx context.Context, in *os.File) (_ context.Context, leave func()) {
	ctx, cancel := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() {
		io.Copy(io.Discard, in)
		close(gone)
		cancel()
	}()
	return ctx, func() {
		select {
		case <-gone:
		case <-time.After(partingTime):
		}
		cancel()
	}
}

func tracer(env *Env) func(string, time.Duration) {
	if env.Getenv(verboseEnv) == "" {
		return nil
	}
	return func(step string, took time.Duration) {
		fmt.Fprintf(env.Stderr, "vast-ssh: %s (%v)\n", step, took.Round(100*time.Microsecond))
	}
}

// explain turns a refused host key into what a person needs to decide. The address may just have moved: a cached one is asked
// for again, so that the next try goes to the right machine.
func explain(ctx context.Context, env *Env, target resolve.Target, err error) error {
	var mismatch *known.MismatchError
	if !errors.As(err, &mismatch) {
		return err
	}
	refused := &wrongHostKey{err: err, mismatch: mismatch}
	errors.As(err, &refused.at)
	if target.Source == resolve.Fetched {
		return refused
	}
	r, rerr := env.resolver()
	if rerr != nil {
		return refused
	}
	now, rerr := r.Refresh(ctx, target.ID)
	refused.moved = rerr == nil && !slices.Equal(now.Endpoints, target.Endpoints)
	return refused
}

// wrongHostKey is a host key that is not the pinned one, explained.
type wrongHostKey struct {
	err      error
	mismatch *known.MismatchError
	at       *proxy.HostKeyError // nil if not known
	moved    bool                // the address was an old one
}

func (e *wrongHostKey) Unwrap() error { return e.err }

func (e *wrongHostKey) Error() string {
	where := "the machine that answered"
	if e.at != nil {
		where = fmt.Sprintf("the machine at %s (%s)", e.at.Endpoint.Addr(), e.at.Endpoint.Route)
	}
	return fmt.Sprintf("%s is not instance %d as it was pinned", where, e.mismatch.Instance)
}

// Details implements voice.Detailer.
func (e *wrongHostKey) Details() []string {
	lines := []string{"it shows  " + fingerprint(e.mismatch.Got)}
	for _, p := range e.mismatch.Want {
		lines = append(lines, fmt.Sprintf("pinned    %s (%s, %s)", fingerprint(p.Key), p.Via, p.At.Format(time.DateOnly)))
	}
	if e.moved {
		return append(lines, "the instance has moved, and another machine answers at its old address")
	}
	return append(lines,
		"another tenant's machine may answer at this address now, somebody may be intercepting the connection,",
		"or the instance was recycled, which gives it new host keys")
}

// Hint implements voice.Hinter.
func (e *wrongHostKey) Hint() string {
	if e.moved {
		return "the new address is known now: run the same command again"
	}
	return fmt.Sprintf("if you recycled it, forget the old key and meet it anew: vast-ssh pins rm %d", e.mismatch.Instance)
}

// fingerprint describes a host key as ssh-keygen -l does.
func fingerprint(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }
