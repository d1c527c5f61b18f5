package wipe_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/testenv"
	"vast-ssh/internal/vast"
	"vast-ssh/internal/wipe"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// jobless is an API of which a wipe asks for scheduled jobs only.
type jobless struct{ wipe.API }

func (jobless) ScheduledJobs(context.Context) ([]vast.ScheduledJob, error) { return nil, nil }

// farServer is an ssh server that answers each run with messages. It is no machine: nothing is wiped.
type farServer struct {
	addr string
	runs atomic.Int64
	say  []protocol.Message
	// mute is set when it answers no probe any more.
	mute atomic.Bool
}

func newFarServer(t *testing.T, say ...protocol.Message) *farServer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f := &farServer{addr: l.Addr().String(), say: say}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(conn, config)
		}
	}()
	return f
}

func (f *farServer) serve(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				r.Reply(true, nil)
				var exec struct{ Command string }
				if r.Type == "exec" && ssh.Unmarshal(r.Payload, &exec) == nil {
					go f.run(channel, exec.Command)
				}
			}
		}()
	}
}

func (f *farServer) run(channel ssh.Channel, command string) {
	defer channel.Close()
	defer channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{}))
	switch {
	case command == "exec sh -s":
		io.Copy(io.Discard, channel)
		if f.mute.Load() {
			select {}
		}
		fmt.Fprint(channel, "\nvast-ssh-probe 1\nlabel C.7\nsystem Linux\nmachine x86_64\nhome /root\ngzip\ndir tmpfs yes yes /run\nend\n")
	case strings.Contains(command, "echo sent"):
		io.Copy(io.Discard, channel)
		fmt.Fprint(channel, "sent\n")
	default:
		f.converse(channel)
	}
}

func (f *farServer) converse(channel ssh.Channel) {
	line, err := bufio.NewReaderSize(channel, 1<<20).ReadBytes('\n')
	var req protocol.Request
	if err != nil || json.Unmarshal(line, &req) != nil {
		return
	}
	groups := 0
	for _, r := range req.Rules {
		groups = max(groups, r.Group+1)
	}
	w := protocol.NewWriter(channel)
	w.Send(protocol.Message{Hello: &protocol.Hello{Version: protocol.Version}})
	if req.Op == protocol.OpPlan {
		w.Send(protocol.Message{Plan: &protocol.Plan{Groups: make([]protocol.Tally, groups)}})
		return
	}
	f.runs.Add(1)
	for _, m := range f.say {
		if m.Result != nil && m.Result.Groups == nil {
			m.Result.Groups = make([]protocol.Tally, groups)
		}
		w.Send(m)
	}
}

// TestAFarSideThatFailsIsTriedThrice, though each time it says what it has done before.
func TestAFarSideThatFailsIsTriedThrice(t *testing.T) {
	if !deploy.Built() {
		testenv.Missing(t, "the helper programs: go generate vast-ssh/internal/wipe/deploy")
	}
	f := newFarServer(t,
		protocol.Message{Progress: &protocol.Progress{Phase: protocol.PhaseProcesses, Done: protocol.Tally{Files: 1, Bytes: 1}}},
		protocol.Message{Error: "no memory"},
	)
	r, err := f.prepare(t, patient).Run(t.Context())
	if err != nil || r.Data != wipe.Incomplete || !strings.Contains(r.Problem, "no memory") || f.runs.Load() != 3 {
		t.Errorf("%v: %+v after %d runs", err, r, f.runs.Load())
	}
}

// patient is a silence that a busy machine does not take for a broken line.
const patient = time.Minute

// prepare prepares a wipe of the instance that it is taken for, which gives up what is silent for so long.
func (f *farServer) prepare(t *testing.T, silence time.Duration) *wipe.Wipe {
	t.Helper()
	p, err := wipe.Prepare(t.Context(), wipe.Config{
		Instance: vast.Instance{ID: 7, ActualStatus: "running"}, API: jobless{}, Dir: t.TempDir() + "/reports",
		Options: wipe.Options{Scope: wipe.Workspace, Destroy: wipe.IfClean}, Pause: time.Millisecond,
		Patience: 20 * silence, Silence: silence,
		Connect: func(context.Context) (*ssh.Client, error) {
			return ssh.Dial("tcp", f.addr, &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: time.Minute})
		},
		Refused: func(error) bool { return false }, Closed: func(error) bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAMachineThatOnlyAnswersThatItIsThere is given up.
func TestAMachineThatOnlyAnswersThatItIsThere(t *testing.T) {
	if !deploy.Built() {
		testenv.Missing(t, "the helper programs: go generate vast-ssh/internal/wipe/deploy")
	}
	f := newFarServer(t)
	w := f.prepare(t, 100*time.Millisecond)
	f.mute.Store(true)
	r, err := w.Run(t.Context())
	if err != nil || r.Data != wipe.Incomplete || !strings.Contains(r.Problem, "out of reach") {
		t.Errorf("%v: %+v", err, r)
	}
}

// TestResultsThatMakeNoSense end the wipe, and nothing of them is in the report.
func TestResultsThatMakeNoSense(t *testing.T) {
	if !deploy.Built() {
		testenv.Missing(t, "the helper programs: go generate vast-ssh/internal/wipe/deploy")
	}
	many := make([]protocol.Tally, 5000)
	for i := range many {
		many[i].Files = 1
	}
	for name, res := range map[string]protocol.Result{
		"too many groups":                {Groups: many},
		"a negative total":               {Total: protocol.Tally{Files: -1, Bytes: -1}, Names: 5},
		"a strange group":                {Items: []protocol.Item{{Code: protocol.Kept, Group: 1 << 40}}, Names: 5},
		"what is listed and not counted": {Items: []protocol.Item{{Code: protocol.Failed, Path: "/x"}}, Names: 5},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := newFarServer(t, protocol.Message{Result: &res}).prepare(t, patient).Run(t.Context())
			if err != nil || r.Data != wipe.Incomplete || !strings.Contains(r.Problem, "no sense") || r.Names != 0 || len(r.Left) > 0 {
				t.Errorf("%v: %+v", err, r)
			}
		})
	}
}
