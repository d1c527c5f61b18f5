//go:build linux

package remote

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// clockSlack is how far the start of PID 1, which the kernel tells in whole seconds since a boot in whole seconds, can lie
// behind the creation of files that belong to it.
const clockSlack = 3 * time.Second

// created returns when the container was made: no file of an image's layers has been changed since, and every file that
// somebody has written in the container has.
func created() (time.Time, error) {
	var mark time.Time
	birth := birthOf("/")
	var st unix.Stat_t
	if unix.Lstat("/.dockerenv", &st) == nil {
		mark = time.Unix(st.Ctim.Unix())
	}
	started, err := startOfPID1()
	if err != nil && birth.IsZero() && mark.IsZero() {
		return time.Time{}, err
	}
	return creation(birth, mark, started, time.Now())
}

// birthOf returns when a directory was made, or zero where the system does not tell.
func birthOf(name string) time.Time {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 || st.Btime.Sec <= 0 {
		return time.Time{}
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
}

var errLaterThanNow = errors.New("the container was made later than now: the clock of the machine has been set back, and nobody can " +
	"tell its files from those of its image")

// creation chooses in this order from what the system can tell, each of which may be zero: the birth of the directory behind
// the root of an overlay, which is that of the container's own layer; the change of Docker's mark, unless that is later than the
// start of PID 1, as after a chown of everything; that start, which is later for a container that was stopped and started, so
// that files from before count as the image's. A birth that is later than the start is of a clock that was ahead, and set back
// since: what was written by the right one looks older than the container.
func creation(birth, mark, started, now time.Time) (time.Time, error) {
	late := func(t time.Time) bool { return !started.IsZero() && t.After(started.Add(clockSlack)) }
	since := birth
	if since.IsZero() && !late(mark) {
		since = mark
	}
	if since.IsZero() || late(since) && !since.After(now) {
		since = started.Add(-clockSlack)
	}
	if since.After(now) {
		return time.Time{}, errLaterThanNow
	}
	return since, nil
}

// ticks is how many a second has in /proc, on every Linux that Go knows.
const ticks = 100

func startOfPID1() (time.Time, error) {
	fields, err := statFields("/proc/1")
	if err != nil {
		return time.Time{}, err
	}
	if len(fields) < 20 {
		return time.Time{}, fmt.Errorf("/proc/1/stat has %d fields", len(fields))
	}
	start, err := strconv.ParseInt(string(fields[19]), 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	_, after, ok := bytes.Cut(stat, []byte("\nbtime "))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	boot, err := strconv.ParseInt(string(line), 10, 64)
	if !ok || err != nil {
		return time.Time{}, fmt.Errorf("/proc/stat does not tell when the system was started")
	}
	return time.Unix(boot+start/ticks, 0), nil
}

// statFields returns the fields of stat, in the directory of a process or a thread, behind the name, which may hold anything:
// state is [0], the parent [1], the session [3], the terminal [4], the number of threads [17], the start [19]; see
// proc_pid_stat(5).
func statFields(dir string) ([][]byte, error) {
	data, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, err
	}
	return bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:]), nil
}
