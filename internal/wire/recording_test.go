package wire

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
)

// recording is a file of testdata: the start of a connection between two real programs, made with
// go test -run 'TestPrograms|TestLibrary' -update.
// Of each stream it keeps what an Exchange reads and a little more. The host keys were made for the recording.
type recording struct {
	Client, Server           string // identifications
	Method, HostKeyAlgorithm string
	FromClient               []byte // up to its KEXINIT
	FromServer               []byte
	AfterKexInit             []byte // from the client, up to its NEWKEYS and a little more
}

func recordings(t testing.TB) map[string]recording {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	all := make(map[string]recording)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r recording
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[filepath.Base(file)] = r
	}
	return all
}

func (r recording) save(t *testing.T, name string) {
	t.Helper()
	const more = 32
	o := run(r.FromClient, r.FromServer, whole)
	checkWant(t, o, "")
	reply, _, err := (&side{buf: o.x.Rest()}).packet()
	if err != nil {
		t.Fatal(err)
	}
	r.FromServer = r.FromServer[:min(len(r.FromServer), len(o.passed)+5+len(reply)+int(o.x.Rest()[4])+more)]
	n := checkNewKeys(t, o.x, r.AfterKexInit, whole)
	r.AfterKexInit = r.AfterKexInit[:min(len(r.AfterKexInit), n+more)]
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name+".json"), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRecordings(t *testing.T) {
	seen := make(map[string]bool)
	for name, r := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			o := run(r.FromClient, r.FromServer, whole)
			checkWant(t, o, "")
			checkReply(t, o.x, r)
			bytewise := run(r.FromClient, r.FromServer, oneByte)
			checkSame(t, o, bytewise)
			checkNewKeys(t, o.x, r.AfterKexInit, whole)
			checkStream(t, o, r.FromServer)
			checkNewKeys(t, bytewise.x, r.AfterKexInit, oneByte)
			seen[r.Method] = true
			seen[r.HostKeyAlgorithm] = true
		})
	}
	for _, name := range []string{
		"curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384",
		"ecdh-sha2-nistp521", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com", "mlkem768x25519-sha256",
		"diffie-hellman-group14-sha256", "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512",
		"diffie-hellman-group-exchange-sha256",
		"ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-256", "rsa-sha2-512",
	} {
		if !seen[name] {
			t.Errorf("no recording with %s", name)
		}
	}
}

// splitClient cuts what a client sent behind its KEXINIT.
func splitClient(t *testing.T, stream []byte) (kexInit, after []byte) {
	t.Helper()
	x := New()
	for n := range stream {
		if _, err := x.Client(stream[n : n+1]); err != nil {
			t.Fatal(err)
		}
		if x.ClientReady() {
			return stream[:n+1], stream[n+1:]
		}
	}
	t.Fatal("the client sent no KEXINIT")
	return nil, nil
}

// checkNewKeys feeds what a client sent behind its KEXINIT, and returns how much of it is not in cipher.
func checkNewKeys(t *testing.T, x *Exchange, after []byte, size func() int) (plain int) {
	t.Helper()
	for _, p := range cut(after, size) {
		done := x.ClientDone()
		n, err := x.Client(p)
		if err != nil {
			t.Fatal(err)
		}
		if done && n != 0 || n < len(p) && !x.ClientDone() {
			t.Fatalf("%d of %d bytes belong to the plaintext, done %v", n, len(p), x.ClientDone())
		}
		plain += n
	}
	if !x.ClientDone() {
		t.Fatalf("no NEWKEYS in %d bytes", len(after))
	}
	if newKeys := packets([]byte{msgNewKeys}); plain < len(newKeys) || after[plain-len(newKeys)+5] != msgNewKeys {
		t.Fatalf("the plaintext does not end with NEWKEYS: %x", after[:plain])
	}
	return plain
}

// checkReply compares the reply with what was agreed, and reads it with x/crypto.
func checkReply(t *testing.T, x *Exchange, want recording) (ssh.PublicKey, *ssh.Signature) {
	t.Helper()
	reply := x.Reply()
	if reply.Method != want.Method || reply.HostKeyAlgorithm != want.HostKeyAlgorithm {
		t.Fatalf("%q with %q, want %q with %q",
			reply.Method, reply.HostKeyAlgorithm, want.Method, want.HostKeyAlgorithm)
	}
	if version, _ := x.ServerVersion(); version != want.Server {
		t.Fatalf("server %q, want %q", version, want.Server)
	}
	key, err := ssh.ParsePublicKey(reply.HostKey)
	if err != nil {
		t.Fatal(err)
	}
	var signature ssh.Signature
	if err := ssh.Unmarshal(reply.Signature, &signature); err != nil {
		t.Fatal(err)
	}
	if signature.Format != reply.HostKeyAlgorithm || len(signature.Rest) > 0 {
		t.Fatalf("signature %+v", signature)
	}
	return key, &signature
}
