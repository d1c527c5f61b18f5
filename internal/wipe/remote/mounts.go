//go:build linux

package remote

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/wipe/protocol"
)

// class is what a mount means to a wipe.
type class int

const (
	pseudo class = iota // the kernel's own, or in the way of nothing: never entered
	layer               // the container's own file system
	memory              // in the machine's memory
	volume              // a directory of the machine, which may outlive the container and have other users
	bound               // a single file of the machine
)

// mount is a line of /proc/self/mountinfo, see proc_pid_mountinfo(5).
type mount struct {
	path, fstype string
	// root is the directory of the file system that is mounted.
	root     string
	class    class
	readOnly bool
}

// mounts are all mounts by path. Of several on one path the last is on top.
type mounts map[string]mount

// pseudoTypes are file systems without files of anybody.
var pseudoTypes = []string{
	"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "devtmpfs", "debugfs", "tracefs", "securityfs", "configfs",
	"pstore", "bpf", "nsfs", "binfmt_misc", "efivarfs", "fusectl", "hugetlbfs", "autofs", "rpc_pipefs",
}

func readMounts() (mounts, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(data, isDir)
}

// isDir takes a file system whose server has ended for a directory, since nobody can look.
func isDir(name string) bool {
	info, err := os.Lstat(name)
	return err == nil && info.IsDir() || errors.Is(err, unix.ENOTCONN)
}

func (m mount) served() bool { return protocol.Served(m.fstype) }

// parseMounts reads a mountinfo. isDir tells whether a mount point is a directory.
func parseMounts(data []byte, isDir func(string) bool) (mounts, error) {
	all := make(mounts)
	for line := range strings.Lines(string(data)) {
		// ID parent major:minor root MOUNTPOINT OPTIONS optional… - TYPE source SUPEROPTIONS
		// Only this very space separates: a space of Unicode, or a form feed, is part of a name and not escaped.
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fields, rest := strings.Split(before, " "), strings.Split(after, " ")
		if !ok || len(fields) < 6 || !path.IsAbs(unescape(fields[4])) || rest[0] == "" {
			return nil, fmt.Errorf("a line of mountinfo that cannot be read: %.200q", line)
		}
		m := mount{path: unescape(fields[4]), root: fields[3], fstype: rest[0]}
		options := strings.Split(fields[5], ",")
		if len(rest) > 2 {
			options = append(options, strings.Split(rest[2], ",")...)
		}
		m.readOnly = slices.Contains(options, "ro")
		m.class = classify(m, isDir(m.path))
		all[m.path] = m
	}
	if all["/"].class != layer {
		return nil, fmt.Errorf("mountinfo shows no root")
	}
	return all, nil
}

func classify(m mount, dir bool) class {
	switch {
	case m.path == "/":
		return layer
	case slices.Contains(pseudoTypes, m.fstype), below(m.path, "/proc"), below(m.path, "/sys"):
		return pseudo
	case !dir:
		return bound
	case (m.fstype == "tmpfs" || m.fstype == "ramfs") && m.root == "/":
		return memory // and not a directory of the machine's own memory
	}
	return volume
}

// setApart makes volumes of memory that is the machine's, of which others may have something: what is older than the container, as
// born tells, and the shared memory of the machine's own processes. Seconds are all that the script knows.
func (m mounts) setApart(since time.Time, born func(name string) time.Time, hostIPC bool) {
	for name, mount := range m {
		if mount.class != memory {
			continue
		}
		birth := born(name)
		if !birth.IsZero() && birth.Unix() < since.Unix() || name == "/dev/shm" && hostIPC {
			mount.class = volume
			m[name] = mount
		}
	}
}

// unescape undoes the \040 of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// of returns the mount that holds name.
func (m mounts) of(name string) mount {
	for at := name; ; at = path.Dir(at) {
		if found, ok := m[at]; ok {
			return found
		}
		if at == "/" || at == "." {
			return mount{}
		}
	}
}

// below reports whether name is dir or in it.
func below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// inMemory reports whether the directory name lies in memory.
func inMemory(name string) bool {
	var st unix.Statfs_t
	return unix.Statfs(name, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}
