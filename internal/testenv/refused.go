package testenv

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// RefusedAddr returns an address of 127.0.0.1 that refuses connections until the test ends. Its port is bound and nobody listens
// on it: one that was only free a moment ago is soon another test's, in this process or in another.
func RefusedAddr(t testing.TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(fd)
	t.Cleanup(func() { unix.Close(fd) })
	// Without SO_REUSEADDR, or the kernel might give the port to a listener, too.
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	in := bound.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)).String()
}
