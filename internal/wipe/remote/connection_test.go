//go:build linux

package remote

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcAddr(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1": "0100007F:1F90",
		"::1":       "00000000000000000000000001000000:1F90",
	} {
		if got := procAddr(netip.AddrPortFrom(netip.MustParseAddr(addr), 8080)); got != want {
			t.Errorf("%s is %s, want %s", addr, got, want)
		}
	}
}

// connect makes a connection to an address, if wanted from a port that others have too, and returns its two ends and what /proc
// calls the client's.
func connect(t *testing.T, at string, from netip.AddrPort) (client, server netip.AddrPort, link string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}}
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(from)
	}
	c, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { link, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)) })
	if err != nil {
		t.Fatal(err)
	}
	return c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort(), link
}

// connection writes two ends as sshd does in SSH_CONNECTION.
func connection(client, server netip.AddrPort) string {
	return fmt.Sprint(client.Addr(), client.Port(), server.Addr(), server.Port())
}

func TestTheOtherEnd(t *testing.T) {
	for _, at := range []string{"127.0.0.1", "::1"} {
		client, server, link := connect(t, at, netip.AddrPort{})
		if got := otherEnd(connection(client, server)); got != link {
			t.Errorf("%s: %q, want %q", at, got, link)
		}
		closed := netip.AddrPortFrom(server.Addr(), 1)
		for _, none := range []string{"", "127.0.0.1 22", connection(client, closed), connection(closed, server), "192.0.2.1 1 192.0.2.2 22"} {
			if got := otherEnd(none); got != "" {
				t.Errorf("%q has the end %q", none, got)
			}
		}
	}
}

// TestOneAddressOfSeveralConnections has connections from one port to different ones, each with its own end.
func TestOneAddressOfSeveralConnections(t *testing.T) {
	// Of an address of its own: the port that a connection gets on another may be that of somebody else's, too.
	pid := os.Getpid()
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1 + byte(pid>>16)%254, byte(pid >> 8), byte(pid)}), 0)
	ends := make(map[string]string)
	for range 4 {
		client, server, link := connect(t, "127.0.0.1", from)
		from = client
		ends[connection(client, server)] = link
	}
	for connection, link := range ends {
		if got := otherEnd(connection); got != link {
			t.Errorf("%s: %q, want %q", connection, got, link)
		}
	}
}
