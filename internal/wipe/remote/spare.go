//go:build linux

package remote

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// loginFiles are what a login needs besides its keys. They stay to the end of a run, and hold nothing of a user but names
// and hashes of passwords, which no instance has.
var loginFiles = []string{
	"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/nsswitch.conf", "/etc/pam.conf", "/etc/pam.d",
	"/etc/authselect", // to where links of Red Hat's pam.d lead
	// What SUSE and others bring themselves, where /etc has nothing of the name; see "FILES" in pam.conf(5).
	"/usr/lib/pam.d", "/usr/lib/security", "/usr/etc/pam.d", "/usr/etc/security", "/usr/etc/nsswitch.conf", "/usr/etc/login.defs",
	"/usr/etc/shells", "/usr/etc/ssh/sshd_config", "/usr/etc/ssh/sshd_config.d",
	"/etc/security", "/etc/login.defs", "/etc/shells", "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d", "/etc/ssh/moduli",
	"/etc/ssl/openssl.cnf", "/etc/crypto-policies", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
	"/etc/ld-musl-x86_64.path", "/etc/ld-musl-aarch64.path", "/etc/hosts.allow", "/etc/hosts.deny", "/etc/localtime",
	"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/etc/mtab", "/.dockerenv", "/run/sshd", "/var/run/sshd",
}

// standing are directories that stay though they may be empty: programs take them for granted. Without the one that is empty for it,
// sshd lets nobody in; see _PATH_PRIVSEP_CHROOT_DIR of its pathnames.h, and what distributions make of it.
var standing = []string{
	"/run", "/var", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/tmp", "/dev", "/home", "/root", "/workspace",
	"/opt", "/srv", "/data", "/mnt", "/media", "/boot", "/run/sshd", "/run/lock", "/run/user", "/var/tmp", "/var/run", "/var/log",
	"/var/lib", "/var/cache", "/var/empty", "/var/empty/sshd", "/var/lib/empty", "/usr/share/empty.sshd", "/usr/local", "/etc/ssh",
}

// inUse finds the files that the connection runs on: the programs and libraries of the processes that are spared, what they have
// open, and what the next login runs. sshd starts a shell that may not be there any more: our own has become this program.
func inUse(pids map[int]bool) map[id]bool {
	files := make(map[id]bool)
	add := func(name string) (file id, ok bool) {
		var st unix.Stat_t
		if unix.Stat(name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return id{}, false
		}
		files[idOf(&st)] = true
		return idOf(&st), true
	}
	for pid := range pids {
		add(fmt.Sprintf("/proc/%d/exe", pid))
		for _, name := range mapped(pid) {
			add(name)
		}
		opened(pid, func(name string) { add(name) })
	}
	listed := make(map[id]bool)
	for _, name := range loginPrograms(pids) {
		file, ok := add(name)
		if !ok || listed[file] {
			continue
		}
		listed[file] = true
		for _, library := range libraries(name) {
			add(library)
		}
	}
	return files
}

// mapped returns the files that a process has mapped, by the path it knows them by, and what has their place by now, as after an
// upgrade: that is what the process for the next login maps.
func mapped(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil
	}
	var list []string
	seen := make(map[string]bool)
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		// address perms offset device inode PATH
		_, name, ok := strings.Cut(s.Text(), "/")
		if !ok || seen[name] {
			continue
		}
		seen[name] = true
		list = append(list, "/"+name)
		if former, ok := strings.CutSuffix(name, " (deleted)"); ok {
			list = append(list, "/"+former)
		}
	}
	return list
}

// shellOf returns the login shell of a user.
func shellOf(uid int) string {
	for _, f := range passwd() {
		if f[2] == fmt.Sprint(uid) {
			return f[6]
		}
	}
	return ""
}

// passwd returns the lines of /etc/passwd that have all seven fields, see passwd(5).
func passwd() [][]string {
	data, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil
	}
	var lines [][]string
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimRight(line, "\n"), ":"); len(f) == 7 {
			lines = append(lines, f)
		}
	}
	return lines
}

// packages has the MD5 sums of the files that dpkg has installed, by path; see deb-md5sums(5). Nothing secret rests on MD5
// here: who can make a collision on the machine can read the file.
type packages struct{ sums map[string]string }

const dpkgInfo = "/var/lib/dpkg/info"

// readPackages reads what dpkg knows. Configuration files are not among it. A system without dpkg has no packages.
func readPackages() packages {
	p := packages{sums: make(map[string]string)}
	lists, _ := filepath.Glob(dpkgInfo + "/*.md5sums")
	for _, name := range lists {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if sum, file, ok := strings.Cut(strings.TrimRight(line, "\n"), "  "); ok && len(sum) == 2*md5.Size {
				p.sums["/"+file] = sum
			}
		}
	}
	return p
}

// owns reports whether a file is as the package manager has installed it. Its bytes are public then. The system's directories
// may be links into /usr, under either name of which a package may know the file.
func (p packages) owns(d *dir, name string) bool {
	at := d.at(name)
	if below(at, "/var/lib/dpkg") || below(at, "/var/lib/apt") {
		return true // what the package manager itself keeps: names of packages
	}
	sum, ok := p.sums[at]
	if !ok {
		sum, ok = p.sums[strings.TrimPrefix(at, "/usr")]
	}
	if !ok {
		return false
	}
	got, err := md5Of(d, name)
	return err == nil && got == sum
}

func md5Of(d *dir, name string) (string, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	h := md5.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// needed reports whether a path is one that a login needs.
func needed(name string) bool {
	for _, file := range loginFiles {
		if below(name, file) {
			return true
		}
	}
	return false
}

// entranceFiles finds the files that a login needs and that have further names.
func (f *far) entranceFiles() map[id]string {
	files := make(map[id]string)
	for _, name := range slices.Concat(slices.Collect(maps.Keys(f.login)), loginFiles) {
		walkPath(name, func(at string, st *unix.Stat_t, err error) error {
			if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 {
				files[idOf(st)] = at
			}
			return nil
		})
	}
	return files
}

// isEntrance reports whether t is a further name of a file that a login still needs: the name goes, and the content when the
// login does.
func (f *far) isEntrance(t target) bool {
	at, ok := f.entrance[idOf(&t.st)]
	if !ok || f.req.Rules[t.rule].Login {
		return false
	}
	var st unix.Stat_t
	return unix.Lstat(at, &st) == nil && idOf(&st) == idOf(&t.st) // no other file that has got its number
}

// stays reports whether a directory is left though it is empty.
func stays(name string) bool { return slices.Contains(standing, name) }

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
