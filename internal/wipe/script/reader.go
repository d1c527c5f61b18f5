package script

import (
	"bufio"
	"encoding/hex"
	"io"
	"slices"
	"strconv"
	"strings"

	"vast-ssh/internal/wipe/protocol"
)

// maxLine bounds a line of the script, in bytes.
const maxLine = 64 << 10

// Reader turns the lines of a script into messages. The numbers in them are a stranger's: they are added up without
// overflow, and lists end at the bounds of package protocol.
type Reader struct {
	lines *bufio.Scanner
	op    protocol.Op
	plan  protocol.Plan
	res   protocol.Result
	phase protocol.Phase

	// hash is that of the rules that res is of.
	hash string
	// lasting are items that a later run cannot find again.
	lasting []fields

	hello *protocol.Hello
	// replaying is set while an earlier run's journal is read, whose last file may be there still.
	replaying bool
	last      string
}

// NewReader returns a Reader of what the script of req writes.
func NewReader(r io.Reader, req protocol.Request) *Reader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), maxLine)
	groups := 0
	for _, rule := range req.Rules {
		groups = max(groups, rule.Group+1)
	}
	return &Reader{
		lines: lines, op: req.Op, phase: protocol.PhaseProcesses,
		plan: protocol.Plan{Groups: make([]protocol.Tally, groups), Counts: make(map[protocol.Code]int64)},
		res:  emptyResult(groups),
	}
}

func emptyResult(groups int) protocol.Result {
	return protocol.Result{Groups: make([]protocol.Tally, groups), Counts: make(map[protocol.Code]int64)}
}

// Receive returns the next message, io.EOF at the end, and an error that wraps protocol.ErrLine for a line that is none of the
// script's.
func (r *Reader) Receive() (protocol.Message, error) {
	for r.lines.Scan() {
		m, ok, err := r.line(r.lines.Text())
		if ok || err != nil {
			return m, err
		}
	}
	if err := r.lines.Err(); err != nil {
		return protocol.Message{}, err
	}
	return protocol.Message{}, io.EOF
}

// codes are those that a script says.
var codes = []protocol.Code{
	protocol.Failed, protocol.Immutable, protocol.ReadOnly, protocol.Again, protocol.Running, protocol.Special, protocol.Kept,
	protocol.InUse, protocol.Login, protocol.Package, protocol.Image, protocol.Volume, protocol.Link, protocol.Vanished, protocol.Unseen,
	protocol.Memory, protocol.Absent,
}

// line reads one line. ok says that it makes a message.
func (r *Reader) line(text string) (m protocol.Message, ok bool, err error) {
	rest, ours := strings.CutPrefix(text, "vw1 ")
	if !ours {
		return m, false, protocol.ErrLine
	}
	f := fields(strings.Split(strings.TrimRight(rest, " "), " "))
	switch f[0] {
	case "X":
		m.Refused = f.text(1)
		return m, true, f.want(2)
	case "H":
		r.hello = &protocol.Hello{Version: protocol.Version, Memory: f.yes(1), Resumed: f.yes(2)}
		r.replaying = true
		return m, false, f.want(3)
	case "J":
		r.replaying = false
		if r.hello == nil {
			return m, false, protocol.ErrLine
		}
		m.Hello = r.hello
		return m, true, f.want(1)
	case "G":
		r.phase = protocol.Phase(f.word(1))
		return r.progress(), true, f.want(2)
	case ".":
		return r.progress(), true, f.want(1)
	case "R":
		return r.result(f)
	}
	return m, false, r.fact(f)
}

// fact adds one line to what is known.
func (r *Reader) fact(f fields) error {
	group := int(min(f.number(1), 1<<30))
	inGroup := func() *protocol.Tally {
		if group >= len(r.res.Groups) {
			return new(protocol.Tally)
		}
		if r.op == protocol.OpPlan {
			return &r.plan.Groups[group]
		}
		return &r.res.Groups[group]
	}
	switch f[0] {
	case "C": // group files bytes
		add(inGroup(), f.number(2), f.number(3))
		add(&r.plan.Total, f.number(2), f.number(3))
		return f.want(4)
	case "F": // group bytes id
		id := f.word(3)
		again := !r.replaying && id == r.last
		r.last = ""
		if r.replaying {
			r.last = id
		}
		if !again {
			add(inGroup(), 1, f.number(2))
			add(&r.res.Total, 1, f.number(2))
		}
		return f.want(4)
	case "N":
		r.res.Names = plus(r.res.Names, f.number(1))
		return f.want(2)
	case "D":
		add(&r.res.Deleted, 1, f.number(1))
		return f.want(2)
	case "T":
		add(&r.plan.Deleted, 1, f.number(1))
		return f.want(2)
	case "P": // pid held gpu name
		p := protocol.Process{PID: group, Held: f.yes(2), GPU: f.yes(3), Name: f.text(4)}
		r.list(func(list *[]protocol.Process) {
			// One that is held is told by each run.
			if len(*list) < protocol.MaxProcesses && !slices.Contains(*list, p) {
				*list = append(*list, p)
			}
		})
		return f.want(5)
	case "V": // read-only type path
		if len(r.plan.Volumes) < protocol.MaxItems {
			r.plan.Volumes = append(r.plan.Volumes, protocol.Mount{ReadOnly: f.yes(1), Type: f.text(2), Path: f.text(3)})
		}
		return f.want(4)
	case "E":
		if len(r.plan.Environment) < protocol.MaxItems {
			r.plan.Environment = append(r.plan.Environment, f.word(1))
		}
		return f.want(2)
	case "W": // swap ipc
		r.plan.SwapBytes, r.plan.IPC = f.number(1), f.number(2)
		return f.want(3)
	case "S": // rule path
		r.secret(protocol.Secret{Rule: group, Path: f.text(2)})
		return f.want(3)
	case "I": // code group path text
		return r.item(f)
	case "L": // the same, of a process that has ended
		if len(r.lasting) < maxLasting {
			r.lasting = append(r.lasting, f)
		}
		return r.item(f)
	case "M": // code group number
		return r.more(f)
	case "B": // hash of the rules of what follows
		if hash := f.word(1); hash != r.hash {
			r.hash, r.last, r.res = hash, "", emptyResult(len(r.res.Groups))
		}
		return f.want(2)
	case "K": // a run begins: what an earlier one could not do is found again, but for what lasts
		r.res.Items, r.res.Unlisted = nil, 0
		clear(r.res.Counts)
		for _, f := range r.lasting {
			if err := r.item(f); err != nil {
				return err
			}
		}
		return f.want(1)
	}
	return protocol.ErrLine
}

func (r *Reader) list(fn func(*[]protocol.Process)) {
	if r.op == protocol.OpPlan {
		fn(&r.plan.Processes)
		return
	}
	fn(&r.res.Processes)
}

func (r *Reader) secret(s protocol.Secret) {
	list := &r.res.Secrets
	if r.op == protocol.OpPlan {
		list = &r.plan.Secrets
	}
	_, _, unlisted := r.items()
	switch {
	case slices.Contains(*list, s):
	case len(*list) == protocol.MaxSecrets:
		*unlisted = plus(*unlisted, 1)
	default:
		*list = append(*list, s)
	}
}

// maxLasting bounds the items that last.
const maxLasting = 1000

func (r *Reader) item(f fields) error {
	code := protocol.Code(f.word(1))
	if !slices.Contains(codes, code) || len(f) < 4 || len(f) > 5 {
		return protocol.ErrLine
	}
	items, counts, unlisted := r.items()
	counts[code] = plus(counts[code], 1)
	if counts[code] > code.Listed() || len(*items) == protocol.MaxItems {
		*unlisted = plus(*unlisted, 1)
		return nil
	}
	*items = append(*items, protocol.Item{Code: code, Group: int(min(f.number(2), 1<<30)), Path: f.text(3), Text: f.text(4)})
	return nil
}

// more counts items that are not named.
func (r *Reader) more(f fields) error {
	code := protocol.Code(f.word(1))
	if !slices.Contains(codes, code) {
		return protocol.ErrLine
	}
	_, counts, unlisted := r.items()
	counts[code], *unlisted = plus(counts[code], f.number(3)), plus(*unlisted, f.number(3))
	return f.want(4)
}

// items are where those of this conversation go.
func (r *Reader) items() (items *[]protocol.Item, counts map[protocol.Code]int64, unlisted *int64) {
	if r.op == protocol.OpPlan {
		return &r.plan.Items, r.plan.Counts, &r.plan.Unlisted
	}
	return &r.res.Items, r.res.Counts, &r.res.Unlisted
}

func (r *Reader) progress() protocol.Message {
	return protocol.Message{Progress: &protocol.Progress{Phase: r.phase, Done: r.res.Total, Total: r.res.Total}}
}

func (r *Reader) result(f fields) (protocol.Message, bool, error) {
	if err := f.want(2); err != nil {
		return protocol.Message{}, false, err
	}
	switch how := f.word(1); {
	case how == "planned" && r.op == protocol.OpPlan:
		slices.Sort(r.plan.Environment)
		slices.SortFunc(r.plan.Volumes, func(a, b protocol.Mount) int { return strings.Compare(a.Path, b.Path) })
		return protocol.Message{Plan: &r.plan}, true, nil
	case how == "done" && r.op == protocol.OpRun, how == "stopped", how == "finished" && r.op == protocol.OpFinish:
		res := r.res
		res.Stopped, res.Finished = how == "stopped", how == "finished"
		return protocol.Message{Result: &res}, true, nil
	}
	return protocol.Message{}, false, protocol.ErrLine
}

// fields are the words of a line. Those that are missing are empty.
type fields []string

func (f fields) word(i int) string {
	if i >= len(f) || len(f[i]) > protocol.MaxText {
		return ""
	}
	return f[i]
}

func (f fields) yes(i int) bool { return f.word(i) == "yes" }

// number gives a number that is not negative, and at most one that no machine reaches.
func (f fields) number(i int) int64 {
	n, err := strconv.ParseInt(f.word(i), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return min(n, 1<<60)
}

// text gives what is written in hex.
func (f fields) text(i int) string {
	if i >= len(f) {
		return ""
	}
	raw, err := hex.DecodeString(f[i])
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(raw[:min(len(raw), protocol.MaxPath)]), "\uFFFD")
}

// want makes sure of the number of words.
func (f fields) want(n int) error {
	if len(f) == n || len(f) == n-1 { // an empty text at the end is no word
		return nil
	}
	return protocol.ErrLine
}

func add(t *protocol.Tally, files, bytes int64) {
	t.Files, t.Bytes = plus(t.Files, files), plus(t.Bytes, bytes)
}

// plus adds without overflow.
func plus(a, b int64) int64 { return min(a+min(b, 1<<60), 1<<61) }
