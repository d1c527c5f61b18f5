//go:build linux

package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sshd and serverParts are what a login is let in by. The parts are in one of serverDirs, as the distribution has it, or where the
// parts are that run now.
const sshd = "/usr/sbin/sshd"

var (
	serverParts = []string{"sshd-session", "sshd-auth"}
	serverDirs  = []string{"/usr/lib/openssh", "/usr/lib/ssh", "/usr/libexec", "/usr/libexec/openssh", "/usr/libexec/ssh"}
)

// servers returns the programs that let the next login in. pids are the processes that this one came through.
func servers(pids map[int]bool) []string {
	dirs := slices.Clone(serverDirs)
	for pid := range pids {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && strings.HasPrefix(filepath.Base(exe), "sshd") {
			dirs = append(dirs, filepath.Dir(exe))
		}
	}
	list := []string{sshd}
	for _, dir := range dirs {
		for _, part := range serverParts {
			list = append(list, filepath.Join(dir, part))
		}
	}
	return list
}

// tools are what brings this program to a machine.
var tools = []string{"sh", "cat", "chmod", "gzip", "ls", "mkdir", "rm", "rmdir", "tr", "uname"}

// toolDirs are where they may be, whatever PATH a login has.
var toolDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// loginPrograms returns what the next login runs, of which no process need have anything open now. pids are the processes that this
// one came through.
func loginPrograms(pids map[int]bool) []string {
	list := append([]string{"/bin/sh", shellOf(os.Getuid())}, servers(pids)...)
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), toolDirs...) {
		for _, tool := range tools {
			list = append(list, filepath.Join(dir, tool))
		}
	}
	return list
}

// listTimeout bounds the work of a loader, which only opens files.
const listTimeout = 10 * time.Second

// libraries returns the libraries of a program, and their loader, which is asked for them as ldd does. The program itself does
// not run. See ld.so(8); musl's loader has the same option.
func libraries(program string) []string {
	loader := loaderOf(program)
	if loader == "" {
		return nil
	}
	list := []string{loader}
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, loader, "--list", program).Output()
	if err != nil {
		return list
	}
	for line := range strings.Lines(string(out)) {
		// "libc.so.6 => /lib/libc.so.6 (0x…)", or the path without the name
		name := strings.TrimSpace(line)
		if i := strings.Index(name, " => "); i >= 0 {
			name = name[i+len(" => "):]
		}
		if i := strings.LastIndex(name, " (0x"); i > 0 && filepath.IsAbs(name) {
			list = append(list, name[:i])
		}
	}
	return list
}

// loaderOf returns the loader that a program names in PT_INTERP, or nothing for one that has none or is no program of 64 bits,
// little-endian. See elf(5).
func loaderOf(program string) string {
	const header, segment, interp = 64, 56, 3
	file, err := os.Open(program)
	if err != nil {
		return ""
	}
	defer file.Close()
	head := make([]byte, header)
	if _, err := file.ReadAt(head, 0); err != nil || !bytes.HasPrefix(head, []byte("\x7fELF\x02\x01")) {
		return ""
	}
	at, count := int64(binary.LittleEndian.Uint64(head[32:])), binary.LittleEndian.Uint16(head[56:])
	for ; count > 0; count, at = count-1, at+segment {
		entry := make([]byte, segment)
		if _, err := file.ReadAt(entry, at); err != nil {
			return ""
		}
		if binary.LittleEndian.Uint32(entry) != interp {
			continue
		}
		name := make([]byte, min(binary.LittleEndian.Uint64(entry[32:]), 4096))
		if _, err := file.ReadAt(name, int64(binary.LittleEndian.Uint64(entry[8:]))); err != nil {
			return ""
		}
		if loader := strings.TrimRight(string(name), "\x00"); filepath.IsAbs(loader) {
			return loader
		}
		return ""
	}
	return ""
}
