//go:build linux

package remote

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Of these file systems every write changes the time of the last change, one through a mapping of the file included, if what was
// written before is on the medium. Of memory-backed ones it does not, and of those of a network others decide.
var timed = []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC}

// changeTries is how many milliseconds the clock of the file systems is waited for. It ticks every ten at the latest.
const changeTries = 50

// lastChange returns when a file was changed last, in nanoseconds since 1970, once whoever writes to it afterwards gives it
// another time. It returns zero where that is not sure.
func lastChange(fd int) int64 {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil || !slices.Contains(timed, int64(fs.Type)) {
		return 0
	}
	for range changeTries {
		var now unix.Timespec
		var st unix.Stat_t
		if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now) != nil || unix.Fstat(fd, &st) != nil {
			return 0
		}
		// The file's time is of an earlier tick than the one of now, and the next write's is not.
		if st.Ctim.Nano() < now.Nano() {
			return st.Ctim.Nano()
		}
		time.Sleep(time.Millisecond)
	}
	return 0
}
