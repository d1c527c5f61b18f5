package config

import (
	"fmt"
	"path/filepath"
)

// Dirs are the directories of one user's files: absolute, clean, and not necessarily there.
type Dirs struct {
	Home   string
	Config string // ~/.config/vast-ssh: what people write
	SSH    string // ~/.ssh/vast-ssh: what ssh and editors read
	State  string // ~/.local/state/vast-ssh: sockets, logs, reports
	Cache  string // ~/.cache/vast-ssh: what may be lost
}

// LocateDirs finds the directories from HOME and the XDG variables. A relative XDG value is ignored, as the XDG base
// directory specification wants. A missing or relative HOME is an *Error.
func LocateDirs(getenv func(string) string) (Dirs, error) {
	home := getenv("HOME")
	switch {
	case home == "":
		return Dirs{}, &Error{Key: "HOME", Reason: "is not set"}
	case !filepath.IsAbs(home):
		return Dirs{}, &Error{Key: "HOME", Reason: "is not an absolute path"}
	}
	base := func(variable string, fallback ...string) string {
		if dir := getenv(variable); filepath.IsAbs(dir) {
			return filepath.Join(dir, "vast-ssh")
		}
		return filepath.Join(home, filepath.Join(fallback...), "vast-ssh")
	}
	return Dirs{
		Home:   filepath.Clean(home),
		Config: base("XDG_CONFIG_HOME", ".config"),
		SSH:    filepath.Join(home, ".ssh", "vast-ssh"),
		State:  base("XDG_STATE_HOME", ".local", "state"),
		Cache:  base("XDG_CACHE_HOME", ".cache"),
	}, nil
}

// ConfigFile is the configuration that Load reads.
func (d Dirs) ConfigFile() string { return filepath.Join(d.Config, "config.toml") }

// UserSSHConfig is the user's own ssh configuration, in which one Include line is ours.
func (d Dirs) UserSSHConfig() string { return filepath.Join(d.Home, ".ssh", "config") }

// SSHConfig is the ssh configuration that the user's own includes.
func (d Dirs) SSHConfig() string { return filepath.Join(d.SSH, "config") }

// LoginConfig is the ssh configuration of `vast-ssh <instance>`.
func (d Dirs) LoginConfig() string { return filepath.Join(d.SSH, "login") }

// KnownHosts is the file of pins.
func (d Dirs) KnownHosts() string { return filepath.Join(d.SSH, "known_hosts") }

// PublicKey is the public key that tells ssh which identity to ask the agent for.
func (d Dirs) PublicKey() string { return filepath.Join(d.SSH, "id_ed25519.pub") }

// PrivateKey is the private key where custody is "file".
func (d Dirs) PrivateKey() string { return filepath.Join(d.SSH, "id_ed25519") }

// AgentSocket is the socket that speaks the agent protocol. Call CheckSockets before using it.
func (d Dirs) AgentSocket() string { return filepath.Join(d.State, "agent.sock") }

// ControlSocket is the socket by which our own programs speak to the agent. Call CheckSockets before using it.
func (d Dirs) ControlSocket() string { return filepath.Join(d.State, "control.sock") }

// AgentLock is locked by the running agent.
func (d Dirs) AgentLock() string { return filepath.Join(d.State, "agent.lock") }

// StartLock is locked by those who start the agent.
func (d Dirs) StartLock() string { return filepath.Join(d.State, "start.lock") }

// AgentLog is what the agent writes to its stderr.
func (d Dirs) AgentLog() string { return filepath.Join(d.State, "agent.log") }

// Decisions is the directory of the agent's log of decisions.
func (d Dirs) Decisions() string { return filepath.Join(d.State, "decisions") }

// WipeReports is the directory of wipe reports.
func (d Dirs) WipeReports() string { return filepath.Join(d.State, "wipe") }

// maxSocketPath leaves room below the 103 bytes that macOS takes and the 107 that Linux takes.
const maxSocketPath = 100

// SocketPathError reports a socket path that the kernel would not take.
type SocketPathError struct {
	Path string
}

func (e *SocketPathError) Error() string {
	return fmt.Sprintf("socket path %q has %d bytes, more than the %d that fit", e.Path, len(e.Path), maxSocketPath)
}

// Hint says how to get a shorter path.
func (e *SocketPathError) Hint() string {
	return "set XDG_STATE_HOME to a directory with a shorter path"
}

// CheckSockets returns a *SocketPathError when the path of a socket is too long to bind or to dial.
func (d Dirs) CheckSockets() error {
	for _, path := range []string{d.AgentSocket(), d.ControlSocket()} {
		if len(path) > maxSocketPath {
			return &SocketPathError{Path: path}
		}
	}
	return nil
}
