package deploy_test

import (
	"slices"
	"testing"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// objects are the segments and queues of an instance.
func (m *machine) objects() string {
	m.t.Helper()
	return m.Sh("{ sed 1d /proc/sysvipc/shm; sed 1d /proc/sysvipc/msg; ls -A /dev/mqueue; } | wc -l")
}

// TestWhatEndedProcessesLeaveInMemory makes segments and queues, which outlive who made them. Without the rights of the machine's
// root only their owner may remove them, and a shell cannot become the owner.
func TestWhatEndedProcessesLeaveInMemory(t *testing.T) {
	t.Parallel()
	testenv.NeedProgram(t, "ipcmk")
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		m := newMachine(t, c)
		m.plant("ipcmk -M 5000; ipcmk -Q; setpriv --reuid 1000 --clear-groups ipcmk -M 7000 -p 600")
		m.plant("touch /dev/mqueue/one /dev/mqueue/.two; echo $C >/workspace/x")
		req := m.everything()
		plan := m.plan(m.login(), req)
		if got := m.objects(); got != "5\n" || plan.IPC != 5 || plan.Counts[protocol.Memory] != 0 {
			t.Errorf("there are %q, and the plan has %d, and %v", got, plan.IPC, plan.Counts)
		}
		_, res := m.run(m.login(), req)
		left, told := m.objects(), res.Counts[protocol.Memory]
		switch kind {
		case deploy.Helper:
			if left != "0\n" || told != 0 {
				t.Errorf("left: %q, told %d: %+v", left, told, res.Items)
			}
		case deploy.Script:
			if left != "1\n" || told != 1 {
				t.Errorf("left: %q, told %d: %+v", left, told, res.Items)
			}
		}
		if res.Remains() != 0 {
			t.Errorf("%d remain: %+v", res.Remains(), res.Items)
		}
	})
}

// TestSegmentsOfTheMachineStay has a shell that is told that the IPC namespace is the machine's.
func TestSegmentsOfTheMachineStay(t *testing.T) {
	t.Parallel()
	testenv.NeedProgram(t, "ipcmk")
	m := newMachine(t, overlay.Config{NoExec: nowhere})
	busybox := testenv.NeedProgram(t, "busybox")
	m.plant(`cat >/tmp/readlink <<end
#!/bin/sh
[ "\$*" = /proc/self/ns/ipc ] && echo 'ipc:[4026531839]' || exec ` + busybox + ` readlink "\$@"
end
chmod +x /tmp/readlink
mv /tmp/readlink "$(command -v readlink)"
ipcmk -M 5000; ipcmk -Q; echo $C >/dev/shm/theirs; echo $C >/workspace/x`)
	req := m.everything()
	plan := m.plan(m.login(), req)
	if plan.IPC != 0 || plan.Counts[protocol.Memory] != 2 {
		t.Errorf("the plan has %d, and %v", plan.IPC, plan.Counts)
	}
	_, res := m.run(m.login(), req)
	if got := m.objects(); got != "2\n" || res.Counts[protocol.Memory] != 2 || res.Remains() != 0 {
		t.Errorf("there are %q, and the result has %v: %+v", got, res.Counts, res.Items)
	}
	if got := m.Sh("ls -A /dev/shm"); got != "theirs\n" {
		t.Errorf("/dev/shm has %q", got)
	}
}

// TestMemoryOfProgramsThatGoOn belongs to what the first process waits for, on a machine that stays in use.
func TestMemoryOfProgramsThatGoOn(t *testing.T) {
	t.Parallel()
	testenv.NeedProgram(t, "ipcmk")
	onFar(t, func(t *testing.T, kind deploy.Kind, c overlay.Config) {
		c.Foreground = "ipcmk -Q; ipcmk -M 5000; sleep 100000; :"
		m := newMachine(t, c)
		m.plant("echo $C >/workspace/x; until [ $({ sed 1d /proc/sysvipc/shm; sed 1d /proc/sysvipc/msg; } | wc -l) = 2 ]; do :; done")
		req := m.everything()
		req.Rules = slices.DeleteFunc(req.Rules, func(r protocol.Rule) bool { return r.Login })
		plan := m.plan(m.login(), req)
		_, res := m.run(m.login(), req)
		if got := m.objects(); got != "2\n" || plan.IPC != 0 || plan.Counts[protocol.Memory] != 2 || res.Counts[protocol.Memory] != 2 {
			t.Errorf("there are %q, the plan has %d, %v, and the result %v", got, plan.IPC, plan.Counts, res.Counts)
		}
	})
}

// TestSegmentsWithoutIpcrm has a shell without the tool.
func TestSegmentsWithoutIpcrm(t *testing.T) {
	t.Parallel()
	testenv.NeedProgram(t, "ipcmk")
	m := newMachine(t, overlay.Config{NoExec: nowhere, Busybox: true})
	m.plant("ipcmk -M 5000 >/dev/null; echo $C >/workspace/x")
	_, res := m.run(m.login(), m.everything())
	if res.Counts[protocol.Memory] != 1 || res.Remains() != 0 {
		t.Errorf("%v: %+v", res.Counts, res.Items)
	}
}
