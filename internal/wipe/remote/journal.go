//go:build linux

package remote

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// A journal is what a run has done, kept in memory-backed storage beside the run, so that the next one goes on where a cut
// connection or a kill has ended this one. It is a file of JSON lines: state first, then what was done since.
//
// Files that are done are gone, so that a new walk finds what is left, and the journal needs to remember three things
// only: the counts, what there is to tell, and how far the large files are that were being overwritten.
type journal struct {
	dir  string
	lock *os.File

	mu    sync.Mutex // protects the following
	file  *os.File
	size  int
	state state
	// broken is set when the journal cannot be written any more, as when memory is full. The run goes on without.
	broken bool
}

// state is all that a journal holds. Its result is that of all runs.
type state struct {
	Key []byte `json:"key"`
	// Rules is the hash of the rules that Result is of.
	Rules  string          `json:"rules"`
	Result protocol.Result `json:"result"`
	// Open are the large files in work, by file.
	Open map[string]checkpoint `json:"open,omitempty"`
	// Recent are the files counted last, which may not be removed yet.
	Recent []string `json:"recent,omitempty"`
	// Lasting are the items of Result about processes that have ended, which no later run can find again.
	Lasting []protocol.Item `json:"lasting,omitempty"`
}

// checkpoint says that a file is overwritten up to an offset, with the stream of a number, and when it was changed last, as
// lastChange tells it.
type checkpoint struct {
	Nonce   uint64 `json:"nonce"`
	Offset  int64  `json:"offset"`
	Changed int64  `json:"changed,omitempty"`
}

// entry is a line behind the state. One field is set.
type entry struct {
	Done    *doneEntry        `json:"done,omitempty"`
	Open    *openEntry        `json:"open,omitempty"`
	Names   int64             `json:"names,omitempty"`
	Deleted int64             `json:"deleted,omitempty"` // bytes, plus one
	Item    *protocol.Item    `json:"item,omitempty"`
	Lasting *protocol.Item    `json:"lasting,omitempty"`
	Secret  *protocol.Secret  `json:"secret,omitempty"`
	Process *protocol.Process `json:"process,omitempty"`
}

// doneEntry says that a file was overwritten and verified, and is about to be removed.
type doneEntry struct {
	Group int    `json:"group"`
	Bytes int64  `json:"bytes"`
	File  string `json:"file"`
}

type openEntry struct {
	File string `json:"file"`
	checkpoint
}

func (f id) String() string { return fmt.Sprintf("%x:%x", f.dev, f.ino) }

const (
	journalName = "journal"
	lockName    = "lock"
	// compactAt is the size in bytes from which a journal is written anew.
	compactAt = 4 << 20
	// recent is more than the number of files that can be between their line and their removal.
	recent = 64
	// maxJournal bounds what is read of a journal, in bytes.
	maxJournal = 64 << 20
	// maxLasting bounds the items that last.
	maxLasting = 1000
	// grace is the time that an earlier run which still holds the lock has to stop by itself, and takeover bounds the whole wait
	// for it.
	grace    = 5 * time.Second
	takeover = 15 * time.Second
)

var errForeignDir = errors.New("it is not a directory of this user alone")

// openJournal makes dir, or goes on with what is in it. An earlier run that still lives, as one whose connection broke
// without a word, is ended. What was done by other rules than these, of a hash, is not of this result.
func openJournal(dir string, groups int, rules string) (j *journal, resumed bool, err error) {
	if err := makeDir(dir); err != nil {
		return nil, false, err
	}
	j = &journal{dir: dir}
	if j.lock, err = os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return nil, false, err
	}
	if err := j.take(); err != nil {
		j.lock.Close()
		return nil, false, err
	}
	old, err := readJournal(filepath.Join(dir, journalName))
	switch {
	case err == nil && len(old.Key) == keySize && len(old.Result.Groups) == groups && old.Rules == rules:
		j.state, resumed = old, true
		j.state.Result.Stopped, j.state.Result.Finished = false, false
	default:
		j.state = state{Key: newKey(), Rules: rules, Result: protocol.Result{Groups: make([]protocol.Tally, groups)}}
		if err == nil && len(old.Key) == keySize {
			j.state.Key, j.state.Open, j.state.Lasting = old.Key, old.Open, old.Lasting
		}
	}
	if j.state.Open == nil {
		j.state.Open = make(map[string]checkpoint)
	}
	if j.state.Result.Counts == nil {
		j.state.Result.Counts = make(map[protocol.Code]int64)
	}
	j.compact()
	return j, resumed, nil
}

func makeDir(dir string) error {
	if err := unix.Mkdir(dir, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o077 != 0 || int(st.Uid) != os.Getuid() {
		return &fs.PathError{Op: "use", Path: dir, Err: errForeignDir}
	}
	return nil
}

// take locks the directory. Who holds the lock instead is an earlier run: nobody else can open the file. It is asked to stop, so
// that it says where it is, and killed when it does not.
func (j *journal) take() error {
	err := unix.Flock(int(j.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	name, err := filepath.EvalSymlinks(j.lock.Name())
	if err != nil {
		return err
	}
	free := make(chan error, 1)
	go func() { free <- unix.Flock(int(j.lock.Fd()), unix.LOCK_EX) }()
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, takeover - grace}} {
		if err := signalHolders(name, step.signal); err != nil {
			return err
		}
		select {
		case err := <-free:
			return err
		case <-time.After(step.wait):
		}
	}
	return errors.New("another wipe of this machine does not end")
}

// signalHolders sends a signal to the other processes that have a file open.
func signalHolders(name string, signal unix.Signal) error {
	all, err := processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.pid != os.Getpid() && holds(p.pid, name) {
			unix.Kill(p.pid, signal)
		}
	}
	return nil
}

// readJournal replays a journal. A last line that was cut by a kill is left out.
func readJournal(name string) (state, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return state{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return state{}, err
	}
	if info.Size() > maxJournal {
		return state{}, errors.New("the journal is too large")
	}
	var s state
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 64<<10), maxJournal)
	if !lines.Scan() {
		return state{}, errors.New("the journal is empty")
	}
	if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
		return state{}, err
	}
	for lines.Scan() {
		var e entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			break
		}
		s.apply(e)
	}
	return s, lines.Err()
}

// apply adds one line to the state.
func (s *state) apply(e entry) {
	r := &s.Result
	if s.Open == nil {
		s.Open = make(map[string]checkpoint)
	}
	switch {
	case e.Done != nil && e.Done.Group >= 0 && e.Done.Group < len(r.Groups):
		delete(s.Open, e.Done.File)
		if slices.Contains(s.Recent, e.Done.File) {
			return // it was counted, and the run was killed before it was removed
		}
		r.Groups[e.Done.Group].Add(e.Done.Bytes)
		r.Total.Add(e.Done.Bytes)
		if s.Recent = append(s.Recent, e.Done.File); len(s.Recent) > 2*recent {
			s.Recent = append(s.Recent[:0:0], s.Recent[recent:]...)
		}
	case e.Open != nil:
		s.Open[e.Open.File] = e.Open.checkpoint
	case e.Names > 0:
		r.Names += e.Names
	case e.Deleted > 0:
		r.Deleted.Add(e.Deleted - 1)
	case e.Item != nil:
		s.note(*e.Item)
	case e.Lasting != nil:
		s.note(*e.Lasting)
		if len(s.Lasting) < maxLasting {
			s.Lasting = append(s.Lasting, *e.Lasting)
		}
	case e.Secret != nil:
		n := notes{secrets: r.Secrets, unlisted: r.Unlisted}
		n.secret(*e.Secret)
		r.Secrets, r.Unlisted = n.secrets, n.unlisted
	case e.Process != nil && len(r.Processes) < protocol.MaxProcesses && !slices.Contains(r.Processes, *e.Process):
		// One that is held is told by each run.
		r.Processes = append(r.Processes, *e.Process)
	}
}

func (s *state) note(it protocol.Item) {
	r := &s.Result
	n := notes{items: r.Items, unlisted: r.Unlisted, counts: r.Counts}
	n.item(it)
	r.Items, r.Unlisted, r.Counts = n.items, n.unlisted, n.counts
}

// add does e to the state and writes it down.
func (j *journal) add(e entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state.apply(e)
	line, err := json.Marshal(e)
	if err != nil || j.broken {
		return
	}
	n, err := j.file.Write(append(line, '\n'))
	if err != nil {
		j.broken = true
		return
	}
	if j.size += n; j.size >= compactAt {
		j.compactLocked()
	}
}

// result returns what was done so far.
func (j *journal) result() protocol.Result {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.state.Result
	r.Groups = append([]protocol.Tally(nil), r.Groups...)
	r.Items = append([]protocol.Item(nil), r.Items...)
	counts := make(map[protocol.Code]int64)
	for code, n := range r.Counts {
		counts[code] = n
	}
	r.Counts = counts
	return r
}

// total returns the files done so far.
func (j *journal) total() protocol.Tally {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.Result.Total
}

// forget drops the items of an earlier run but for those that last: what is still so is found again.
func (j *journal) forget() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state.Result.Items, j.state.Result.Unlisted = nil, 0
	clear(j.state.Result.Counts)
	for _, it := range j.state.Lasting {
		j.state.note(it)
	}
	j.compactLocked()
}

func (j *journal) compact() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.compactLocked()
}

// compactLocked writes the state anew. The old journal is whole until the new one has its name.
func (j *journal) compactLocked() {
	name := filepath.Join(j.dir, journalName)
	line, err := json.Marshal(&j.state)
	if err != nil {
		j.broken = true
		return
	}
	// nil when there is none
	old, _ := os.OpenFile(name, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	file, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		_, err = file.Write(append(line, '\n'))
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		old.Close()
		j.broken = j.broken || j.file == nil
		return
	}
	blank(old)
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.size, j.broken = file, 0, false
}

// blank overwrites an old journal, in which there are paths, and closes it. In memory that costs nothing.
func blank(file *os.File) {
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
		file.Write(bytes.Repeat([]byte{'\n'}, int(min(info.Size(), maxJournal))))
		file.Sync()
	}
}

// remove takes the journal away.
func (j *journal) remove() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = true
	for _, name := range []string{journalName, journalName + ".new"} {
		at := filepath.Join(j.dir, name)
		if info, err := os.Lstat(at); err == nil && info.Mode().IsRegular() {
			if file, err := os.OpenFile(at, os.O_WRONLY|unix.O_NOFOLLOW, 0); err == nil {
				blank(file)
			}
		}
		os.Remove(at)
	}
	os.Remove(filepath.Join(j.dir, lockName))
	return os.Remove(j.dir)
}
