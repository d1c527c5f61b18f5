package deploy

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sshsession"
	"vast-ssh/internal/wipe/protocol"
)

//go:embed probe.sh
var probeScript string

// Facts are what a machine says about itself. All of it is a stranger's word.
type Facts struct {
	// Label is the container label in the environment of PID 1, or empty.
	Label           string
	System, Machine string // as uname -s and -m
	// Homes are the home directories, and Env the variables of PID 1 that were asked for.
	Homes []string
	Env   map[string]string
	// places are where files can be put.
	places []place
	gzip   bool
}

// place is a directory that can be written to: what it is on, whether programs run from there, whether there is room for a
// journal, and whether there is one, or something else of its name. script says that the journal is the script's.
type place struct {
	dir                                        string
	memory, runs, room, journal, taken, script bool
}

// WrongContainerError says that the far end is not the container of the instance. Nothing was done there.
type WrongContainerError struct{ Want, Got string }

func (e *WrongContainerError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("the machine is not the container %s: its first process carries no container label", e.Want)
	}
	return fmt.Sprintf("the machine is the container %.64q and not %s", e.Got, e.Want)
}

// Bounds of what a probe may answer.
const (
	maxAnswer = 1 << 20
	maxEnv    = 4096
)

const probeMark = "vast-ssh-probe 1"

// Probe asks a machine what it is, and returns a *WrongContainerError unless it is the container with the label.
// variables are the names of the environment variables to ask for.
func Probe(ctx context.Context, client *ssh.Client, label string, variables []string) (*Facts, error) {
	script := "names='" + strings.Join(variables, " ") + "' journal='" + dirName + "'\n" + probeScript
	out, err := output(ctx, client, "exec sh -s", strings.NewReader(script))
	if err != nil {
		return nil, fmt.Errorf("ask the machine what it is: %w", err)
	}
	facts, err := parseProbe(out, variables)
	if err != nil {
		return nil, err
	}
	if label == "" || facts.Label != label {
		return nil, &WrongContainerError{Want: label, Got: facts.Label}
	}
	return facts, nil
}

var errProbe = errors.New("the machine's answer to what it is cannot be read")

func parseProbe(out []byte, variables []string) (*Facts, error) {
	// A login may print anything first.
	_, answer, ok := bytes.Cut(out, []byte("\n"+probeMark+"\n"))
	if !ok {
		return nil, errProbe
	}
	f := &Facts{Env: make(map[string]string)}
	ended := false
	s := bufio.NewScanner(bytes.NewReader(answer))
	s.Buffer(nil, maxAnswer)
	for s.Scan() && !ended {
		key, value, _ := strings.Cut(s.Text(), " ")
		switch key {
		case "label":
			if f.Label != "" {
				return nil, errProbe
			}
			f.Label = value
		case "system":
			f.System = value
		case "machine":
			f.Machine = value
		case "home":
			if usable(value) && len(f.Homes) < protocol.MaxHomes && !slices.Contains(f.Homes, value) {
				f.Homes = append(f.Homes, value)
			}
		case "env":
			name, setting, _ := strings.Cut(value, "=")
			if slices.Contains(variables, name) && len(setting) <= maxEnv {
				f.Env[name] = setting
			}
		case "gzip":
			f.gzip = true
		case "dir":
			// type, runs, room, path
			if fields := strings.SplitN(value, " ", 4); len(fields) == 4 && usable(fields[3]) {
				f.places = append(f.places, place{
					dir: fields[3], memory: fields[0] == "tmpfs" || fields[0] == "ramfs", runs: fields[1] == "yes",
					room: fields[2] == "yes", journal: fields[2] == "journal" || fields[2] == "script", taken: fields[2] == "taken",
					script: fields[2] == "script",
				})
			}
		case "end":
			ended = true
		}
	}
	if !ended {
		return nil, errProbe
	}
	return f, nil
}

// usable reports whether a directory's name can be used in a shell's words as it is, and is none that everything is in.
func usable(dir string) bool {
	return path.IsAbs(dir) && path.Clean(dir) == dir && dir != "/" && len(dir) <= maxEnv &&
		!strings.ContainsAny(dir, "'\\\x00\n\r\t")
}

// output runs a command with input and returns what it prints, up to maxAnswer bytes.
func output(ctx context.Context, client *ssh.Client, command string, input io.Reader) ([]byte, error) {
	session, err := sshsession.Open(ctx, client)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	// The end of a session waits for the other end.
	defer context.AfterFunc(ctx, func() { client.Close() })()
	var out limited
	session.Stdin, session.Stdout = input, &out
	err = session.Run(command)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return out.Bytes(), err
}

// limited is a buffer of maxAnswer bytes. More is dropped, so that the writer is not held up.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxAnswer - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
