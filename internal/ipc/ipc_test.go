package ipc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vast-ssh/internal/unixsock"
)

// fakeHandler remembers what it was asked.
type fakeHandler struct {
	witness func(context.Context, Witness) error
	status  func(context.Context) Status
	refused *Refusal // what a withdrawal tells
	onStop  func()

	mu        sync.Mutex // protects the following
	asked     []Witness
	withdrawn []Witness
	locks     int
	unlocked  [][]byte // the passphrases as they came in, not copied
	secrets   []string // the passphrases
	stops     int
}

func (h *fakeHandler) Withdraw(w Witness) *Refusal {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.withdrawn = append(h.withdrawn, w)
	return h.refused
}

func (h *fakeHandler) Lock() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.locks++
}

var errPassphrase = &RefusedError{Reason: WrongPassphrase, Sentence: "the passphrase is wrong", Next: "try again"}

func (h *fakeHandler) Unlock(_ context.Context, passphrase []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unlocked = append(h.unlocked, passphrase)
	h.secrets = append(h.secrets, string(passphrase))
	if string(passphrase) == "wrong" {
		return errPassphrase
	}
	return nil
}

func (h *fakeHandler) Witness(ctx context.Context, w Witness) error {
	h.mu.Lock()
	h.asked = append(h.asked, w)
	h.mu.Unlock()
	if h.witness != nil {
		return h.witness(ctx, w)
	}
	return nil
}

func (h *fakeHandler) Status(ctx context.Context) Status {
	if h.status != nil {
		return h.status(ctx)
	}
	return Status{PID: 1}
}

func (h *fakeHandler) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stops++
	if h.onStop != nil {
		h.onStop()
	}
}

func (h *fakeHandler) stopped() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stops
}

// served is a handler behind a connection.
type served struct {
	*Client
	end  context.CancelFunc // ends the server's context
	done chan struct{}      // closed when Serve has returned
}

func serve(t *testing.T, h Handler) *served {
	t.Helper()
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	s := &served{Client: &Client{conn: near}, end: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		Serve(ctx, far, h)
	}()
	t.Cleanup(func() { near.Close(); cancel(); <-s.done })
	return s
}

var (
	testWitness = Witness{
		Instance: 1<<64 - 1, HostKey: []byte{0, 1, 255}, Signature: []byte("sig"), User: "ro\"ot", Route: "direct",
	}
	testStatus = Status{
		PID: 12, Version: "v1", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Custody: "file", Key: "SHA256:x",
		KeyError: "no <key>", Witnesses: 3, Signatures: 1<<64 - 1, Refused: 9,
		Refusals: []Refusal{{
			At: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), Reason: "no-witness", Sentence: "a \x1b sentence",
			Instance: 7, HostKey: "SHA256:y", PID: 4711, Program: "/usr/bin/ssh",
		}},
	}
)

// TestRoundTrips has every method of the client answered over a real socket.
func TestRoundTrips(t *testing.T) {
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "c")
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	h := &fakeHandler{status: func(context.Context) Status { return testStatus }, onStop: func() { close(told) }}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		unixsock.Serve(ctx, l, 4, func(ctx context.Context, c *unixsock.Conn) { Serve(ctx, c, h) })
	}()
	defer func() { l.Close(); end(); <-done }()

	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if err := c.Witness(t.Context(), testWitness); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Status(t.Context()); err != nil || !reflect.DeepEqual(got, testStatus) {
			t.Errorf("status %+v, %v", got, err)
		}
	}
	if r, err := c.Withdraw(t.Context(), testWitness); err != nil || r != nil {
		t.Error(r, err)
	}
	if len(h.withdrawn) != 1 || !reflect.DeepEqual(h.withdrawn[0], testWitness) {
		t.Errorf("withdrawn %+v", h.withdrawn)
	}
	if len(h.asked) != 2 || !reflect.DeepEqual(h.asked[1], testWitness) {
		t.Errorf("witnesses %+v", h.asked)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- c.Stop(t.Context()) }()
	// A second one, while the first waits.
	second, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := second.Status(t.Context()); err != nil {
		t.Error(err)
	}
	<-told // a request that has not come in is not answered behind the end
	end()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if h.stopped() != 1 {
		t.Errorf("stopped %d times", h.stopped())
	}
}

func TestDialWithoutAnAgent(t *testing.T) {
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestEveryOpHasAMethod compares the operations in the source with those that the methods of the client ask for.
func TestEveryOpHasAMethod(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "ipc.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ops := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == "op" {
			word, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			ops[word] = true
		}
		return true
	})
	if len(ops) == 0 {
		t.Fatal("no operation was found in the source")
	}

	asked := make(map[string]bool)
	methods := reflect.TypeFor[*Client]()
	for i := range methods.NumMethod() {
		method := methods.Method(i)
		if method.Name == "Close" {
			continue
		}
		near, far := net.Pipe()
		requests := make(chan request, 1)
		go func() {
			defer far.Close()
			var req request
			if err := readMessage(far, &req); err != nil {
				t.Error(err)
			}
			requests <- req
			writeMessage(far, reply{Status: &Status{}})
		}()
		args := []reflect.Value{reflect.ValueOf(&Client{conn: near}), reflect.ValueOf(t.Context())}
		for j := len(args); j < method.Type.NumIn(); j++ {
			args = append(args, reflect.Zero(method.Type.In(j)))
		}
		results := method.Func.Call(args)
		if err := results[len(results)-1].Interface(); err != nil {
			t.Errorf("%s: %v", method.Name, err)
		}
		req := <-requests
		asked[string(req.Op)] = true
		near.Close()

		// And the dispatch knows it.
		if rep := dispatch(t.Context(), req, &fakeHandler{}); rep.Error != "" {
			t.Errorf("%s: %s", method.Name, rep.Error)
		}
	}
	if !reflect.DeepEqual(ops, asked) {
		t.Errorf("the operations are %v, the methods ask for %v", ops, asked)
	}
}

// TestErrors has a handler fail: a refusal keeps its reason, wrapped or not, and the connection goes on.
func TestErrors(t *testing.T) {
	refusal := &RefusedError{Reason: "not-pinned", Sentence: "the host key is not pinned"}
	tests := []struct {
		err          error
		reason, text string
	}{
		{refusal, "not-pinned", refusal.Sentence},
		{fmt.Errorf("no: %w", refusal), "not-pinned", "no: " + refusal.Sentence},
		{errors.New("no room"), "", "no room"},
		{errors.New(""), "", "the agent refuses, and does not say why"},
		{&RefusedError{Reason: "locked"}, "locked", "the agent refuses, and does not say why"},
		{nil, "", ""},
	}
	h := &fakeHandler{}
	c := serve(t, h)
	for _, test := range tests {
		h.witness = func(context.Context, Witness) error { return test.err }
		err := c.Witness(t.Context(), testWitness)
		if test.err == nil {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		var refused *RefusedError
		if !errors.As(err, &refused) {
			t.Fatalf("got %v", err)
		}
		if refused.Reason != test.reason || refused.Error() != test.text {
			t.Errorf("got %q, %q", refused.Reason, refused)
		}
	}
}

// TestWithdrawTellsTheRefusal has the agent say what the login was refused.
func TestWithdrawTellsTheRefusal(t *testing.T) {
	refused := &Refusal{At: time.Unix(1, 0).UTC(), Reason: "no-witness", Sentence: "no", Count: 2, Instance: 7, PID: 3}
	c := serve(t, &fakeHandler{refused: refused})
	if r, err := c.Withdraw(t.Context(), testWitness); err != nil || !reflect.DeepEqual(r, refused) {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestUnlock has a passphrase come in whole, and nothing of it stay in what the request was read into.
func TestUnlock(t *testing.T) {
	h := &fakeHandler{}
	c := serve(t, h)
	if err := c.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret := "open\x00 sesame\xff\n"
	if err := c.Unlock(t.Context(), []byte(secret)); err != nil {
		t.Fatal(err)
	}
	if err := c.Unlock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	err := c.Unlock(t.Context(), []byte("wrong"))
	if refused := (*RefusedError)(nil); !errors.As(err, &refused) || *refused != *errPassphrase {
		t.Errorf("got %v", err)
	}
	if h.locks != 1 || !reflect.DeepEqual(h.secrets, []string{secret, "", "wrong"}) {
		t.Errorf("%d locks, passphrases %q", h.locks, h.secrets)
	}
	// Each was answered, so the server has cleared it.
	for _, passphrase := range h.unlocked {
		if !bytes.Equal(passphrase, make([]byte, len(passphrase))) {
			t.Errorf("a passphrase stays: %q", passphrase)
		}
	}
}

// TestHandlerFault lets the handler panic with what could be a part of a request.
func TestHandlerFault(t *testing.T) {
	h := &fakeHandler{
		witness: func(context.Context, Witness) error { panic("the canary") },
		status:  func(context.Context) Status { panic(errors.New("the canary")) },
	}
	c := serve(t, h)
	_, statusErr := c.Status(t.Context())
	for _, err := range []error{c.Witness(t.Context(), testWitness), statusErr} {
		if refused := (*RefusedError)(nil); !errors.As(err, &refused) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v", err)
		}
	}
}

func message(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// TestBadRequests sends what no client sends. Where an answer is owed it is an error, else the connection ends.
func TestBadRequests(t *testing.T) {
	huge := `{"op":"` + strings.Repeat("\x7f", MaxMessage-100) + `"}`
	tests := []struct {
		name  string
		input []byte
		want  string // in the error of the reply; empty is an end without a reply
	}{
		{"no length", message(""), ""},
		{"over the limit", binary.BigEndian.AppendUint32(nil, MaxMessage+1), ""},
		{"far over the limit", []byte{255, 255, 255, 255}, ""},
		{"no JSON", message("witness"), ""},
		{"half of JSON", message(`{"op":"status"`), ""},
		{"two of JSON", message(`{"op":"status"}{"op":"stop"}`), ""},
		{"another type", message(`{"op":7}`), ""},
		{"an array", message(`["status"]`), ""},
		{"deep", message(strings.Repeat("[", 100000)), ""},
		{"null", message(`null`), `unknown request ""`},
		{"no operation", message(`{}`), `unknown request ""`},
		{"unknown", message(`{"op":"sign\u001b"}`), `unknown request "sign\x1b"`},
		{"in capitals", message(`{"op":"STOP"}`), `unknown request "STOP"`},
		{"a witness without one", message(`{"op":"witness"}`), `unknown request "witness"`},
		{"huge", message(huge), `unknown request "\x7f`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := &fakeHandler{}
			c := serve(t, h)
			go c.conn.Write(test.input) // a pipe: what is not read blocks
			var rep reply
			err := readMessage(c.conn, &rep)
			switch {
			case test.want == "" && err != io.EOF:
				t.Errorf("got %+v, %v, want the end", rep, err)
			case test.want != "" && (err != nil || !strings.Contains(rep.Error, test.want)):
				t.Errorf("got %.200q, %v", rep.Error, err)
			}
			c.conn.Close()
			<-c.done
			if len(h.asked) > 0 || h.stopped() > 0 {
				t.Error("the handler was asked")
			}
		})
	}
}

// TestBadReplies answers a client with what no agent answers.
func TestBadReplies(t *testing.T) {
	for name, answer := range map[string][]byte{
		"nothing":        nil,
		"half a length":  {0, 0},
		"no length":      message(""),
		"over the limit": binary.BigEndian.AppendUint32(nil, MaxMessage+1),
		"half a reply":   message(`{"status":{}}`)[:10],
		"no JSON":        message("ok"),
		"no status":      message("{}"),
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				readMessage(far, &request{})
				far.Write(answer)
			}()
			c := &Client{conn: near}
			defer c.Close()
			if _, err := c.Status(t.Context()); err == nil {
				t.Error("it was taken")
			} else if refused := (*RefusedError)(nil); errors.As(err, &refused) {
				t.Errorf("it was taken for a refusal: %v", err)
			}
		})
	}
}

// TestFailedClientIsClosed ends a request early. Its late reply must not answer the next one.
func TestFailedClientIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := &fakeHandler{witness: func(context.Context, Witness) error { <-release; return nil }}
		c := serve(t, h)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Witness(ctx, testWitness); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		close(release)
		if err := c.Witness(t.Context(), testWitness); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the client goes on after a request that has no reply yet: %v", err)
		}
		<-c.done
	})
}

func TestMessageOverTheLimit(t *testing.T) {
	var out bytes.Buffer
	if err := writeMessage(&out, request{Op: op(strings.Repeat("x", MaxMessage))}); err == nil || out.Len() > 0 {
		t.Errorf("error %v, %d bytes written", err, out.Len())
	}
	fits := op(strings.Repeat("x", MaxMessage-len(`{"op":""}`)))
	if err := writeMessage(&out, request{Op: fits}); err != nil {
		t.Fatal(err)
	}
	var got request
	if err := readMessage(bufio.NewReader(&out), &got); err != nil || got.Op != fits {
		t.Errorf("%d bytes came back, %v", len(got.Op), err)
	}
}

// TestSlowPeers has one side be silent, or stop in the middle.
func TestSlowPeers(t *testing.T) {
	for name, input := range map[string][]byte{
		"silent":                  nil,
		"half a length":           {0, 0},
		"a length":                {0, 0, 0, 9},
		"half a request":          message(`{"op":"status"}`)[:9],
		"does not read the reply": message(`{"op":"status"}`),
	} {
		t.Run("client "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := serve(t, &fakeHandler{})
				began := time.Now()
				c.conn.Write(input)
				<-c.done
				if took := time.Since(began); took != Timeout {
					t.Errorf("it was waited on for %v", took)
				}
			})
		})
	}
	t.Run("agent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			go io.Copy(io.Discard, far)
			c := &Client{conn: near}
			began := time.Now()
			_, err := c.Status(t.Context())
			if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != Timeout {
				t.Errorf("got %v after %v", err, time.Since(began))
			}
		})
	})
	t.Run("agent, impatient client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			go io.Copy(io.Discard, far)
			c := &Client{conn: near}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			began := time.Now()
			_, err := c.Status(ctx)
			if !errors.Is(err, context.Canceled) || time.Since(began) != time.Second {
				t.Errorf("got %v after %v", err, time.Since(began))
			}
		})
	})
}

// TestSlowHandlerLeavesTimeForItsReply counts the time for the reply from its start.
func TestSlowHandlerLeavesTimeForItsReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, &fakeHandler{status: func(context.Context) Status { time.Sleep(Timeout / 4); return Status{} }})
		began := time.Now()
		c.conn.Write(message(`{"op":"status"}`))
		<-c.done
		if took := time.Since(began); took != Timeout+Timeout/4 {
			t.Errorf("the reply was held for %v", took)
		}
	})
}

// TestHandlerIsBounded gives a handler that waits for ever the time that leaves its reply a chance.
func TestHandlerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, &fakeHandler{witness: func(ctx context.Context, _ Witness) error { <-ctx.Done(); return ctx.Err() }})
		began := time.Now()
		err := c.Witness(t.Context(), testWitness)
		if refused := (*RefusedError)(nil); !errors.As(err, &refused) || time.Since(began) >= Timeout {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

// TestServeEndsWithItsContext ends the agent's work while one connection is idle and another waits for its reply.
func TestServeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := &fakeHandler{status: func(context.Context) Status { <-release; return testStatus }}
		idle, busy := serve(t, h), serve(t, h)
		result := make(chan error, 1)
		go func() {
			_, err := busy.Status(t.Context())
			result <- err
		}()
		synctest.Wait()
		began := time.Now()
		idle.end()
		busy.end()
		<-idle.done
		close(release)
		if err := <-result; err != nil {
			t.Errorf("the request that was being answered: %v", err)
		}
		<-busy.done
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// TestStopWaits returns no earlier than the agent closes the connection.
func TestStopWaits(t *testing.T) {
	tests := []struct {
		name string
		end  func(c *served, cancel func())
		want string // in the error
	}{
		{"the agent ends", func(c *served, _ func()) { c.end() }, ""},
		{"the agent does not end", func(*served, func()) { time.Sleep(Timeout) }, "did not exit in time"},
		{"the client gives up", func(_ *served, cancel func()) { cancel() }, context.Canceled.Error()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &fakeHandler{}
				c := serve(t, h)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				stopped := make(chan error, 1)
				go func() { stopped <- c.Stop(ctx) }()
				synctest.Wait()
				if h.stopped() != 1 {
					t.Errorf("the handler was stopped %d times", h.stopped())
				}
				if len(stopped) > 0 {
					t.Fatalf("Stop returned %v before the agent ended", <-stopped)
				}
				test.end(c, cancel)
				ended := time.Now()
				err := <-stopped
				if took := time.Since(ended); took != 0 {
					t.Errorf("Stop returned %v late", took)
				}
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
	t.Run("the agent goes on talking", func(t *testing.T) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			readMessage(far, &request{})
			writeMessage(far, reply{})
			writeMessage(far, reply{})
		}()
		c := &Client{conn: near}
		defer c.Close()
		if err := c.Stop(t.Context()); err == nil {
			t.Error("it was taken for an end")
		}
	})
}

// FuzzServe feeds the agent's side: no fault, no more replies than requests, and nothing but a whole request stops it.
func FuzzServe(f *testing.F) {
	for _, body := range []string{
		`{"op":"status"}`, `{"op":"stop"}`, `{"op":"witness","witness":{"instance":1,"host_key":"AAE=","user":"root"}}`, `{}`, `null`,
	} {
		f.Add(message(body))
		f.Add(append(message(`{"op":"status"}`), message(body)...))
	}
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, input []byte) {
		h := &fakeHandler{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h.onStop = cancel // a connection that asked to stop stays until then
		c := &script{input: bytes.NewReader(input)}
		Serve(ctx, c, h)
		if h.stopped() > 0 && !bytes.Contains(input, []byte("stop")) && !bytes.Contains(input, []byte(`\u`)) {
			t.Error("stopped by something else")
		}
		replies := 0
		r := bufio.NewReader(&c.output)
		for {
			var rep reply
			if err := readMessage(r, &rep); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			replies++
		}
		if most := len(input) / (4 + len("{}")); replies > most {
			t.Errorf("%d replies to %d bytes", replies, len(input))
		}
	})
}

// script is a connection whose client says everything at once and then is silent.
type script struct {
	net.Conn
	input  *bytes.Reader
	output bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.input.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.output.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
