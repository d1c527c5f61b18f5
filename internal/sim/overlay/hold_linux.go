package overlay

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Hold keeps everybody who opens one of some files waiting.
type Hold struct {
	// Met is closed when somebody waits, and PID is that process, as it is seen from outside.
	Met     chan struct{}
	PID     int
	t       testing.TB
	names   []string
	release func()
}

// heldTimeout bounds the wait for somebody who opens a file.
const heldTimeout = 5 * time.Minute

// Await waits until somebody waits. The test fails when nobody comes.
func (h *Hold) Await() {
	h.t.Helper()
	select {
	case <-h.Met:
	case <-time.After(heldTimeout):
		h.t.Fatalf("overlay: nobody has opened any of %q within %v", h.names, heldTimeout)
	}
}

// Release lets all who wait go on. The end of the test does so, too, and the kernel with the end of its process.
func (h *Hold) Release() { h.release() }

// Hold makes whoever opens one of the files inside wait, O_NONBLOCK or not. Names that are not there are left out, and it
// returns nil if none is. It rests on the permission events of fanotify(7).
func (i *Instance) Hold(names ...string) *Hold {
	i.t.Helper()
	group, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		i.t.Errorf("overlay: fanotify_init: %v", err)
		return nil
	}
	// A file that is polled: its Close ends a Read.
	events := os.NewFile(uintptr(group), "fanotify")
	held := 0
	for _, name := range names {
		file := fmt.Sprintf("/proc/%d/root%s", i.init.Process.Pid, name)
		err := unix.FanotifyMark(group, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, file)
		switch {
		case err == nil:
			held++
		case !errors.Is(err, unix.ENOENT):
			i.t.Errorf("overlay: fanotify_mark %s: %v", name, err)
		}
	}
	if held == 0 {
		events.Close()
		return nil
	}
	h := &Hold{Met: make(chan struct{}), t: i.t, names: names, release: sync.OnceFunc(func() { events.Close() })}
	i.t.Cleanup(h.release)
	go h.await(i, events)
	return h
}

// await waits for one event, which is enough: those that are not answered are let through when the group is closed.
func (h *Hold) await(i *Instance, events *os.File) {
	var event unix.FanotifyEventMetadata
	buf := make([]byte, unsafe.Sizeof(event))
	n, err := events.Read(buf)
	switch {
	case errors.Is(err, os.ErrClosed):
		return
	case err != nil || n != len(buf):
		i.t.Errorf("overlay: read %d bytes from fanotify: %v", n, err)
		return
	}
	event = *(*unix.FanotifyEventMetadata)(unsafe.Pointer(&buf[0]))
	unix.Close(int(event.Fd)) // it would keep the instance's mounts
	h.PID = int(event.Pid)
	close(h.Met)
}
