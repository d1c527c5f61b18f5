package deploy_test

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// ownerFile says which run has the journal of the scripts.
const ownerFile = "/dev/shm/.vast-ssh-wipe-sh/owner"

func (m *machine) owner() string {
	m.t.Helper()
	return strings.TrimSpace(m.Sh("cat " + ownerFile))
}

// otherOwner waits until another run has the journal than before.
func (m *machine) otherOwner(before string) {
	m.t.Helper()
	m.Sh(`until [ "$(cat `+ownerFile+`)" != "$1" ]; do :; done`, before)
}

// TestAStuckRunIsEnded with all that it has started, by the run that takes its place.
func TestAStuckRunIsEnded(t *testing.T) {
	t.Parallel()
	m := newMachine(t, far[deploy.Script])
	m.plant("echo $C >/workspace/x")
	hold := m.Hold("/workspace/x")
	req := m.everything()
	req.Processes = false // which would end it anyway
	client := m.login()
	m.begin(client, req)
	hold.Await()
	find := strings.TrimSpace(m.Sh("pgrep -x find"))
	family := strings.Fields(find + " " + m.Sh("ps -o pid=,ppid= --ppid $1 -p $1", find))
	second := m.begin(client, req)
	for _, pid := range family {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatalf("%q: %v", family, err)
		}
		m.gone(n)
	}
	hold.Release()
	if res := m.result(second); res.Stopped || res.Remains() > 0 {
		t.Errorf("%+v", res)
	}
	if left := m.found(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestAFinishThatIsOvertakenIsNone: the journal is the later run's.
func TestAFinishThatIsOvertakenIsNone(t *testing.T) {
	t.Parallel()
	m := newMachine(t, far[deploy.Script])
	m.plant("echo $C >/workspace/x; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_other_key")
	req := m.everything()
	req.Processes = false
	first, second := m.login(), m.login()
	s := m.begin(first, req)
	m.result(s)
	hold := m.Hold("/etc/ssh/ssh_host_other_key")
	last, err := s.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	hold.Await()
	before := m.owner()
	facts, err := deploy.Probe(t.Context(), second, m.label(), nil)
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan error, 1)
	var later *deploy.Session
	go func() {
		var err error
		later, err = deploy.Start(t.Context(), second, facts, req)
		begun <- err
	}()
	m.otherOwner(before)
	hold.Release()
	if res := m.result(last); res.Finished || !res.Stopped {
		t.Errorf("%+v", res)
	}
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	if res := m.result(later); !later.Hello.Resumed || res.Groups[2].Files != 1 {
		t.Errorf("resumed: %v, %+v", later.Hello.Resumed, res)
	}
}

// TestAnEarlierHelperIsEnded wherever it is, by the run that takes its place. One that can stop by itself does.
func TestAnEarlierHelperIsEnded(t *testing.T) {
	t.Parallel()
	m := newMachine(t, far[deploy.Helper])
	m.plant("yes $C | head -c 9000000 >/workspace/x")
	hold := m.Hold("/workspace/x")
	req := m.everything()
	req.Processes = false // which would end it anyway
	client := m.login()

	stuck := m.begin(client, req)
	hold.Await()
	asked := m.begin(client, req)
	if msg, err := receiveAll(stuck); err == nil && msg.Result != nil {
		t.Errorf("one that is stuck has said %+v", msg.Result)
	}
	m.Sh("pkill -TERM -f '/[.]vast-ssh-'")
	hold.Release()
	if res := m.result(asked); !res.Stopped || !asked.Hello.Resumed {
		t.Errorf("one that was asked to stop: resumed %v, %+v", asked.Hello.Resumed, res)
	}

	waits := m.begin(client, req)
	if res := m.result(waits); res.Stopped || res.Groups[2].Files != 1 {
		t.Errorf("%+v", res)
	}
	last := m.begin(client, req)
	if msg, err := receiveAll(waits); !errors.Is(err, io.EOF) {
		t.Errorf("one that waits for its finish has said %+v, %v", msg, err)
	}
	if res := m.result(last); res.Stopped || !last.Hello.Resumed || res.Groups[2].Files != 1 {
		t.Errorf("resumed: %v, %+v", last.Hello.Resumed, res)
	}
	m.finish(last)
	if left := m.found(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestAJournalIsFoundWhileAnotherWipes what the probe tries: two runs with a journal each would wipe each other's.
func TestAJournalIsFoundWhileAnotherWipes(t *testing.T) {
	onFar(t, func(t *testing.T, _ deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.plant("echo $C >/workspace/x")
		req := m.everything()
		req.Processes = false // which would end the loop
		client := m.login()
		m.result(m.begin(client, req))
		m.Sh("(while :; do rm -rf /dev/shm/.vast-ssh-probe.*; done) >/dev/null 2>&1 </dev/null &")
		for range 5 {
			s := m.begin(client, req)
			if res := m.result(s); !s.Hello.Resumed || res.Groups[2].Files != 1 {
				t.Fatalf("resumed: %v, %+v", s.Hello.Resumed, res)
			}
		}
	})
}

// receiveAll returns the last word of a far side that has ended, and its end, or a result.
func receiveAll(s *deploy.Session) (last protocol.Message, err error) {
	for {
		msg, err := s.Receive()
		if err != nil {
			return last, err
		}
		if last = msg; msg.Result != nil {
			return last, nil
		}
	}
}
