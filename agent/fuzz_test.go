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

// The policies of FuzzServe, by the first byte of its input.
var fuzzPolicies = []Policy{
	{},
	{AcceptBind: true},
	{Hops: []Hop{{instance, secondID}}},
	{AcceptBind: true, Hops: []Hop{{instance, secondID}, {secondID, instance}}},
	{Confirm: ConfirmAlways},
}

// FuzzServe gives the agent anything at all to answer, under every policy, where it has one witness, one login that was
// signed before, and an account with two pinned instances. Whatever is signed is a login that the policy allows, for a
// session that was proved, and no session gets two.
func FuzzServe(f *testing.F) {
	userKey, host, second, stranger := seededKey(f, 1), seededKey(f, 2), seededKey(f, 3), seededKey(f, 4)
	keyBlob := userKey.PublicKey().Marshal()
	at := func(host ssh.Signer, fill byte) *session {
		id := bytes.Repeat([]byte{fill}, 32)
		return &session{host: host, id: id, sig: hostSignature(f, host, id)}
	}
	// What exists in the fuzzed world: nobody can make a signature of a host over another session id.
	s, before, unseen := at(host, 7), at(host, 8), at(host, 9)
	onward, unpinned := at(second, 10), at(stranger, 11)

	list := []byte{msgRequestIdentities}
	ask := func(s *session, change ...func(*login)) []byte {
		return signRequest(keyBlob, loginText(s, keyBlob, change...))
	}
	for _, messages := range [][][]byte{
		{list},
		{ask(s)},
		{ask(s, hostBound(s))},
		{bindRequest(s, 0), list, ask(s, hostBound(s)), ask(s)},
		{bindRequest(s, 0), list, ask(s), list, bindRequest(s, 0)},
		{ask(s), ask(s)},
		{ask(s), bindRequest(s, 0)},
		{bindRequest(s, 1), ask(s)},
		{bindRequest(unseen, 0), ask(unseen)},
		{bindRequest(onward, 0), list, ask(s)},
		{ask(unseen), ask(s)},
		{ask(s, hostBound(onward))},
		{ask(s, func(l *login) { l.User = "admin" })},
		{bindRequest(before, 0), ask(before)},
		{bindRequest(before, 1), bindRequest(onward, 0), list, ask(onward, hostBound(onward))},
		{bindRequest(before, 1), bindRequest(onward, 0), ask(onward), ask(onward, hostBound(onward))},
		{bindRequest(before, 1), bindRequest(unseen, 0), ask(unseen, hostBound(unseen))},
		{bindRequest(before, 1), bindRequest(onward, 1), bindRequest(unseen, 0), ask(unseen, hostBound(unseen))},
		{bindRequest(unseen, 1), bindRequest(onward, 0), ask(onward, hostBound(onward))},
		{bindRequest(before, 1), bindRequest(s, 0), ask(s, hostBound(s))},
		{bindRequest(unpinned, 0), list, ask(unpinned)},
		{signRequest(keyBlob, append([]byte("SSHSIG"), make([]byte, 80)...))},
		{{17}, {25}, {27, 0, 0, 0, 5, 'q', 'u', 'e', 'r', 'y'}},
	} {
		for policy := range fuzzPolicies {
			input := []byte{byte(policy)}
			for _, msg := range messages {
				input = append(input, frame(msg)...)
			}
			f.Add(input)
		}
	}
	f.Add([]byte{0, 0, 4, 0, 0, msgSignRequest})
	f.Add([]byte{1, 255, 255, 255, 255})

	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) == 0 {
			return
		}
		policy := fuzzPolicies[int(input[0])%len(fuzzPolicies)]
		policy.WitnessLife = 1 << 40
		var clock time.Time
		// Time goes by at every look at the clock, so that nobody is refused too often.
		e := newEnv(t, func(c *Config) { c.Now = func() time.Time { clock = clock.Add(time.Second); return clock } })
		e.keys.key, e.host = userKey, host
		e.pins.pins = nil
		e.pins.add(instance, host.PublicKey())
		e.pins.add(secondID, second.PublicKey())
		e.settle(policy)
		asked := 0
		e.asks(func(context.Context, Decision) error { asked++; return nil })
		e.mustWitness(before)
		e.serve(frame(ask(before)))
		e.wantSignatures(1)
		e.mustWitness(s)
		answers := e.serve(input[1:])

		proved := map[string]bool{string(s.id): true}
		if policy.AcceptBind {
			proved[string(unseen.id)], proved[string(onward.id)] = true, true
		}
		if policy.Hops != nil {
			proved[string(onward.id)] = true
		}
		signatures := e.keys.signatures()[1:]
		for _, data := range signatures {
			auth, err := parseUserauth(data, keyBlob)
			if err != nil {
				t.Fatalf("signed what is not a login: %x", data)
			}
			if !proved[string(auth.sessionID)] || auth.user != user {
				t.Fatalf("signed the login of another session, or a second one: %x", data)
			}
			proved[string(auth.sessionID)] = false
			own := s
			switch {
			case bytes.Equal(auth.sessionID, unseen.id):
				own = unseen
			case bytes.Equal(auth.sessionID, onward.id):
				own = onward
			}
			if auth.hostKey != nil && !bytes.Equal(auth.hostKey, own.hostKey()) {
				t.Fatalf("signed the login to another host: %x", data)
			}
			if !bytes.Contains(input, data) {
				t.Fatalf("signed what nobody sent: %x", data)
			}
		}
		if len(e.log.decisions(Signed)) != len(signatures)+1 {
			t.Fatalf("%d signatures, recorded as %+v", len(signatures), e.log.decisions(Signed))
		}
		if policy.Confirm == ConfirmAlways && asked != len(signatures)+1 {
			t.Fatalf("%d signatures after %d questions", len(signatures), asked)
		}
		if kept, _ := e.agent.refusals.last(); len(kept) > 0 && kept[len(kept)-1].Reason == string(Internal) {
			t.Fatalf("a fault: %s", kept[len(kept)-1].Sentence)
		}
		checkAnswers(t, input[1:], answers)
	})
}

// serve has the agent answer input as the messages of one connection.
func (e *env) serve(input []byte) *bytes.Buffer {
	c := &script{input: bytes.NewReader(input)}
	e.agent.Serve(context.Background(), c, testPeer)
	return &c.answers
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
