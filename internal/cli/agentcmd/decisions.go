package agentcmd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/agent"
	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/companion"
	"vast-ssh/internal/term"
	"vast-ssh/internal/unixsock"
)

// names tells who a peer is, in the companion's words. For people to read, and never to decide on.
type names struct {
	companion *companion.Client

	mu    sync.Mutex // protects the following
	known map[peerID]*name
}

type peerID struct {
	pid   int
	start uint64
}

type name struct {
	asked time.Time
	done  chan struct{} // closed when chain is valid
	chain []companion.Process
}

const (
	// namesFresh is how long an answer is believed: a process can go on as another program.
	namesFresh = 2 * time.Second
	// maxNames bounds the answers that are kept.
	maxNames = 256
	// namesTimeout bounds the wait for one. A decision is not kept back for the want of a name.
	namesTimeout = time.Second
)

func newNames(c *companion.Client) *names {
	return &names{companion: c, known: make(map[peerID]*name)}
}

// Look begins to find out who p is, so that Chain need not wait later.
func (ns *names) Look(p unixsock.Peer) { ns.look(p) }

func (ns *names) look(p unixsock.Peer) *name {
	id := peerID{p.PID, p.Start}
	now := time.Now()
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if n := ns.known[id]; n != nil && now.Sub(n.asked) < namesFresh {
		return n
	}
	if len(ns.known) >= maxNames {
		clear(ns.known)
	}
	n := &name{asked: now, done: make(chan struct{})}
	ns.known[id] = n
	go func() {
		defer close(n.done)
		ctx, cancel := context.WithTimeout(context.Background(), namesTimeout)
		defer cancel()
		n.chain, _ = ns.companion.Chain(ctx, p.PID)
	}()
	return n
}

// Chain returns p and its ancestors, the nearest first, or nothing if that is not known.
func (ns *names) Chain(p unixsock.Peer) []companion.Process {
	if p.PID == 0 {
		return nil
	}
	n := ns.look(p)
	<-n.done
	return n.chain
}

// maxNotes is how many notifications may be on their way.
const maxNotes = 8

// recorder writes the agent's decisions to the log, and shows refusals on the desktop where that is wanted.
type recorder struct {
	log       *chainlog.Log
	names     *names
	companion *companion.Client
	policies  *policies
	notes     chan struct{} // one for each notification on its way
}

func (r *recorder) Record(d agent.Decision) error {
	chain := r.names.Chain(d.Peer)
	rec := chainlog.Record{
		At: d.At, Verdict: string(d.Verdict), Reason: string(d.Reason), Sentence: d.Sentence, Via: string(d.Proof),
		Instance: d.Instance, From: d.From, Label: d.Label, User: d.User, Route: d.Route, PID: d.Peer.PID, UID: d.Peer.UID,
	}
	if d.HostKey != nil {
		rec.HostKey = ssh.FingerprintSHA256(d.HostKey)
	}
	for _, p := range chain {
		rec.Chain = append(rec.Chain, chainlog.Process(p))
	}
	if len(chain) > 0 {
		rec.Program = chain[0].Program
	}
	if d.Verdict == agent.Refused {
		r.notify(d, chain)
	}
	return r.log.Append(rec)
}

func (r *recorder) notify(d agent.Decision, chain []companion.Process) {
	cfg, err := r.policies.Config()
	if err != nil || !cfg.Notify {
		return
	}
	select {
	case r.notes <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-r.notes }()
		_ = r.companion.Notify(context.Background(), companion.Notification{
			Summary: "vast-ssh refused a login",
			Body:    term.Safe(d.Sentence) + "\n" + about(d, chain),
		})
	}()
}

// event records something that is no decision about a login.
func (r *recorder) event(verdict, reason, sentence string) {
	_ = r.log.Append(chainlog.Record{Verdict: verdict, Reason: reason, Sentence: sentence})
}

// about tells in a few lines what a decision is about.
func about(d agent.Decision, chain []companion.Process) string {
	var lines []string
	if d.Instance != 0 {
		lines = append(lines, "Instance: "+title(d))
	}
	if d.From != 0 {
		lines = append(lines, fmt.Sprintf("Through agent forwarding from instance %d", d.From))
	}
	if d.User != "" {
		lines = append(lines, "User: "+term.SafeN(d.User, 64))
	}
	if d.Route != "" {
		lines = append(lines, "Route: "+term.SafeN(d.Route, 128))
	}
	if d.HostKey != nil {
		lines = append(lines, "Host key: "+ssh.FingerprintSHA256(d.HostKey))
	}
	if d.Peer.PID != 0 {
		lines = append(lines, "Asked by: "+line(d.Peer, chain))
	}
	return strings.Join(lines, "\n")
}

func title(d agent.Decision) string {
	if d.Label == "" {
		return strconv.FormatUint(d.Instance, 10)
	}
	return fmt.Sprintf("%d (%s)", d.Instance, term.SafeN(strconv.Quote(d.Label), 80))
}

// line is a chain in a line: process 12 (/usr/bin/ssh), started by /usr/bin/git, /bin/bash.
func line(p unixsock.Peer, chain []companion.Process) string {
	text := fmt.Sprintf("process %d", p.PID)
	for i, q := range chain[:min(len(chain), 6)] {
		program := q.Program
		if program == "" {
			program = fmt.Sprintf("process %d", q.PID)
		}
		switch i {
		case 0:
			text += " (" + term.SafeN(program, 128) + ")"
		case 1:
			text += ", started by " + term.SafeN(program, 128)
		default:
			text += ", " + term.SafeN(program, 128)
		}
	}
	return text
}

// approver asks a person through the companion.
type approver struct {
	companion *companion.Client
	names     *names
}

func (a *approver) Approve(ctx context.Context, d agent.Decision) error {
	yes, err := a.companion.Confirm(ctx, companion.Question{
		Title: fmt.Sprintf("vast-ssh: log in to instance %s as %s?", title(d), term.SafeN(d.User, 64)),
		Text:  about(d, a.names.Chain(d.Peer)),
	})
	if err != nil {
		return err
	}
	if !yes {
		return errDenied
	}
	return nil
}
