package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/ipc"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/wire"
	"vast-ssh/known"
)

// io.Copy and others look for such methods, and each would be a way around the watch.
func TestConnIsANetConnAndNoMore(t *testing.T) {
	want := map[string]bool{"Endpoint": true, "Name": true, "Refusal": true}
	for m := range reflect.TypeFor[net.Conn]().Methods() {
		want[m.Name] = true
	}
	for m := range reflect.TypeFor[*Conn]().Methods() {
		if !want[m.Name] {
			t.Errorf("*Conn has a method %s", m.Name)
		}
	}
	conn := reflect.TypeFor[Conn]()
	for i := range conn.NumField() {
		if f := conn.Field(i); f.Anonymous || f.IsExported() {
			t.Errorf("field %s gives away what it holds", f.Name)
		}
	}
}

// replay says what the server of a recording said, in random pieces, waiting for nothing: its reply is on the way before
// the client has spoken.
func replay(h *handshake, rnd *rand.Rand, then func(*net.TCPConn)) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		writePieces(c, h.FromServer, rnd)
		then(c)
	}
}

func writePieces(w io.Writer, b []byte, rnd *rand.Rand) {
	for len(b) > 0 {
		n := len(b)
		if rnd != nil {
			n = min(n, 1+rnd.IntN(1<<rnd.IntN(12)))
		}
		if _, err := w.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
}

func open(t testing.TB, cfg Config) *Conn {
	t.Helper()
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// received is what a client has got so far.
type received struct {
	mu sync.Mutex
	b  []byte
}

func (r *received) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b = append(r.b, p...)
	return len(p), nil
}

func (r *received) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.b)
}

// readPieces reads until n bytes are there or an error comes.
func readPieces(w io.Writer, c io.Reader, n int, rnd *rand.Rand) error {
	for n > 0 {
		buf := make([]byte, min(n, 1+rnd.IntN(1<<rnd.IntN(12))))
		m, err := c.Read(buf)
		w.Write(buf[:m])
		n -= m
		if err != nil {
			return err
		}
	}
	return nil
}

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// Every recorded handshake, cut anywhere in both directions: with the right pin each side gets the other's stream
// unchanged, and the server nothing in cipher before the witness was taken.
func TestRightPin(t *testing.T) {
	for name, h := range handshakes(t) {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				checkRightPin(t, h, seed)
			}
		})
	}
}

func checkRightPin(t *testing.T, h *handshake, seed uint64) {
	checkLeaks(t)
	var heard, client received
	all := make(chan struct{})
	s := serve(t, replay(h, source(seed), func(c *net.TCPConn) {
		io.Copy(&heard, c)
		close(all)
	}))
	var told witnesses
	cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Gateway, s.addr()))
	cfg.Witness = func(ctx context.Context, w ipc.Witness) error {
		if n := len(client.bytes()); n < h.replyEnd {
			t.Errorf("seed %d: the witness came when the client had %d bytes, and the reply ends at %d", seed, n, h.replyEnd)
		}
		if n := len(heard.bytes()); n > h.cipher {
			t.Errorf("seed %d: the server had %d bytes in cipher before the witness", seed, n-h.cipher)
		}
		return told.take(ctx, w)
	}
	c := open(t, cfg)
	said, replied := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(said)
		rnd := source(seed + 100)
		writePieces(c, h.FromClient[:h.newKeys], rnd)
		<-replied
		writePieces(c, h.FromClient[h.newKeys:], rnd)
	}()
	rnd := source(seed + 200)
	if err := readPieces(&client, c, h.replyEnd, rnd); err != nil {
		t.Fatalf("seed %d: %v after %d bytes", seed, err, len(client.b))
	}
	if n := len(told.all()); n > 0 {
		t.Errorf("seed %d: %d witnesses before the client has taken the reply", seed, n)
	}
	close(replied)
	if err := readPieces(&client, c, len(h.FromServer)-h.replyEnd, rnd); err != nil {
		t.Fatalf("seed %d: %v after %d bytes", seed, err, len(client.b))
	}
	if !bytes.Equal(client.b, h.FromServer) {
		t.Fatalf("seed %d: the client got other bytes than the server sent", seed)
	}
	await(t, "the end of the writer", said)
	want := ipc.Witness{Instance: testInstance, HostKey: h.keyBlob, Signature: h.signature, User: "root", Route: "gateway"}
	switch seen := told.all(); {
	case h.cipher == len(h.FromClient) && len(seen) == 0: // one recording ends there
	case len(seen) != 1 || !reflect.DeepEqual(seen[0], want):
		t.Fatalf("seed %d: witnesses %+v", seed, seen)
	}
	c.Close()
	await(t, "the server's reading", all)
	if !bytes.Equal(heard.bytes(), h.FromClient) {
		t.Fatalf("seed %d: the server heard %d bytes of %d", seed, len(heard.b), len(h.FromClient))
	}
}

// A client that ends the key exchange and goes on no further, as one does whose signature check fails, is no witness.
func TestNoWitnessBeforeCipher(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for _, end := range []int{h.newKeys, h.newKeys + 5, h.cipher - 1, h.cipher} {
		checkLeaks(t)
		var heard received
		all := make(chan struct{})
		s := serve(t, replay(h, nil, func(c *net.TCPConn) {
			io.Copy(&heard, c)
			close(all)
		}))
		cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
		cfg.Witness = func(context.Context, ipc.Witness) error { t.Errorf("a witness was given at %d", end); return nil }
		c := open(t, cfg)
		if _, err := c.Write(h.FromClient[:h.newKeys]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, h.replyEnd)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(h.FromClient[h.newKeys:end]); err != nil {
			t.Fatal(err)
		}
		c.Close()
		await(t, "the server's reading", all)
		if !bytes.Equal(heard.bytes(), h.FromClient[:end]) {
			t.Errorf("the server heard %d bytes of %d", len(heard.b), end)
		}
	}
}

// A client that ends the key exchange before it can have read the reply has checked nothing.
func TestEarlyNewKeys(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	newConn := func(t *testing.T, fromServer []byte, trace func(string, time.Duration)) *Conn {
		checkLeaks(t)
		s := serve(t, func(c *net.TCPConn) {
			c.Write(fromServer)
			drain(c)
		})
		cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
		cfg.Trace = trace
		cfg.Witness = func(context.Context, ipc.Witness) error { t.Error("a witness was given"); return nil }
		return open(t, cfg)
	}
	t.Run("before the reply came", func(t *testing.T) {
		c := newConn(t, h.FromServer[:h.reply], nil)
		if _, err := io.ReadFull(c, make([]byte, h.reply)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Write(h.FromClient)
		if e := wantAs[*wire.ProtocolError](t, err); e.Sender != wire.FromClient {
			t.Errorf("got %v", err)
		}
	})
	t.Run("while the reply is judged", func(t *testing.T) {
		judging, goOn := make(chan struct{}), make(chan struct{})
		c := newConn(t, h.FromServer, func(step string, _ time.Duration) {
			if strings.Contains(step, "matches its pin") {
				close(judging)
				<-goOn
			}
		})
		read := make(chan error, 1)
		var client received
		go func() {
			_, err := io.Copy(&client, c)
			read <- err
		}()
		if _, err := c.Write(h.FromClient[:h.newKeys]); err != nil {
			t.Fatal(err)
		}
		await(t, "the judging", judging)
		n, err := c.Write(h.FromClient[h.newKeys:])
		close(goOn)
		if n != 0 || err != errEarly {
			t.Errorf("%d bytes were taken, and %v", n, err)
		}
		wantIs(t, await(t, "the end of Read", read), errEarly)
		if n := len(client.bytes()); n > h.reply {
			t.Errorf("%d bytes of the reply went on", n-h.reply)
		}
	})
}

// With a wrong pin no byte of the reply arrives, however the streams are cut.
func TestWrongPin(t *testing.T) {
	other := newKey(t)
	for name, h := range handshakes(t) {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				checkRefused(t, h, seed, pinned(t, other), func(err error) {
					e := wantAs[*HostKeyError](t, err)
					m := wantAs[*known.MismatchError](t, err)
					if e.Instance != testInstance || !bytes.Equal(m.Got.Marshal(), h.keyBlob) || len(m.Want) != 1 {
						t.Errorf("seed %d: %+v", seed, m)
					}
					wantText(t, err, "direct 127.0.0.1:", ssh.FingerprintSHA256(h.key), ssh.FingerprintSHA256(other))
				})
			}
		})
	}
}

// checkRefused connects to a replayed server and wants the connection to end with an error that check accepts, the client
// to have got nothing of the reply, and no witness to have been taken.
func checkRefused(t *testing.T, h *handshake, seed uint64, pins *known.File, check func(error)) {
	t.Helper()
	checkLeaks(t)
	gone := make(chan error, 1)
	s := serve(t, replay(h, source(seed), silent(gone)))
	cfg := testConfig(pins, endpoint(t, resolve.Direct, s.addr()))
	cfg.Witness = func(context.Context, ipc.Witness) error { t.Error("a witness was given"); return nil }
	c := open(t, cfg)
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		writePieces(c, h.FromClient[:h.newKeys], source(seed+100))
	}()
	var client received
	err := readPieces(&client, c, len(h.FromServer)+1, source(seed+200))
	check(err)
	if len(client.b) > h.reply || !bytes.HasPrefix(h.FromServer, client.b) {
		t.Fatalf("seed %d: the client got %d bytes, and the reply begins at %d", seed, len(client.b), h.reply)
	}
	await(t, "the end of the writer", writer)
	checkUseless(t, c, err)
	c.Close()
	checkGone(t, gone)
}

// checkUseless wants a refused connection to stay so: no later call passes anything or tells another reason.
func checkUseless(t *testing.T, c *Conn, err error) {
	t.Helper()
	for range 3 {
		if n, again := c.Read(make([]byte, 1<<16)); n != 0 || again != err {
			t.Fatalf("a later Read gave %d bytes and %v", n, again)
		}
		if n, again := c.Write([]byte("x")); n != 0 || again != err {
			t.Fatalf("a later Write took %d bytes and %v", n, again)
		}
		c.SetDeadline(time.Time{})
	}
}

// What the agent says decides, and the reason stays the agent's also when it looks like an error of the network.
func TestWitnessRefused(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for _, cause := range []error{
		&ipc.RefusedError{Reason: "not-pinned", Sentence: "no"},
		&net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED},
		fs.ErrNotExist,
		fmt.Errorf("talk to the agent: %w", io.EOF),
		fmt.Errorf("talk to the agent: %w", os.ErrDeadlineExceeded),
		fmt.Errorf("talk to the agent: %w", syscall.ECONNRESET),
		fmt.Errorf("talk to the agent: %w", syscall.EPIPE),
		os.ErrClosed,
		net.ErrClosed,
		context.DeadlineExceeded,
		&ipc.RefusedError{Reason: "key-unavailable", Sentence: "locked", Next: "vast-agent unlock"},
	} {
		t.Run(cause.Error(), func(t *testing.T) {
			check := func(err error) {
				t.Helper()
				hint := "vast-agent status"
				if refused, ok := cause.(*ipc.RefusedError); ok && refused.Next != "" {
					hint = refused.Next
				}
				if got := wantAs[*WitnessError](t, err).Hint(); got != hint {
					t.Errorf("the hint is %q, want %q", got, hint)
				}
				wantIs(t, err, cause)
				wantText(t, err, "agent")
			}
			for seed := range uint64(4) {
				check(refuseWitness(t, h, seed, cause))
			}
			check(refuseWitnessOfRelay(t, h, cause))
		})
	}
}

// witnessRefused replays h to a configuration whose witness is refused, and gives what the server hears in the end.
func witnessRefused(t *testing.T, h *handshake, seed uint64, cause error) (c *Conn, heard <-chan []byte) {
	t.Helper()
	checkLeaks(t)
	all := make(chan []byte, 1)
	s := serve(t, replay(h, source(seed), func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		all <- b
	}))
	cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
	cfg.Witness = func(context.Context, ipc.Witness) error { return cause }
	return open(t, cfg), all
}

func checkNoCipher(t *testing.T, h *handshake, heard <-chan []byte) {
	t.Helper()
	if b := await(t, "the server's reading", heard); len(b) > h.cipher || !bytes.HasPrefix(h.FromClient, b) {
		t.Errorf("the server heard %d bytes, and the cipher begins at %d", len(b), h.cipher)
	}
}

func refuseWitness(t *testing.T, h *handshake, seed uint64, cause error) error {
	t.Helper()
	c, heard := witnessRefused(t, h, seed, cause)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		writePieces(c, h.FromClient[:h.newKeys], source(seed+100))
	}()
	if _, err := io.ReadFull(c, make([]byte, h.replyEnd)); err != nil {
		t.Fatal(err)
	}
	await(t, "the client's start", wrote)
	// A reader that waits learns of it.
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		read <- err
	}()
	var err error
	for b := h.FromClient[h.newKeys:]; len(b) > 0 && err == nil; {
		var n int
		n, err = c.Write(b[:1+int(seed)*5%len(b)])
		b = b[n:]
	}
	if got := await(t, "the end of Read", read); got != err {
		t.Errorf("Write ends with %v and Read with %v", err, got)
	}
	checkUseless(t, c, err)
	c.Close()
	checkNoCipher(t, h, heard)
	return err
}

func refuseWitnessOfRelay(t *testing.T, h *handshake, cause error) error {
	t.Helper()
	c, heard := witnessRefused(t, h, 1, cause)
	_, err := relayed(t, c, h.FromClient[:h.newKeys], h.FromServer[:h.replyEnd], h.FromClient[h.newKeys:])
	checkNoCipher(t, h, heard)
	return err
}

// The witness has a deadline of its own, and the end of Open's context ends it.
func TestWitnessContext(t *testing.T) {
	checkLeaks(t)
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	s := serve(t, replay(h, nil, drain))
	cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Witness = func(ctx context.Context, _ ipc.Witness) error {
		if d, ok := ctx.Deadline(); !ok || time.Until(d) > ipc.Timeout {
			t.Error("the witness has no deadline")
		}
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	c, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(h.FromClient[:h.newKeys]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, h.replyEnd)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Write(h.FromClient[h.newKeys:])
	wantAs[*WitnessError](t, err)
	wantIs(t, err, context.Canceled)
	if n > h.cipher-h.newKeys {
		t.Errorf("%d bytes in cipher went on", n-(h.cipher-h.newKeys))
	}
}

// The end of a connection takes its witness back, once, also when it comes while the agent is being asked.
func TestWithdraw(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for name, whileAsking := range map[string]bool{"after it": false, "while the agent is asked": true} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			gone := make(chan error, 1)
			s := serve(t, replay(h, nil, silent(gone)))
			var given, withdrawn witnesses
			var c *Conn
			cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
			cfg.Witness = func(ctx context.Context, w ipc.Witness) error {
				if whileAsking {
					c.Close()
				}
				return given.take(ctx, w)
			}
			refused := &ipc.Refusal{Reason: "r"}
			cfg.Withdraw = func(w ipc.Witness) *ipc.Refusal {
				if len(given.all()) == 0 {
					t.Error("withdrawn before it was given")
				}
				checkGone(t, gone) // the connection is closed by then
				withdrawn.take(t.Context(), w)
				return refused
			}
			c = open(t, cfg)
			if _, err := c.Write(h.FromClient[:h.newKeys]); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, h.replyEnd)); err != nil {
				t.Fatal(err)
			}
			c.Write(h.FromClient[h.newKeys:])
			for range 3 {
				c.Close()
			}
			if got := c.Refusal(); got != refused {
				t.Errorf("the connection tells of %+v", got)
			}
			if !reflect.DeepEqual(given.all(), withdrawn.all()) || len(given.all()) != 1 {
				t.Errorf("given %d times, withdrawn %d times", len(given.all()), len(withdrawn.all()))
			}
		})
	}
	t.Run("nothing given", func(t *testing.T) {
		checkLeaks(t)
		s := serve(t, replay(h, nil, drain))
		cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
		cfg.Witness = func(context.Context, ipc.Witness) error { return errors.New("no") }
		cfg.Withdraw = func(ipc.Witness) *ipc.Refusal { t.Error("withdrawn"); return nil }
		relayed(t, open(t, cfg), h.FromClient[:h.newKeys], h.FromServer[:h.replyEnd], h.FromClient[h.newKeys:])
	})
}

// Pins that cannot be read, or are gone by now, match nothing.
func TestPinsLost(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for name, tc := range map[string]struct {
		lose  func(path string) error
		check func(*testing.T, error)
	}{
		"damaged": {
			func(path string) error { return os.WriteFile(path, []byte("vast-1234567 ssh-ed25519 AAAA\n"), 0o600) },
			func(t *testing.T, err error) { wantAs[*known.FileError](t, err) },
		},
		"open to others": {
			func(path string) error { return os.Chmod(path, 0o666) },
			func(t *testing.T, err error) { wantAs[*known.FileError](t, err) },
		},
		"removed": {
			os.Remove,
			func(t *testing.T, err error) { wantAs[*known.UnknownError](t, err) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			pins, path := noPins(t)
			if err := pins.Replace(t.Context(), testInstance, makePins(testInstance, 0, known.Tofu, []ssh.PublicKey{h.key})); err != nil {
				t.Fatal(err)
			}
			s := serve(t, replay(h, nil, drain))
			c := open(t, testConfig(pins, endpoint(t, resolve.Direct, s.addr())))
			if err := tc.lose(path); err != nil {
				t.Fatal(err)
			}
			go c.Write(h.FromClient[:h.newKeys])
			got, err := io.ReadAll(c)
			wantAs[*HostKeyError](t, err)
			tc.check(t, err)
			if len(got) > h.reply {
				t.Errorf("%d bytes of the reply went on", len(got)-h.reply)
			}
		})
	}
}

// The pinned key in other bytes: what a client makes of them is its own affair, so they are refused.
func TestKeyInAnotherEncoding(t *testing.T) {
	h := handshakeNamed(t, "openssh-rsa-sha2-512")
	var key struct {
		Type string
		E, N []byte
	}
	if err := ssh.Unmarshal(h.keyBlob, &key); err != nil {
		t.Fatal(err)
	}
	key.N = append([]byte{0}, key.N...)
	blob := ssh.Marshal(key)
	if same, err := ssh.ParsePublicKey(blob); err != nil || !bytes.Equal(same.Marshal(), h.keyBlob) {
		t.Fatalf("x/crypto reads another key (%v): this test needs another encoding", err)
	}
	changed := *h
	changed.FromServer = h.withKey(blob)
	checkRefused(t, &changed, 1, pinned(t, h.key), func(err error) { wantAs[*HostKeyError](t, err) })
}

// A host key that is no key, with the right type name.
func TestKeyThatDoesNotParse(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	changed := *h
	changed.FromServer = h.withKey(append(ssh.Marshal(struct{ S string }{h.HostKeyAlgorithm}), 1, 2, 3))
	checkRefused(t, &changed, 1, pinned(t, h.key), func(err error) { wantAs[*HostKeyError](t, err) })
}

// withKey returns the server's stream with another host key in its reply.
func (h *handshake) withKey(blob []byte) []byte {
	packet := h.FromServer[h.reply:h.replyEnd]
	rest := packet[6+4+len(h.keyBlob) : len(packet)-int(packet[4])]
	payload := slices.Concat([]byte{packet[5]}, binary.BigEndian.AppendUint32(nil, uint32(len(blob))), blob, rest)
	padding := 8 - (5+len(payload))%8
	if padding < 4 {
		padding += 8
	}
	out := slices.Clone(h.FromServer[:h.reply])
	out = binary.BigEndian.AppendUint32(out, uint32(1+len(payload)+padding))
	out = append(out, byte(padding))
	out = append(out, payload...)
	out = append(out, make([]byte, padding)...)
	return append(out, h.FromServer[h.replyEnd:]...)
}

// phases are the places where a side of a handshake may go away, as offsets in what it says.
func (h *handshake) serverPhases() map[string]int {
	ident := bytes.IndexByte(h.FromServer, '\n') + 1
	return map[string]int{
		"after ident":   ident,
		"in KEXINIT":    ident + 100,
		"after KEXINIT": h.reply,
		"in the reply":  h.reply + 50,
		"one byte less": h.replyEnd - 1,
	}
}

func (h *handshake) clientPhases() map[string]int {
	ident := bytes.IndexByte(h.FromClient, '\n') + 1
	kexinit := ident + 4 + int(binary.BigEndian.Uint32(h.FromClient[ident:]))
	return map[string]int{
		"before ident":  0,
		"in ident":      5,
		"after ident":   ident,
		"in KEXINIT":    ident + 100,
		"after KEXINIT": kexinit,
		"after init":    h.newKeys,
	}
}

// The server ends the connection in each phase: it closes, or it resets, which is what closing with unread bytes is.
func TestServerGoesAway(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for _, reset := range []bool{false, true} {
		for phase, n := range h.serverPhases() {
			t.Run(fmt.Sprintf("%s reset=%v", phase, reset), func(t *testing.T) {
				for range 10 {
					checkLeaks(t)
					s := serve(t, func(c *net.TCPConn) {
						c.Write(h.FromServer[:n])
						// The first bytes of the client show that what came before was taken.
						c.Read(make([]byte, 16))
						if reset {
							c.SetLinger(0)
						} else {
							c.CloseWrite()
							drain(c)
						}
					})
					cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
					cfg.Witness = func(context.Context, ipc.Witness) error { t.Error("a witness was given"); return nil }
					got, err := relayed(t, open(t, cfg), h.FromClient[:h.newKeys], nil, nil)
					e := wantAs[*HandshakeError](t, err)
					wantText(t, err, "direct "+s.addr(), "the server closed the connection")
					wantIs(t, err, e.Err)
					if !reset { // a wipe tells by it what has become of a machine
						wantIs(t, err, io.EOF)
					}
					wantText(t, errors.New(e.Hint()), "vast-ssh show 1234567")
					if len(got) > h.reply || !bytes.HasPrefix(h.FromServer, got) {
						t.Errorf("the client got %d bytes, and the reply begins at %d", len(got), h.reply)
					}
				}
			})
		}
	}
}

// A client that only writes learns of it too, by the same reason.
func TestServerGoesAwayBeforeWrite(t *testing.T) {
	checkLeaks(t)
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	reset := make(chan struct{})
	s := serve(t, func(c *net.TCPConn) {
		io.WriteString(c, ident)
		c.Read(make([]byte, 1))
		c.SetLinger(0)
		c.Close()
		close(reset)
	})
	c := open(t, testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr())))
	if _, err := c.Write(h.FromClient[:1]); err != nil {
		t.Fatal(err)
	}
	await(t, "the reset", reset)
	awaitReset(t, c)
	n, err := c.Write(h.FromClient[1:h.newKeys])
	e := wantAs[*HandshakeError](t, err)
	wantText(t, err, "the server closed the connection")
	if _, again := c.Read(make([]byte, 1)); n != 0 || again != error(e) {
		t.Errorf("%d bytes were taken, and Read gives %v", n, again)
	}
}

// awaitReset waits until the kernel knows that the server has reset the connection, which is a moment after it has.
func awaitReset(t *testing.T, c *Conn) {
	t.Helper()
	raw, err := c.net.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}} // for what is told of every file: here, that it is broken
		for n, err := 0, error(unix.EINTR); err == unix.EINTR; {
			if n, err = unix.Poll(fds, int(patience.Milliseconds())); n == 0 && err == nil {
				t.Error("the reset does not arrive")
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// The client goes away in each phase, and the server would wait for ever.
func TestClientGoesAway(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for _, files := range kinds {
		for phase, n := range h.clientPhases() {
			t.Run(files+" "+phase, func(t *testing.T) {
				checkLeaks(t)
				gone := make(chan error, 1)
				s := serve(t, func(c *net.TCPConn) {
					c.Write(h.FromServer[:h.reply])
					silent(gone)(c)
				})
				client := newClient(t, files)
				result := client.relay(t.Context(), open(t, testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))))
				client.write(t, h.FromClient[:n])
				client.closeIn(t)
				if err := await(t, "the end of the relay", result); err != nil {
					t.Errorf("got %v", err)
				}
				checkGone(t, gone)
			})
		}
	}
}

// The client goes away when it has the reply: with one it does not like, in NEWKEYS, and in cipher.
func TestClientGoesAwayAfterTheReply(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for _, files := range kinds {
		for _, n := range []int{h.newKeys, h.newKeys + 5, h.cipher, h.cipher + 5} {
			t.Run(fmt.Sprintf("%s at %d", files, n), func(t *testing.T) {
				checkLeaks(t)
				gone := make(chan error, 1)
				s := serve(t, replay(h, nil, silent(gone)))
				var told witnesses
				cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
				cfg.Witness = told.take
				client := newClient(t, files)
				result := client.relay(t.Context(), open(t, cfg))
				client.write(t, h.FromClient[:h.newKeys])
				if _, err := io.ReadFull(client.fromHere, make([]byte, h.replyEnd)); err != nil {
					t.Fatal(err)
				}
				client.write(t, h.FromClient[h.newKeys:n])
				client.closeIn(t)
				if err := await(t, "the end of the relay", result); err != nil {
					t.Errorf("got %v", err)
				}
				checkGone(t, gone)
				if got := len(told.all()); got > 1 || (got == 1) != (n > h.cipher) {
					t.Errorf("%d witnesses", got)
				}
			})
		}
	}
}

// A server, or a client, that stalls.
func TestHandshakeTimeout(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for phase, n := range h.serverPhases() {
		t.Run("server "+phase, func(t *testing.T) {
			stall(t, h.FromServer[:n], h.FromClient[:h.newKeys])
		})
	}
	for phase, n := range h.clientPhases() {
		if n < h.clientPhases()["after KEXINIT"] {
			t.Run("client "+phase, func(t *testing.T) {
				stall(t, h.FromServer, h.FromClient[:n])
			})
		}
	}
}

func stall(t *testing.T, fromServer, fromClient []byte) {
	checkLeaks(t)
	gone := make(chan error, 1)
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	s := serve(t, func(c *net.TCPConn) {
		c.Write(fromServer)
		silent(gone)(c)
	})
	cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
	cfg.HandshakeTimeout = 50 * time.Millisecond
	got, err := relayed(t, open(t, cfg), fromClient, nil, nil)
	wantAs[*HandshakeError](t, err)
	wantText(t, err, "it was not finished in 50ms")
	if len(got) > h.reply {
		t.Errorf("%d bytes of the reply went on", len(got)-h.reply)
	}
	checkGone(t, gone)
}

// The timeout is one of the handshake: a session may be silent for longer.
func TestNoTimeoutAfterTheHandshake(t *testing.T) {
	checkLeaks(t)
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	expired := make(chan struct{})
	s := serve(t, replay(h, nil, func(c *net.TCPConn) {
		<-expired
		io.WriteString(c, "still here")
		drain(c)
	}))
	cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
	handshake := func(ctx context.Context) (c *Conn, err error) {
		if c, err = Open(ctx, cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err = c.Write(h.FromClient[:h.newKeys]); err == nil {
			_, err = io.ReadFull(c, make([]byte, len(h.FromServer)))
		}
		if err == nil {
			_, err = c.Write(h.FromClient[h.newKeys:])
		}
		return c, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	cfg.HandshakeTimeout = time.Second
	c, err := handshake(ctx)
	for err != nil && cfg.HandshakeTimeout < patience { // for a handshake itself, on a busy machine
		cfg.HandshakeTimeout *= 4
		c, err = handshake(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel() // of Open: it ends the handshake, which is over
	time.AfterFunc(time.Until(c.opened.Add(cfg.HandshakeTimeout+100*time.Millisecond)), func() { close(expired) })
	buf := make([]byte, 10)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "still here" {
		t.Errorf("got %q and %v", buf, err)
	}
	if _, err := io.WriteString(c, "here too"); err != nil {
		t.Error(err)
	}
	// From here on deadlines are the client's own.
	c.SetReadDeadline(time.Unix(1, 0))
	_, err = c.Read(buf)
	wantIs(t, err, os.ErrDeadlineExceeded)
	c.SetWriteDeadline(time.Unix(1, 0))
	_, err = c.Write(buf)
	wantIs(t, err, os.ErrDeadlineExceeded)
	c.SetDeadline(time.Time{})
	if _, err := c.Write(buf); err != nil {
		t.Error(err)
	}
}

// The end of Open's context wakes whoever waits, in each place where the handshake can wait.
func TestOpenContextEndsTheHandshake(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for name, tc := range map[string]struct{ server, client int }{
		"for the server's KEXINIT": {bytes.IndexByte(h.FromServer, '\n') + 1, h.newKeys},
		"for the client's KEXINIT": {h.reply, 0},
		"for the reply":            {h.reply, h.newKeys},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			gone := make(chan error, 1)
			s := serve(t, func(c *net.TCPConn) {
				c.Write(h.FromServer[:tc.server])
				silent(gone)(c)
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c, err := Open(ctx, testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr())))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write(h.FromClient[:tc.client]); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, tc.server)); err != nil {
				t.Fatal(err)
			}
			result := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				result <- err
			}()
			cancel()
			wantIs(t, await(t, "the end of Read", result), context.Canceled)
			_, err = c.Write([]byte("more"))
			wantIs(t, err, context.Canceled)
			c.Close()
			checkGone(t, gone)
		})
	}
}

func TestCloseWakesRead(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	for name, n := range map[string]int{"network": bytes.IndexByte(h.FromServer, '\n') + 1, "client": h.reply} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			s := serve(t, func(c *net.TCPConn) {
				c.Write(h.FromServer[:n])
				drain(c)
			})
			c := open(t, testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr())))
			if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			result := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				result <- err
			}()
			c.Close()
			wantIs(t, await(t, "the end of Read", result), net.ErrClosed)
		})
	}
}

// What is no SSH from either side ends the connection, and the client gets nothing that could be taken for a reply.
func TestGarbage(t *testing.T) {
	h := handshakeNamed(t, "openssh-curve25519-sha256")
	junk := make([]byte, 64<<10)
	rnd := source(7)
	for i := range junk {
		junk[i] = byte(rnd.Uint32())
	}
	flood := bytes.Repeat([]byte{0, 0, 0, 12, 10, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 5000) // IGNORE without an end
	init := h.FromServer[:h.reply]
	for name, tc := range map[string]struct {
		server, client []byte
		from           wire.Sender
	}{
		"from the server instead of KEXINIT": {slices.Concat([]byte(ident), junk), h.FromClient[:h.newKeys], wire.FromServer},
		"from the server behind KEXINIT":     {slices.Concat(init, junk), h.FromClient[:h.newKeys], wire.FromServer},
		"a flood from the server":            {slices.Concat([]byte(ident), flood), h.FromClient[:h.newKeys], wire.FromServer},
		"a flood before the client speaks":   {slices.Concat(init, bytes.Repeat(flood, 4)), nil, wire.FromServer},
		"NEWKEYS instead of the reply":       {slices.Concat(init, []byte("\x00\x00\x00\x0c\x0a\x15"), make([]byte, 10)), h.FromClient[:h.newKeys], wire.FromServer},
		"from the client":                    {h.FromServer, junk, wire.FromClient},
		"from the client behind KEXINIT":     {h.FromServer[:h.reply], slices.Concat(h.FromClient[:h.newKeys], junk), wire.FromClient},
		"HTTP from the client":               {h.FromServer, []byte("GET / HTTP/1.1\r\n\r\n"), wire.FromClient},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			gone := make(chan error, 1)
			s := serve(t, func(c *net.TCPConn) {
				n := bytes.IndexByte(tc.server, '\n') + 1
				c.Write(tc.server[:n])
				if tc.client != nil {
					c.Read(make([]byte, 1)) // the race of the endpoints is over
				}
				c.Write(tc.server[n:])
				silent(gone)(c)
			})
			cfg := testConfig(pinned(t, h.key), endpoint(t, resolve.Direct, s.addr()))
			cfg.Witness = func(context.Context, ipc.Witness) error { t.Error("a witness was given"); return nil }
			if tc.client == nil {
				// What is held for a client that has not spoken is bounded by not reading it.
				cfg.HandshakeTimeout = 50 * time.Millisecond
			}
			got, err := relayed(t, open(t, cfg), tc.client, nil, nil)
			if tc.client == nil {
				wantAs[*HandshakeError](t, err)
			} else if e := wantAs[*wire.ProtocolError](t, err); e.Sender != tc.from {
				t.Errorf("%v blames the wrong side", err)
			}
			if !bytes.HasPrefix(tc.server, got) || len(got) > max(len(init), len(ident)+64*16) {
				t.Errorf("the client got %d bytes", len(got))
			}
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("a peer's bytes are in the error: %q", err)
			}
			checkGone(t, gone)
		})
	}
}

// No client needs it, but a Read for nothing is allowed to anyone, and must not eat or wait for bytes.
func TestReadNothing(t *testing.T) {
	checkLeaks(t)
	s := serve(t, func(c *net.TCPConn) {
		io.WriteString(c, ident)
		drain(c)
	})
	c := open(t, testConfig(pinned(t, newKey(t)), endpoint(t, resolve.Direct, s.addr())))
	within(t, "a Read for nothing", func() {
		if n, err := c.Read(nil); n != 0 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
	})
	buf := make([]byte, 64)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != ident {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}
