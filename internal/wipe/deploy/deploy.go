// Package deploy brings the far side of a wipe to a machine over an ssh connection: the helper program where it can run, from
// memory if there is a place for that, and the shell script elsewhere. Both are spoken to through a Session.
package deploy

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sshsession"
	"vast-ssh/internal/wipe/protocol"
	"vast-ssh/internal/wipe/script"
)

// Kind is what the far side is.
type Kind string

const (
	Helper Kind = "helper"
	Script Kind = "script"
)

// dirName is that of the far side's directory. It is the same for every connection, so that a second run finds the
// journal of the first.
const dirName = ".vast-ssh-wipe"

// scriptSuffix tells the script's directory from the helper's.
const scriptSuffix = "-sh"

// Session is a conversation with a far side. Receive is for one goroutine, the rest for any.
type Session struct {
	Kind Kind
	// Reason says why it is not the helper, or is nil.
	Reason error
	// Hello is the far side's.
	Hello protocol.Hello

	client   *ssh.Client
	session  *ssh.Session
	complain *limited
	receive  func() (protocol.Message, error)
	commands *protocol.Writer // nil for the script
	finish   func(ctx context.Context) (*Session, error)
	stop     func() error
}

// RefusedError says that the far side will not do what is asked. Nothing was done. Reason is its word.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return fmt.Sprintf("the far side refuses: %.300q", e.Reason) }

// errNothing says that the far side has ended without a word, as a program does that cannot run.
var errNothing = errors.New("it ended without a word")

// errBegun is why the helper does not go on with what the script has begun: it cannot read its journal.
var errBegun = errors.New("the script has begun")

// helloTimeout bounds the time from the start of the far side to its first message.
const helloTimeout = 60 * time.Second

// Start brings the far side there and gives it the request, in which Dir and Version are set here. Its errors are a
// *RefusedError, and what the connection or the machine had. The connection ends with ctx until Start returns.
func Start(ctx context.Context, client *ssh.Client, facts *Facts, req protocol.Request) (*Session, error) {
	defer context.AfterFunc(ctx, func() { client.Close() })()
	req.Version = protocol.Version
	base, ok := facts.dir()
	if !ok {
		return nil, &FarError{"there is no directory for a journal"}
	}
	req.Dir = path.Join(base.dir, dirName)
	s, reason := (*Session)(nil), errBegun
	if !base.script {
		s, reason = startHelper(ctx, client, facts, req)
	}
	if reason == nil {
		return s, nil
	}
	if refused := (*RefusedError)(nil); errors.As(reason, &refused) || ctx.Err() != nil || !sshsession.Alive(ctx, client) {
		return nil, reason
	}
	s, err := startScript(ctx, client, req)
	if err != nil {
		return nil, fmt.Errorf("%w (and the helper cannot be used: %w)", err, reason)
	}
	s.Reason = reason
	return s, nil
}

// dir is where the journal goes: to the one of an earlier wipe, or to where there is room, in memory if possible.
func (f *Facts) dir() (place, bool) {
	rank := func(p place) int {
		n := 0
		for _, good := range []bool{p.journal, p.room, p.memory} {
			n *= 2
			if good {
				n++
			}
		}
		return n
	}
	free := slices.DeleteFunc(slices.Clone(f.places), func(p place) bool { return p.taken })
	if len(free) == 0 {
		return place{}, false
	}
	return slices.MaxFunc(free, func(a, b place) int { return rank(a) - rank(b) }), true
}

// programDirs are where a program can run, those in memory first.
func (f *Facts) programDirs() []string {
	var dirs []string
	for _, memory := range []bool{true, false} {
		for _, p := range f.places {
			if p.runs && p.memory == memory {
				dirs = append(dirs, p.dir)
			}
		}
	}
	return dirs
}

func startHelper(ctx context.Context, client *ssh.Client, facts *Facts, req protocol.Request) (*Session, error) {
	packed, err := helper(facts.System, facts.Machine)
	if err != nil {
		return nil, err
	}
	dirs := facts.programDirs()
	if len(dirs) == 0 {
		return nil, errors.New("no directory on the machine lets programs run")
	}
	for _, dir := range dirs {
		var s *Session
		name := path.Join(dir, ".vast-ssh-"+randomName())
		if err = send(ctx, client, facts, packed, name); err == nil {
			if s, err = startProgram(ctx, client, name, req); err == nil {
				return s, nil
			}
		}
		if refused := (*RefusedError)(nil); errors.As(err, &refused) || ctx.Err() != nil || !sshsession.Alive(ctx, client) {
			return nil, err
		}
		// It removes itself when it runs.
		if _, err := output(ctx, client, "rm -f '"+name+"'", nil); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the helper does not run there: %w", err)
}

func randomName() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// send writes the program to the machine.
func send(ctx context.Context, client *ssh.Client, facts *Facts, packed []byte, name string) error {
	var data io.Reader = bytes.NewReader(packed)
	filter := "gzip -dc"
	if !facts.gzip {
		z, err := gzip.NewReader(data)
		if err != nil {
			return err
		}
		data, filter = z, "cat"
	}
	command := fmt.Sprintf("umask 077; %s >'%s' && chmod 700 '%s' && echo sent", filter, name, name)
	out, err := output(ctx, client, command, data)
	if err == nil && !bytes.HasSuffix(out, []byte("sent\n")) {
		err = errNothing
	}
	if err != nil {
		return fmt.Errorf("bring the helper: %w", err)
	}
	return nil
}

func startProgram(ctx context.Context, client *ssh.Client, name string, req protocol.Request) (*Session, error) {
	s, stdin, stdout, err := start(ctx, client, "exec '"+name+"'")
	if err != nil {
		return nil, err
	}
	s.Kind = Helper
	s.commands = protocol.NewWriter(stdin)
	reader := protocol.NewReader(stdout)
	s.receive = func() (protocol.Message, error) {
		var m protocol.Message
		err := reader.Receive(&m)
		return m, err
	}
	if err := s.commands.Send(req); err != nil {
		s.Close()
		return nil, err
	}
	return s, s.greet(ctx)
}

func startScript(ctx context.Context, client *ssh.Client, req protocol.Request) (*Session, error) {
	// Its journal has another form.
	req.Dir = strings.TrimSuffix(req.Dir, scriptSuffix) + scriptSuffix
	text, err := script.Render(req)
	if err != nil {
		return nil, err
	}
	s, stdin, stdout, err := start(ctx, client, "exec sh -s")
	if err != nil {
		return nil, err
	}
	s.Kind = Script
	// The end of its input is not told: the script takes it for the end of the connection.
	if _, err := stdin.Write(text); err != nil {
		s.Close()
		return nil, err
	}
	s.receive = script.NewReader(stdout, req).Receive
	// Not by a signal, which OpenSSH's server does not deliver for root.
	s.stop = func() error {
		_, err := io.WriteString(stdin, "stop\n")
		return err
	}
	s.finish = func(ctx context.Context) (*Session, error) {
		last := req
		last.Op = protocol.OpFinish
		return startScript(ctx, client, last)
	}
	return s, s.greet(ctx)
}

func start(ctx context.Context, client *ssh.Client, command string) (*Session, io.Writer, io.Reader, error) {
	session, err := sshsession.Open(ctx, client)
	if err != nil {
		return nil, nil, nil, err
	}
	stdin, err := session.StdinPipe()
	if err != nil {
		session.Close()
		return nil, nil, nil, err
	}
	stdout, err := session.StdoutPipe()
	if err != nil {
		session.Close()
		return nil, nil, nil, err
	}
	complain := new(limited)
	session.Stderr = complain
	if err := session.Start(command); err != nil {
		session.Close()
		return nil, nil, nil, err
	}
	return &Session{client: client, session: session, complain: complain}, stdin, stdout, nil
}

// maxNoise is how many lines a login may print before the far side speaks.
const maxNoise = 1000

// greet waits for the first message.
func (s *Session) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, s.hangUp)()
	for range maxNoise {
		m, err := s.receive()
		switch {
		case errors.Is(err, protocol.ErrLine):
			continue
		case ctx.Err() != nil:
			err = ctx.Err()
		case errors.Is(err, io.EOF):
			s.session.Wait() // for all of what it complains
			err = fmt.Errorf("%w: %.200q", errNothing, s.complain.String())
		case err == nil && m.Hello != nil:
			s.Hello = *m.Hello
			return nil
		case err == nil && m.Refused != "":
			err = &RefusedError{m.Refused}
		case err == nil && m.Error != "":
			err = &FarError{m.Error}
		case err == nil:
			continue
		}
		s.Close()
		return err
	}
	s.Close()
	return protocol.ErrLine
}

// hangUp ends the session, or the connection if its other end is silent.
func (s *Session) hangUp() {
	go s.session.Close()
	sshsession.Alive(context.Background(), s.client)
}

// FarError says that the far side could not go on. Text is its word.
type FarError struct{ Text string }

func (e *FarError) Error() string { return fmt.Sprintf("the far side could not go on: %.500q", e.Text) }

// Receive returns the next message, and an error for the end of the conversation. What the far side says of an error of its
// own is a *FarError.
func (s *Session) Receive() (protocol.Message, error) {
	m, err := s.receive()
	if why := cmp.Or(m.Error, m.Refused); err == nil && why != "" {
		err = &FarError{why}
	}
	return m, err
}

// Finish has the far side remove what logging in needs and itself, in the connection that there is. What it answers comes
// from the session that is returned, which is s or takes its place.
func (s *Session) Finish(ctx context.Context) (*Session, error) {
	if s.finish != nil {
		s.Close()
		return s.finish(ctx)
	}
	return s, s.commands.Send(protocol.Command{Op: protocol.OpFinish})
}

// Stop asks the far side to end between two blocks, and to say what is done.
func (s *Session) Stop() error {
	if s.stop != nil {
		return s.stop()
	}
	return s.commands.Send(protocol.Command{Op: protocol.OpStop})
}

// Close ends the conversation. A far side that runs stops.
func (s *Session) Close() { s.session.Close() }
