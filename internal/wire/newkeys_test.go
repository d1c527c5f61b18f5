package wire

import (
	"slices"
	"strings"
	"testing"
)

// TestNewKeys follows a client behind its KEXINIT.
func TestNewKeys(t *testing.T) {
	init, newKeys := []byte{30, 1, 2, 3}, []byte{msgNewKeys}
	for _, tt := range []struct {
		name     string
		early    bool // before the server's reply
		payloads [][]byte
		want     string // part of the error, or nothing
	}{
		{"method, NEWKEYS", false, [][]byte{init, newKeys}, ""},
		{"group exchange", false, [][]byte{{34, 0}, {32, 0}, newKeys}, ""},
		{"last method message", false, [][]byte{{49}, newKeys}, ""},
		{"transport messages", false, [][]byte{ignore(1), {msgDebug}, init, ignore(2), newKeys}, ""},
		{"NEWKEYS before the reply", true, [][]byte{newKeys}, "message 21 is not due"},
		{"NEWKEYS with more", false, [][]byte{{msgNewKeys, 0}}, "message 21 is not due"},
		{"second KEXINIT", false, [][]byte{goodTalk().clientInit}, "message 20 is not due"},
		{"below the methods", false, [][]byte{{29}}, "message 29 is not due"},
		{"above the methods", false, [][]byte{{50}}, "message 50 is not due"},
		{"after DISCONNECT", false, [][]byte{{msgDisconnect}, newKeys}, "more bytes after DISCONNECT"},
		{"too many", false, append(slices.Repeat([][]byte{init}, maxPackets), newKeys), "packets"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, size := range map[string]func() int{"whole": whole, "by the byte": oneByte} {
				c := goodTalk()
				x := New()
				if _, err := x.Client(c.client()); err != nil {
					t.Fatal(err)
				}
				if !tt.early {
					if _, err := x.Server(c.server()); err != nil || x.Reply() == nil {
						t.Fatalf("no reply: %v", err)
					}
				}
				if tt.want == "" {
					plain := packets(tt.payloads...)
					if n := checkNewKeys(t, x, append(plain, "cipher"...), size); n != len(plain) {
						t.Fatalf("%s: %d bytes of plaintext, want %d", name, n, len(plain))
					}
					if n, err := x.Client([]byte("cipher")); n != 0 || err != nil {
						t.Fatalf("%s: %d, %v behind NEWKEYS", name, n, err)
					}
					continue
				}
				var err error
				for _, p := range cut(packets(tt.payloads...), size) {
					if _, err = x.Client(p); err != nil {
						break
					}
				}
				if err == nil || !strings.Contains(err.Error(), tt.want) || x.ClientDone() {
					t.Fatalf("%s: %v, want %q", name, err, tt.want)
				}
			}
		})
	}
}
