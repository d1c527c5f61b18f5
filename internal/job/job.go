// Package job runs a command on an instance over SSH and moves files to it and back, so that no connection has to last.
//
// # Remote side
//
// All that is wanted there is a POSIX shell with find, stat, dd, head and something that makes SHA-256: GNU's, busybox's or
// OpenSSL's. Everything goes through commands over SSH, since an SFTP server is not everywhere and could neither hash nor
// start anything. The scripts are in the directory remote. Each is given to sh as an argument and says a random mark first:
// what a login shell's own files have to say comes before it and is skipped.
//
// A run has a directory $HOME/.vast-ssh-run/<id>, mode 0700, with
//
//	command  the text that sh runs
//	out err  its output
//	pid      that of the shell that waits for it, and when that began, in the kernel's ticks
//	status   its exit status in decimal, 128+n for signal n; written aside and renamed
//	started  a directory: whoever makes it starts the command
//
// # Invariants
//
//   - Every step can be done again after a connection was lost: what is counted is what is there, not what was sent.
//   - The command is started at most once. If it cannot be told whether it was started, that is an error.
//   - Output is followed by byte offsets. What was written to Config.Stdout is never written again, and nothing is left out but what the command itself has cut off.
//   - No exit status of a remote program is taken for success. A script ends with a line that says so, the text of the
//     command is hashed before it is started, and a file has its name only after the hash of what is on the disk at one
//     end was found equal to that at the other.
//   - What the remote says is hostile: every line, name, count and size is bounded, and a local file is written through an
//     os.Root, never over a file that is not the same, unless Config.Overwrite says so.
package job

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Transfer is a file or directory to be moved. The remote path is absolute, or begins at the home directory, with "~/" or
// without. The side it comes from is a file, which goes into the directory of the other side under its own name, or a
// directory, whose content goes there. The directory is made where it is missing.
type Transfer struct {
	Local, Remote string
}

// Config says what a run is. Only Dial and ID are always wanted.
type Config struct {
	// Dial opens an authenticated connection. It is called again whenever one was lost. An error of the first call ends the
	// step, and so does every one that Final returns true for.
	Dial  func(context.Context) (*ssh.Client, error)
	Final func(error) bool
	// ID names the run: NewID's, or that of a run to take up again.
	ID string
	// Puts are uploaded before the command starts, Gets downloaded after it ended.
	Puts, Gets []Transfer
	// Command are the words of the command. A single one is given to sh as it is; of several each reaches the program
	// exactly as it is here.
	Command []string
	// Stdout and Stderr take the output of the command. Nil discards it.
	Stdout, Stderr io.Writer
	// Progress, if not nil, is told what goes on, from one goroutine at a time.
	Progress func(Event)
	// CutOff is for how long nothing may move because connections fail. 0 means DefaultCutOff.
	CutOff time.Duration
	// Overwrite lets Fetch replace local files that differ.
	Overwrite bool
}

// DefaultCutOff is how long a run stands being cut off.
const DefaultCutOff = 10 * time.Minute

// Step is a part of a run, as told to Progress.
type Step string

// The steps. Cut and Back are about the connection, Short is about the output, the others are about files.
const (
	Cut    Step = "cut"    // the connection was lost, or could not be made again: Err
	Back   Step = "back"   // there is a connection again
	Short  Step = "short"  // the command has cut its own output short, as by ">/dev/stdout"
	Read   Step = "read"   // local files are hashed
	Sent   Step = "sent"   // files are uploaded
	Got    Step = "got"    // files are downloaded
	Verify Step = "verify" // files are compared by their hashes
)

// Event is what Progress is told. Bytes and Total are those of the step in the transfer that is under way.
type Event struct {
	Step         Step
	Err          error // of Cut
	Files        int   // of the transfer
	Bytes, Total int64
}

// Run is one run of a command. Its methods are called in the order Prepare, Start, Follow, Fetch, Remove, Close; a run that
// is taken up again begins with Follow or, to check the local side first, with CheckGets. They are not safe for concurrent use.
type Run struct {
	cfg     Config
	link    *link
	tools   *tools // what the remote side has; nil until it was looked at
	sources []*source
	out     [2]int64 // where in stdout and stderr the writers are
	short   bool     // that the command has cut one of them short was told
}

var validID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// NewID returns a random run id.
func NewID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ValidID reports whether id could be a run's.
func ValidID(id string) bool { return validID.MatchString(id) }

// New makes a run and does nothing yet.
func New(cfg Config) (*Run, error) {
	if !ValidID(cfg.ID) {
		return nil, fmt.Errorf("%.64q is not the id of a run", cfg.ID)
	}
	for _, t := range append(cfg.Puts[:len(cfg.Puts):len(cfg.Puts)], cfg.Gets...) {
		if t.Local == "" || t.Remote == "" || strings.ContainsRune(t.Local+t.Remote, 0) {
			return nil, errors.New("a path is empty or has a NUL in it")
		}
	}
	if cfg.Stdout == nil {
		cfg.Stdout = io.Discard
	}
	if cfg.Stderr == nil {
		cfg.Stderr = io.Discard
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Event) {}
	}
	if cfg.Final == nil {
		cfg.Final = func(error) bool { return false }
	}
	if cfg.CutOff == 0 {
		cfg.CutOff = DefaultCutOff
	}
	return &Run{cfg: cfg, link: &link{cfg: &cfg}}, nil
}

// ID returns the run's id.
func (r *Run) ID() string { return r.cfg.ID }

// Prepare checks the local files and directories before it connects, then looks at the remote side, makes the directory of
// the run and uploads. Nothing is started before it returned nil.
func (r *Run) Prepare(ctx context.Context) error {
	if len(r.cfg.Command) == 0 {
		return errors.New("there is no command")
	}
	if err := r.CheckPuts(ctx); err != nil {
		return err
	}
	if err := r.CheckGets(); err != nil {
		return err
	}
	if err := r.probe(ctx, true); err != nil {
		return err
	}
	return r.put(ctx)
}

// Close ends the connection. The command, if it was started, goes on.
func (r *Run) Close() error { return r.link.close() }
