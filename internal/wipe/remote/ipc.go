//go:build linux

package remote

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// machineIPC is the IPC namespace of the machine, whose number is fixed: PROC_IPC_INIT_INO of linux/proc_ns.h.
const machineIPC = "ipc:[4026531839]"

// sharesIPC reports whether the container has the IPC namespace of the machine. Its segments, its queues and /dev/shm are then
// those of others, too.
func sharesIPC() bool { return isMachineIPC("/proc/self/ns/ipc") }

// isMachineIPC takes a namespace that cannot be told for the machine's.
func isMachineIPC(link string) bool {
	namespace, err := os.Readlink(link)
	return err != nil || namespace == machineIPC
}

// ipcObject is something that processes leave in an IPC namespace when they end: a segment of shared memory or a queue of
// messages, see sysvipc(7) and mq_overview(7).
type ipcObject struct {
	name   string
	remove func() error
}

// ipcObjects lists what there is. See proc_sysvipc(5) for the tables.
func ipcObjects() []ipcObject {
	var list []ipcObject
	add := func(table, name string, remove func(id int) error) {
		data, _ := os.ReadFile("/proc/sysvipc/" + table)
		for line := range strings.Lines(string(data)) {
			// Of both tables: key, id, five others, and the uid of the owner.
			row := strings.Fields(line)
			if len(row) < 8 {
				continue
			}
			id, err1 := strconv.Atoi(row[1])
			uid, err2 := strconv.Atoi(row[7])
			if err1 != nil || err2 != nil {
				continue // the heading
			}
			list = append(list, ipcObject{fmt.Sprintf("%s %d", name, id), func() error {
				return asOwner(uid, func() error { return remove(id) })
			}})
		}
	}
	add("shm", "shared memory", func(id int) error {
		_, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		return err
	})
	add("msg", "message queue", func(id int) error {
		if _, _, errno := unix.Syscall(unix.SYS_MSGCTL, uintptr(id), unix.IPC_RMID, 0); errno != 0 {
			return errno
		}
		return nil
	})
	queues, _ := os.ReadDir("/dev/mqueue")
	for _, q := range queues {
		name := filepath.Join("/dev/mqueue", q.Name())
		list = append(list, ipcObject{name, func() error { return unix.Unlink(name) }})
	}
	return list
}

// asOwner calls fn on a thread with the user id of an owner: a container's root lacks CAP_SYS_ADMIN, without which only the owner
// may remove an object. See shmctl(2).
func asOwner(uid int, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
		if uid != 0 {
			// The system call changes this thread only; the function of the same name in package unix changes all.
			const keep = ^uintptr(0)
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
				done <- errno
				return
			}
		}
		done <- fn()
	}()
	return <-done
}

// errMachines is for what is in an IPC namespace that the container shares.
var errMachines = errors.New("of the machine, or of another container")

// errHeld is for what a program may use that is held while the machine is wiped, and goes on where that stays in use.
var errHeld = errors.New("a program that goes on may use it")

// ipcStays returns why nothing is removed, or nil.
func (f *far) ipcStays() error {
	if sharesIPC() {
		return errMachines
	}
	if !f.staysInUse() {
		return nil
	}
	if r, err := rolesNow(); err != nil || len(r.held) > 0 {
		return errHeld
	}
	return nil
}

// planIPC counts what removeIPC removes, or tells what stays.
func (f *far) planIPC(p *protocol.Plan) {
	objects, stays := ipcObjects(), f.ipcStays()
	switch {
	case !f.req.Processes:
	case stays == nil:
		p.IPC = int64(len(objects))
	default:
		for _, o := range objects {
			f.notes.item(item(protocol.Memory, 0, o.name, stays))
		}
	}
}

// removeIPC removes what the processes have left in memory, which the kernel clears before it gives it to anybody. What is still
// attached to a process that is spared goes with that.
func (r *run) removeIPC() {
	failed := make(map[string]error)
	stays := r.ipcStays()
	for _, o := range ipcObjects() {
		failed[o.name] = stays
		if stays == nil {
			failed[o.name] = o.remove()
		}
	}
	for _, o := range ipcObjects() {
		r.note(item(protocol.Memory, 0, o.name, failed[o.name]))
	}
}
