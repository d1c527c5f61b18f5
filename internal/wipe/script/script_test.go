package script

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/protocol"
)

func request() protocol.Request {
	return protocol.Request{
		Version: protocol.Version, Label: "C.123", Op: protocol.OpPlan, Dir: "/dev/shm/x", Processes: true,
		Rules: []protocol.Rule{
			{Group: 0, Glob: "/root/.ssh/authorized_keys", Login: true},
			{Group: 1, Glob: `/data/it's "$HOME" \[a\]`, Tree: true, Secret: true},
			{Group: 2, Glob: "/tmp/ssh-*", Tree: true},
			{Group: 3, Changed: true},
		},
		Keep: []string{"/keep me/it's"}, Volumes: []string{"/data"},
	}
}

// shells are those that the script has to work in.
func shells(t *testing.T) [][]string {
	return [][]string{{testenv.NeedProgram(t, "dash")}, {testenv.NeedProgram(t, "bash"), "--posix"}, {testenv.NeedProgram(t, "busybox"), "sh"}}
}

func TestShellsCanReadIt(t *testing.T) {
	for _, op := range []protocol.Op{protocol.OpPlan, protocol.OpRun, protocol.OpFinish} {
		req := request()
		req.Op = op
		text, err := Render(req)
		if err != nil {
			t.Fatal(err)
		}
		for _, shell := range shells(t) {
			for what, part := range map[string]string{"all": string(text), "functions": far} {
				cmd := exec.Command(shell[0], append(shell[1:], "-n")...)
				cmd.Stdin = strings.NewReader(part)
				if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("%s, %s of %s: %v\n%s", shell, what, op, err, out)
				}
			}
		}
	}
}

// TestItRefusesThisMachine is what keeps the script from the machine that tests it.
func TestItRefusesThisMachine(t *testing.T) {
	for _, op := range []protocol.Op{protocol.OpPlan, protocol.OpRun, protocol.OpFinish} {
		for _, shell := range shells(t) {
			req := request()
			req.Op, req.Dir = op, t.TempDir()+"/far"
			text, err := Render(req)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(shell[0], append(shell[1:], "-s")...)
			cmd.Stdin = strings.NewReader(string(text))
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: %v", shell, err)
			}
			m, err := NewReader(strings.NewReader(string(out)), req).Receive()
			if err != nil || !strings.Contains(m.Refused, "not the container") {
				t.Errorf("%s, %s: %+v, %v", shell, op, m, err)
			}
			if _, err := os.Stat(req.Dir); err == nil {
				t.Errorf("%s, %s: it has made its directory", shell, op)
			}
		}
	}
}

// TestWordsReachTheShellAsTheyAre runs the calls of the rules with functions that only print.
func TestWordsReachTheShellAsTheyAre(t *testing.T) {
	req := request()
	text, err := Render(req)
	if err != nil {
		t.Fatal(err)
	}
	_, rules, _ := strings.Cut(string(text), "\nrules() {")
	rules, _, _ = strings.Cut(rules, "\n}\n")
	_, keeps, _ := strings.Cut(string(text), "keeps='")
	keeps, _, _ = strings.Cut(keeps, "\n'")
	const want = `rule <0><0><l><no><=root/.ssh/authorized_keys>
rule <1><1><s><yes><=data/it's "$HOME" [a]>
rule <2><2><><yes><=tmp><~ssh-*>
changed <3><3>
keep </keep me/it's>
`
	for _, shell := range shells(t) {
		cmd := exec.Command(shell[0], append(shell[1:], "-c", `rule() { printf rule\ ; printf '<%s>' "$@"; echo; }
changed() { printf changed\ ; printf '<%s>' "$@"; echo; }
rules() {`+rules+`
}
rules
printf 'keep <%b>\n' '`+keeps+`'`)...)
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
}

// TestLinesAreWrittenAtOnce: a pipe keeps lines up to PIPE_BUF whole, whoever else writes, see pipe(7).
func TestLinesAreWrittenAtOnce(t *testing.T) {
	const pipeBuf = 4096
	for _, shell := range shells(t) {
		cmd := exec.Command(shell[0], append(shell[1:], "-s", "/"+strings.Repeat("n", pipeBuf), strings.Repeat("e", pipeBuf))...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		cmd.Stdin = strings.NewReader(far + "op=plan\nitem immutable 1999 \"$1\" \"$2\"\n")
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) > pipeBuf || len(out) < pipeBuf/2 || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s: %d bytes, %v", shell, len(out), err)
		}
	}
}

// TestWhenAContainerWasMade runs the function that finds it out with a stat that is told what to say.
func TestWhenAContainerWasMade(t *testing.T) {
	_, made, ok := strings.Cut(main, "\nmade() {")
	made, _, ends := strings.Cut(made, "\n}\n")
	if !ok || !ends {
		t.Fatal("there is no such function")
	}
	const second = 1_800_000_000
	const fake = `
since= started= boot= ticks=$4 now=$5 birth=$1 mark=$2 fine=$3 work=$6
start_of() { result=$ticks; }
sed() { echo 1800000000; }
refuse() { echo "refused: $1"; exit; }
# The times are in seconds; %.9W and %.9Z tell their fractions where fine is set.
stat() {
    case $3 in /) told=$birth ;; /.dockerenv) told=$mark ;; *) told=$now ;; esac
    [ -n "$told" ] || return 1
    case $2:$fine in %.9?:yes) echo "$told.500000000" ;; %.9?:*) echo "$2" ;; *) echo "$told" ;; esac
}
made
echo "$since $stamp"
`
	for name, c := range map[string]struct {
		birth, mark, fine, ticks string
		want                     string
	}{
		"birth":                  {"1800000010", "1800000500", "yes", "2000", "1800000010500000000 %.9Z"},
		"birth in seconds":       {"1800000010", "1800000500", "no", "2000", "1800000010 %Z"},
		"mark":                   {"", "1800000010", "yes", "2000", "1800000010500000000 %.9Z"},
		"mark in seconds":        {"0", "1800000021", "no", "2000", "1800000021 %Z"},
		"mark, and no start":     {"", "1800000010", "no", "", "1800000010 %Z"},
		"mark that was touched":  {"", "1800000500", "yes", "2000", "1800000017 %Z"},
		"start":                  {"", "", "yes", "2000", "1800000017 %Z"},
		"nothing":                {"", "", "yes", "", "refused: the machine does not tell"},
		"birth of a clock ahead": {"1800000500", "1800000500", "yes", "2000", "1800000017 %Z"},
		"birth ahead, coarse":    {"1800000500", "", "no", "2000", "1800000017 %Z"},
		"birth, and no start":    {"1800000500", "", "no", "", "1800000500 %Z"},
		"birth to come":          {"1800001001", "", "yes", "2000", "refused: the container was made later than now"},
		"birth to come, coarse":  {"1800001001", "", "no", "2000", "refused: the container was made later than now"},
		"start to come":          {"", "", "no", "200000", "refused: the container was made later than now"},
	} {
		for _, shell := range shells(t) {
			cmd := exec.Command(shell[0], append(shell[1:], "-c", "made() {"+made+"\n}\n"+fake, "sh", c.birth, c.mark, c.fine, c.ticks,
				strconv.Itoa(second+1000), t.TempDir())...)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), c.want) {
				t.Errorf("%s: %s: %v\n%s want %s", name, shell, err, out, c.want)
			}
		}
	}
}

func TestValuesThatCannotBeNamed(t *testing.T) {
	for name, change := range map[string]func(*protocol.Request){
		"line break in a rule":   func(r *protocol.Request) { r.Rules[1].Glob = "/a\nb" },
		"label":                  func(r *protocol.Request) { r.Label = "C.1\n" },
		"backslash in a pattern": func(r *protocol.Request) { r.Rules[1].Glob = `/a/\\*` },
		"a class of !":           func(r *protocol.Request) { r.Rules[1].Glob = "/a/[!a]" },
		"escape in a class":      func(r *protocol.Request) { r.Rules[1].Glob = `/a/[\]]` },
		"no op":                  func(r *protocol.Request) { r.Op = "x" },
	} {
		req := request()
		change(&req)
		if _, err := Render(req); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestPatternsMeanTheSameToShells compares a shell's case with path.Match.
func TestPatternsMeanTheSameToShells(t *testing.T) {
	names := []string{"a", "b", "ab", ".a", "*", "a*", "[", "[a]", "?", "^a", "!a", "-", "a b", ""}
	for _, pattern := range []string{
		"*", "?", "a*", "*b", "[ab]", "[^a]", "[^a]*", `\**`, `\[*`, `\[a\]*`, `a\*?`, "[a-c]?", `\?*`, "*a*", "ssh-*", `?\*`, "a ?",
	} {
		written, ok := shellPattern(pattern)
		if !ok {
			t.Errorf("%q cannot be written", pattern)
			continue
		}
		for _, shell := range shells(t) {
			cmd := exec.Command(shell[0], append(shell[1:], "-c", `export LC_ALL=C; pattern=$1; shift
				for name; do case $name in ${pattern}) printf '<%s>' "$name" ;; esac; done`, "sh", "~"+written)...)
			cmd.Args[len(cmd.Args)-1] = written
			cmd.Args = append(cmd.Args, names...)
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var want string
			for _, name := range names {
				if match, err := path.Match(pattern, name); err != nil || match {
					want += "<" + name + ">"
				}
			}
			if string(out) != want {
				t.Errorf("%s: %q as %q matches %s, want %s", shell, pattern, written, out, want)
			}
		}
	}
}

// all reads messages to the end.
func all(t *testing.T, op protocol.Op, lines ...string) ([]protocol.Message, error) {
	t.Helper()
	req := request()
	req.Op = op
	r := NewReader(strings.NewReader(strings.Join(lines, "\n")+"\n"), req)
	var list []protocol.Message
	for {
		m, err := r.Receive()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, m)
	}
}

func TestReaderOfAPlan(t *testing.T) {
	got, err := all(t, protocol.OpPlan, "vw1 H yes no", "vw1 J", "vw1 V no 65787434 2f64617461", "vw1 P 12 yes yes 7368", "vw1 T 100",
		"vw1 C 2 3 4000", "vw1 C 2 1 5", "vw1 C 99 1 7", "vw1 S 1 2f78", "vw1 S 1 2f78", "vw1 I image 1 2f79 ", "vw1 M image 1 3", "vw1 E PATH", "vw1 E HF_TOKEN", "vw1 W 4096 2",
		"vw1 .", "vw1 R planned")
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	want := &protocol.Plan{
		Groups: []protocol.Tally{{}, {}, {Files: 4, Bytes: 4005}, {}}, Total: protocol.Tally{Files: 5, Bytes: 4012},
		Deleted: protocol.Tally{Files: 1, Bytes: 100}, Volumes: []protocol.Mount{{Path: "/data", Type: "ext4"}},
		Processes: []protocol.Process{{PID: 12, Name: "sh", GPU: true, Held: true}}, Secrets: []protocol.Secret{{Rule: 1, Path: "/x"}},
		Items: []protocol.Item{{Code: protocol.Image, Group: 1, Path: "/y"}}, Counts: map[protocol.Code]int64{protocol.Image: 4},
		Unlisted: 3, SwapBytes: 4096, IPC: 2, Environment: []string{"HF_TOKEN", "PATH"},
	}
	if !got[0].Hello.Memory || got[0].Hello.Resumed || got[1].Progress == nil || !reflect.DeepEqual(got[2].Plan, want) {
		t.Errorf("%+v\n%+v", got[0].Hello, got[2].Plan)
	}
}

func TestReaderOfARunThatGoesOn(t *testing.T) {
	got, err := all(t, protocol.OpRun, "vw1 H yes yes", "vw1 F 1 10 1:1", "vw1 N 1", "vw1 I failed 1 2f61 78", "vw1 F 1 20 1:2", "vw1 J", "vw1 K",
		"vw1 G files", "vw1 F 1 20 1:2", "vw1 F 1 5 1:2", "vw1 D 7", "vw1 P 3 no no 61", "vw1 I immutable 1 2f62 78", "vw1 R done")
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	res := got[2].Result
	// 1:2 was removed by nobody, and found again; the next file with the number is another.
	if res.Total != (protocol.Tally{Files: 3, Bytes: 35}) || res.Groups[1] != res.Total || res.Names != 1 || res.Deleted.Bytes != 7 {
		t.Errorf("%+v", res)
	}
	if len(res.Items) != 1 || res.Items[0].Code != protocol.Immutable || res.Remains() != 1 || res.Stopped || res.Finished {
		t.Errorf("%+v", res)
	}
	got, err = all(t, protocol.OpRun, "vw1 H yes yes", "vw1 L failed 0 2f61 78", "vw1 J", "vw1 K", "vw1 L unseen 0 2f62", "vw1 K", "vw1 R done")
	if res := got[len(got)-1].Result; err != nil || res.Remains() != 1 || len(res.Items) != 2 || res.Items[0].Path != "/a" || res.Items[1].Path != "/b" {
		t.Errorf("%+v, %v", res, err)
	}
	got, err = all(t, protocol.OpRun, "vw1 H yes yes", "vw1 B a", "vw1 S 1 2f78", "vw1 L failed 0 2f61 78", "vw1 F 1 10 1:1", "vw1 J", "vw1 B b", "vw1 K",
		"vw1 F 1 10 1:1", "vw1 R stopped")
	if res := got[len(got)-1].Result; err != nil || res.Total.Files != 1 || len(res.Secrets) != 0 || res.Remains() != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	got, err = all(t, protocol.OpFinish, "vw1 H yes yes", "vw1 J", "vw1 R finished")
	if err != nil || !got[1].Result.Finished {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLinesThatAreNotOfTheScript(t *testing.T) {
	for _, line := range []string{
		"", "hello", "vw1", "vw2 J", "vw1 Q 1", "vw1 J", "vw1 R finished", "vw1 R planned", "vw1 F 1", "vw1 F 1 2 3 4 5",
		"vw1 I nothing 1 2f", "vw1 I failed", "vw1 P 1", "{\"hello\":{}}",
	} {
		if _, err := all(t, protocol.OpRun, line); !errors.Is(err, protocol.ErrLine) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add("vw1 H yes yes\nvw1 F 1 10 1:1\nvw1 J\nvw1 I failed 1 2f61 78\nvw1 P 3 no no 61\nvw1 R done\n")
	f.Add("vw1 F 1 9223372036854775807 1:1\nvw1 F 1 9223372036854775807 1:2\nvw1 N 9223372036854775807\nvw1 N 9223372036854775807\nvw1 R stopped\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, op := range []protocol.Op{protocol.OpPlan, protocol.OpRun, protocol.OpFinish} {
			req := request()
			req.Op = op
			r := NewReader(strings.NewReader(text), req)
			for range 10_000 {
				m, err := r.Receive()
				if err != nil && !errors.Is(err, protocol.ErrLine) {
					break
				}
				if res := m.Result; res != nil {
					for _, tally := range append(res.Groups, res.Total, res.Deleted) {
						if tally.Files < 0 || tally.Bytes < 0 {
							t.Errorf("negative: %+v", res)
						}
					}
					if res.Names < 0 || len(res.Items) > protocol.MaxItems || len(res.Secrets) > protocol.MaxSecrets {
						t.Errorf("unbounded: %+v", res)
					}
				}
			}
		}
	})
}
