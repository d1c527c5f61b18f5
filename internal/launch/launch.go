// Package launch starts the agent process when it is not running. Any number of processes may want it at once: one of
// them starts one.
package launch

import (
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

	"golang.org/x/sys/unix"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/unixsock"
)

// Agent says how the agent is started and found.
type Agent struct {
	Program       string // absolute path of vast-agent
	ControlSocket string
	StartLock     string // lock file of those who start it, in the directory of the socket
	Log           string // what it writes to stderr goes here
}

// ReadyFD is the file descriptor on which a started agent reports: Ready, or in a line why it cannot run.
const ReadyFD = 3

// Ready is the report of an agent whose sockets are open.
const Ready = "ready\n"

// startTimeout bounds a start, with the keyring and a busy machine in mind.
const startTimeout = 10 * time.Second

// maxReport bounds the report of a started agent in bytes.
const maxReport = 4096

// StartError reports an agent that did not start.
type StartError struct {
	Reason string
	Log    string
}

func (e *StartError) Error() string { return "vast-agent did not start: " + e.Reason }

// Hint returns where to look next.
func (e *StartError) Hint() string {
	return "vast-agent run   (in a terminal; its log is " + e.Log + ")"
}

// Ensure returns when an agent answers on the control socket, and starts one if none does.
func Ensure(ctx context.Context, a Agent) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if ok, err := answers(ctx, a.ControlSocket); ok || err != nil {
		return err
	}
	if err := atomicfile.EnsureDir(filepath.Dir(a.StartLock)); err != nil {
		return err
	}
	unlock, err := atomicfile.Lock(ctx, a.StartLock)
	if err != nil {
		return err
	}
	defer unlock()
	if ok, err := answers(ctx, a.ControlSocket); ok || err != nil {
		return err
	}
	report, err := a.start(ctx)
	if err != nil {
		return &StartError{Reason: err.Error(), Log: a.Log}
	}
	if report == Ready {
		return nil
	}
	// One that was started by other means at this moment may have won.
	if a.await(ctx) {
		return nil
	}
	if report = strings.TrimSpace(report); report == "" {
		report = "it ended without a word"
	}
	return &StartError{Reason: report, Log: a.Log}
}

// answers tells whether a process of ours listens on the socket.
func answers(ctx context.Context, socket string) (bool, error) {
	conn, err := unixsock.Dial(ctx, socket)
	switch {
	case err == nil:
		conn.Close()
		return true, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return false, nil
	}
	return false, fmt.Errorf("reach the agent: %w", err)
}

// awaitOther is how long an agent that somebody else is starting gets to open its sockets, or one that is stopping to
// finish what is in flight.
const awaitOther = 6 * time.Second

// await tells whether one answers in that time. Why not is told by the one that we started.
func (a Agent) await(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, awaitOther)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, _ := answers(ctx, a.ControlSocket); ok {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// start runs the agent in a session of its own and returns its report.
func (a Agent) start(ctx context.Context) (string, error) {
	log, err := os.OpenFile(a.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	defer w.Close()

	cmd := exec.Command(a.Program, "run", "--report")
	cmd.Dir = "/"
	cmd.Env = environment(os.Environ())
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{w} // becomes ReadyFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	go cmd.Wait() // so that an agent that ends while we live does not stay a zombie
	w.Close()

	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	report, err := io.ReadAll(io.LimitReader(r, maxReport))
	if err != nil {
		return "", errors.New("it said nothing in time")
	}
	return string(report), nil
}

// environment passes on what the agent needs to find its files and the keyring, and to ask a person. An API key is not among it: the agent has
// no use for one, and whoever reads its environment shall find none.
func environment(env []string) []string {
	var kept []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "HOME", "PATH", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "DBUS_SESSION_BUS_ADDRESS",
			"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "SSH_ASKPASS":
			kept = append(kept, kv)
		default:
			if strings.HasPrefix(name, "XDG_") || strings.HasPrefix(name, "LC_") {
				kept = append(kept, kv)
			}
		}
	}
	return kept
}

// MissingError reports that a program of ours is not where it should be.
type MissingError struct {
	Name   string
	Beside string // the program that looked for it
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed beside %s", e.Name, filepath.Base(e.Beside))
}

// Hint returns the command that installs it.
func (e *MissingError) Hint() string { return "sh install.sh   (in the checkout of vast-ssh)" }

// Program returns the absolute path of the program name: beside the running executable, where install.sh puts it, and
// nowhere else. What PATH names could be anybody's.
func Program(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", &MissingError{Name: name, Beside: self}
	}
	return path, nil
}
