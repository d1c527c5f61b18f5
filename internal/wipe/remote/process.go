//go:build linux

package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// process is a row of /proc.
type process struct {
	pid, parent, session int
	zombie               bool
	terminal             bool
	// server says that it is an ssh server.
	server bool
}

// processes lists /proc. One that ends meanwhile is left out.
func processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var list []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fields, err := statFields(fmt.Sprintf("/proc/%d", pid))
		if err != nil || len(fields) < 18 {
			continue
		}
		parent, _ := strconv.Atoi(string(fields[1]))
		session, _ := strconv.Atoi(string(fields[3]))
		list = append(list, process{
			pid: pid, parent: parent, session: session, terminal: string(fields[4]) != "0", server: strings.HasPrefix(nameOf(pid), "sshd"),
			zombie: zombie(fields),
		})
	}
	return list, nil
}

// ended reports whether a process or a thread has, by the fields of its stat.
func ended(fields [][]byte) bool { return bytes.ContainsAny(fields[0], "ZX") }

// zombie is ended for all threads of a process: the first may end, and the others go on.
func zombie(fields [][]byte) bool {
	return ended(fields) && (len(fields) < 18 || bytes.Equal(fields[17], []byte("0")) || bytes.Equal(fields[17], []byte("1")))
}

// dirOf returns where /proc shows what a process has: if its first thread has ended, in the directory of another.
func dirOf(pid int) string {
	dir := fmt.Sprintf("/proc/%d", pid)
	lives := func(dir string) bool {
		fields, err := statFields(dir)
		return err == nil && len(fields) > 0 && !ended(fields)
	}
	if lives(dir) {
		return dir
	}
	threads, _ := os.ReadDir(dir + "/task")
	for _, thread := range threads {
		if at := filepath.Join(dir, "task", thread.Name()); lives(at) {
			return at
		}
	}
	return dir
}

// ancestry are the processes that started this one, up to the ssh server that listens, as they were when it began. When the
// connection breaks, the server's process for it ends, and the way up is lost: who looked again then would take the server
// for a process of the user's.
var ancestry = sync.OnceValues(func() (map[int]bool, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int)
	for _, p := range all {
		parents[p.pid] = p.parent
	}
	line := make(map[int]bool)
	for pid := os.Getpid(); pid > 0 && !line[pid]; pid = parents[pid] {
		line[pid] = true
	}
	if parents[os.Getpid()] <= 1 {
		return nil, errors.New("the connection has ended before anything was looked at")
	}
	return line, nil
})

// roles say what becomes of the processes there are. One that has ended is in none.
type roles struct {
	// spared go on: PID 1, this one, those that started it, the provider's tunnel to its gateway, and what else the connection
	// comes through.
	spared map[int]bool
	// held are stopped like all others, and killed as the last act of a finish: PID 1 may wait for them, and its end is the
	// end of the container.
	held map[int]bool
	// serving are those of held that serve a file system, and what these have started. They are not stopped: who looked at their
	// files would wait for ever.
	serving map[int]bool
	// doomed are the rest.
	doomed []int
}

// rolesNow looks at the processes.
func rolesNow() (roles, error) {
	line, err := ancestry()
	if err != nil {
		return roles{}, err
	}
	all, err := processes()
	if err != nil {
		return roles{}, err
	}
	var ways []int
	far := farEnd()
	for _, p := range all {
		if !line[p.pid] && (isTunnel(p) || far != "" && holds(p.pid, far)) {
			ways = append(ways, p.pid)
		}
	}
	return assign(all, line, os.Getpid(), ways, fuseServers(all)), nil
}

// fuseDevice is what a program has open that serves a file system, see fuse(4).
const fuseDevice = "/dev/fuse"

// fuseServers are the processes that may serve a file system which is mounted here.
func fuseServers(all []process) (list []int) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	m, err := parseMounts(data, func(string) bool { return true }) // nobody looks, which one that was stopped would not answer
	if err != nil || !slices.ContainsFunc(slices.Collect(maps.Values(m)), mount.served) {
		return nil
	}
	for _, p := range all {
		if holds(p.pid, fuseDevice) {
			list = append(list, p.pid)
		}
	}
	return list
}

// assign gives each process its role. line are self and what started it, ways what the connection may come through, and servers
// those that serve a file system.
func assign(all []process, line map[int]bool, self int, ways, servers []int) roles {
	rows := make(map[int]process)
	for _, p := range all {
		rows[p.pid] = p
	}
	r := roles{spared: maps.Clone(line), held: make(map[int]bool), serving: make(map[int]bool)}
	r.spared[1] = true
	above := make(map[int]bool)
	for _, pid := range ways {
		r.spared[pid] = true
		for pid = rows[pid].parent; pid > 0 && !above[pid]; pid = rows[pid].parent {
			above[pid] = true
		}
	}
	// What a server has started may be its way to what it serves, as is the ssh of sshfs.
	serves := func(pid int) bool {
		for seen := make(map[int]bool); pid > 0 && !seen[pid] && !r.spared[pid]; pid = rows[pid].parent {
			if seen[pid] = true; slices.Contains(servers, pid) {
				return true
			}
		}
		return false
	}
	waiting := func(p process) bool { return (p.pid == 1 || line[p.pid]) && p.pid != self && !p.server }
	for _, p := range all {
		switch parent := rows[p.parent]; {
		case p.zombie, r.spared[p.pid]:
		case serves(p.pid):
			r.held[p.pid], r.serving[p.pid] = true, true
		case above[p.pid], waiting(parent) && !adopted(p, parent):
			r.held[p.pid] = true
		default:
			r.doomed = append(r.doomed, p.pid)
		}
	}
	return r
}

// adopted reports whether a child of PID 1 has another's session, which it can only have from a parent that has ended. Nobody
// waits for such a one: a process is born into the session of its parent, and leaves it for one of its own only.
func adopted(p, parent process) bool {
	return parent.pid == 1 && p.session != p.pid && p.session != parent.session
}

// isTunnel recognises how Vast.ai's gateway reaches a container: an ssh client in it that forwards a port from there
// (https://docs.vast.ai/documentation/instances/connect/ssh). It has no terminal.
func isTunnel(p process) bool {
	if p.terminal {
		return false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if err != nil {
		return false
	}
	args := strings.Split(string(cmdline), "\x00")
	return filepath.Base(args[0]) == "ssh" && slices.ContainsFunc(args[1:], func(a string) bool { return strings.HasPrefix(a, "-R") })
}

// descriptors calls fn for every open descriptor of a process, with its path in /proc and what it leads to. It reports whether
// the system lets them be seen.
func descriptors(pid int, fn func(link, target string)) bool {
	if lookAt(pid, fn) {
		return true
	}
	seen := false
	if uid, gid, ok := identity(pid); ok {
		as(uid, gid, func() { seen = lookAt(pid, fn) })
	}
	return seen
}

// lookAt is descriptors for what this thread may see. A process that has ended has none.
func lookAt(pid int, fn func(link, target string)) bool {
	dir := dirOf(pid) + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return !errors.Is(err, fs.ErrPermission)
	}
	for _, e := range entries {
		link := filepath.Join(dir, e.Name())
		target, err := os.Readlink(link)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return false
		case err == nil:
			fn(link, target)
		}
	}
	return true
}

// identity returns the effective user and group of a process, see proc_pid_status(5).
func identity(pid int) (uid, gid int, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, false
	}
	uid, gid = -1, -1
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line) // Uid: real effective saved fs
		if len(f) != 5 {
			continue
		}
		n, err := strconv.Atoi(f[2])
		switch {
		case err != nil:
		case f[0] == "Uid:":
			uid = n
		case f[0] == "Gid:":
			gid = n
		}
	}
	return uid, gid, uid >= 0 && gid >= 0
}

// as calls fn on a thread with the file system identity of a user. A container's root lacks CAP_SYS_PTRACE, without which only
// that may look at the descriptors of the user's processes; see "Ptrace access mode checking" in ptrace(2).
func as(uid, gid int, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
		unix.SetfsgidRetGid(gid)
		unix.SetfsuidRetUid(uid)
		fn()
	}()
	<-done
}

func holds(pid int, what string) bool {
	found := false
	descriptors(pid, func(_, target string) { found = found || target == what })
	return found
}

func usesGPU(pid int) bool {
	found := false
	descriptors(pid, func(_, target string) { found = found || strings.HasPrefix(target, "/dev/nvidia") })
	return found
}

// describe names a process. Its arguments may hold secrets and are not looked at.
func describe(pid int) protocol.Process {
	return protocol.Process{PID: pid, Name: bounded(nameOf(pid), protocol.MaxText), GPU: usesGPU(pid)}
}

func nameOf(pid int) string {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSuffix(string(name), "\n")
}

// opened calls add for what a process has open and goes on using. What PID 1 only reads may be the script that it runs; what
// it writes is a log, which may be the user's and may go.
func opened(pid int, add func(name string)) {
	descriptors(pid, func(link, _ string) {
		if pid != 1 || readsOnly(pid, filepath.Base(link)) {
			add(link)
		}
	})
}

// readsOnly looks at the flags of a descriptor, which are octal; see proc_pid_fdinfo(5).
func readsOnly(pid int, fd string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 64)
			return err == nil && flags&unix.O_ACCMODE == unix.O_RDONLY
		}
	}
	return false
}

const (
	// rounds is how often the processes are gone through: what PID 1 keeps starting again cannot be ended.
	rounds = 5
	// endTimeout bounds the wait for the end of the processes that were killed.
	endTimeout = 5 * time.Second
)

// endProcesses stops all of the user's processes, so that none can start or write anything, then hands each to inspect, and
// then kills at once those that are not held: a shell that is asked to end writes its history first. It tells each that was
// ended or is held, and returns those that are still there. What is in told is left out, and what goes on is put there.
func endProcesses(ctx context.Context, told map[int]bool, inspect, ended func(protocol.Process)) ([]protocol.Process, error) {
	for range rounds {
		stopped, err := stopProcesses(told)
		if err != nil {
			return nil, err
		}
		if len(stopped) == 0 {
			return nil, nil
		}
		for _, p := range stopped {
			inspect(p)
		}
		kill := slices.DeleteFunc(slices.Collect(maps.Keys(stopped)), func(pid int) bool { return stopped[pid].Held })
		gone := killAll(ctx, kill)
		for pid, p := range stopped {
			if p.Held {
				told[pid] = true
			}
			if p.Held || gone[pid] {
				ended(p)
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	r, err := rolesNow()
	var left []protocol.Process
	for _, pid := range r.doomed {
		if !told[pid] {
			told[pid] = true
			left = append(left, describe(pid))
		}
	}
	return left, err
}

// stopProcesses stops the processes that are not spared until no new one is found, but for those that were told.
func stopProcesses(told map[int]bool) (map[int]protocol.Process, error) {
	stopped := make(map[int]protocol.Process)
	for {
		r, err := rolesNow()
		if err != nil {
			return nil, err
		}
		fresh := false
		for _, pid := range slices.AppendSeq(r.doomed, maps.Keys(r.held)) {
			if _, seen := stopped[pid]; seen || told[pid] {
				continue
			}
			p := describe(pid)
			p.Held = r.held[pid]
			stopped[pid], fresh = p, true
			if !r.serving[pid] {
				unix.Kill(pid, unix.SIGSTOP)
			}
		}
		if !fresh {
			return stopped, nil
		}
	}
}

// pidfdOpen is a variable for tests.
var pidfdOpen = unix.PidfdOpen

// killAll kills processes, all before it waits for one, and returns those that are gone within endTimeout.
func killAll(ctx context.Context, pids []int) map[int]bool {
	fds := make(map[int]int)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	gone := make(map[int]bool)
	for _, pid := range pids {
		fd, err := pidfdOpen(pid, 0)
		if err != nil {
			fd = -1 // an old kernel, or a filter of system calls
		}
		err = unix.Kill(pid, unix.SIGKILL)
		switch {
		case err == nil:
			fds[pid] = fd
			continue
		case errors.Is(err, unix.ESRCH):
			gone[pid] = true
		}
		unix.Close(fd)
	}
	for _, pid := range awaitAll(ctx, fds, time.Now().Add(endTimeout)) {
		gone[pid] = true
	}
	return gone
}

// awaitAll waits for processes, of which fds has a pidfd or -1, and returns those that have ended by the deadline. It is the same
// for all: what hangs in the kernel would else hold up the rest each for itself.
func awaitAll(ctx context.Context, fds map[int]int, deadline time.Time) (ended []int) {
	for pid, fd := range fds {
		if fd < 0 && awaitProc(ctx, pid, deadline) || fd >= 0 && awaitFD(ctx, fd, deadline) {
			ended = append(ended, pid)
		}
	}
	return ended
}

// awaitFD waits for the end of the process of a pidfd, see pidfd_open(2).
func awaitFD(ctx context.Context, fd int, deadline time.Time) bool {
	for {
		wait := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
		switch {
		case err == nil && n > 0:
			return true
		case err != nil && err != unix.EINTR, wait == 0, ctx.Err() != nil:
			return false
		}
	}
}

// awaitProc waits until /proc shows a process no more, or as one that has ended. Without a pidfd nothing tells that.
func awaitProc(ctx context.Context, pid int, deadline time.Time) bool {
	const again = 5 * time.Millisecond
	for {
		fields, err := statFields(fmt.Sprintf("/proc/%d", pid))
		if err != nil || zombie(fields) {
			return true
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return false
		}
		time.Sleep(again)
	}
}
