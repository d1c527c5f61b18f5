//go:build linux

package remote

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
)

// looks bounds the reading of the tables of sockets: the kernel hands them out in pieces, and does not promise that what is closed
// between two of them hides no other row.
const looks = 5

// farEnd is what a descriptor of the process at the other end of our connection is called in /proc, if that end is in this
// container, or nothing. It is looked for once: a later look that missed it would have the way here ended.
var farEnd = sync.OnceValue(func() string { return otherEnd(os.Getenv("SSH_CONNECTION")) })

// otherEnd looks for the other end of a connection, which is "client port server port", see ssh(1).
func otherEnd(connection string) string {
	fields := strings.Fields(connection)
	if len(fields) != 4 {
		return ""
	}
	client, err1 := netip.ParseAddrPort(net.JoinHostPort(fields[0], fields[1]))
	server, err2 := netip.ParseAddrPort(net.JoinHostPort(fields[2], fields[3]))
	if err1 != nil || err2 != nil || !client.Addr().IsLoopback() {
		return ""
	}
	for range looks {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			data, err := os.ReadFile(table)
			if err != nil {
				continue
			}
			if inode := inodeOf(data, procAddr(client), procAddr(server)); inode != "" {
				return "socket:[" + inode + "]"
			}
		}
	}
	return ""
}

// inodeOf returns the inode of the socket with these two addresses in a table: one address alone may be that of several, with
// other ends. One that nobody holds any more has none.
func inodeOf(table []byte, local, remote string) string {
	for line := range bytes.Lines(table) {
		// slot local remote state queues timer retransmits uid timeout inode …
		row := strings.Fields(string(line))
		if len(row) > 9 && strings.HasSuffix(row[1], local) && strings.HasSuffix(row[2], remote) && row[9] != "0" {
			return row[9]
		}
	}
	return ""
}

// procAddr writes an address as /proc/net/tcp does; of an IPv6 table it is the end. See proc_pid_net(5).
func procAddr(a netip.AddrPort) string {
	bytes := a.Addr().AsSlice()
	for i := 0; i < len(bytes); i += 4 {
		slices.Reverse(bytes[i : i+4])
	}
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(bytes)), a.Port())
}
