package job

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/testenv"
)

// noise is bytes that do not repeat.
func noise(seed uint64, n int) string {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return string(b)
}

// oddNames are names that a shell, find, stat, sha256sum or a terminal could stumble over.
func oddNames() []string {
	every := make([]byte, 0, 255)
	for c := 1; c < 256; c++ {
		if c != '/' {
			every = append(every, byte(c))
		}
	}
	return []string{
		"plain", "with blank", " blank first", "blank last ", "-n", "--help", "new\nline", "last\n", "\n", "back\\slash", "back\\",
		"'", "\"$(exit)`exit`", "*", "~", "%s%b", "\\0101", "\x1b[31m", string(every[:127]), string(every[127:]), "ünïcödé",
		strings.Repeat("l", maxComponent), "sub/deep/er", "sub/new\nline/x", "-d/-f", "a:b",
	}
}

func fillSource(t *testing.T, dir string) {
	t.Helper()
	for i, name := range oddNames() {
		write(t, filepath.Join(dir, name), fmt.Sprint("content of ", i))
	}
	for i, n := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, 3 * blockSize, 1 << 20} {
		write(t, filepath.Join(dir, "sizes", fmt.Sprint(n)), noise(uint64(i), n))
	}
	check(t, os.Chmod(filepath.Join(dir, "plain"), 0o755))
	check(t, os.Chmod(filepath.Join(dir, "~"), 0o444))
	check(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
}

// A whole run with every program that an instance may have: odd names and sizes go up and come back as they were.
func TestRun(t *testing.T) {
	for _, programs := range []string{gnu, busybox} {
		t.Run(programs, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, programs)
			src, dst := t.TempDir(), filepath.Join(t.TempDir(), "made", "by it")
			fillSource(t, src)
			single := filepath.Join(t.TempDir(), "single.txt")
			write(t, single, "one file")
			r, o := w.run(Config{
				Puts:    []Transfer{{src, "~/work/in put"}, {single, "work"}},
				Gets:    []Transfer{{dst, w.home + "/work/out"}, {dst, "work/single.txt"}},
				Command: []string{"sh", "-c", `cp -Rp "work/in put" work/out; echo "$0|$1|$2"; echo to stderr >&2; umask; exit 7`, "a b", "$HOME", "it's\n"},
			})
			status, rep, err := all(bound(t), r)
			check(t, err)
			if status != 7 {
				t.Errorf("status %d", status)
			}
			if got, want := o.out.String(), fmt.Sprintf("a b|$HOME|it's\n\n%04o\n", umask); got != want {
				t.Errorf("stdout %q, want %q", got, want)
			}
			if got := o.err.String(); got != "to stderr\n" {
				t.Errorf("stderr %q", got)
			}
			write(t, filepath.Join(src, "single.txt"), "one file")
			sameTree(t, dst, src)
			if want := len(oddNames()) + 8; rep.Files != want || len(rep.Skipped) != 0 {
				t.Errorf("report %+v, want %d files", rep, want)
			}
			info, err := os.Stat(filepath.Join(w.home, ".vast-ssh-run", r.ID()))
			if err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("the directory of the run: %v, %v", info, err)
			}
			check(t, r.Remove(bound(t)))
			if _, err := os.Stat(filepath.Join(w.home, ".vast-ssh-run")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("what is left of the run: %v", err)
			}
			if _, err := r.Follow(bound(t)); !errors.As(err, new(*NoRunError)) {
				t.Errorf("following what was removed: %v", err)
			}
		})
	}
}

// cutCommand leaves a line each time that it runs, and says much, some of it slowly.
const cutCommand = `echo ran >>ran
i=0
while [ $i -lt 1500 ]; do
	echo "this is line $i of the output"
	echo "this is line $i of the errors" >&2
	i=$((i + 1))
	case $i in *00) sleep 0.05 ;; esac
done
cp -Rp in out
exit 3`

func cutOutput(what string) string {
	var b strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&b, "this is line %d of the %s\n", i, what)
	}
	return b.String()
}

// Wherever the connection is cut, everything comes once and is what it was.
func TestCuts(t *testing.T) {
	type cut struct {
		name   string
		limits []int
	}
	// A login takes some 5 KiB. The files are some 600 KiB each way, the output 90 KiB.
	cuts := []cut{
		{"in the greeting", []int{10}},
		{"in the logins", []int{1500, 3000, 4500, 6000}},
		{"in the probe", []int{7000, 8000, 9000}},
		{"in the uploads", []int{60_000, 200_000, 100_000}},
		{"after the uploads", []int{630_000, 640_000}},
		{"many times", []int{100_000, 20_000, 100_000, 100_000, 120_000, 100_000, 90_000, 100_000}},
		{"late", []int{650_000, 30_000, 50_000}},
		{"in the downloads", []int{780_000, 100_000, 100_000}},
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		c := cut{name: fmt.Sprint("random ", i)}
		for range 1 + rnd.IntN(5) {
			c.limits = append(c.limits, rnd.IntN(400_000))
		}
		if i%2 == 1 {
			// From where the files are up: in the start, and while it is followed.
			c.limits = []int{610_000 + rnd.IntN(40_000), 5000 + rnd.IntN(20_000), 5000 + rnd.IntN(60_000), rnd.IntN(300_000)}
		}
		cuts = append(cuts, c)
	}
	for i, c := range cuts {
		programs := gnu
		if i%3 == 1 {
			programs = busybox
		}
		t.Run(programs+" "+c.name, func(t *testing.T) {
			t.Parallel()
			testCut(t, programs, c.limits)
		})
	}
}

func testCut(t *testing.T, programs string, limits []int) {
	w := newWorld(t, programs)
	src, dst := t.TempDir(), t.TempDir()
	for i := range 20 {
		write(t, filepath.Join(src, fmt.Sprint("small ", i)), noise(uint64(i), 100*i))
	}
	write(t, filepath.Join(src, "large"), noise(99, 500_000))
	write(t, filepath.Join(src, "other"), noise(98, 80_000))
	w.relay.limit(limits...)
	r, o := w.run(Config{
		Dial: w.dialStubborn, Puts: []Transfer{{src, "in"}}, Gets: []Transfer{{dst, "out"}}, Command: []string{cutCommand},
	})
	status, rep, err := all(bound(t), r)
	check(t, err)
	if status != 3 || rep.Files != 22 {
		t.Errorf("status %d, %+v", status, rep)
	}
	if o.out.String() != cutOutput("output") || o.err.String() != cutOutput("errors") {
		t.Errorf("the output is not what was written: %d and %d bytes", o.out.Len(), o.err.Len())
	}
	if got := read(t, filepath.Join(w.home, "ran")); got != "ran\n" {
		t.Errorf("the command ran %q", got)
	}
	sameTree(t, dst, src)
	sameTree(t, filepath.Join(w.home, "in"), src)
	if w.relay.cuts() == 0 {
		t.Error("no connection was cut")
	}
	check(t, r.Remove(bound(t)))
}

// dialStubborn does not give up when the first connection is cut, as a run does.
func (w *world) dialStubborn(ctx context.Context) (client *ssh.Client, err error) {
	for range 10 {
		if client, err = w.dial(ctx); err == nil {
			return client, nil
		}
	}
	return nil, err
}

// Several who start the same run at the same time start it once.
func TestStartedOnce(t *testing.T) {
	for _, programs := range []string{gnu, busybox} {
		t.Run(programs, func(t *testing.T) {
			w := newWorld(t, programs)
			id := NewID()
			var wg sync.WaitGroup
			errs := make(chan error, 8)
			for range cap(errs) {
				r, _ := w.run(Config{ID: id, Command: []string{"echo ran >>ran; exit 5"}})
				wg.Go(func() {
					status, _, err := all(bound(t), r)
					if err == nil && status != 5 {
						err = fmt.Errorf("status %d", status)
					}
					errs <- err
				})
			}
			wg.Wait()
			for range cap(errs) {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			if got := read(t, filepath.Join(w.home, "ran")); got != "ran\n" {
				t.Errorf("the command ran %q", got)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t, gnu)
	for _, tt := range []struct {
		command []string
		want    int
	}{
		{[]string{"true"}, 0},
		{[]string{"exit 42"}, 42},
		{[]string{"false", "x"}, 1},
		{[]string{"kill -9 $$"}, 137},
		{[]string{"sh", "-c", "kill -TERM $$"}, 143},
		{[]string{"no-such-program-anywhere"}, 127},
		{[]string{"exit 0 # comment\n"}, 0},
		{[]string{"cat; exit 9"}, 9}, // its stdin is empty
	} {
		r, _ := w.run(Config{Command: tt.command})
		got, _, err := all(bound(t), r)
		if err != nil || got != tt.want {
			t.Errorf("%q: status %d, %v, want %d", tt.command, got, err, tt.want)
		}
		check(t, r.Remove(bound(t)))
	}
}

// Whoever stops following leaves the command as it is, and can come back to all of its output.
func TestAttach(t *testing.T) {
	for _, programs := range []string{gnu, busybox, programsWith(t, nil, "setsid")} {
		t.Run(filepath.Base(programs), func(t *testing.T) {
			w := newWorld(t, programs)
			ctx, cancel := context.WithCancelCause(bound(t))
			seen := make(chan struct{})
			r, err := New(Config{
				ID: NewID(), Dial: w.dial, Stdout: &trigger{at: "one\n", seen: seen},
				Command: []string{"echo one; until [ -e go ]; do sleep 0.1; done; echo two; exit 4"},
			})
			check(t, err)
			go func() {
				<-seen
				cancel(errors.New("enough"))
			}()
			if _, _, err := all(ctx, r); err == nil || err.Error() != "follow: enough" {
				t.Fatalf("stopped with %v", err)
			}
			if err := func() error { r, _ := w.run(Config{ID: r.ID()}); return r.Remove(bound(t)) }(); err == nil {
				t.Error("a run that goes on was removed")
			}
			other, _ := w.run(Config{})
			if ids, err := other.Others(bound(t)); err != nil || !slices.Equal(ids, []string{r.ID()}) {
				t.Errorf("the others: %q, %v", ids, err)
			}
			if ids, err := r.Others(bound(t)); err != nil || len(ids) > 0 {
				t.Errorf("others than the only one: %q, %v", ids, err)
			}
			write(t, filepath.Join(w.home, "go"), "")
			again, o := w.run(Config{ID: r.ID()})
			status, err := again.Follow(bound(t))
			check(t, err)
			if status != 4 || o.out.String() != "one\ntwo\n" {
				t.Errorf("status %d, %q", status, &o.out)
			}
			if ids, err := other.Others(bound(t)); err != nil || len(ids) > 0 {
				t.Errorf("others that have ended: %q, %v", ids, err)
			}
		})
	}
}

// A command that opens its stdout anew cuts off what it has said, and is heard all the same from then on.
func TestOutputCutShort(t *testing.T) {
	for _, programs := range []string{gnu, busybox} {
		w := newWorld(t, programs)
		seen := make(chan struct{})
		out := &trigger{at: "\n1000\n", seen: seen}
		told := 0
		r, err := New(Config{
			ID: NewID(), Dial: w.dial, Stdout: out, Progress: func(ev Event) {
				if ev.Step == Short {
					told++
				}
			},
			Command: []string{"seq 1000; until [ -e go ]; do sleep 0.1; done; echo two >/dev/stdout; echo three; exit 4"},
		})
		check(t, err)
		go func() {
			<-seen
			write(t, filepath.Join(w.home, "go"), "")
		}()
		status, _, err := all(bound(t), r)
		check(t, err)
		if got := out.got.String(); status != 4 || told != 1 || !strings.HasSuffix(got, "\n1000\ntwo\nthree\n") {
			t.Errorf("%s: status %d, told %d times, %q", programs, status, told, got[max(0, len(got)-40):])
		}
	}
}

// trigger tells when something was written.
type trigger struct {
	got  strings.Builder
	at   string
	seen chan struct{}
}

func (t *trigger) Write(p []byte) (int, error) {
	had := strings.Contains(t.got.String(), t.at)
	t.got.Write(p)
	if !had && strings.Contains(t.got.String(), t.at) {
		close(t.seen)
	}
	return len(p), nil
}

// A command that is killed with its shell is told apart from one that is quiet.
func TestLost(t *testing.T) {
	for _, programs := range []string{gnu, busybox} {
		t.Run(programs, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, programs)
			r, _ := w.run(Config{Command: []string{"echo $$ >me; exec sleep 300"}})
			ctx := bound(t)
			check(t, r.Prepare(ctx))
			check(t, r.Start(ctx))
			// Both are children of the sshd that this test has started.
			for _, file := range []string{filepath.Join(".vast-ssh-run", r.ID(), "pid"), "me"} {
				kill(t, filepath.Join(w.home, file))
			}
			if _, err := r.Follow(ctx); !errors.As(err, new(*LostError)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// kill ends the process that a file names, when it does.
func kill(t *testing.T, file string) {
	t.Helper()
	var pid int
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(file)
		if err == nil && strings.HasSuffix(string(b), "\n") {
			if _, err := fmt.Sscan(string(b), &pid); err == nil && pid > 1 {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s names no process: %q, %v", file, b, err)
		}
	}
	check(t, syscall.Kill(pid, syscall.SIGKILL))
}

func TestCutOff(t *testing.T) {
	w := newWorld(t, gnu)
	var cuts int
	r, _ := w.run(Config{
		Command: []string{"sleep 300"},
		Progress: func(ev Event) {
			if ev.Step == Cut {
				cuts++
			}
		},
	})
	ctx := bound(t)
	check(t, r.Prepare(ctx))
	check(t, r.Start(ctx))
	w.server.Stop()
	r.link.cfg.CutOff = 5 * time.Second // from here on: a busy machine may take longer for a login
	w.relay.cutAll()
	var cutOff *CutOffError
	if _, err := r.Follow(ctx); !errors.As(err, &cutOff) || cutOff.For < 5*time.Second || cuts < 2 {
		t.Errorf("got %v after %d cuts", err, cuts)
	}
	final := errors.New("it is another machine")
	r, _ = w.run(Config{Command: []string{"true"}, Final: func(err error) bool { return errors.Is(err, final) }})
	r.link.once = true
	r.link.cfg.Dial = func(context.Context) (*ssh.Client, error) { return nil, final }
	if err := r.Prepare(ctx); !errors.Is(err, final) || errors.As(err, &cutOff) {
		t.Errorf("an error that is final gave %v", err)
	}
}

// programsWith is a directory for PATH: GNU's programs as far as a run needs them, but for some, and files of the test.
// busybox would not do, since its shell may find its own programs without looking.
func programsWith(t *testing.T, files map[string]string, without ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sh", "cat", "chmod", "dd", "find", "head", "mkdir", "mv", "readlink", "rm", "rmdir", "setsid", "sha256sum",
		"sleep", "stat", "tr"} {
		if !slices.Contains(without, name) && files[name] == "" {
			check(t, os.Symlink(testenv.NeedProgram(t, name), filepath.Join(dir, name)))
		}
	}
	for name, text := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	return dir
}

// A machine whose hashes are wrong gets nothing verified, whichever way the files go.
func TestLyingHash(t *testing.T) {
	dir := programsWith(t, map[string]string{"sha256sum": `#!/bin/sh
x=$(` + testenv.NeedProgram(t, "sha256sum") + `)
case $x in
ba7816bf*) ;;
*) [ ! -e "$HOME/lie" ] || x=$(echo "$x" | tr 0-9a-f 1-9a-f0) ;;
esac
echo "$x"
`})
	w := newWorld(t, dir)
	src := t.TempDir()
	write(t, filepath.Join(src, "f"), "content")
	lie := filepath.Join(w.home, "lie")

	r, _ := w.run(Config{Puts: []Transfer{{src, "in"}}, Command: []string{"echo ran >>ran"}})
	write(t, lie, "")
	if err := r.Prepare(bound(t)); !errors.As(err, new(*VerifyError)) {
		t.Errorf("the upload: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.home, "in/f")); err == nil {
		t.Error("the file has its name")
	}
	check(t, os.Remove(lie))
	for _, existing := range []bool{false, true} {
		dst := t.TempDir()
		if existing {
			write(t, filepath.Join(dst, "f"), "content")
		}
		r, _ = w.run(Config{Puts: []Transfer{{src, "in"}}, Gets: []Transfer{{dst, "in"}}, Command: []string{": >lie"}})
		_, rep, err := all(bound(t), r)
		if existing {
			if !errors.As(err, new(*ConflictError)) {
				t.Errorf("the download over what is there: %+v, %v", rep, err)
			}
		} else if !errors.As(err, new(*VerifyError)) {
			t.Errorf("the download: %+v, %v", rep, err)
		}
		if _, err := os.Stat(filepath.Join(dst, "f")); !existing && err == nil {
			t.Error("the file has its name")
		}
		check(t, os.Remove(lie))
	}
}

func TestMissingTools(t *testing.T) {
	for _, tt := range []struct{ without, with, want string }{
		{"sha256sum", "", "sha256sum"},
		{"stat", "", "stat"},
		{"dd", "", "dd"},
		{"find", "", "find"},
		{"", "sha256sum", "sha256sum"}, // one that gives what is no hash
	} {
		files := make(map[string]string)
		var without []string
		if tt.without != "" {
			without = append(without, tt.without)
		}
		if tt.with != "" {
			files[tt.with] = "#!/bin/sh\necho none\n"
		}
		w := newWorld(t, programsWith(t, files, without...))
		r, _ := w.run(Config{Command: []string{"true"}})
		var missing *MissingToolsError
		if err := r.Prepare(bound(t)); !errors.As(err, &missing) || len(missing.Tools) != 1 || missing.Tools[0] != tt.want {
			t.Errorf("without %q: %v", tt.want, err)
		}
	}
}

// OpenSSL will do where there is no sha256sum.
func TestHashByOpenSSL(t *testing.T) {
	openssl := testenv.NeedProgram(t, "openssl")
	dir := programsWith(t, nil, "sha256sum")
	check(t, os.Symlink(openssl, filepath.Join(dir, "openssl")))
	w := newWorld(t, dir)
	src, dst := t.TempDir(), t.TempDir()
	write(t, filepath.Join(src, "f"), "content")
	r, _ := w.run(Config{Puts: []Transfer{{src, "in"}}, Gets: []Transfer{{dst, "in"}}, Command: []string{"true"}})
	_, _, err := all(bound(t), r)
	check(t, err)
	sameTree(t, dst, src)
}

func TestScriptsParse(t *testing.T) {
	entries, err := remote.ReadDir("remote")
	check(t, err)
	for _, shell := range []string{"dash", "bash", "busybox"} {
		program := testenv.NeedProgram(t, shell)
		for _, e := range entries {
			args := []string{"-n"}
			if shell == "busybox" {
				args = []string{"sh", "-n"}
			}
			cmd := exec.Command(program, args...)
			cmd.Stdin = strings.NewReader(scriptText(strings.TrimSuffix(e.Name(), ".sh")))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", shell, e.Name(), err, out)
			}
		}
	}
}
