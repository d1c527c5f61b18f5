package agent

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/ipc"
)

// recordedConn is what a client sent on one connection, in order.
type recordedConn struct {
	number int
	frames [][]byte // with their length
}

func readRecording(t *testing.T, name string) []recordedConn {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "recorded", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var conns []recordedConn
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Conn  int
			Dir   string
			Frame string
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		switch line.Dir {
		case "open":
			conns = append(conns, recordedConn{number: line.Conn})
		case "client->agent":
			b, err := hex.DecodeString(line.Frame)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(conns, func(c recordedConn) bool { return c.number == line.Conn })
			if i < 0 {
				t.Fatalf("%s: connection %d was not opened", name, line.Conn)
			}
			conns[i].frames = append(conns[i].frames, b)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return conns
}

// recordedBind is a session-bind as the client sent it: its host key and signature are those of the KEX reply, and so
// exactly what the proxy would have seen.
type recordedBind struct {
	HostKey, SessionID, Signature []byte
	Forwarding                    byte
}

func parseRecordedBind(t *testing.T, msg []byte) recordedBind {
	t.Helper()
	var m struct {
		Name                          string `sshtype:"27"`
		HostKey, SessionID, Signature []byte
		Forwarding                    byte
	}
	if err := ssh.Unmarshal(msg, &m); err != nil {
		t.Fatal(err)
	}
	return recordedBind{m.HostKey, m.SessionID, m.Signature, m.Forwarding}
}

// replay is an agent that serves the key of a recording and has the host keys in it pinned. Its signer makes no
// signature that anybody would take, and counts.
func replay(t *testing.T, conns []recordedConn) (*env, []recordedBind) {
	t.Helper()
	e := newEnv(t)
	e.pins.pins = nil
	var binds []recordedBind
	for _, c := range conns {
		for _, f := range c.frames {
			switch msg := f[4:]; msg[0] {
			case msgExtension:
				b := parseRecordedBind(t, msg)
				binds = append(binds, b)
				key, err := ssh.ParsePublicKey(b.HostKey)
				if err != nil {
					t.Fatal(err)
				}
				// Of a certificate the key inside is pinned too: it must be of no help.
				if cert, ok := key.(*ssh.Certificate); ok {
					e.pins.add(instance, cert.Key)
				}
				e.pins.add(instance, key)
			case msgSignRequest:
				var req struct {
					Key   []byte `sshtype:"13"`
					Data  []byte
					Flags uint32
				}
				if err := ssh.Unmarshal(msg, &req); err != nil {
					t.Fatal(err)
				}
				key, err := ssh.ParsePublicKey(req.Key)
				if err != nil {
					t.Fatal(err)
				}
				e.keys.key = recordedKey{key}
			}
		}
	}
	e.keys.sign = func([]byte) (*ssh.Signature, error) {
		return &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: make([]byte, 64)}, nil
	}
	return e, binds
}

// recordedKey is a public key whose private key nobody has any more.
type recordedKey struct{ key ssh.PublicKey }

func (k recordedKey) PublicKey() ssh.PublicKey { return k.key }

func (k recordedKey) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	panic("there is no private key")
}

// verdicts sends the frames of c and describes the answer to each in a word, with the reason where one was recorded.
func verdicts(e *env, c recordedConn) []string {
	e.Helper()
	var got []string
	conn := e.connect()
	defer func() { conn.Close(); <-conn.done }()
	for _, f := range c.frames {
		_, before := e.agent.refusals.last()
		answer := conn.ask(f[4:])
		word := map[byte]string{msgExtension: "bind", msgSignRequest: "sign", msgRequestIdentities: "list"}[f[4]]
		switch answer[0] {
		case msgSuccess, msgSignResponse:
		case msgIdentitiesAnswer:
			word += fmt.Sprintf(" %d", answer[4])
			if answer[4] == 1 && !bytes.Contains(answer, e.keyBlob()) {
				e.Errorf("another key was listed: %x", answer)
			}
		case msgFailure, msgExtensionFailure:
			word += fmt.Sprintf("!%d", answer[0])
		default:
			e.Errorf("answer %x", answer)
		}
		if _, after := e.agent.refusals.last(); after != before {
			word += " " + e.lastRefusal().Reason
		}
		got = append(got, word)
	}
	return got
}

// The verdicts that repeat below.
var (
	loginWitnessed   = []string{"bind", "list 1", "sign"}
	loginUnwitnessed = []string{"bind", "list 1", "sign!5 no-witness"}
	forwardedProbe   = []string{"bind!28 forwarded", "list 0"}
	forwardedLogin   = []string{"bind!28 forwarded", "bind!28 poisoned", "list 0", "sign!5 poisoned"}
	certificateLogin = []string{"bind!28 bad-binding", "list 0", "sign!5 poisoned"}
	fileSignature    = []string{"list 1", "sign!5 not-userauth"}
	onlyList         = []string{"list 1"}
)

// recorded are the recordings with the verdicts on each connection, with every session of the recording witnessed, also
// those that the real proxy would never see, and with none.
var recorded = []struct {
	file                   string
	witnessed, unwitnessed map[int][]string
}{
	{
		"openssh-9.2p1",
		map[int][]string{
			1: loginWitnessed, 2: loginWitnessed, 3: loginWitnessed, 4: loginWitnessed, 5: nil,
			6: forwardedProbe, 7: forwardedLogin, 8: fileSignature, 9: onlyList, 10: loginWitnessed,
		},
		map[int][]string{
			1: loginUnwitnessed, 2: loginUnwitnessed, 3: loginUnwitnessed, 4: loginUnwitnessed, 5: nil,
			6: forwardedProbe, 7: forwardedLogin, 8: fileSignature, 9: onlyList, 10: loginUnwitnessed,
		},
	},
	{
		"openssh-10.5p1-client",
		map[int][]string{
			1: loginWitnessed, 2: loginWitnessed, 3: loginWitnessed, 4: loginWitnessed, 5: nil,
			6: forwardedProbe, 7: forwardedLogin, 8: fileSignature, 9: onlyList, 10: loginWitnessed,
		},
		map[int][]string{
			1: loginUnwitnessed, 2: loginUnwitnessed, 3: loginUnwitnessed, 4: loginUnwitnessed, 5: nil,
			6: forwardedProbe, 7: forwardedLogin, 8: fileSignature, 9: onlyList, 10: loginUnwitnessed,
		},
	},
	{
		"openssh-9.2p1-hostkeytypes",
		map[int][]string{
			1: loginWitnessed, 2: loginWitnessed, 3: loginWitnessed, 4: certificateLogin, 5: loginWitnessed, 6: loginWitnessed,
		},
		map[int][]string{
			1: loginUnwitnessed, 2: loginUnwitnessed, 3: loginUnwitnessed, 4: certificateLogin, 5: loginUnwitnessed,
			6: loginUnwitnessed,
		},
	},
	{
		"agentforward-blocked",
		map[int][]string{
			1: {"bind", "list 1"}, 2: nil, 3: forwardedProbe, 4: {"bind!28 forwarded", "bind!28 poisoned", "list 0"},
		},
		map[int][]string{
			1: {"bind", "list 1"}, 2: nil, 3: forwardedProbe, 4: {"bind!28 forwarded", "bind!28 poisoned", "list 0"},
		},
	},
	{
		// To the agent this is a login like any other, so nothing but the missing witness can refuse it.
		"remoteforward-bypass",
		map[int][]string{1: loginWitnessed},
		map[int][]string{1: loginUnwitnessed},
	},
}

func TestRecordedClients(t *testing.T) {
	for _, test := range recorded {
		for name, want := range map[string]map[int][]string{"witnessed": test.witnessed, "unwitnessed": test.unwitnessed} {
			t.Run(test.file+" "+name, func(t *testing.T) {
				conns := readRecording(t, test.file)
				if len(conns) != len(want) {
					t.Fatalf("%d connections, want %d", len(conns), len(want))
				}
				e, binds := replay(t, conns)
				if name == "witnessed" {
					for _, b := range binds {
						err := e.agent.Witness(t.Context(), ipc.Witness{
							Instance: instance, HostKey: b.HostKey, Signature: b.Signature, User: user, Route: "direct",
						})
						certificate := bytes.Contains(b.HostKey, []byte("-cert-v01@openssh.com"))
						if (err != nil) != certificate {
							t.Fatalf("witness: %v", err)
						}
					}
				}
				signs := 0
				for _, c := range conns {
					got := verdicts(e, c)
					if !slices.Equal(got, want[c.number]) {
						t.Errorf("connection %d: %s, want %s", c.number, strings.Join(got, ", "), strings.Join(want[c.number], ", "))
					}
					if slices.Contains(want[c.number], "sign") {
						signs++
					}
				}
				e.wantSignatures(signs)
			})
		}
	}
}

// TestRecordedTwice replays a recording a second time with new witnesses for its sessions: they have been signed.
func TestRecordedTwice(t *testing.T) {
	conns := readRecording(t, "openssh-9.2p1-hostkeytypes")
	e, binds := replay(t, conns)
	for round, want := range [][]string{loginWitnessed, {"bind", "list 1", "sign!5 already-signed"}} {
		for _, b := range binds {
			e.agent.Witness(t.Context(), ipc.Witness{Instance: instance, HostKey: b.HostKey, Signature: b.Signature, User: user})
		}
		for _, c := range conns {
			if c.number == 4 { // a certificate, refused in both rounds
				continue
			}
			if got := verdicts(e, c); !slices.Equal(got, want) {
				t.Errorf("round %d, connection %d: %q, want %q", round, c.number, got, want)
			}
		}
	}
	e.wantSignatures(5)
}
