package job

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sshsession"
)

//go:embed remote/*.sh
var remote embed.FS

const (
	maxNoise  = 1 << 20 // bytes before the mark
	maxLine   = 256     // bytes of a line of a script
	maxStderr = 4 << 10 // bytes of a script's stderr that are kept
)

// RemoteError says that a script on the instance failed, in the words of the instance.
type RemoteError struct {
	Script string
	Status int
	Stderr string
}

func (e *RemoteError) Error() string {
	said := strings.TrimSpace(e.Stderr)
	if said == "" {
		return fmt.Sprintf("the instance failed at %q with status %d", e.Script, e.Status)
	}
	return fmt.Sprintf("the instance failed at %q: %q", e.Script, said)
}

// ProtocolError says that an instance answered what no script of ours does.
type ProtocolError struct {
	Script, Reason string
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("the instance answered %q with %s", e.Script, e.Reason)
}

// localError is a failure at this end, for which no connection is to blame.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

// call is one use of a script. in writes its stdin, if there is any to write. read reads its stdout from behind the mark to
// its last line.
type call struct {
	script string
	args   []string
	in     func(io.Writer) error
	read   func(*lines) error
}

// call runs the script that again returns, and again on a new connection whenever one was lost.
func (r *Run) call(ctx context.Context, again func() call) error {
	return r.link.do(ctx, func(client *ssh.Client) error { return r.once(ctx, client, again()) })
}

// once runs a script. Its error is a droppedError if the connection ended.
func (r *Run) once(ctx context.Context, client *ssh.Client, c call) error {
	session, err := sshsession.Open(ctx, client)
	var refused *ssh.OpenChannelError
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("the instance opens no session: %q", refused.Message)
	case err != nil:
		return &droppedError{err}
	}
	defer session.Close()
	stdin, err := session.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	said := &head{max: maxStderr}
	session.Stderr = said
	mark := rand.Text()
	if err := session.Start(r.commandLine(c, mark)); err != nil {
		return &droppedError{err}
	}
	written := make(chan error, 1)
	go func() {
		var err error
		if c.in != nil {
			buffered := bufio.NewWriterSize(stdin, 128<<10)
			if err = c.in(buffered); err == nil {
				err = buffered.Flush()
			}
		}
		stdin.Close()
		var local *localError
		if errors.As(err, &local) {
			session.Close() // the script waits for what will not come
		}
		written <- err
	}()
	ls := &lines{script: c.script, r: bufio.NewReaderSize(connection{stdout}, 128<<10), moved: r.link.moved}
	if err = ls.skipTo(mark); err == nil {
		err = c.read(ls)
	}
	var broken *connectionError
	if errors.As(err, &broken) {
		client.Close()
	}
	var local *localError
	if err == nil || errors.As(err, &local) || broken == nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		session.Close()
		settle(client, written)
		return err
	}
	ended := session.Wait()
	session.Close()
	if werr := settle(client, written); errors.As(werr, &local) {
		return werr
	}
	var exit *ssh.ExitError
	switch {
	case ended == nil && sshsession.Alive(ctx, client):
		return &ProtocolError{c.script, "an early end"}
	case ended == nil:
		// OpenSSH tells the status of a script before the rest of its output.
		return &droppedError{fmt.Errorf("the connection ended: %w", err)}
	case errors.As(ended, &exit) && exit.Signal() == "":
		return &RemoteError{c.script, exit.ExitStatus(), said.String()}
	}
	return &droppedError{fmt.Errorf("the connection ended: %w", ended)}
}

// connection is what comes from a script. Reading may have to write, to say that there is room for more, so that its errors are
// those of the connection.
type connection struct{ io.Reader }

type connectionError struct{ error }

func (e *connectionError) Unwrap() error { return e.error }

func (c connection) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = &connectionError{err}
	}
	return n, err
}

// settleTimeout is how long the other end has to take note of the end of a session.
const settleTimeout = 10 * time.Second

// settle waits for the writer of a session that is closed.
func settle(client *ssh.Client, written <-chan error) error {
	defer time.AfterFunc(settleTimeout, func() { client.Close() }).Stop()
	return <-written
}

// commandLine is what the user's login shell is given for a script.
func (r *Run) commandLine(c call, mark string) string {
	text := scriptText("prelude")
	if r.tools != nil {
		text += "sha() { " + hashTools[r.tools.hash] + "; }\n"
	}
	words := append([]string{"exec", "sh", "-c", quote(text + scriptText(c.script)), "vast-ssh", mark}, quoteAll(c.args)...)
	return strings.Join(words, " ")
}

// scriptText is a script without its comments.
func scriptText(name string) string {
	text, err := remote.ReadFile("remote/" + name + ".sh")
	if err != nil {
		panic(err) // it is part of this program
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(strings.TrimLeft(line, "\t"), "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// quote makes one word of s for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func quoteAll(words []string) []string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return quoted
}

// encode writes a path for dec of the prelude, as one word without blanks, backslashes but its own, and bytes that a shell
// could read otherwise.
func encode(path string) string {
	var b strings.Builder
	for i := range len(path) {
		switch c := path[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-', c == '/':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\0%03o`, c)
		}
	}
	return b.String()
}

// remotePath is a path as the scripts take it, which begin at the home directory and know no other start than "/" and "./".
func remotePath(p string) string {
	switch rest, home := strings.CutPrefix(p, "~/"); {
	case home:
		return "./" + rest
	case p == "~":
		return "."
	case strings.HasPrefix(p, "/"):
		return p
	}
	return "./" + p
}

// lines reads what a script says.
type lines struct {
	script string
	r      *bufio.Reader
	moved  func()
}

func (l *lines) wrong(format string, args ...any) error {
	return &ProtocolError{l.script, fmt.Sprintf(format, args...)}
}

// next returns a line without its end. A line that the end of the connection cuts short is io.ErrUnexpectedEOF.
func (l *lines) next() (string, error) {
	var line []byte
	for {
		b, err := l.r.ReadByte()
		switch {
		case err == io.EOF:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case b == '\n':
			return string(line), nil
		case len(line) == maxLine:
			return "", l.wrong("a line of more than %d bytes", maxLine)
		}
		line = append(line, b)
	}
}

// skipTo reads up to the line that is mark.
func (l *lines) skipTo(mark string) error {
	window := []byte("\n" + mark + "\n")
	var tail []byte
	for range maxNoise {
		b, err := l.r.ReadByte()
		if err != nil {
			return err
		}
		if tail = append(tail, b); len(tail) > len(window) {
			tail = tail[1:]
		}
		if bytes.Equal(tail, window) {
			return nil
		}
	}
	return l.wrong("%d bytes of something else", maxNoise)
}

// fields reads a line of n words with single blanks between.
func (l *lines) fields(n int) ([]string, error) {
	line, err := l.next()
	if err != nil {
		return nil, err
	}
	words := strings.Split(line, " ")
	if len(words) != n {
		return nil, l.wrong("%.100q", line)
	}
	return words, nil
}

// expect reads the line of a word and a number.
func (l *lines) expect(word string, i int) error {
	words, err := l.fields(2)
	if err == nil && (words[0] != word || words[1] != strconv.Itoa(i)) {
		err = l.wrong("%.100q", strings.Join(words, " "))
	}
	return err
}

// value reads the line of a number and a word, and returns the word.
func (l *lines) value(i int) (string, error) {
	words, err := l.fields(2)
	if err != nil {
		return "", err
	}
	if words[0] != strconv.Itoa(i) {
		return "", l.wrong("%.100q", strings.Join(words, " "))
	}
	return words[1], nil
}

// end reads the last line of a script.
func (l *lines) end() error {
	line, err := l.next()
	if err == nil && line != "end" {
		err = l.wrong("%.100q", line)
	}
	return err
}

// number reads a decimal number from 0 to 1<<62.
func (l *lines) number(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	if err != nil {
		return 0, l.wrong("%.40q for a number", s)
	}
	return int64(n), nil
}

// head keeps the first bytes that are written to it.
type head struct {
	bytes.Buffer
	max int
}

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), h.max-h.Len())])
	return len(p), nil
}
