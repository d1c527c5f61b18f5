package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

// rented is a user with an instance that can be wiped, met before, with a canary on it.
type rented struct {
	*World
	in      *Instance
	machine *overlay.Instance
	canary  []byte
}

func newRented(t *testing.T, opts sim.Options, cfg overlay.Config) *rented {
	t.Helper()
	w := NewWith(t, opts)
	w.Configure(`custody = "file"`)
	in, machine := w.AddOverlay("box", cfg)
	w.Ready()
	w.Must("vast-ssh", "box", "true")
	r := &rented{w, in, machine, []byte("canary-0b5e55ed")}
	machine.Sh(fmt.Sprintf("C=%s; mkdir -p /root/.aws; echo $C >/root/.aws/credentials; echo $C >/workspace/x; echo $C >/root/.bash_history", r.canary))
	return r
}

// left is how many canaries there are.
func (r *rented) left() int { return len(r.machine.Scan([][]byte{r.canary})) }

func (r *rented) lives() bool {
	_, ok := r.Account.Get(r.in.ID)
	return ok
}

// untouched checks that nothing was done, neither to the machine nor to the account.
func (r *rented) untouched(what string) {
	r.T.Helper()
	if n := r.left(); n != 3 || !r.lives() || r.Account.Count(sim.DestroyEndpoint) != 0 {
		r.T.Errorf("%s: %d canaries are left of 3, it lives: %v, asked to be destroyed %d times",
			what, n, r.lives(), r.Account.Count(sim.DestroyEndpoint))
	}
}

func (r *rented) report() map[string]any {
	r.T.Helper()
	files, err := filepath.Glob(filepath.Join(r.Dirs.WipeReports(), "*.json"))
	if err != nil || len(files) != 1 {
		r.T.Fatalf("reports: %q, %v", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		r.T.Errorf("%v, %v", info, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		r.T.Fatal(err)
	}
	var report map[string]any
	if err := json.Unmarshal(data, &report); err != nil {
		r.T.Fatal(err)
	}
	if strings.Contains(string(data), string(r.canary)) {
		r.T.Error("a secret's value is in the report")
	}
	return report
}

func TestWipe(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{LingerReads: 2}, overlay.Config{Env: []string{"WANDB_API_KEY=value-of-the-key"}})
	official := filepath.Join(r.Home, ".cache", "vastai", fmt.Sprintf("ssh_%d.json", r.in.ID))
	if err := os.MkdirAll(filepath.Dir(official), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(official, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	master := r.shareConnection()

	plan := r.Must("vast-ssh", "wipe", "box", "--dry-run")
	for _, want := range []string{"scope workspace", "AWS", "/workspace", "cannot be reached: "} {
		if !strings.Contains(plan, want) {
			t.Errorf("the plan does not say %q:\n%s", want, plan)
		}
	}
	r.untouched("a dry run")
	var plans []map[string]any
	if err := json.Unmarshal([]byte(r.Must("vast-ssh", "wipe", "box", "--dry-run", "--json")), &plans); err != nil || len(plans) != 1 {
		t.Errorf("the plan as JSON: %v", err)
	}

	done := r.Run("vast-ssh", "wipe", "box", "--yes")
	if done.Code != 0 {
		t.Fatalf("exit %d\n%s%s", done.Code, done.Stdout, done.Stderr)
	}
	for _, want := range []string{"data: clean", "instance: gone", "rotate these", "/root/.aws/credentials", "WANDB_API_KEY", "report: "} {
		if !strings.Contains(done.Stdout, want) {
			t.Errorf("the report does not say %q:\n%s", want, done.Stdout)
		}
	}
	if all := done.Stdout + done.Stderr; strings.Contains(all, string(r.canary)) || strings.Contains(all, "value-of-the-key") {
		t.Errorf("a secret is shown:\n%s", all)
	}
	if n := r.left(); n != 0 || r.lives() || r.Account.Count(sim.DestroyEndpoint) != 1 {
		t.Errorf("%d canaries left, lives: %v, destroyed %d times", n, r.lives(), r.Account.Count(sim.DestroyEndpoint))
	}
	if rep := r.report(); rep["data"] != "clean" || rep["destroyed"] != "gone" {
		t.Errorf("the report: %v", rep)
	}
	if _, err := os.Lstat(official); !os.IsNotExist(err) {
		t.Errorf("the official tool's cache is still there: %v", err)
	}
	select {
	case <-master:
	case <-time.After(runTimeout):
		t.Error("the shared connection of ssh goes on")
	}
	if pins := r.Must("vast-ssh", "pins"); strings.Contains(pins, fmt.Sprint(r.in.ID)) {
		t.Errorf("the pin is still there:\n%s", pins)
	}
	if config, err := os.ReadFile(r.Dirs.SSHConfig()); err != nil || strings.Contains(string(config), fmt.Sprint(r.in.ID)) {
		t.Errorf("the entry for ssh is still there: %v\n%s", err, config)
	}
	if again := r.Run("vast-ssh", "wipe", fmt.Sprint(r.in.ID), "--yes"); again.Code != 4 {
		t.Errorf("again: exit %d\n%s", again.Code, again.Stderr)
	}
	if odd := r.Account.Unexpected(); len(odd) > 0 {
		t.Errorf("the API does not know %+v", odd)
	}
}

// shareConnection starts a master (see ControlMaster in ssh_config(5)) at the path of the user's configuration for the instance. It
// leads to another machine, so that nothing but the end of the wipe ends it. The channel is closed when it has ended.
func (r *rented) shareConnection() <-chan struct{} {
	r.T.Helper()
	ssh := testenv.NeedProgram(r.T, "ssh")
	user := filepath.Join(r.Home, ".ssh", "config")
	// ssh looks for the user's configuration where the system says that his home is.
	own := filepath.Join(r.Home, "ssh")
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *' -F '*) exec %[1]s \"$@\" ;; esac\nexec %[1]s -F %[2]s \"$@\"\n", ssh, user)
	writeProgram(r.T, own, []byte(script))
	r.Configure(fmt.Sprintf("custody = \"file\"\nssh = %q", own))
	config := fmt.Sprintf("Include %s\nHost vast-*\n  ControlPath %s/cm-%%C\n", r.Dirs.SSHConfig(), r.Home)
	if err := errors.Join(os.MkdirAll(filepath.Dir(user), 0o700), os.WriteFile(user, []byte(config), 0o600)); err != nil {
		r.T.Fatal(err)
	}
	other := r.AddInstance("other", sshd.Config{})
	other.AddAuthorizedKey(strings.TrimSpace(r.Must("vast-ssh", "key", "show")))
	r.Must("vast-ssh", "other", "true")

	path := ""
	for line := range strings.Lines(r.Must(own, "-G", fmt.Sprintf("vast-%d", r.in.ID))) {
		if after, ok := strings.CutPrefix(line, "controlpath "); ok {
			path = strings.TrimSpace(after)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*runTimeout)
	cmd := r.Command(ctx, nil, own, "-M", "-N", "-S", path, fmt.Sprintf("vast-%d", other.ID))
	if err := cmd.Start(); err != nil {
		r.T.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	r.T.Cleanup(func() { cancel(); <-ended })
	eventually(r.T.(*testing.T), "the master listens", func() bool { return r.Run(own, "-S", path, "-O", "check", "x").Code == 0 })
	return ended
}

// TestWipeStoppedAtTheTerminal types Ctrl-C while files are overwritten, the last of which waits for it.
func TestWipeStoppedAtTheTerminal(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	r.machine.Sh(`for n in 1 2 3 4; do head -c 200000000 /dev/zero >/workspace/large$n; done`)
	hold := r.machine.Hold("/workspace/large4")
	near, far := openPTY(t)
	if err := unix.IoctlSetWinsize(int(far.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := r.Command(ctx, nil, "vast-ssh", "wipe", "box", "--yes")
	var stdout bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, &stdout, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	screen := make(chan string, 1)
	go func() {
		var all []byte
		buf := make([]byte, 4096)
		for typed := false; ; {
			n, err := near.Read(buf)
			all = append(all, buf[:n]...)
			if !typed && bytes.Contains(all, []byte("MiB / ")) { // of the bar
				select {
				case <-hold.Met:
				case <-ctx.Done():
				}
				near.WriteString("\x03")
				typed = true
			}
			if bytes.Contains(all, []byte("stopping: ")) {
				hold.Release()
			}
			if err != nil {
				screen <- string(all)
				return
			}
		}
	}()
	cmd.Wait()
	shown := <-screen
	if code := cmd.ProcessState.ExitCode(); code != 6 || !strings.Contains(shown, "was stopped") || !strings.Contains(stdout.String(), "data: stopped") {
		t.Errorf("exit %d\n%s\n%s", code, shown, &stdout)
	}
	if rep := r.report(); rep["data"] != "stopped" || rep["destroyed"] == "gone" || !r.lives() || r.Account.Count(sim.DestroyEndpoint) != 0 {
		t.Errorf("%v, lives: %v", rep, r.lives())
	}
	if again := r.Run("vast-ssh", "wipe", "box", "--yes"); again.Code != 0 || r.left() != 0 || r.lives() {
		t.Errorf("again: exit %d, %d canaries left\n%s", again.Code, r.left(), again.Stderr)
	}
}

// TestWipeInterruptedBeforeItsPlan says that nothing was touched, whichever answer of the API it waits for.
func TestWipeInterruptedBeforeItsPlan(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	for _, endpoint := range []sim.Endpoint{sim.JobsEndpoint, sim.ListEndpoint} {
		r.Account.Fault(sim.Fault{Endpoint: endpoint, Hang: true, Times: -1})
		before := r.Account.Count(endpoint)
		ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
		defer cancel()
		cmd := r.Command(ctx, nil, "vast-ssh", "wipe", "box", "--yes")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the API is asked", func() bool { return r.Account.Count(endpoint) > before })
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.HasSuffix(stderr.String(), "error: interrupted: nothing was touched\n") {
			t.Errorf("%s: exit %d\n%s", endpoint, code, &stderr)
		}
		r.untouched(string(endpoint))
	}
}

// TestWipeWhoseReportHasNoRoom tells of what is left rather than of the report.
func TestWipeWhoseReportHasNoRoom(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	r.machine.Sh("mkdir /workspace/d; echo fixed >/workspace/d/fixed; chattr +i /workspace/d/fixed")
	defer r.machine.Sh("chattr -i /workspace/d/fixed")
	got := r.Run("sh", "-c", "vast-ssh wipe box --yes --json >/dev/full")
	if got.Code != 6 || !strings.Contains(got.Stderr, "error: instance ") || !strings.Contains(got.Stderr, "hint: ") {
		t.Errorf("exit %d\n%s", got.Code, got.Stderr)
	}
}

// TestWipeWhoseOutputNobodyReads any more, as that of "wipe 2>&1 | tee" at a Ctrl-C, comes to an end of its own.
func TestWipeWhoseOutputNobodyReads(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	hold := r.machine.Hold("/workspace/x")
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := r.Command(ctx, nil, "vast-ssh", "wipe", "box", "--yes")
	near, far, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = far, far
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	hold.Await()
	near.Close()
	cmd.Process.Signal(os.Interrupt)
	hold.Release()
	cmd.Wait()
	if rep := r.report(); cmd.ProcessState.ExitCode() != 6 || rep["problem"] != "it was interrupted" || !r.lives() {
		t.Errorf("%v, lives: %v, %v", cmd.ProcessState, r.lives(), rep)
	}
}

func TestWipeAsks(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	if none := r.Run("vast-ssh", "wipe", "box"); none.Code != 1 || !strings.Contains(none.Stderr, "hint: ") {
		t.Errorf("without a terminal: exit %d\n%s", none.Code, none.Stderr)
	}
	r.untouched("without a terminal")
	screen, _ := r.shown([]string{"bux"}, "vast-ssh", "wipe", "box")
	if !strings.Contains(screen, "Type box or "+fmt.Sprint(r.in.ID)) || !strings.Contains(screen, "nothing was touched") {
		t.Errorf("the screen:\n%s", screen)
	}
	r.untouched("a wrong answer")
	screen, out := r.shown([]string{"bux"}, "vast-ssh", "wipe", "box", "--json")
	if !strings.Contains(screen, "/workspace ") || !strings.Contains(screen, "nothing was touched") || out != "" {
		t.Errorf("what is to be confirmed is not shown:\n%s%s", screen, out)
	}
	r.untouched("a wrong answer with --json")
	// A key that is locked is unlocked first, as for a login.
	r.Must("vast-agent", "lock")
	screen, out = r.shown([]string{"", "box"}, "vast-ssh", "wipe", "box")
	if !strings.Contains(out, "instance: gone") || r.left() != 0 || r.lives() {
		t.Errorf("the right answer:\n%s%s", screen, out)
	}
}

// TestWipeOfWhatIsNotTheInstance goes through what must end before anything is touched.
func TestWipeOfWhatIsNotTheInstance(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	check := func(what string, code int, says string, args ...string) {
		t.Helper()
		got := r.Run("vast-ssh", append([]string{"wipe", "--yes"}, args...)...)
		if got.Code != code || !strings.Contains(got.Stderr, says) {
			t.Errorf("%s: exit %d, want %d\n%s", what, got.Code, code, got.Stderr)
		}
		r.untouched(what)
	}
	check("a wrong scope", 2, "--scope", "--scope", "al", "box")
	check("volumes of a scope without any", 2, "--volumes", "--scope", "secrets", "--volumes", "box")
	check("a relative path", 2, "--path", "--path", "x", "box")
	check("everything as a path", 2, "--scope all", "--path", "/", "box")
	check("an unknown label", 4, "no instance", "bax")
	// A second instance with the label makes it nobody's name.
	other := r.AddInstance("box", sshd.Config{})
	check("a label of two", 4, "box", "box")
	r.Account.Remove(other.ID)
	// Another box that was never met, together with one that was.
	key := strings.TrimSpace(r.Must("vast-ssh", "key", "show"))
	stranger := r.AddInstance("stranger", sshd.Config{AuthorizedKeys: []string{key}})
	check("one that was never met", 5, "hint: meet it first: vast-ssh "+fmt.Sprint(stranger.ID), "box", "stranger")
	// A machine that is no container of the instance's: the test's own.
	r.Must("vast-ssh", "stranger", "true")
	check("no container", 1, "container label", "box", "stranger")
	// Another machine at the address, with another key.
	addrs := r.in.Addrs()
	impostor := r.Impostor([]string{"127.0.0.1:0"}, key)
	r.Account.Move(r.in.ID, impostor.Addr(), "")
	check("a wrong pin", 5, "refused", "box")
	r.Account.Move(r.in.ID, addrs[0], "")
	r.Account.SetStatus(r.in.ID, "exited")
	check("one that does not run", 7, "does not run", "box")
}

// TestWipeOfAnInstanceThatSomebodyElseDestroys while its files are overwritten. It costs no money any more.
func TestWipeOfAnInstanceThatSomebodyElseDestroys(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	hold := r.machine.Hold("/workspace/x")
	go func() {
		hold.Await()
		r.Account.Remove(r.in.ID)
		r.machine.Stop()
	}()
	got := r.Run("vast-ssh", "wipe", "box", "--yes")
	if got.Code != 6 || strings.Contains(got.Stderr, "money") || strings.Contains(got.Stdout, "data: clean") ||
		!strings.Contains(got.Stderr, "was destroyed by somebody else before it was clean") || !strings.Contains(got.Stdout, "instance: gone\n") {
		t.Errorf("exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	if rep := r.report(); rep["destroyed"] != "gone" || rep["data"] != "incomplete" || r.Account.Count(sim.DestroyEndpoint) != 0 {
		t.Errorf("%v, asked to be destroyed %d times", rep, r.Account.Count(sim.DestroyEndpoint))
	}
	if pins := r.Must("vast-ssh", "pins"); strings.Contains(pins, fmt.Sprint(r.in.ID)) {
		t.Errorf("the pin is still there:\n%s", pins)
	}
}

// TestWipeWithAnAPIThatFails must end without a word of "gone", and a second run must finish it.
func TestWipeWithAnAPIThatFails(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	r.Account.Fault(sim.Fault{Endpoint: sim.DestroyEndpoint, Status: 429, Body: "API requests too frequent", Times: 3})
	got := r.Run("vast-ssh", "wipe", "box", "--yes")
	if got.Code != 6 || !strings.Contains(got.Stderr, "cost money") || !strings.Contains(got.Stderr, "hint: ") || strings.Contains(got.Stdout, "instance: gone") {
		t.Errorf("exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	if rep := r.report(); rep["destroyed"] != "unknown" || rep["data"] != "clean" || r.left() != 0 {
		t.Errorf("%v", rep)
	}
	if pins := r.Must("vast-ssh", "pins"); !strings.Contains(pins, fmt.Sprint(r.in.ID)) {
		t.Error("the pin went though the instance is there")
	}
	// The login is gone. What was done is known from the report, and the rest is done now.
	again := r.Run("vast-ssh", "wipe", "box", "--yes")
	if again.Code != 0 || !strings.Contains(again.Stdout, "instance: gone") || r.lives() {
		t.Errorf("again: exit %d\n%s%s", again.Code, again.Stdout, again.Stderr)
	}
}

// TestWipeOfAnInstanceThatWentAfterwards pastes the hint of a wipe whose end nobody could see.
func TestWipeOfAnInstanceThatWentAfterwards(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	r.Account.Fault(sim.Fault{Endpoint: sim.DestroyEndpoint, Status: 429, Body: "API requests too frequent", Times: 3})
	got := r.Run("vast-ssh", "wipe", "box", "--yes")
	if got.Code != 6 {
		t.Fatalf("exit %d\n%s", got.Code, got.Stderr)
	}
	r.Account.Remove(r.in.ID)
	got = r.Run("vast-ssh", "wipe", fmt.Sprint(r.in.ID), "--yes")
	hint := hintLine.FindStringSubmatch(got.Stderr)
	if got.Code != 4 || hint == nil || !strings.Contains(got.Stderr, "has not seen it gone: ") {
		t.Fatalf("exit %d\n%s", got.Code, got.Stderr)
	}
	_, command, _ := strings.Cut(hint[1], ": ")
	r.Must("sh", "-c", command+" --yes")
	if pins := r.Must("vast-ssh", "pins"); strings.Contains(pins, fmt.Sprint(r.in.ID)) {
		t.Errorf("the pin is still there:\n%s", pins)
	}
}

// TestWipeThatMeansMoreThanTheOneBefore, which has removed the login, does not pass for it.
func TestWipeThatMeansMoreThanTheOneBefore(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	r.Account.Fault(sim.Fault{Endpoint: sim.DestroyEndpoint, Status: 429, Body: "API requests too frequent", Times: 3})
	if got := r.Run("vast-ssh", "wipe", "box", "--yes", "--scope", "secrets"); got.Code != 6 {
		t.Fatalf("exit %d\n%s", got.Code, got.Stderr)
	}
	got := r.Run("vast-ssh", "wipe", "box", "--yes")
	hint := hintLine.FindStringSubmatch(got.Stderr)
	if got.Code != 6 || hint == nil || !r.lives() || r.left() == 0 {
		t.Fatalf("exit %d, it lives: %v\n%s%s", got.Code, r.lives(), got.Stdout, got.Stderr)
	}
	_, command, _ := strings.Cut(hint[1], ": ")
	if got := r.Run("sh", "-c", command+" --yes"); got.Code != 0 || r.lives() {
		t.Errorf("%s: exit %d, it lives: %v\n%s", command, got.Code, r.lives(), got.Stderr)
	}
}

// TestWipeAlwaysWithAnAPIThatFails leaves a machine that is not clean and has no login. The hint that it gives destroys it.
func TestWipeAlwaysWithAnAPIThatFails(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	r.machine.Sh("mkdir /workspace/d; echo fixed >/workspace/d/fixed; chattr +i /workspace/d/fixed")
	defer r.machine.Sh("chattr -i /workspace/d/fixed")
	r.Account.Fault(sim.Fault{Endpoint: sim.DestroyEndpoint, Status: 429, Body: "API requests too frequent", Times: 3})
	got := r.Run("vast-ssh", "wipe", "box", "--yes", "--destroy", "always")
	hint := hintLine.FindStringSubmatch(got.Stderr)
	if got.Code != 6 || hint == nil || !strings.HasPrefix(hint[1], "in a moment, run again: vast-ssh ") || !r.lives() {
		t.Fatalf("exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	command, _, _ := strings.Cut(strings.TrimPrefix(hint[1], "in a moment, run again: "), "   (")
	again := r.Run("sh", "-c", command)
	if again.Code != 6 || !strings.Contains(again.Stderr, "is destroyed, and was not clean") || r.lives() {
		t.Errorf("%s: exit %d\n%s%s", command, again.Code, again.Stdout, again.Stderr)
	}
}

// TestWipeWithoutAWordOfTheEnd cannot write to its report that the instance is gone.
func TestWipeWithoutAWordOfTheEnd(t *testing.T) {
	t.Parallel()
	var r *rented
	r = newRented(t, sim.Options{OnChange: func(_ uint64, change sim.Change) {
		if dir := r.Dirs.WipeReports(); change == sim.Destroyed {
			os.Rename(dir, dir+".away")
			os.WriteFile(dir, nil, 0o600)
		}
	}}, overlay.Config{})
	got := r.Run("vast-ssh", "wipe", "box", "--yes")
	if got.Code != 6 || !strings.Contains(got.Stderr, "is gone, and its report does not say so: ") || r.lives() || r.left() != 0 {
		t.Errorf("exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
}

// TestWipeWithAJobThatStays is done but for the job, which goes on copying.
func TestWipeWithAJobThatStays(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	r.Account.AddJob(sim.Job{Instance: r.in.ID, Endpoint: "/api/v0/commands/rclone/"})
	r.Account.Fault(sim.Fault{Endpoint: sim.DropJobEndpoint, Status: 403, Times: -1})
	got := r.Run("vast-ssh", "wipe", "box", "--yes", "--drop-jobs", "--keep", "/workspace/a,b")
	if got.Code != 6 || !strings.Contains(got.Stderr, " is deleted: ") || !strings.Contains(got.Stderr, "could not be deleted") ||
		!strings.Contains(got.Stdout, "instance: gone") || r.lives() {
		t.Errorf("exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	if kept := r.report()["keep"]; fmt.Sprint(kept) != "[/workspace/a,b]" {
		t.Errorf("kept: %v", kept)
	}
}

func TestWipeSeveral(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	second, machine := r.AddOverlay("second", overlay.Config{})
	second.AddAuthorizedKey(strings.TrimSpace(r.Must("vast-ssh", "key", "show")))
	r.Must("vast-ssh", "second", "true")
	machine.Sh("echo " + string(r.canary) + " >/workspace/y")
	screen, out := r.shown([]string{"2"}, "vast-ssh", "wipe", "box", "second", fmt.Sprint(r.in.ID))
	if !strings.Contains(screen, "Type 2 to go on") || strings.Count(out, "instance: gone") != 2 {
		t.Errorf("the screen:\n%s%s", screen, out)
	}
	if r.left() != 0 || len(machine.Scan([][]byte{r.canary})) != 0 || r.Account.Count(sim.DestroyEndpoint) != 2 {
		t.Error("not all of two is wiped and destroyed")
	}
}

// TestRunAndWipe is the throw-away life of an instance.
func TestRunAndWipe(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	data := filepath.Join(r.Home, "data")
	if err := os.WriteFile(data, append([]byte("in "), r.canary...), 0o600); err != nil {
		t.Fatal(err)
	}
	got := r.Run("vast-ssh", "run", "box", "--put", data+":/workspace/in", "--get", "/workspace/out:"+r.Home+"/results", "--wipe", "--yes", "--",
		"mkdir /workspace/out; tr a-z A-Z </workspace/in/data >/workspace/out/result; echo done")
	if got.Code != 0 || !strings.Contains(got.Stdout, "done\n") {
		t.Fatalf("exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	result, err := os.ReadFile(filepath.Join(r.Home, "results", "result"))
	if err != nil || string(result) != strings.ToUpper("in "+string(r.canary)) {
		t.Errorf("the result: %q, %v", result, err)
	}
	if n := len(r.machine.Scan([][]byte{r.canary, []byte(strings.ToUpper(string(r.canary)))})); n != 0 || r.lives() {
		t.Errorf("%d canaries left, lives: %v", n, r.lives())
	}
}

// TestWipeOfAnInstanceThatWasUsedAgain: after a wipe it was restarted, which brings the login back, and worked with. What the wipe
// before has done says nothing of that.
func TestWipeOfAnInstanceThatWasUsedAgain(t *testing.T) {
	t.Parallel()
	r := newRented(t, sim.Options{}, overlay.Config{})
	files := []string{"/root/.ssh/authorized_keys", "/etc/ssh/ssh_host_ed25519_key"}
	var before []string
	for _, name := range files {
		before = append(before, r.machine.Sh("cat "+name))
	}
	r.Must("vast-ssh", "wipe", "box", "--yes", "--destroy", "never")
	for i, name := range files {
		r.machine.Sh(`umask 077; mkdir -p "${1%/*}"; printf %s "$2" >"$1"`, name, before[i])
	}
	r.Must("vast-ssh", "box", "true")
	r.machine.Sh("echo $1 >/workspace/new", string(r.canary))
	r.Account.SetStatus(r.in.ID, "exited")
	got := r.Run("vast-ssh", "wipe", "box", "--yes")
	if got.Code != 7 || !r.lives() || !strings.Contains(got.Stderr, "hint: ") {
		t.Errorf("exit %d, it lives: %v\n%s%s", got.Code, r.lives(), got.Stdout, got.Stderr)
	}
	got = r.Run("vast-ssh", "wipe", "box", "--yes", "--destroy", "always")
	if got.Code != 6 || r.lives() || strings.Contains(got.Stdout, "data: clean") {
		t.Errorf("always: exit %d, it lives: %v\n%s%s", got.Code, r.lives(), got.Stdout, got.Stderr)
	}
}
