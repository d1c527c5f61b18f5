package agentcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/launch"
	"vast-ssh/internal/service"
	"vast-ssh/internal/term"
)

const (
	// commandTimeout bounds one command of the service manager.
	commandTimeout = 30 * time.Second
	// answerTimeout bounds the wait for an agent that the service manager starts.
	answerTimeout = 15 * time.Second
	answerPoll    = 50 * time.Millisecond
	// maxUnit bounds a file of the service manager in bytes.
	maxUnit = 1 << 20
)

func installCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "install",
		Usage: "have systemd or launchd start the agent when it is needed",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done"},
			&cli.BoolFlag{Name: "uninstall", Usage: "undo it"},
			&cli.BoolFlag{Name: "force", Usage: "overwrite or remove files that vast-agent install did not write"},
		},
		Action: func(c *cli.Context) error {
			program, err := launch.Program("vast-agent")
			if err != nil {
				return err
			}
			in := &installer{env: env, program: program, dry: c.Bool("dry-run"), force: c.Bool("force")}
			return in.main(c.Context, runtime.GOOS, c.Bool("uninstall"))
		},
	}
}

// installer does what it says, or says what it would do.
type installer struct {
	env        *Env
	program    string // absolute path of vast-agent
	dry, force bool
}

func (in *installer) main(ctx context.Context, goos string, uninstall bool) error {
	switch {
	case goos == "darwin" && uninstall:
		return in.launchdUninstall(ctx)
	case goos == "darwin":
		return in.launchdInstall(ctx)
	case goos == "linux" && uninstall:
		return in.systemdUninstall(ctx)
	case goos == "linux":
		return in.systemdInstall(ctx)
	}
	return fmt.Errorf("there is no service manager that vast-agent knows on %s", goos)
}

// agent describes this program, and the directories that it has found.
func (in *installer) agent() (service.Agent, error) {
	dirs := in.env.Dirs
	if err := dirs.CheckSockets(); err != nil {
		return service.Agent{}, err
	}
	a := service.Agent{
		Program:       in.program,
		AgentSocket:   dirs.AgentSocket(),
		ControlSocket: dirs.ControlSocket(),
		Log:           dirs.AgentLog(),
		Env:           []string{"HOME=" + dirs.Home},
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME"} {
		if dir := in.env.Getenv(name); filepath.IsAbs(dir) {
			a.Env = append(a.Env, name+"="+dir)
		}
	}
	return a, nil
}

func (in *installer) say(format string, args ...any) {
	fmt.Fprintln(in.env.Stdout, term.Safe(fmt.Sprintf(format, args...)))
}

// file is a file of the service manager as it should be.
type file struct {
	path string
	text []byte
}

// foreignError reports a file that vast-agent install did not write.
type foreignError struct {
	path, next string
}

func (e *foreignError) Error() string {
	return fmt.Sprintf("%q was not written by vast-agent install", e.path)
}

func (e *foreignError) Hint() string { return e.next }

// read returns what is at path, or nil if nothing is. A file that is not ours is a *foreignError.
func (in *installer) read(path, next string) ([]byte, error) {
	text, err := atomicfile.Read(path, maxUnit)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err == nil {
			return nil, &foreignError{path, next} // a link to nothing
		}
		return nil, nil
	}
	if err == nil && !service.Ours(text) && !in.force {
		return nil, &foreignError{path, next}
	}
	return text, err
}

// write brings the files into place and reports whether one of them has changed. It looks at all of them before it
// changes the first.
func (in *installer) write(files ...file) (changed bool, err error) {
	var other []file
	for _, f := range files {
		have, err := in.read(f.path, "vast-agent install --force   (overwrites it)")
		if err != nil {
			return false, err
		}
		if bytes.Equal(have, f.text) {
			in.say("%s is up to date", f.path)
			continue
		}
		other = append(other, f)
	}
	for _, f := range other {
		if in.dry {
			in.say("would write %s:", f.path)
			fmt.Fprintf(in.env.Stdout, "%s\n", f.text)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
			return false, err
		}
		if err := atomicfile.Write(f.path, f.text); err != nil {
			return false, err
		}
		// systemd complains of a unit that others cannot read, since it tells everybody what is in it.
		if err := os.Chmod(f.path, 0o644); err != nil {
			return false, err
		}
		in.say("wrote %s", f.path)
	}
	return len(other) > 0, nil
}

// present returns the files that are there to be removed. One that is not ours is an error.
func (in *installer) present(paths ...string) ([]string, error) {
	var there []string
	for _, path := range paths {
		text, err := in.read(path, "vast-agent install --uninstall --force   (removes it)")
		if err != nil {
			return nil, err
		}
		if text != nil {
			there = append(there, path)
		}
	}
	return there, nil
}

func (in *installer) remove(paths ...string) error {
	for _, path := range paths {
		if in.dry {
			in.say("would remove %s", path)
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		in.say("removed %s", path)
	}
	return nil
}

// run runs a command that changes something, and says so.
func (in *installer) run(ctx context.Context, args ...string) error {
	if in.dry {
		in.say("would run: %s", strings.Join(args, " "))
		return nil
	}
	if err := command(ctx, args...); err != nil {
		return err
	}
	in.say("ran: %s", strings.Join(args, " "))
	return nil
}

// maxComplaint bounds what is repeated of the words of a command that failed, in bytes.
const maxComplaint = 500

// command runs a command of the service manager.
func command(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = commandTimeout // whoever reads its words may have to wait for the processor after its end
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	words := string(bytes.TrimSpace(out))
	return fmt.Errorf("%s: %w: %.*s", strings.Join(args, " "), err, maxComplaint, words)
}

// handOver has the service manager take the sockets by start, which runs while nobody can start an agent by other means.
// An agent that is running ends first.
func (in *installer) handOver(ctx context.Context, start func() error) error {
	if in.dry {
		in.say("would stop an agent that was started by other means")
		return start()
	}
	if err := atomicfile.EnsureDir(in.env.Dirs.State); err != nil {
		return err
	}
	locking, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	unlock, err := atomicfile.Lock(locking, in.env.Dirs.StartLock())
	if err != nil {
		return err
	}
	defer unlock()
	client, err := ipc.Dial(ctx, in.env.Dirs.ControlSocket())
	switch {
	case notRunning(err):
	case err != nil:
		return fmt.Errorf("stop the running agent: %w", err)
	default:
		err := client.Stop(ctx)
		client.Close()
		if err != nil {
			return fmt.Errorf("stop the running agent: %w", err)
		}
		in.say("stopped the agent that was running")
	}
	return start()
}

// await returns when the agent that the service manager starts has answered. logs is the command that tells why it does not.
func (in *installer) await(ctx context.Context, logs string) error {
	if in.dry {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for {
		status, err := in.status(ctx)
		if err == nil {
			in.say("the agent answers: pid %d, version %s", status.PID, status.Version)
			return nil
		}
		if !notRunning(err) || ctx.Err() != nil {
			return voice.Hinted(fmt.Errorf("the agent is installed and does not answer: %w", err), logs)
		}
		select {
		case <-time.After(answerPoll):
		case <-ctx.Done():
		}
	}
}

func (in *installer) status(ctx context.Context) (ipc.Status, error) {
	client, err := ipc.Dial(ctx, in.env.Dirs.ControlSocket())
	if err != nil {
		return ipc.Status{}, err
	}
	defer client.Close()
	return client.Status(ctx)
}
