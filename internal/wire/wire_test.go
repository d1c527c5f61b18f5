package wire

import (
	"bytes"
	"crypto/mlkem"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var big = bytes.Repeat([]byte{0x7f}, 256) // a positive mpint

// rules holds what is accepted and what is refused. want is a part of the error, "" for a reply, or "wait" when the
// Exchange has neither.
var rules = []struct {
	name   string
	change func(*talk)
	want   string
}{
	{"plain", func(c *talk) {}, ""},

	// Identification of the server.
	{"bare lf", func(c *talk) { c.serverText = "SSH-2.0-x\n" }, ""},
	{"1.99", func(c *talk) { c.serverText = "SSH-1.99-x\r\n" }, ""},
	{"comment", func(c *talk) { c.serverText = "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10\r\n" }, ""},
	{"lines before", func(c *talk) { c.serverText = "hello\r\n\nSSH\n ssh-2.0\nSSH-2.0-x\r\n" }, ""},
	{"utf-8 before", func(c *talk) { c.serverText = "grüß dich\nSSH-2.0-x\r\n" }, ""},
	{"no identification", func(c *talk) { c.serverText, c.serverInit, c.serverPost = "hello\n", nil, nil }, "wait"},
	{"1024 lines", func(c *talk) { c.serverText = strings.Repeat("\n", 1024) + "SSH-2.0-x\n" }, ""},
	{"1025 lines", func(c *talk) { c.serverText = strings.Repeat("\n", 1025) + "SSH-2.0-x\n" }, "more than 1024 lines"},
	{"line of 8192", func(c *talk) { c.serverText = strings.Repeat("a", 8191) + "\nSSH-2.0-x\n" }, ""},
	{"line of 8193", func(c *talk) { c.serverText = strings.Repeat("a", 8192) + "\nSSH-2.0-x\n" }, "more than 8192 bytes"},
	{"endless line", func(c *talk) {
		c.serverText, c.serverInit, c.serverPost = strings.Repeat("a", 8192), nil, nil
	}, "more than 8192 bytes"},
	{"64 KiB of lines", func(c *talk) {
		c.serverText = strings.Repeat(strings.Repeat("a", 8191)+"\n", 8) + "SSH-2.0-x\n"
	}, ""},
	{"more than 64 KiB of lines", func(c *talk) {
		c.serverText = strings.Repeat(strings.Repeat("a", 8191)+"\n", 8) + "\nSSH-2.0-x\n"
	}, "65536 bytes before"},
	{"nul before", func(c *talk) { c.serverText = "a\x00b\nSSH-2.0-x\n" }, "a NUL"},
	{"packet before", func(c *talk) { c.serverText = string(packets([]byte("\x02\n"))) + "\nSSH-2.0-x\n" }, "a NUL"},
	{"bare cr before", func(c *talk) { c.serverText = "a\rSSH-2.0-y\nSSH-2.0-x\n" }, "bare CR"},
	{"two cr", func(c *talk) { c.serverText = "SSH-2.0-x\r\r\n" }, "bare CR"},
	{"cr inside", func(c *talk) { c.serverText = "SSH-2.0-x\ry\r\n" }, "bare CR"},
	{"nul inside", func(c *talk) { c.serverText = "SSH-2.0-x\x00\r\n" }, "a NUL"},
	{"control character", func(c *talk) { c.serverText = "SSH-2.0-x\x1b[2J\r\n" }, `"SSH-2.0-x\x1b[2J" is not`},
	{"not ascii", func(c *talk) { c.serverText = "SSH-2.0-\xff\r\n" }, "is not one of"},
	{"1.5", func(c *talk) { c.serverText = "SSH-1.5-x\r\n" }, "is not one of"},
	{"2.1", func(c *talk) { c.serverText = "SSH-2.1-x\r\n" }, "is not one of"},
	{"only the prefix", func(c *talk) { c.serverText = "SSH-\nSSH-2.0-x\r\n" }, "is not one of"},
	{"255 bytes", func(c *talk) { c.serverText = "SSH-2.0-" + strings.Repeat("x", 245) + "\r\n" }, ""},
	{"256 bytes", func(c *talk) { c.serverText = "SSH-2.0-" + strings.Repeat("x", 246) + "\r\n" }, "is not one of"},

	// Identification of the client.
	{"client bare lf", func(c *talk) { c.clientText = "SSH-2.0-x\n" }, ""},
	{"client line before", func(c *talk) {
		c.clientText = "hello\nSSH-2.0-x\r\n"
	}, `client sent: the identification "hello"`},
	{"client 1.99", func(c *talk) { c.clientText = "SSH-1.99-x\r\n" }, "client sent: the identification"},
	{"client endless line", func(c *talk) {
		c.clientText, c.clientInit, c.clientPost = strings.Repeat("a", 8192), nil, nil
	}, "client sent: a line of more"},

	// Packets.
	{"smallest packet", func(c *talk) { c.serverText += "\x00\x00\x00\x0c\x0a\x02" + strings.Repeat("p", 10) }, ""},
	{"largest packet", func(c *talk) { c.serverPre = [][]byte{ignore(maxPacket - 4 - 1 - 8)} }, ""},
	{"too large", func(c *talk) { c.serverPre = [][]byte{ignore(maxPacket - 4)} }, "a packet length of 35004"},
	{"256 MiB", func(c *talk) { c.serverText += "\x10\x00\x00\x04" }, "a packet length of 268435460"},
	{"largest length", func(c *talk) { c.serverText += "\xff\xff\xff\xfc" }, "a packet length of 4294967292"},
	{"length 0", func(c *talk) { c.serverText += "\x00\x00\x00\x00" }, "a packet length of 0"},
	{"length 4", func(c *talk) { c.serverText += "\x00\x00\x00\x04\x04\x00\x00\x00" }, "a packet length of 4"},
	{"not a multiple of 8", func(c *talk) { c.serverText += "\x00\x00\x00\x10" }, "a packet length of 16"},
	{"text", func(c *talk) { c.serverText += "Invalid SSH identification string.\r\n" }, "a packet length of"},
	{"padding 3", func(c *talk) {
		c.serverText += "\x00\x00\x00\x0c\x03\x02" + strings.Repeat("p", 10)
	}, "a padding of 3"},
	{"no payload", func(c *talk) { c.serverText += "\x00\x00\x00\x0c\x0b" + strings.Repeat("p", 11) }, "a padding of 11"},
	{"padding too long", func(c *talk) {
		c.serverText += "\x00\x00\x00\x0c\xff" + strings.Repeat("p", 11)
	}, "a padding of 255"},
	{"incomplete", func(c *talk) { c.serverPost, c.raw = nil, packets(replyPayload())[:80] }, "wait"},
	{"64 packets", func(c *talk) { c.serverPre = slices.Repeat([][]byte{{msgIgnore}}, 62) }, ""},
	{"65 packets", func(c *talk) { c.serverPre = slices.Repeat([][]byte{{msgIgnore}}, 63) }, "more than 64 packets"},
	{"client 65 packets", func(c *talk) {
		c.clientPre = slices.Repeat([][]byte{{msgIgnore}}, 64)
	}, "client sent: more than 64 packets"},
	{"client padding", func(c *talk) {
		c.clientText += "\x00\x00\x00\x0c\x03\x02" + strings.Repeat("p", 10)
	}, "client sent: a padding of 3"},

	// KEXINIT.
	{"no kexinit", func(c *talk) { c.serverInit = nil }, "message 31 is not due"},
	{"second kexinit", func(c *talk) {
		c.serverPost = slices.Insert(c.serverPost, 0, c.serverInit)
	}, "message 20 is not due"},
	{"short cookie", func(c *talk) { c.serverInit = c.serverInit[:10] }, "malformed KEXINIT"},
	{"cut", func(c *talk) { c.serverInit = c.serverInit[:len(c.serverInit)-1] }, "malformed KEXINIT"},
	{"trailing byte", func(c *talk) { c.serverInit = append(c.serverInit, 0) }, "malformed KEXINIT"},
	{"reserved", func(c *talk) { c.serverInit[len(c.serverInit)-1] = 1 }, "reserved bits"},
	{"boolean 2", func(c *talk) { c.serverInit[len(c.serverInit)-5] = 2 }, "reserved bits"},
	{"list longer than the packet", func(c *talk) { c.serverInit[17] = 0xff }, "malformed KEXINIT"},
	{"empty name", func(c *talk) {
		c.serverInit = initPayload("x,,curve25519-sha256", "ssh-ed25519", 0)
	}, "malformed KEXINIT"},
	{"trailing comma", func(c *talk) {
		c.serverInit = initPayload("curve25519-sha256,", "ssh-ed25519", 0)
	}, "malformed KEXINIT"},
	{"space in a name", func(c *talk) {
		c.serverInit = initPayload("x y,curve25519-sha256", "ssh-ed25519", 0)
	}, "malformed KEXINIT"},
	{"nul in a name", func(c *talk) {
		c.serverInit = initPayload("x\x00y,curve25519-sha256", "ssh-ed25519", 0)
	}, "malformed KEXINIT"},
	{"name not ascii", func(c *talk) {
		c.serverInit = initPayload("curve25519-sha256", "ssh-ed25519,\xc3\xbc", 0)
	}, "malformed KEXINIT"},
	{"name of 64", func(c *talk) {
		c.serverInit = initPayload(strings.Repeat("x", 64)+",curve25519-sha256", "ssh-ed25519", 0)
	}, ""},
	{"name of 65", func(c *talk) {
		c.serverInit = initPayload(strings.Repeat("x", 65)+",curve25519-sha256", "ssh-ed25519", 0)
	}, "malformed KEXINIT"},
	{"40 methods", func(c *talk) {
		c.serverInit = initPayload(strings.Repeat("x,", 39)+"curve25519-sha256", "ssh-ed25519", 0)
	}, ""},
	{"41 methods", func(c *talk) {
		c.serverInit = initPayload(strings.Repeat("x,", 40)+"curve25519-sha256", "ssh-ed25519", 0)
	}, "a list of 41 algorithms"},
	{"41 host key algorithms", func(c *talk) {
		c.serverInit = initPayload("curve25519-sha256", strings.Repeat("x,", 40)+"ssh-ed25519", 0)
	}, "a list of 41 algorithms"},
	{"client lists 60 methods", func(c *talk) {
		c.clientInit = initPayload(strings.Repeat("x,", 59)+"curve25519-sha256", "ssh-ed25519", 0)
	}, ""},
	{"client kexinit cut", func(c *talk) {
		c.clientInit = c.clientInit[:len(c.clientInit)-1]
	}, "client sent: a malformed KEXINIT"},
	{"client out of order", func(c *talk) { c.clientInit = []byte{30} }, "client sent: message 30 is not due"},
	{"client guesses", func(c *talk) { c.clientInit = initPayload("curve25519-sha256", "ssh-ed25519", 1) }, ""},
	{"server guesses right", func(c *talk) {
		c.serverInit = initPayload("curve25519-sha256", "ssh-ed25519", 1)
	}, "first_kex_packet_follows"},
	{"server guesses wrong", func(c *talk) {
		c.serverInit = initPayload("x,curve25519-sha256", "ssh-ed25519", 1)
		c.serverPost = slices.Insert(c.serverPost, 0, replyPayload())
	}, "first_kex_packet_follows"},

	// Negotiation.
	{"client decides", func(c *talk) {
		c.clientInit = initPayload("x,curve25519-sha256,ecdh-sha2-nistp256", "y,ssh-ed25519,rsa-sha2-256", 0)
		c.serverInit = initPayload("ecdh-sha2-nistp256,curve25519-sha256", "rsa-sha2-256,ssh-ed25519", 0)
	}, ""},
	{"pseudo names do not count", func(c *talk) {
		names := "ext-info-c,ext-info-s,kex-strict-c-v00@openssh.com,kex-strict-s-v00@openssh.com,curve25519-sha256"
		c.agree(names, "ssh-ed25519")
	}, ""},
	{"only pseudo names", func(c *talk) {
		c.agree("ext-info-c,kex-strict-s-v00@openssh.com", "ssh-ed25519")
	}, "no key exchange method in common"},
	{"no common method", func(c *talk) {
		c.serverInit = initPayload("ecdh-sha2-nistp256", "ssh-ed25519", 0)
	}, `no key exchange method in common: the server has "ecdh-sha2-nistp256", the client "curve25519-sha256"`},
	{"no common host key algorithm", func(c *talk) {
		c.serverInit = initPayload("curve25519-sha256", "rsa-sha2-512", 0)
	}, `no host key algorithm in common: the server has "rsa-sha2-512"`},
	{"empty lists", func(c *talk) { c.agree("", "") }, "no key exchange method in common"},
	{"sha-1", func(c *talk) {
		c.agree("diffie-hellman-group14-sha1,curve25519-sha256", "ssh-ed25519")
	}, `"diffie-hellman-group14-sha1": the session id would be a SHA-1 hash`},
	{"sha-1 group exchange", func(c *talk) {
		c.agree("diffie-hellman-group-exchange-sha1", "ssh-ed25519")
	}, "SHA-1"},
	{"sha-1 gss", func(c *talk) { c.agree("gss-gex-sha1-toWM5Slw5Ew8Mqkay+al2g==", "ssh-ed25519") }, "SHA-1"},
	{"unknown method", func(c *talk) { c.agree("hula%s-hoop", "ssh-ed25519") }, `"hula%s-hoop": it is not known here`},
	{"ssh-rsa", func(c *talk) { c.agree("curve25519-sha256", "ssh-rsa,ssh-ed25519") }, `"ssh-rsa": it signs a SHA-1 hash`},
	{"certificate", func(c *talk) {
		c.agree("curve25519-sha256", "ssh-ed25519-cert-v01@openssh.com,ssh-ed25519")
	}, "pinned, not certified"},
	{"unknown host key algorithm", func(c *talk) {
		c.agree("curve25519-sha256", "ssh-mldsa-44")
	}, `"ssh-mldsa-44": it is not known here`},

	// What may come before the reply.
	{"ignored before kexinit", func(c *talk) { c.serverPre = [][]byte{{msgIgnore}, {msgDebug}, {msgUnimplemented}} }, ""},
	{"ignored before the reply", func(c *talk) {
		c.serverPost = slices.Insert(c.serverPost, 0, []byte{msgIgnore}, []byte{msgDebug}, []byte{msgUnimplemented})
	}, ""},
	{"strict", func(c *talk) { c.strict() }, ""},
	{"strict ignore before kexinit", func(c *talk) {
		c.strict()
		c.serverPre = [][]byte{{msgIgnore}}
	}, "server sent: KEXINIT is not the first packet"},
	{"strict client ignore before kexinit", func(c *talk) {
		c.strict()
		c.clientPre = [][]byte{{msgIgnore}}
	}, "client sent: KEXINIT is not the first packet"},
	{"strict ignore", func(c *talk) {
		c.strict()
		c.serverPost = slices.Insert(c.serverPost, 0, []byte{msgIgnore})
	}, "message 2 in a strict key exchange"},
	{"only the server asks for strict", func(c *talk) {
		c.strict()
		c.clientInit = initPayload("curve25519-sha256", "ssh-ed25519", 0)
		c.serverPost = slices.Insert(c.serverPost, 0, []byte{msgIgnore})
	}, ""},
	{"only the client asks for strict", func(c *talk) {
		c.strict()
		c.serverInit = initPayload("curve25519-sha256", "ssh-ed25519", 0)
		c.serverPost = slices.Insert(c.serverPost, 0, []byte{msgIgnore})
	}, ""},
	{"ext-info", func(c *talk) { c.serverPost = slices.Insert(c.serverPost, 0, []byte{7}) }, "message 7 is not due"},
	{"ping", func(c *talk) { c.serverPost = slices.Insert(c.serverPost, 0, []byte{192}) }, "message 192 is not due"},
	{"newkeys", func(c *talk) { c.serverPost = [][]byte{{21}} }, "message 21 is not due"},
	{"33 for 31", func(c *talk) {
		c.serverPost[0][0] = msgGexReply
	}, "message 33 is not due"},
	{"disconnect", func(c *talk) { c.serverPost = [][]byte{{msgDisconnect}} }, "wait"},
	{"disconnect strict", func(c *talk) {
		c.strict()
		c.serverPost = [][]byte{{msgDisconnect}}
	}, "wait"},
	{"disconnect before kexinit", func(c *talk) {
		c.serverPre, c.serverInit, c.serverPost = [][]byte{{msgDisconnect}}, nil, nil
	}, "wait"},
	{"reply after disconnect", func(c *talk) {
		c.serverPost = [][]byte{{msgDisconnect}, replyPayload()}
	}, "more bytes after DISCONNECT"},
	{"client after disconnect", func(c *talk) {
		c.clientPre = [][]byte{{msgDisconnect}}
	}, "client sent: more bytes after DISCONNECT"},

	// The reply.
	{"no host key", func(c *talk) { c.replace(nil, make([]byte, 32), sigBlob("ssh-ed25519")) }, "malformed KEX reply"},
	{"host key without key", func(c *talk) {
		c.replace(str("ssh-ed25519"), make([]byte, 32), sigBlob("ssh-ed25519"))
	}, "malformed KEX reply"},
	{"host key without type", func(c *talk) {
		c.replace([]byte{0, 0, 0}, make([]byte, 32), sigBlob("ssh-ed25519"))
	}, "malformed KEX reply"},
	{"no signature", func(c *talk) { c.replace(keyBlob("ssh-ed25519"), make([]byte, 32), nil) }, "malformed KEX reply"},
	{"empty signature", func(c *talk) {
		c.replace(keyBlob("ssh-ed25519"), make([]byte, 32), append(str("ssh-ed25519"), str("")...))
	}, "malformed KEX reply"},
	{"trailing byte in the signature", func(c *talk) {
		c.replace(keyBlob("ssh-ed25519"), make([]byte, 32), append(sigBlob("ssh-ed25519"), 0))
	}, "malformed KEX reply"},
	{"trailing byte in the reply", func(c *talk) { c.serverPost[0] = append(c.serverPost[0], 0) }, "malformed KEX reply"},
	{"reply cut", func(c *talk) { c.serverPost[0] = c.serverPost[0][:60] }, "malformed KEX reply"},
	{"only a number", func(c *talk) { c.serverPost[0] = []byte{msgKexReply} }, "malformed KEX reply"},
	{"public value of 31 bytes", func(c *talk) {
		c.replace(keyBlob("ssh-ed25519"), make([]byte, 31), sigBlob("ssh-ed25519"))
	}, "malformed KEX reply"},
	{"large host key", func(c *talk) {
		c.replace(append(keyBlob("ssh-ed25519"), make([]byte, maxBlob)...), make([]byte, 32), sigBlob("ssh-ed25519"))
	}, "malformed KEX reply"},
	{"large signature", func(c *talk) {
		sig := append(str("ssh-ed25519"), str(make([]byte, maxBlob))...)
		c.replace(keyBlob("ssh-ed25519"), make([]byte, 32), sig)
	}, "malformed KEX reply"},
	{"wrong key type", func(c *talk) {
		c.replace(keyBlob("ssh-rsa"), make([]byte, 32), sigBlob("ssh-ed25519"))
	}, `a host key of type "ssh-rsa" where "ssh-ed25519"`},
	{"certificate for a key", func(c *talk) {
		c.replace(keyBlob("ssh-ed25519-cert-v01@openssh.com"), make([]byte, 32), sigBlob("ssh-ed25519"))
	}, "a host key of type"},
	{"wrong signature format", func(c *talk) {
		c.replace(keyBlob("ssh-ed25519"), make([]byte, 32), sigBlob("ssh\ned25519"))
	}, `a signature of format "ssh\ned25519" where "ssh-ed25519"`},
	{"rsa", func(c *talk) {
		c.agree("curve25519-sha256", "rsa-sha2-256")
		c.replace(keyBlob("ssh-rsa"), make([]byte, 32), sigBlob("rsa-sha2-256"))
	}, ""},
	{"rsa with the wrong hash", func(c *talk) {
		c.agree("curve25519-sha256", "rsa-sha2-512")
		c.replace(keyBlob("ssh-rsa"), make([]byte, 32), sigBlob("rsa-sha2-256"))
	}, "a signature of format"},
	{"rsa named after its algorithm", func(c *talk) {
		c.agree("curve25519-sha256", "rsa-sha2-256")
		c.replace(keyBlob("rsa-sha2-256"), make([]byte, 32), sigBlob("rsa-sha2-256"))
	}, "a host key of type"},

	// mpints.
	{"dh", func(c *talk) { c.dh(big) }, ""},
	{"dh with a zero before the highest bit", func(c *talk) {
		c.dh(append([]byte{0, 0x80}, make([]byte, 255)...))
	}, ""},
	{"dh too long", func(c *talk) { c.dh(append([]byte{0, 0x80}, make([]byte, 256)...)) }, "malformed KEX reply"},
	{"dh negative", func(c *talk) { c.dh([]byte{0x80}) }, "malformed KEX reply"},
	{"dh zero", func(c *talk) { c.dh(nil) }, "malformed KEX reply"},
	{"dh one zero byte", func(c *talk) { c.dh([]byte{0}) }, "malformed KEX reply"},
	{"dh longer than needed", func(c *talk) { c.dh([]byte{0, 0x7f}) }, "malformed KEX reply"},

	// Group exchange.
	{"gex", func(c *talk) { c.gex(groupPayload(big, []byte{2})) }, ""},
	{"gex with ignore", func(c *talk) { c.gex([]byte{msgIgnore}, groupPayload(big, []byte{2}), []byte{msgIgnore}) }, ""},
	{"gex without group", func(c *talk) { c.gex() }, "message 33 is not due"},
	{"gex two groups", func(c *talk) {
		c.gex(groupPayload(big, []byte{2}), groupPayload(big, []byte{2}))
	}, "message 31 is not due"},
	{"gex group cut", func(c *talk) { c.gex([]byte{msgGexGroup, 0, 0}) }, "malformed group"},
	{"gex group with trailing byte", func(c *talk) { c.gex(append(groupPayload(big, []byte{2}), 0)) }, "malformed group"},
	{"gex group too large", func(c *talk) {
		c.gex(groupPayload(append([]byte{0x7f}, make([]byte, 1025)...), []byte{2}))
	}, "malformed group"},
	{"gex reply as group", func(c *talk) { c.gex(replyPayload()) }, "malformed group"},
	{"gex host key as modulus", func(c *talk) {
		c.gex(groupPayload(keyBlob("ssh-ed25519"), []byte{2}))
	}, "malformed group"},
}

func ignore(n int) []byte { return append([]byte{msgIgnore}, make([]byte, n-1)...) }

// replace puts another reply in the place of the good one.
func (c *talk) replace(key, public, sig []byte) {
	c.serverPost[0] = anyReply(msgKexReply, key, public, sig)
}

func (c *talk) dh(f []byte) {
	c.agree("diffie-hellman-group14-sha256", "ssh-ed25519")
	c.replace(keyBlob("ssh-ed25519"), f, sigBlob("ssh-ed25519"))
}

// gex makes it a group exchange with these messages before the reply.
func (c *talk) gex(before ...[]byte) {
	c.agree("diffie-hellman-group-exchange-sha256", "ssh-ed25519")
	reply := anyReply(msgGexReply, keyBlob("ssh-ed25519"), big, sigBlob("ssh-ed25519"))
	c.serverPost = append(before, reply, []byte{21})
}

func TestRules(t *testing.T) {
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			c := goodTalk()
			rule.change(c)
			client, server := c.client(), c.server()
			o := run(client, server, whole)
			checkWant(t, o, rule.want)
			checkStream(t, o, server)

			bytewise := run(client, server, oneByte)
			checkWant(t, bytewise, rule.want)
			checkStream(t, bytewise, server)
			checkSame(t, o, bytewise)
			for seed := range uint64(8) {
				m := mixed(client, server, rand.New(rand.NewPCG(seed, 0)))
				checkWant(t, m, rule.want)
				checkStream(t, m, server)
			}
		})
	}
}

func checkWant(t *testing.T, o outcome, want string) {
	t.Helper()
	switch want {
	case "", "wait":
		if o.err != nil {
			t.Fatalf("refused: %v", o.err)
		}
		if got := o.x.Reply() != nil; got != (want == "") {
			t.Fatalf("a reply: %v", got)
		}
	default:
		if o.err == nil || !strings.Contains(o.err.Error(), want) {
			t.Fatalf("error %v, want one with %q", o.err, want)
		}
	}
}

// checkSame compares the outcomes of one conversation in two cuts.
func checkSame(t *testing.T, a, b outcome) {
	t.Helper()
	if fmt.Sprint(a.err) != fmt.Sprint(b.err) || !reflect.DeepEqual(a.x.Reply(), b.x.Reply()) {
		t.Fatalf("the cut decides: %v, %v; %v, %v", a.err, a.x.Reply(), b.err, b.x.Reply())
	}
	if a.err == nil && !bytes.Equal(a.passed, b.passed) {
		t.Fatalf("passed %d and %d bytes", len(a.passed), len(b.passed))
	}
}

// checkStream checks what no input may break: nothing is added, altered or left out, no reply was passed, little is
// held, and a failed Exchange stays failed.
func checkStream(t *testing.T, o outcome, server []byte) {
	t.Helper()
	rest := o.x.Rest()
	if !bytes.HasPrefix(server, slices.Concat(o.passed, rest)) {
		t.Fatalf("passed and rest are no prefix of what the server sent:\n%q\n%q", o.passed, rest)
	}
	checkNoReply(t, o.passed)
	if held := o.x.client.held(); o.err == nil && held > maxPacket || held > 0 && o.x.ClientDone() {
		t.Fatalf("holds %d bytes of the client", held)
	}
	reply := o.x.Reply()
	if reply == nil {
		if rest != nil {
			t.Fatal("a rest without a reply")
		}
		if held := o.x.server.held(); o.err == nil && held > maxHeld {
			t.Fatalf("holds %d bytes of the server", held)
		}
	} else {
		if len(o.passed)+len(rest) != o.fed {
			t.Fatalf("%d bytes passed and %d held of %d", len(o.passed), len(rest), o.fed)
		}
		if !bytes.HasPrefix(rest[6:], str(reply.HostKey)) || !bytes.Contains(rest, str(reply.Signature)) {
			t.Fatal("the rest does not begin with the reply")
		}
		if pass, err := o.x.Server([]byte("more")); pass != nil || !errors.Is(err, errOver) {
			t.Fatalf("after the reply: %q, %v", pass, err)
		}
		if o.x.client.held() == 0 && !o.x.ClientDone() && o.x.client.packets < maxPackets {
			newKeys := packets([]byte{msgNewKeys})
			if n, err := o.x.Client(append(newKeys, "cipher"...)); err != nil && !o.x.client.gone || err == nil && n != len(newKeys) {
				t.Fatalf("client after the reply: %d, %v", n, err)
			}
		}
	}
	if o.err != nil {
		if reply != nil {
			t.Fatal("a reply after an error")
		}
		if _, err := o.x.Client([]byte("more")); err != o.err {
			t.Fatalf("client after an error: %v", err)
		}
		if pass, err := o.x.Server([]byte("more")); pass != nil || err != o.err {
			t.Fatalf("server after an error: %q, %v", pass, err)
		}
	}
}

// checkNoReply walks through what was passed on its own, and looks for a packet that a client could take for a reply.
func checkNoReply(t *testing.T, passed []byte) {
	t.Helper()
	for ident := false; !ident; {
		line, after, found := bytes.Cut(passed, []byte("\n"))
		if !found {
			return
		}
		ident = bytes.HasPrefix(line, []byte("SSH-"))
		passed = after
	}
	low := func(b []byte) int { return int(b[2])<<8 + int(b[3]) } // of lengths that are below 2^16
	for len(passed) > 5 {
		n, padding := 4+low(passed), int(passed[4])
		switch passed[5] {
		case msgGexReply:
			t.Fatal("passed a reply of a group exchange")
		case msgGexGroup:
			p := low(passed[6:])
			g := low(passed[10+p:])
			if 14+p+g+padding != n || passed[10] == 0 && passed[11] == 0 {
				t.Fatal("passed a message 31 that is not two strings, or begins with a host key")
			}
		}
		passed = passed[n:]
	}
	if len(passed) > 0 {
		t.Fatal("passed a part of a packet")
	}
}

// TestMethods gives every method a reply of its form, and one of another form.
func TestMethods(t *testing.T) {
	for name, m := range methods {
		public := make([]byte, m.size)
		if m.mpint {
			public[0], public[1] = 0, 0x80
		}
		for _, wrong := range []bool{false, true} {
			c := goodTalk()
			c.agree(name, "ecdsa-sha2-nistp384")
			if wrong {
				public = append(public, 1)
			}
			reply := anyReply(m.reply(), keyBlob("ecdsa-sha2-nistp384"), public, sigBlob("ecdsa-sha2-nistp384"))
			c.serverPost = [][]byte{reply}
			if m.gex {
				c.serverPost = [][]byte{groupPayload(big, []byte{2}), reply}
			}
			want := ""
			if wrong {
				want = "malformed KEX reply"
			}
			o := run(c.client(), c.server(), whole)
			checkWant(t, o, want)
			if r := o.x.Reply(); r != nil && (r.Method != name || r.HostKeyAlgorithm != "ecdsa-sha2-nistp384") {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
}

// TestCiphertextSizes compares with the library those sizes that no program here brings in.
func TestCiphertextSizes(t *testing.T) {
	if mlkem768 != mlkem.CiphertextSize768 || mlkem1024 != mlkem.CiphertextSize1024 {
		t.Errorf("%d and %d", mlkem768, mlkem1024)
	}
}

// TestOrder checks what is passed when.
func TestOrder(t *testing.T) {
	c := goodTalk()
	c.serverText = "hello\n" + c.serverText
	x := New()
	server := func(p []byte, want []byte) {
		t.Helper()
		pass, err := x.Server(p)
		if err != nil || !bytes.Equal(pass, want) {
			t.Fatalf("passed %q, %v; want %q", pass, err, want)
		}
	}
	client := func(p []byte, ready bool) {
		t.Helper()
		if n, err := x.Client(p); n != len(p) || err != nil || x.ClientReady() != ready {
			t.Fatalf("%d, %v, ready %v", n, err, x.ClientReady())
		}
	}

	server(nil, nil)
	server([]byte("hel"), nil)
	server([]byte("lo\nSSH-2.0-ser"), []byte("hello\n"))
	if v, ok := x.ServerVersion(); ok {
		t.Fatalf("version %q", v)
	}
	server([]byte("ver\r\n"), []byte("SSH-2.0-server\r\n"))
	if v, ok := x.ServerVersion(); !ok || v != "SSH-2.0-server" {
		t.Fatalf("version %q", v)
	}

	init, ign, reply := packets(c.serverInit), packets(ignore(1)), packets(c.serverPost...)
	server(init[:9], nil)
	server(slices.Concat(init[9:], ign), init) // behind KEXINIT all is held
	server(reply, nil)
	if x.Reply() != nil || x.Rest() != nil {
		t.Fatal("a reply before the client was heard")
	}
	hello := c.client()
	client(hello[:20], false)
	server(nil, nil)
	client(hello[20:], true)
	server(nil, ign)
	if !bytes.Equal(x.Rest(), reply) {
		t.Fatalf("rest %q, want %q", x.Rest(), reply)
	}
	clear(x.Rest()) // the reply is no part of it
	want := &Reply{"curve25519-sha256", "ssh-ed25519", keyBlob("ssh-ed25519"), sigBlob("ssh-ed25519")}
	if !reflect.DeepEqual(x.Reply(), want) {
		t.Fatalf("reply %+v", x.Reply())
	}
}

// TestDisagreementFoundByClient has the server's KEXINIT arrive first: then the client's call reports the refusal.
func TestDisagreementFoundByClient(t *testing.T) {
	c := goodTalk()
	c.agree("diffie-hellman-group1-sha1", "ssh-ed25519")
	x := New()
	if _, err := x.Server(c.server()); err != nil {
		t.Fatal(err)
	}
	_, err := x.Client(c.client())
	if unsupported, ok := errors.AsType[*UnsupportedError](err); !ok || unsupported.What != KeyExchange {
		t.Fatalf("%v", err)
	}
	if pass, again := x.Server(nil); pass != nil || again != err {
		t.Fatalf("%q, %v", pass, again)
	}
}

func TestErrorTypes(t *testing.T) {
	refusal := func(change func(*talk)) error {
		c := goodTalk()
		change(c)
		return run(c.client(), c.server(), whole).err
	}
	protocol, ok := errors.AsType[*ProtocolError](refusal(func(c *talk) { c.serverText += "\xff\xff\xff\xff" }))
	if !ok || protocol.Sender != FromServer {
		t.Errorf("%#v", protocol)
	}
	protocol, ok = errors.AsType[*ProtocolError](refusal(func(c *talk) { c.clientText = "GET / HTTP/1.1\r\n" }))
	if !ok || protocol.Sender != FromClient {
		t.Errorf("%#v", protocol)
	}
	none, ok := errors.AsType[*NoCommonError](refusal(func(c *talk) {
		c.serverInit = initPayload("a,b", "ssh-ed25519", 0)
	}))
	if !ok || none.What != KeyExchange || !slices.Equal(none.Server, []string{"a", "b"}) {
		t.Errorf("%#v", none)
	}
	for _, name := range []string{"ssh-rsa", "ssh-ed25519-cert-v01@openssh.com", "x"} {
		unsupported, ok := errors.AsType[*UnsupportedError](refusal(func(c *talk) { c.agree("curve25519-sha256", name) }))
		if !ok || unsupported.What != HostKey || unsupported.Name != name || unsupported.Hint() == "" {
			t.Errorf("%#v", unsupported)
		}
	}
}

// TestMemory has a server that sends without end while the client says nothing, or says its line and no more.
func TestMemory(t *testing.T) {
	const chunk = 4096
	flood := slices.Repeat([]byte{'a'}, 1<<20)
	for name, start := range map[string][]byte{
		"held":   goodTalk().server(),
		"packet": slices.Concat([]byte("SSH-2.0-x\n"), []byte{0, 0, 0x88, 0xb4, 4}),
		"line":   {},
		"lines":  slices.Repeat([]byte("a\n"), 512),
	} {
		t.Run(name, func(t *testing.T) {
			x := New()
			if _, err := x.Client([]byte("SSH-2.0-client\r\n")); err != nil {
				t.Fatal(err)
			}
			var err error
			for _, p := range cut(append(start, flood...), func() int { return chunk }) {
				if _, err = x.Server(p); err != nil {
					break
				}
				if x.server.held() > maxHeld || cap(x.server.buf) > 2*(maxHeld+chunk) {
					t.Fatalf("holds %d bytes in %d", x.server.held(), cap(x.server.buf))
				}
			}
			if err == nil {
				t.Fatal("a megabyte was accepted")
			}
		})
	}

	x := New()
	if _, err := x.Client([]byte("SSH-2.0-client\r\n\x00\x00\x88\xb4\x04")); err != nil {
		t.Fatal(err)
	}
	for err := error(nil); err == nil; _, err = x.Client(flood[:chunk]) {
		if len(x.client.buf) > maxPacket {
			t.Fatalf("holds %d bytes of the client", len(x.client.buf))
		}
	}
}
