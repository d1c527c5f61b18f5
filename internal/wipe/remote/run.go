//go:build linux

package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

const (
	// workers is how many files are overwritten at a time. Their buffers are most of the helper's memory.
	workers = 8
	// sweeps is how often the rules are gone through again, to find what came back.
	sweeps = 2
)

// run overwrites and removes what the rules name.
type run struct {
	*far
	journal *journal
	stream  *stream
	written atomic.Int64 // bytes of files that are in work
	// programs are to be overwritten when they run no more.
	programs map[id]*program
	// told are the processes that go on and were told: those that are held, or cannot be ended.
	told map[int]bool

	mu     sync.Mutex // protects the following
	phase  protocol.Phase
	linked map[id]bool     // overwritten or in work, and there under several names
	busy   map[id]bool     // in work, and there under one name
	failed map[string]bool // names that are told already
	total  protocol.Tally
}

func newRun(f *far, j *journal) (*run, error) {
	s, err := newStream(j.state.Key)
	if err != nil {
		return nil, err
	}
	return &run{far: f, journal: j, stream: s, linked: make(map[id]bool), busy: make(map[id]bool), failed: make(map[string]bool),
		programs: make(map[id]*program), told: make(map[int]bool)}, nil
}

// everything is a run but for its finish. An error is the end of ctx, or one that keeps all of it from going on.
func (r *run) everything(ctx context.Context) error {
	r.journal.forget()
	r.enter(protocol.PhaseProcesses)
	if r.req.Processes {
		if err := r.look(); err != nil {
			return err
		}
		if err := r.processes(ctx); err != nil {
			return err
		}
		if err := r.usedDeleted(r.note); err != nil {
			return err
		}
	}
	if err := r.look(); err != nil {
		return err
	}
	plan, err := r.count(ctx)
	if err != nil {
		return err
	}
	done := r.journal.total()
	r.mu.Lock()
	r.total = protocol.Tally{Files: done.Files + plan.Files, Bytes: done.Bytes + plan.Bytes}
	r.mu.Unlock()
	r.enter(protocol.PhaseFiles)
	if _, err := r.pass(ctx, true); err != nil {
		return err
	}
	r.enter(protocol.PhaseSweep)
	return r.sweep(ctx)
}

// sweep goes through the rules until nothing is found any more. What still comes back is an item.
func (r *run) sweep(ctx context.Context) error {
	for range sweeps {
		if r.req.Processes {
			if err := r.end(ctx); err != nil {
				return err
			}
			if !r.staysInUse() {
				r.deletedOf(1, r.note) // its files may have been removed under it, and it writes on
			}
		}
		r.expand()
		n, err := r.pass(ctx, false)
		if n == 0 || err != nil {
			return err
		}
	}
	if r.req.Processes {
		if err := r.end(ctx); err != nil {
			return err
		}
	}
	r.expand()
	for i := range r.req.Rules {
		err := r.walk(ctx, i, visitor{file: func(t target) {
			if !r.known(t) {
				r.note(item(protocol.Again, t.group, t.path(), nil))
			}
			t.dir.release()
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// finish removes what logging in needs, and the far side's own traces. It does not stop for a lost connection.
func (r *run) finish() error {
	ctx := context.Background()
	r.enter(protocol.PhaseLogin)
	if err := r.look(); err != nil {
		return err
	}
	if _, err := r.pass(ctx, true); err != nil {
		return err
	}
	return nil
}

func (r *run) enter(p protocol.Phase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = p
}

// progress is told by the conversation.
func (r *run) progress() protocol.Progress {
	done := r.journal.total()
	done.Bytes += r.written.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	return protocol.Progress{Phase: r.phase, Done: done, Total: r.total}
}

// note writes an item down.
func (r *run) note(it protocol.Item) { r.journal.add(entry{Item: &it}) }

// noteLasting writes an item down that no later run can find again.
func (r *run) noteLasting(it protocol.Item) { r.journal.add(entry{Lasting: &it}) }

// processes ends what the user has running, with what that leaves in memory.
func (r *run) processes(ctx context.Context) error {
	err := r.end(ctx)
	r.removeIPC()
	return err
}

// end ends what the user has running by now, as an editor that has connected again by itself, and overwrites on the way what only a
// running process can still reach.
func (r *run) end(ctx context.Context) error {
	left, err := endProcesses(ctx, r.told, r.inspect, func(p protocol.Process) { r.journal.add(entry{Process: &p}) })
	r.overwritePrograms()
	for _, p := range left {
		r.note(item(protocol.Running, 0, p.Name, fmt.Errorf("process %d cannot be ended, or comes back", p.PID)))
	}
	return err
}

// known reports whether it was told why a name is there.
func (r *run) known(t target) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed[t.path()]
}

// inspect overwrites what only a stopped process can still reach. One that is held is there in a later run, too.
func (r *run) inspect(p protocol.Process) {
	note := r.noteLasting
	if p.Held {
		note = r.note
	}
	var seen bool
	if p.Held && r.staysInUse() { // it goes on with its files, of which usedDeleted tells
		seen = eachDeleted(p.PID, func(_, _ string, _ *unix.Stat_t) {})
	} else {
		seen = r.deletedOf(p.PID, note)
	}
	if !r.keepProgram(p) || !seen || r.hidden(p.PID) {
		note(unseen(p.PID))
	}
}

// deletedOf overwrites the files that a process keeps open and that have no name any more, and reports whether they could be
// seen. Two processes may have the same one: it is overwritten for each, since nothing else tells it from another file that has
// got its number.
func (r *run) deletedOf(pid int, note func(protocol.Item)) bool {
	w, err := newWorker(r.stream)
	if err != nil {
		note(item(protocol.Failed, 0, "", err))
		return true
	}
	defer w.close()
	return eachDeleted(pid, func(link, name string, st *unix.Stat_t) {
		if m := r.mounts.of(name); m.class == volume && !r.mayWipe(m.path) || r.used[idOf(st)] {
			return
		}
		bytes, err := r.deleted(w, link)
		if err != nil && endsWithProcess(link) {
			return
		}
		if err != nil {
			note(item(protocol.Failed, 0, name, err))
			return
		}
		r.journal.add(entry{Deleted: bytes + 1})
	})
}

// endsWithProcess reports whether a file that has no name is in memory, as one that is sealed or of huge pages, which nobody can
// write to.
func endsWithProcess(link string) bool {
	var st unix.Statfs_t
	return inMemory(link) || unix.Statfs(link, &st) == nil && st.Type == unix.HUGETLBFS_MAGIC
}

func unseen(pid int) protocol.Item {
	return item(protocol.Unseen, 0, describe(pid).Name, fmt.Errorf("process %d", pid))
}

// eachDeleted calls fn for the regular files without a name that a process has open, and reports whether the system lets them
// be seen.
func eachDeleted(pid int, fn func(link, name string, st *unix.Stat_t)) bool {
	return descriptors(pid, func(link, target string) {
		name, deleted := strings.CutSuffix(target, deletedMark)
		var st unix.Stat_t
		if !deleted || !path.IsAbs(name) || unix.Stat(link, &st) != nil {
			return
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 0 {
			fn(link, name, &st)
		}
	})
}

// usedDeleted tells of the files without a name that the processes which go on read or run, and of all those that are held by what
// the machine stays in use for. They stay for as long as these processes do.
func (f *far) usedDeleted(note func(protocol.Item)) error {
	r, err := rolesNow()
	if err != nil {
		return err
	}
	told := make(map[id]bool)
	tell := func(name string, st *unix.Stat_t, all bool) {
		class := f.mounts.of(name).class
		meant := class == memory || f.onDisk(name) && (class != layer || !changedAt(st).Before(f.since))
		if meant && (all || f.used[idOf(st)]) && !told[idOf(st)] && !strings.HasPrefix(name, "/memfd:") {
			told[idOf(st)] = true
			note(item(protocol.InUse, 0, name, nil))
		}
	}
	look := func(pid int, all bool) {
		eachDeleted(pid, func(_, name string, st *unix.Stat_t) { tell(name, st, all) })
		if p, _ := f.program(pid); p != nil {
			tell(p.name, &p.st, all)
			p.file.Close()
		}
	}
	for pid := range r.spared {
		if pid != os.Getpid() {
			look(pid, pid == 1 && f.staysInUse())
		}
	}
	if f.staysInUse() {
		for pid := range r.held {
			look(pid, true)
		}
	}
	return nil
}

// deleted overwrites the file behind a descriptor of another process.
func (r *run) deleted(w *worker, link string) (bytes int64, err error) {
	fd, err := unix.Open(link, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	j := &job{fd: fd, from: checkpoint{Nonce: rand.Uint64()}, wrote: func(int64) {}, reached: func(checkpoint) {}}
	if err := r.work(context.Background(), w, j); err != nil {
		return 0, err
	}
	for _, p := range j.parts {
		bytes += p.to - p.from
	}
	return bytes, nil
}

// work overwrites and verifies what is behind j.fd.
func (r *run) work(ctx context.Context, w *worker, j *job) error {
	var st unix.Stat_t
	if err := unix.Fstat(j.fd, &st); err != nil {
		return err
	}
	j.size = st.Size
	var err error
	if j.parts, err = extents(j.fd, j.size); err != nil {
		return err
	}
	// A file that nobody has written to since is as it was left.
	if j.from.Changed != 0 && j.from.Changed == st.Ctim.Nano() {
		j.wrote(j.before())
	} else if err := w.recheck(ctx, j); err != nil {
		return err
	}
	if err := w.overwrite(ctx, j); err != nil {
		return err
	}
	return w.verify(j)
}

// pass goes through all rules once, and returns how many names it met that were to be removed. Items of the walk are
// written down when tell is set.
func (r *run) pass(ctx context.Context, tell bool) (met int64, err error) {
	targets := make(chan target, workers)
	var done sync.WaitGroup
	failed := make(chan error, workers)
	for range workers {
		w, err := newWorker(r.stream)
		if err != nil {
			failed <- err
			break
		}
		done.Go(func() {
			defer w.close()
			for t := range targets {
				r.handle(ctx, w, t)
				t.dir.release()
			}
		})
	}
	v := visitor{
		file: func(t target) {
			if r.known(t) {
				t.dir.release()
				return
			}
			met++
			targets <- t
		},
		closing: r.closing,
	}
	select {
	case err = <-failed:
	default:
		for i := range r.req.Rules {
			if err = r.walk(ctx, i, v); err != nil {
				break
			}
		}
	}
	close(targets)
	done.Wait()
	if tell {
		for _, it := range r.notes.items {
			r.note(it)
		}
		for _, s := range r.notes.secrets {
			r.journal.add(entry{Secret: &s})
		}
	}
	return met, err
}

// closing removes a directory that is empty by now.
func (r *run) closing(d *dir) {
	if !d.remove || d.up == nil || !d.empty() {
		return
	}
	err := removeDir(d)
	t := target{group: d.group, dir: d.up, name: d.name}
	switch {
	case err == nil:
		r.journal.add(entry{Names: 1})
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY):
		// It is gone, or has got a name again, which is met in a later pass, or something is mounted at it.
	case !r.known(t):
		r.fail(t, err)
	}
}

// handle overwrites and removes one file, or removes a link.
func (r *run) handle(ctx context.Context, w *worker, t target) {
	if ctx.Err() != nil {
		return
	}
	if t.kind() == unix.S_IFLNK {
		if err := removeName(t.dir, t.name, 0); err != nil {
			r.fail(t, err)
			return
		}
		r.journal.add(entry{Names: 1})
		return
	}
	fd, err := open(t)
	if err != nil {
		r.fail(t, err)
		return
	}
	defer unix.Close(fd)
	if r.isEntrance(t) {
		r.secret(t)
		r.removeFurther(t)
		return
	}
	file := idOf(&t.st)
	known, free := r.begin(file, t.st.Nlink > 1)
	if !free {
		return
	}
	defer r.done(file)
	defer r.forgetLinked(fd, file)
	if known {
		r.removeFurther(t)
		return
	}
	bytes := t.bytes()
	r.secret(t)
	if err := r.scrub(ctx, w, t, fd); err != nil {
		r.mu.Lock()
		delete(r.linked, file)
		r.mu.Unlock()
		if ctx.Err() == nil {
			r.fail(t, err)
		}
		return
	}
	r.journal.add(entry{Done: &doneEntry{Group: t.group, Bytes: bytes, File: file.String()}})
	if err := removeName(t.dir, t.name, 0); err != nil {
		r.fail(t, err)
	}
}

// begin takes a file into work. known says that its content is overwritten, or is being. One of a single name that is in work is not
// free: it is met twice where its file system is mounted twice, and what two write over each other neither reads back.
func (r *run) begin(file id, several bool) (known, free bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known = r.linked[file]
	switch {
	case several:
		r.linked[file] = true
	case r.busy[file]:
		return known, false
	default:
		r.busy[file] = true
	}
	return known, true
}

// done ends the work on a file.
func (r *run) done(file id) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, file)
}

// secret writes down a place of secrets that is not empty, if that is what the rule is for.
func (r *run) secret(t target) {
	if r.req.Rules[t.rule].Secret && t.st.Size > 0 {
		r.journal.add(entry{Secret: &protocol.Secret{Rule: t.rule, Path: bounded(t.path(), protocol.MaxPath)}})
	}
}

// forgetLinked forgets a file whose last name is removed, before its number can be given to another.
func (r *run) forgetLinked(fd int, file id) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Nlink == 0 {
		r.mu.Lock()
		delete(r.linked, file)
		r.mu.Unlock()
	}
}

// removeFurther removes one more name of a file that is overwritten.
func (r *run) removeFurther(t target) {
	if err := removeName(t.dir, t.name, 0); err != nil {
		r.fail(t, err)
		return
	}
	r.journal.add(entry{Names: 1})
}

// open opens the file that the walk has seen, and no other.
func open(t target) (int, error) {
	const flags = unix.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Openat(t.dir.fd, t.name, flags, 0)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		was, now := mutable(t.dir, t.name)
		if was && !now {
			return -1, errImmutable
		}
		if was {
			fd, err = unix.Openat(t.dir.fd, t.name, flags, 0)
		}
	}
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || idOf(&st) != idOf(&t.st) || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, unix.ENOENT // another file has taken the name: a later pass finds it
	}
	return fd, nil
}

// scrub overwrites one file, from where an earlier run came to. The journal knows files by their numbers, which another file can
// have got since: what is read back tells, and the file is begun anew.
func (r *run) scrub(ctx context.Context, w *worker, t target, fd int) error {
	key := idOf(&t.st).String()
	r.journal.mu.Lock()
	from, ok := r.journal.state.Open[key]
	r.journal.mu.Unlock()
	if ok && from.Offset <= t.st.Size {
		if err := r.scrubFrom(ctx, w, key, fd, from); !errors.Is(err, errReadBack) {
			return err
		}
	}
	return r.scrubFrom(ctx, w, key, fd, checkpoint{Nonce: rand.Uint64()})
}

func (r *run) scrubFrom(ctx context.Context, w *worker, key string, fd int, from checkpoint) error {
	var mine int64
	defer func() { r.written.Add(-mine) }()
	return r.work(ctx, w, &job{
		fd: fd, from: from,
		wrote: func(n int64) {
			mine += n
			r.written.Add(n)
		},
		reached: func(c checkpoint) { r.journal.add(entry{Open: &openEntry{File: key, checkpoint: c}}) },
	})
}

var errImmutable = errors.New("it is immutable, and the attribute cannot be taken off")

// fail writes down why a name is still there.
func (r *run) fail(t target, err error) {
	code := protocol.Failed
	switch {
	case errors.Is(err, unix.ENOENT):
		code = protocol.Vanished
	case errors.Is(err, errImmutable):
		code = protocol.Immutable
	case errors.Is(err, unix.EROFS):
		code = protocol.ReadOnly
	}
	if code.Remains() {
		r.mu.Lock()
		r.failed[t.path()] = true
		r.mu.Unlock()
	}
	r.note(item(code, t.group, t.path(), err))
}
