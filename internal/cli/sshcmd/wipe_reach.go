package sshcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/vast"
	"vast-ssh/internal/wipe"
	"vast-ssh/known"
)

// unpinnedError says that an instance cannot be wiped because nobody would know that it is the one.
type unpinnedError struct{ id uint64 }

func (e *unpinnedError) Error() string {
	return fmt.Sprintf("instance %d was never met, so that nobody knows its host key: nothing was touched", e.id)
}

// Hint names the command that meets it.
func (e *unpinnedError) Hint() string { return fmt.Sprintf("meet it first: vast-ssh %d true", e.id) }

// connectTimeout bounds one connection with its login.
const connectTimeout = 90 * time.Second

// wipeConfig says how to reach an instance: through its pin, at the addresses of the moment.
func wipeConfig(env *Env, api *vast.Client, o wipe.Options, in vast.Instance) (wipe.Config, error) {
	dirs, _, err := env.load()
	if err != nil {
		return wipe.Config{}, err
	}
	file, err := env.pins()
	if err != nil {
		return wipe.Config{}, err
	}
	pins, err := file.Of(in.ID)
	if err != nil {
		return wipe.Config{}, err
	}
	if len(pins) == 0 {
		return wipe.Config{}, &unpinnedError{in.ID}
	}
	first := true
	return wipe.Config{
		Instance: in, API: api, Options: o, Dir: dirs.WipeReports(),
		Connect: func(ctx context.Context) (*ssh.Client, error) {
			ctx, cancel := context.WithTimeout(ctx, connectTimeout)
			defer cancel()
			if !first { // it may have moved meanwhile
				now, err := api.Instance(ctx, in.ID)
				switch {
				case err == nil:
					in = now
				case !is[*vast.UnavailableError](err): // without the API it is looked for where it was
					return nil, err
				}
			}
			first = false
			return logIn(ctx, env, in)
		},
		Refused: proxy.LoginRefused,
		Closed:  closedBefore,
		Retry:   worthAnother,
		LoggedIn: func(ctx context.Context, since time.Time) bool {
			return signedSince(ctx, dirs.Decisions(), in.ID, since)
		},
	}, nil
}

// signedSince reports whether the agent's log, in dir, has a login to an instance since a time. A log that cannot be read has none.
func signedSince(ctx context.Context, dir string, id uint64, since time.Time) bool {
	found := false
	chainlog.Read(ctx, dir, func(r chainlog.Record) error {
		found = found || r.Verdict == chainlog.Signed && r.Instance == id && r.At.After(since)
		return nil
	})
	return found
}

// logIn makes a connection of this process to an instance that was met before.
func logIn(ctx context.Context, env *Env, in vast.Instance) (*ssh.Client, error) {
	endpoints, err := resolve.Endpoints(in)
	if err != nil {
		return nil, err
	}
	if err := env.agent(ctx); err != nil {
		return nil, err
	}
	cfg, err := proxyConfig(env, resolve.Target{ID: in.ID, Label: in.Label, Machine: in.MachineID, Endpoints: endpoints}, nil)
	if err != nil {
		return nil, err
	}
	cfg.Least, cfg.Ask = known.Manual, nil // should the pins go meanwhile, nobody is met
	conn, err := proxy.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	client, err := proxy.Login(ctx, conn, env.dirs.AgentSocket())
	if err != nil {
		if refused := conn.Refusal(); refused != nil && !proxy.LoginRefused(err) {
			return nil, fmt.Errorf("the agent refused the login: %s", refused.Sentence)
		}
		return nil, err
	}
	return client, nil
}

// closedBefore reports whether a machine was reached and closed the connection before it showed a host key.
func closedBefore(err error) bool {
	if !is[*proxy.HandshakeError](err) && !is[*proxy.UnreachableError](err) {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// worthAnother reports whether a connection that failed may work in a moment: not where the host key is another, the
// instance is gone, or the machine does not let the key in.
func worthAnother(err error) bool {
	switch {
	case is[*proxy.HostKeyError](err), is[*known.MismatchError](err), is[*known.UnknownError](err), is[*known.FileError](err),
		is[*proxy.FirstContactError](err), is[*proxy.RoutesDifferError](err),
		is[*vast.NotFoundError](err), is[*vast.AuthError](err), is[*vast.ForbiddenError](err), proxy.LoginRefused(err):
		return false
	}
	return true
}

// forgetTimeout bounds the way of each trace.
const forgetTimeout = 10 * time.Second

// forgetInstance takes away what this computer keeps of an instance that is gone. What cannot be taken away is told.
func forgetInstance(env *Env, id uint64) (removed, remaining []string) {
	ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
	defer cancel()
	note := func(what string, did bool, err error) {
		switch {
		case err != nil:
			remaining = append(remaining, fmt.Sprintf("%s: %v", what, err))
		case did:
			removed = append(removed, what)
		}
	}
	did, err := endMaster(ctx, env, id) // while its name still resolves
	note("the shared connection of ssh", did, err)
	if file, err := env.pins(); err != nil {
		note("the pin", false, err)
	} else {
		pins, err := file.Remove(ctx, id)
		note("the pin", len(pins) > 0, err)
	}
	if r, err := env.resolver(); err != nil {
		note("the address", false, err)
	} else {
		note("the address", true, r.Forget(id))
		note("the entry for ssh and editors", true, writeHosts(env, r))
	}
	did, err = removeFile(officialCache(env, id))
	note("the official tool's address", did, err)
	return removed, remaining
}

// officialCache is where Vast.ai's command line tool keeps the address of an instance for good.
func officialCache(env *Env, id uint64) string {
	base := env.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(base) {
		base = filepath.Join(env.dirs.Home, ".cache")
	}
	return filepath.Join(base, "vastai", fmt.Sprintf("ssh_%d.json", id))
}

// removeFile removes a regular file of ours.
func removeFile(name string) (bool, error) {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("%q is not a regular file", name)
	}
	return true, os.Remove(name)
}

// endMaster ends a connection that ssh shares between sessions (ControlMaster), which would outlive the pin. ssh itself is
// asked where its socket is, with the user's configuration and with ours.
func endMaster(ctx context.Context, env *Env, id uint64) (bool, error) {
	_, cfg, err := env.load()
	if err != nil {
		return false, err
	}
	program, err := sshProgram(cfg)
	if err != nil {
		return false, nil // there is no ssh, and so no master
	}
	ended := false
	for _, config := range [][]string{nil, {"-F", env.dirs.LoginConfig()}} {
		path := ownPath(ctx, program, config, id)
		if path == "" {
			continue
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode()&fs.ModeSocket == 0 {
			continue
		}
		cmd := exec.CommandContext(ctx, program, append(config, "-S", path, "-O", "exit", known.Name(id))...)
		cmd.Run() // a master that is gone leaves a socket, and an error
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ended, err
		}
		ended = true
	}
	return ended, nil
}

// ownPath returns the path of the socket for an instance, or nothing where every instance has that one: whose connection it is
// then nobody knows.
func ownPath(ctx context.Context, program string, config []string, id uint64) string {
	path := controlPath(ctx, program, config, known.Name(id))
	if path == controlPath(ctx, program, config, known.Name(id+1)) {
		return ""
	}
	return path
}

// controlPath returns the path of the socket for a host, or nothing.
func controlPath(ctx context.Context, program string, config []string, host string) string {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, append(config, "-G", host)...)
	cmd.Stdout = &out
	if cmd.Run() != nil {
		return ""
	}
	for line := range strings.Lines(out.String()) {
		if path, ok := strings.CutPrefix(line, "controlpath "); ok {
			if path = strings.TrimSpace(path); filepath.IsAbs(path) {
				return path
			}
		}
	}
	return ""
}
