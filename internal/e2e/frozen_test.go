package e2e

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vast-ssh/internal/testenv"
)

// stop freezes a process, which shows before it returns, until thaw is called.
func stop(t testing.TB, pid int) (thaw func()) {
	t.Helper()
	ps := testenv.NeedProgram(t, "ps")
	state := func(frozen bool) func() bool {
		return func() bool {
			out, err := exec.Command(ps, "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
			return err == nil && strings.HasPrefix(string(out), "T") == frozen
		}
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process stands still", state(true))
	var once sync.Once
	thaw = func() {
		once.Do(func() {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
			eventually(t, "the process goes on", state(false))
		})
	}
	t.Cleanup(thaw)
	return thaw
}

// frozenLogin bounds the end of a login whose agent says nothing.
const frozenLogin = 3 * time.Minute

// A login whose agent stands still ends by itself and says why: before there is an ssh, and also when the agent has
// shown its key to that already.
func TestAttackFrozenAgent(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	pid := agentStatus(t, v.World).PID
	ends := func(why string, options ...string) {
		t.Helper()
		start := time.Now()
		v.fails([]string{"error: ", why}, "vast-ssh", append(options, idOf(v.first), "echo", "in")...)
		if took := time.Since(start); took > frozenLogin {
			t.Errorf("the login ended after %v", took)
		}
	}
	thaw := stop(t, pid)
	ends("the agent")
	thaw()
	v.login(v.first)

	var once sync.Once
	frozen := make(chan func(), 1)
	tap := v.newWiretap(func(agent net.Conn, frame []byte) ([]byte, error) {
		answer, err := ask(agent, frame)
		if frame[0] == agentList {
			once.Do(func() { frozen <- stop(t, pid) })
		}
		return answer, err
	})
	ends("the agent did not take the witness", "-o", "IdentityAgent="+tap.socket)
	select {
	case thaw := <-frozen:
		thaw()
	default:
		t.Error("ssh never asked for the keys")
	}
	v.login(v.first)
}

// frozenAt returns a socket to the agent that has the agent stand still from the moment when it is asked what the
// message number says. Then it calls then, with the question on its way.
func (v *victim) frozenAt(number byte, then func(frame []byte, thaw func())) (socket string) {
	v.t.Helper()
	pid := agentStatus(v.t, v.World).PID
	var once sync.Once
	return v.newWiretap(func(agent net.Conn, frame []byte) (answer []byte, err error) {
		first := false
		if frame[0] == number {
			once.Do(func() { first = true })
		}
		if !first {
			return ask(agent, frame)
		}
		thaw := stop(v.t, pid)
		if err := writeMessage(agent, frame); err != nil {
			return nil, err
		}
		then(frame, thaw)
		return readMessage(agent)
	}).socket
}

// An agent that stood still for a moment goes on with the login where it was.
func TestAttackFrozenForAMoment(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	for _, number := range []byte{agentList, agentExtended, agentSign} {
		var asked atomic.Bool
		socket := v.frozenAt(number, func(_ []byte, thaw func()) {
			asked.Store(true)
			thaw()
		})
		v.spends(1, nil, func() {
			v.Must("vast-ssh", "-o", "IdentityAgent="+socket, idOf(v.first), "true")
		})
		if !asked.Load() {
			t.Errorf("ssh never sent message %d", number)
		}
	}
}

// What a client had asked of an agent that stood still is of no use once the client has gone.
func TestAttackFrozenAndLeft(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	accepted := strings.Count(v.first.Log(), "Accepted publickey")
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	alive, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	asked := make(chan []byte, 1)
	left := make(chan struct{})
	socket := v.frozenAt(agentSign, func(frame []byte, thaw func()) {
		asked <- frame
		<-left
		thaw()
	})
	before := agentStatus(t, v.World).Signatures
	cmd := v.Command(ctx, nil, "vast-ssh", "-o", "IdentityAgent="+socket, idOf(v.first), "true")
	cmd.Stderr = stderr
	err = cmd.Start()
	stderr.Close()
	if err != nil {
		t.Fatal(err)
	}
	var sign []byte
	select {
	case sign = <-asked:
	case <-ctx.Done():
		t.Fatal("ssh never asked for a signature")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	// The proxy holds the other end until it has gone, too.
	alive.SetReadDeadline(time.Now().Add(frozenLogin))
	if said, err := io.ReadAll(alive); err != nil {
		t.Errorf("the proxy lives on: %v\n%s", err, said)
	}
	close(left)

	eventually(t, "the agent has forgotten the login", func() bool { return agentStatus(t, v.World).Witnesses == 0 })
	v.asks(nil, [][]byte{sign}, agentFailure)
	if n := agentStatus(t, v.World).Signatures - before; n > 1 {
		t.Errorf("the agent gave %d signatures for one session", n)
	}
	if n := strings.Count(v.first.Log(), "Accepted publickey") - accepted; n != 0 {
		t.Errorf("sshd let in %d clients", n)
	}
	v.login(v.first)
}
