package deploy_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// machine is an instance that can be logged in to, with a canary of its own.
type machine struct {
	*overlay.Instance
	t      *testing.T
	signer ssh.Signer
	id     uint64
	canary string
}

func newMachine(t *testing.T, c overlay.Config) *machine {
	t.Helper()
	if !deploy.Built() {
		testenv.Missing(t, "the helper programs: go generate vast-ssh/internal/wipe/deploy")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var b [12]byte
	rand.Read(b[:])
	if c.ID == 0 {
		c.ID = 4711
	}
	c.AuthorizedKeys = []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}
	return &machine{overlay.Start(t, c), t, signer, c.ID, "canary-" + hex.EncodeToString(b[:])}
}

func (m *machine) dial() (*ssh.Client, error) {
	return ssh.Dial("tcp", m.Addr(), &ssh.ClientConfig{
		User: m.User(), Auth: []ssh.AuthMethod{ssh.PublicKeys(m.signer)}, HostKeyCallback: ssh.FixedHostKey(m.HostKeys()[0]),
		Timeout: time.Minute,
	})
}

// patience bounds all that a test does over one connection: a far side that hangs is to end its own test, and no other.
const patience = 5 * time.Minute

func (m *machine) login() *ssh.Client {
	m.t.Helper()
	client, err := m.dial()
	if err != nil {
		m.t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() {
		m.t.Errorf("the connection goes on after %v", patience)
		client.Close()
	})
	m.t.Cleanup(func() {
		late.Stop()
		client.Close()
	})
	return client
}

// plant runs a script in which $C is the canary.
func (m *machine) plant(script string) {
	m.t.Helper()
	m.Sh("C=" + m.canary + "\n" + script)
}

// found are the places of the canary, as "content /path".
func (m *machine) found() []string {
	m.t.Helper()
	var list []string
	for _, hit := range m.Scan([][]byte{[]byte(m.canary)}) {
		list = append(list, hit.In+" "+hit.Path)
	}
	slices.Sort(list)
	return list
}

func (m *machine) label() string { return fmt.Sprintf("C.%d", m.id) }

// everything is a request for all that a user can have left.
func (m *machine) everything() protocol.Request {
	return protocol.Request{
		Label: m.label(), Op: protocol.OpRun, Processes: true,
		Rules: []protocol.Rule{
			{Group: 0, Glob: "/root/.ssh/authorized_keys", Login: true},
			{Group: 0, Glob: "/etc/ssh/ssh_host_*", Login: true},
			{Group: 1, Glob: "/root/.aws", Tree: true, Secret: true},
			{Group: 1, Glob: "/root/.netrc", Secret: true},
			{Group: 2, Glob: "/workspace", Tree: true},
			{Group: 3, Changed: true},
		},
	}
}

// run has the far side do a request, up to and including its finish.
func (m *machine) run(client *ssh.Client, req protocol.Request) (deploy.Kind, *protocol.Result) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	facts, err := deploy.Probe(ctx, client, m.label(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	s, err := deploy.Start(ctx, client, facts, req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer s.Close()
	m.t.Logf("far side: %s (%v)", s.Kind, s.Reason)
	res := m.result(s)
	if res.Stopped {
		m.t.Fatalf("stopped: %+v", res)
	}
	last, err := s.Finish(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	defer last.Close()
	res = m.result(last)
	if !res.Finished {
		m.t.Errorf("not finished: %+v", res)
	}
	return s.Kind, res
}

// plan has the far side make a plan.
func (m *machine) plan(client *ssh.Client, req protocol.Request) *protocol.Plan {
	m.t.Helper()
	req.Op = protocol.OpPlan
	facts, err := deploy.Probe(m.t.Context(), client, m.label(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	s, err := deploy.Start(m.t.Context(), client, facts, req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer s.Close()
	for {
		msg, err := s.Receive()
		if err != nil {
			m.t.Fatal(err)
		}
		if msg.Plan != nil {
			return msg.Plan
		}
	}
}

func (m *machine) result(s *deploy.Session) *protocol.Result {
	m.t.Helper()
	for {
		msg, err := s.Receive()
		if errors.Is(err, io.EOF) {
			m.t.Fatalf("the far side ended without a result\n%s", m.Log())
		}
		if err != nil {
			m.t.Fatal(err)
		}
		if msg.Result != nil {
			return msg.Result
		}
	}
}

func withCode(items []protocol.Item, code protocol.Code) []string {
	var list []string
	for _, it := range items {
		if it.Code == code {
			list = append(list, it.Path)
		}
	}
	return list
}
