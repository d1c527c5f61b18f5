package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/testenv"
)

// pidSpace is a PID namespace in which programs get the pids that the test wants.
type pidSpace struct {
	v    *victim
	in   io.Writer
	said *bufio.Scanner
}

func (v *victim) newPIDSpace() *pidSpace {
	v.t.Helper()
	unshare := testenv.NeedProgram(v.t, "unshare")
	args := []string{"--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	// What runs there ends with its first process, which is sh.
	sh := append(args, "sh")
	if r := v.Run(unshare, append(sh, "-c", "echo 99 >/proc/sys/kernel/ns_last_pid")...); r.Code != 0 {
		testenv.Missing(v.t, "a PID namespace of its own: "+r.Stderr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), crowdTimeout)
	cmd := v.Command(ctx, nil, unshare, sh...)
	in, err := cmd.StdinPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		cancel()
	})
	return &pidSpace{v, in, bufio.NewScanner(out)}
}

// run runs a shell command in the namespace, as the process with the pid unless that is 0, and returns its exit code
// and all it has said.
func (s *pidSpace) run(pid int, command string) (code int, output string) {
	s.v.t.Helper()
	file := filepath.Join(s.v.Home, "said")
	const missed = 99
	var next string
	if pid != 0 {
		next = fmt.Sprintf("echo %d >/proc/sys/kernel/ns_last_pid;", pid-1)
		command = fmt.Sprintf("[ $$ = %d ] || exit %d; %s", pid, missed, command)
	}
	for range 100 {
		fmt.Fprintf(s.in, "%s sh -c %s >%s 2>&1 </dev/null & wait $!; echo $?\n", next, quote(command), quote(file))
		if !s.said.Scan() {
			s.v.t.Fatal("the namespace has ended")
		}
		if _, err := fmt.Sscan(s.said.Text(), &code); err != nil {
			s.v.t.Fatal(err)
		}
		if pid == 0 || code != missed { // a thread may have got the pid
			break
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		s.v.t.Fatal(err)
	}
	return code, string(data)
}

// asking connects to the socket, makes a request as often as it is told, and prints the numbers of the answers. With a
// directory it ends and leaves the connection to a child, which waits for the file "go" there and prints into the file
// "answers".
const asking = `
import os, socket, sys, time
path, times, frame, where = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3]), sys.argv[4:]
s = socket.socket(socket.AF_UNIX)
s.connect(path)
out = sys.stdout
if where:
    if os.fork():
        sys.exit()
    while not os.path.exists(where[0] + "/go"):
        time.sleep(0.01)
    out = open(where[0] + "/answers.part", "w")
for _ in range(times):
    try:
        s.sendall(frame)
        print(s.recv(4096)[4], file=out, flush=True)
    except (IndexError, OSError):
        print("end", file=out, flush=True)
        break
if where:
    os.rename(where[0] + "/answers.part", where[0] + "/answers")
`

// Nothing is decided by pid: not for whoever gets that of a process that was let in, and not against whoever gets that
// of one that was refused.
func TestAttackPIDReuse(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	python := python("socket")(t)
	s := v.newPIDSpace()
	v.Must("vast-agent", "stop")
	fmt.Fprintf(s.in, "vast-agent run >/dev/null 2>&1 &\n")
	eventually(t, "the agent listens", v.running)

	// Threads of the agent get pids, too: the next ones that are free, and for good. So these are far apart.
	const pid, other = 5000, 6000
	login := func() {
		t.Helper()
		v.spends(1, nil, func() {
			if code, said := s.run(pid, "exec vast-ssh "+idOf(v.first)+" echo in"); code != 0 || said != "in\n" {
				t.Errorf("the user's login: exit %d\n%s", code, said)
			}
		})
	}
	message := v.userauth(v.first.User(), madeUp)
	frame := hex.EncodeToString(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...))
	ask := func(times int, where ...string) string {
		argv := append([]string{python, "-c", asking, v.Dirs.AgentSocket(), fmt.Sprint(times), frame}, where...)
		return "exec " + words(argv)
	}
	blamed := func(pid int) {
		t.Helper()
		told := v.why()
		if last := told[len(told)-1]; last.PID != pid {
			t.Errorf("the refusal names the pid %d, want %d", last.PID, pid)
		}
	}
	attack := func(pid, times int, reasons ...string) {
		t.Helper()
		v.refuses(func() {
			code, said := s.run(pid, ask(times))
			said, ended := strings.CutSuffix(said, "end\n")
			if code != 0 || strings.ReplaceAll(said, fmt.Sprintln(agentFailure), "") != "" ||
				ended != slices.Contains(reasons, "too-many") {
				t.Errorf("the attack: exit %d\n%s", code, said)
			}
		}, reasons...)
		blamed(pid)
	}

	login()
	attack(pid, 1, "no-witness")
	attack(pid, 100, "no-witness", "too-many")
	login()

	// The pid of the proxy, from which the agent has a witness.
	file := filepath.Join(v.Home, "proxy")
	proxied := openssh()(testenv.NeedProgram(t, "ssh"), errand{
		user: v.first.User(), host: "vast", port: "22", socket: v.Dirs.AgentSocket(), command: "echo in",
		proxy: fmt.Sprintf("sh -c 'echo $$ >%s; exec vast-ssh proxy %d'", file, v.first.ID),
	})
	v.spends(1, nil, func() {
		if code, said := s.run(0, words(proxied)); code != 0 || !strings.HasSuffix(said, "in\n") {
			t.Errorf("login: exit %d\n%s", code, said)
		}
	})
	var proxy int
	if data, err := os.ReadFile(file); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscan(string(data), &proxy); err != nil {
		t.Fatal(err)
	}
	attack(proxy, 1, "no-witness")

	// A connection that has outlived the process that made it, whose pid is a login's now.
	if code, said := s.run(other, ask(1, v.Home)); code != 0 || said != "" {
		t.Fatalf("the connection: exit %d\n%s", code, said)
	}
	v.spends(1, []string{"no-witness"}, func() {
		code, said := s.run(other, fmt.Sprintf(
			"touch %[1]s/go; until [ -f %[1]s/answers ]; do sleep 0.01; done; cat %[1]s/answers; exec vast-ssh %[2]d echo in",
			v.Home, v.first.ID))
		if code != 0 || said != fmt.Sprintf("%d\nin\n", agentFailure) {
			t.Errorf("the login: exit %d\n%s", code, said)
		}
	})
	blamed(other)
}
