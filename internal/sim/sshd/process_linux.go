package sshd

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// processes lists the processes of this machine from /proc, see proc_pid_stat(5). One that ends meanwhile is left
// out.
func processes(mark string) ([]row, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	want := []byte("\x00" + sessionMark + "=" + mark + "\x00")
	var rows []row
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// The name, in parentheses, may hold anything; the fields after it begin with state and parent, and [19] is the start.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 20 || bytes.ContainsAny(fields[0], "ZX") {
			continue
		}
		parent, err := strconv.Atoi(string(fields[1]))
		if err != nil {
			continue
		}
		began, err := strconv.ParseInt(string(fields[19]), 10, 64)
		if err != nil {
			continue
		}
		// Other users' environments cannot be read, and are not ours.
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		environ = append([]byte{0}, environ...)
		rows = append(rows, row{
			pid: pid, parent: parent, began: began,
			stopped: bytes.ContainsAny(fields[0], "Tt"), marked: bytes.Contains(environ, want),
		})
	}
	return rows, nil
}
