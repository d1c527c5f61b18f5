package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// script is a connection whose client says everything at once and then is silent.
type script struct {
	net.Conn
	input   *bytes.Reader
	answers bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.input.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.answers.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzServe gives the agent one witness and anything at all to answer. A signature is the login of the witnessed session,
// and there is at most one.
func FuzzServe(f *testing.F) {
	userKey, host, other := seededKey(f, 1), seededKey(f, 2), seededKey(f, 3)
	keyBlob := userKey.PublicKey().Marshal()
	at := func(host ssh.Signer, fill byte) *session {
		id := bytes.Repeat([]byte{fill}, 32)
		return &session{host: host, id: id, sig: hostSignature(f, host, id)}
	}
	s, unseen, elsewhere := at(host, 7), at(host, 8), at(other, 9)

	list := []byte{msgRequestIdentities}
	plain := signRequest(keyBlob, loginText(s, keyBlob))
	bound := signRequest(keyBlob, loginText(s, keyBlob, hostBound(s)))
	for _, messages := range [][][]byte{
		{list},
		{plain},
		{bound},
		{bindRequest(s, 0), list, bound, bound},
		{bindRequest(s, 0), list, plain, list, bindRequest(s, 0)},
		{plain, plain},
		{plain, bindRequest(s, 0)},
		{bindRequest(s, 1), plain},
		{bindRequest(unseen, 0), signRequest(keyBlob, loginText(unseen, keyBlob))},
		{bindRequest(elsewhere, 0), list, plain},
		{signRequest(keyBlob, loginText(unseen, keyBlob)), plain},
		{signRequest(keyBlob, loginText(s, keyBlob, hostBound(elsewhere)))},
		{signRequest(keyBlob, loginText(s, keyBlob, func(l *login) { l.User = "admin" }))},
		{signRequest(keyBlob, append([]byte("SSHSIG"), make([]byte, 80)...))},
		{{17}, {25}, {27, 0, 0, 0, 5, 'q', 'u', 'e', 'r', 'y'}},
	} {
		var input []byte
		for _, msg := range messages {
			input = append(input, frame(msg)...)
		}
		f.Add(input)
	}
	f.Add([]byte{0, 4, 0, 0, msgSignRequest})
	f.Add([]byte{255, 255, 255, 255})

	f.Fuzz(func(t *testing.T, input []byte) {
		e := newEnv(t)
		e.keys.key, e.host = userKey, host
		e.pins.pins = nil
		e.pins.add(instance, host.PublicKey())
		e.pins.add(instance+1, other.PublicKey())
		e.mustWitness(s)
		c := &script{input: bytes.NewReader(input)}
		e.agent.Serve(context.Background(), c, testPeer)

		signatures := e.keys.signatures()
		if len(signatures) > 1 {
			t.Fatalf("%d signatures for one witness", len(signatures))
		}
		for _, data := range signatures {
			auth, err := parseUserauth(data, keyBlob)
			if err != nil {
				t.Fatalf("signed what is not a login: %x", data)
			}
			if !bytes.Equal(auth.sessionID, s.id) || auth.user != user || auth.hostKey != nil && !bytes.Equal(auth.hostKey, s.hostKey()) {
				t.Fatalf("signed the login of another session: %x", data)
			}
			if !bytes.Contains(input, data) {
				t.Fatalf("signed what nobody sent: %x", data)
			}
		}
		if kept, _ := e.agent.refusals.last(); len(kept) > 0 && kept[len(kept)-1].Reason == string(Internal) {
			t.Fatalf("a fault: %s", kept[len(kept)-1].Sentence)
		}
		checkAnswers(t, input, &c.answers)
	})
}

// checkAnswers holds that each whole message got one whole answer of a kind that it may get.
func checkAnswers(t *testing.T, input []byte, answers *bytes.Buffer) {
	t.Helper()
	allowed := map[byte][]byte{
		msgRequestIdentities: {msgFailure, msgIdentitiesAnswer},
		msgSignRequest:       {msgFailure, msgSignResponse},
		msgExtension:         {msgFailure, msgSuccess, msgExtensionFailure},
	}
	for len(input) >= 4 {
		n := int(binary.BigEndian.Uint32(input))
		if n == 0 || n > MaxMessage || n > len(input)-4 {
			break
		}
		answer, err := readAnswer(answers)
		if err != nil {
			t.Fatalf("no answer to message %d: %v", input[4], err)
		}
		want := allowed[input[4]]
		if want == nil {
			want = []byte{msgFailure}
		}
		if len(answer) == 0 || !bytes.Contains(want, answer[:1]) {
			t.Fatalf("message %d was answered with %x", input[4], answer)
		}
		input = input[4+n:]
	}
	if rest, _ := io.ReadAll(answers); len(rest) > 0 {
		t.Fatalf("answers to nothing: %x", rest)
	}
}
