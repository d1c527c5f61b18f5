//go:build linux

package remote

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// deletedMark is what /proc writes behind the name of a file that has it no more.
const deletedMark = " (deleted)"

// program is the file of a program that runs, without a name. It is open for reading: as long as it runs, Linux lets nobody
// write to it.
type program struct {
	file *os.File
	name string
	st   unix.Stat_t
}

// tryAs calls fn, and again as the user of a process if the system refuses it.
func tryAs(pid int, fn func() error) error {
	err := fn()
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if uid, gid, ok := identity(pid); ok {
		as(uid, gid, func() { err = fn() })
	}
	return err
}

// program opens the file that a process runs if it has no name any more and is not of the image, and reports whether the system
// lets it be seen. It returns nil for all others.
func (f *far) program(pid int) (p *program, seen bool) {
	link := dirOf(pid) + "/exe"
	err := tryAs(pid, func() error {
		target, err := os.Readlink(link)
		name, deleted := strings.CutSuffix(target, deletedMark)
		if err != nil || !deleted {
			return err
		}
		fd, err := unix.Open(link, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		p = &program{file: os.NewFile(uintptr(fd), name), name: name}
		return unix.Fstat(fd, &p.st)
	})
	if p != nil && (err != nil || !f.meant(p)) {
		p.file.Close()
		p = nil
	}
	return p, !errors.Is(err, fs.ErrPermission)
}

func (f *far) meant(p *program) bool {
	m := f.mounts.of(p.name)
	return p.st.Mode&unix.S_IFMT == unix.S_IFREG && p.st.Nlink == 0 && !changedAt(&p.st).Before(f.since) &&
		(m.class != volume || f.mayWipe(m.path))
}

// hidden reports whether a process has mapped files without a name that neither its descriptors nor its program lead to. Through
// the mapping itself a container's root may not open them; see proc_pid_map_files(5).
func (f *far) hidden(pid int) bool {
	names := make(map[string]bool)
	err := tryAs(pid, func() error {
		data, err := os.ReadFile(dirOf(pid) + "/maps")
		for line := range bytes.Lines(data) {
			if name, ok := mappedDeleted(string(line)); ok && f.onDisk(name) {
				names[name] = true
			}
		}
		return err
	})
	if len(names) > 0 {
		tryAs(pid, func() error {
			target, err := os.Readlink(dirOf(pid) + "/exe")
			delete(names, strings.TrimSuffix(target, deletedMark))
			return err
		})
		eachDeleted(pid, func(_, name string, _ *unix.Stat_t) { delete(names, name) })
	}
	return len(names) > 0 || errors.Is(err, fs.ErrPermission)
}

// kernelNames are how the kernel calls memory that it maps for a process.
var kernelNames = []string{"/memfd:", "/SYSV", "/anon_hugepage", "/dev/", "/[aio]", "/dmabuf", "/drm ", "/i915", "/proc/", "/sys/"}

// mappedDeleted returns the file without a name of a line of maps: address perms offset device inode PATH. What a package has
// brought and its next version has replaced is left out by its place.
func mappedDeleted(line string) (name string, ok bool) {
	i := strings.IndexByte(line, '/')
	if i < 0 {
		return "", false
	}
	name, ok = strings.CutSuffix(strings.TrimSuffix(line[i:], "\n"), deletedMark)
	starts := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	packaged := starts("/usr/") && !starts("/usr/local/") || starts("/lib")
	return name, ok && !packaged && !slices.ContainsFunc(kernelNames, starts)
}

func (f *far) onDisk(name string) bool {
	m := f.mounts.of(name)
	return path.IsAbs(name) && (m.class == layer || m.class == volume && f.mayWipe(m.path))
}

// keepProgram keeps the program of a process that is to be killed for afterwards. It reports whether it can be.
func (r *run) keepProgram(p protocol.Process) bool {
	prog, seen := r.program(p.PID)
	switch {
	case prog == nil:
		return seen
	case p.Held && !inMemory(fmt.Sprintf("/proc/self/fd/%d", prog.file.Fd())):
		prog.file.Close()
		return false
	case p.Held, r.used[idOf(&prog.st)], r.programs[idOf(&prog.st)] != nil:
		prog.file.Close()
		return true
	}
	r.programs[idOf(&prog.st)] = prog
	return true
}

// busyTimeout bounds the wait for the memory of processes that have ended.
const busyTimeout = 2 * time.Second

// overwritePrograms overwrites those that were kept, when their processes have ended.
func (r *run) overwritePrograms() {
	w, err := newWorker(r.stream)
	if err != nil {
		r.noteLasting(item(protocol.Failed, 0, "", err))
		return
	}
	defer w.close()
	deadline := time.Now().Add(busyTimeout)
	for _, p := range r.programs {
		link := fmt.Sprintf("/proc/self/fd/%d", p.file.Fd())
		bytes, err := r.deleted(w, link)
		// The kernel lets go of a program a moment after its process has ended, and nothing tells when.
		for errors.Is(err, unix.ETXTBSY) && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
			bytes, err = r.deleted(w, link)
		}
		switch {
		case err == nil:
			r.journal.add(entry{Deleted: bytes + 1})
		case !endsWithProcess(link):
			r.noteLasting(item(protocol.Failed, 0, p.name, err))
		}
		p.file.Close()
	}
	clear(r.programs)
}
