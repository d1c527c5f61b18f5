package sshcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/job"
	"vast-ssh/internal/vast"
)

// none is an instance without other runs.
func none(*job.Run, context.Context) ([]string, error) { return nil, nil }

// A wipe would end the command of another run.
func TestRunBesideAnother(t *testing.T) {
	run, err := job.New(job.Config{ID: job.NewID(), Dial: func(context.Context) (*ssh.Client, error) { return nil, errors.New("no connection") }})
	if err != nil {
		t.Fatal(err)
	}
	for says, others := range map[string]func(*job.Run, context.Context) ([]string, error){
		"--attach 0123456789abcdef": func(*job.Run, context.Context) ([]string, error) { return []string{"0123456789abcdef"}, nil },
		"--attach " + run.ID():      (*job.Run).Others,
	} {
		x := &running{run: run, others: others, wipe: func(context.Context, *Env, uint64, bool, func(context.Context) error) error {
			t.Error("it was wiped")
			return nil
		}}
		x.rep.Instance, x.rep.Run, x.name = 77, run.ID(), "77"
		err := endOf(t, x, "--wipe --yes", 0)
		var h voice.Hinter
		if exitCode(err) != voice.Incomplete || !errors.As(err, &h) || !strings.Contains(h.Hint(), says) {
			t.Errorf("%v", err)
		}
	}
}

// Another run may begin while the plan of the wipe waits for an answer.
func TestRunBesideALaterOne(t *testing.T) {
	asked := 0
	x := &running{
		others: func(*job.Run, context.Context) ([]string, error) {
			if asked++; asked == 1 {
				return nil, nil
			}
			return []string{"0123456789abcdef"}, nil
		},
		wipe: func(ctx context.Context, _ *Env, _ uint64, _ bool, last func(context.Context) error) error {
			return last(ctx)
		},
	}
	x.rep.Instance, x.name = 77, "77"
	err := endOf(t, x, "--wipe", 0)
	var h voice.Hinter
	if exitCode(err) != voice.Incomplete || !errors.As(err, &h) || !strings.HasPrefix(h.Hint(), "vast-ssh run 77 --attach 0123456789abcdef") || x.rep.Wiped {
		t.Errorf("%v, wiped: %v", err, x.rep.Wiped)
	}
}

// Only who was told that the connection is lost is told that it is back.
func TestRunTellsOfTheConnection(t *testing.T) {
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	x := &running{env: &Env{Stderr: stderr}}
	for _, step := range []job.Step{job.Back, job.Cut, job.Cut, job.Back, job.Back} {
		x.tell(job.Event{Step: step, Err: io.EOF})
	}
	said, err := os.ReadFile(stderr.Name())
	if want := "warning: the connection is lost, and is tried again: EOF\nconnected again\n"; err != nil || string(said) != want {
		t.Errorf("said %q, %v", said, err)
	}
}

// What becomes of the instance after a run whose results are verified.
func TestRunEnds(t *testing.T) {
	for _, tt := range []struct {
		flags         string
		status        int
		fails         bool
		wiped, remove bool
		yes           bool
	}{
		{"", 0, false, false, true, false},
		{"--keep", 0, false, false, false, false},
		{"--wipe", 0, false, true, false, false},
		{"--wipe --yes", 0, false, true, false, true},
		{"--wipe", 3, false, false, true, false},
		{"--wipe --keep", 3, false, false, false, false},
		{"--wipe-always", 3, false, true, false, false},
		{"--wipe-always", 0, false, true, false, false},
		{"--wipe", 0, true, true, false, false},
	} {
		calls := 0
		wiped := func(_ context.Context, _ *Env, id uint64, yes bool, _ func(context.Context) error) error {
			if calls++; id != 77 || yes != tt.yes {
				t.Errorf("%s: wipe %d, %v", tt.flags, id, yes)
			}
			if tt.fails {
				return errors.New("half of it")
			}
			return nil
		}
		removed := false
		run, err := job.New(job.Config{ID: job.NewID(), Dial: func(context.Context) (*ssh.Client, error) {
			removed = true
			return nil, errors.New("no connection")
		}})
		if err != nil {
			t.Fatal(err)
		}
		x := &running{run: run, wipe: wiped, others: none}
		x.rep.Instance = 77
		err = endOf(t, x, tt.flags, tt.status)
		if (calls == 1) != tt.wiped || x.rep.Wiped != (tt.wiped && !tt.fails) || removed != tt.remove {
			t.Errorf("%q with status %d: %d wipes, %+v, removed %v", tt.flags, tt.status, calls, x.rep, removed)
		}
		if (err != nil) != tt.fails || tt.fails && exitCode(err) != voice.Incomplete {
			t.Errorf("%q: %v", tt.flags, err)
		}
	}
}

// Nothing is wiped while results are missing, and the hint is a way to have them.
func TestRunHeld(t *testing.T) {
	empty := &job.Report{Empty: []string{"out"}}
	fifo := &job.Report{Files: 1, Skipped: []job.Skipped{{Path: "out/p", Reason: "a FIFO"}}}
	link := &job.Report{Files: 1, Skipped: []job.Skipped{
		{Path: "out/p", Reason: "a FIFO"}, {Path: "out/a b", Reason: "a symbolic link", Local: "here"}, {Path: "out/c:d", Local: "x"},
	}}
	for _, tt := range []struct {
		flags   string
		status  int
		results *job.Report
		hint    string // empty if nothing holds the wipe
		calls   int
	}{
		{"--wipe --yes", 0, &job.Report{Files: 1, Links: 1}, "", 1},
		{"--wipe --yes", 0, nil, "", 1},
		{"--wipe --yes", 0, empty, "if nothing of it is needed: vast-ssh wipe 77", 0},
		{"--wipe-always --yes", 3, fifo, "if nothing of it is needed: vast-ssh wipe 77", 0},
		{"--wipe --yes", 0, link, "vast-ssh run 77 --attach 0123456789abcdef --get out:here --get 'out/a b:here' --wipe --yes", 0},
		{"--wipe --keep", 3, link, "", 0},
		{"--keep", 0, link, "", 0},
	} {
		calls := 0
		x := &running{name: "77", others: none, wipe: func(context.Context, *Env, uint64, bool, func(context.Context) error) error {
			calls++
			return nil
		}}
		x.rep = runReport{Instance: 77, Run: "0123456789abcdef", Results: tt.results}
		x.opts.getSpecs = []string{"out:here"}
		err := endOf(t, x, tt.flags, tt.status)
		if calls != tt.calls || x.rep.Wiped != (calls == 1) {
			t.Errorf("%q with %+v: %d wipes", tt.flags, tt.results, calls)
		}
		var h voice.Hinter
		switch {
		case tt.hint == "" && err != nil:
			t.Errorf("%q with %+v: %v", tt.flags, tt.results, err)
		case tt.hint != "" && (exitCode(err) != voice.Incomplete || !errors.As(err, &h) || h.Hint() != tt.hint):
			t.Errorf("%q with %+v: %v, %q", tt.flags, tt.results, err, h)
		}
	}
}

// A wipe that failed says of which instance, that it may cost money, and how to do it again.
func TestRunWipeFails(t *testing.T) {
	const again = "vast-ssh wipe 77"
	for _, tt := range []struct {
		err  error
		hint string
	}{
		{io.ErrUnexpectedEOF, again},
		{context.Canceled, again},
		{errNotConfirmed, again},
		{incomplete("", "interrupted before all instances were wiped"), again},
		{&vast.UnavailableError{Endpoint: "GET /"}, "check the network connection, then try again; then: " + again},
		{&unpinnedError{77}, "meet it first: vast-ssh 77 true; then: " + again},
		{incomplete(again+"   (or not)", "instance 77 is not clean: it costs money"), again + "   (or not)"},
	} {
		x := &running{name: "77", others: none, wipe: func(context.Context, *Env, uint64, bool, func(context.Context) error) error { return tt.err }}
		x.rep.Instance = 77
		err := endOf(t, x, "--wipe --yes", 0)
		var h voice.Hinter
		if exitCode(err) != voice.Incomplete || !errors.As(err, &h) || h.Hint() != tt.hint || !errors.Is(err, tt.err) {
			t.Errorf("%v: %v, %+v", tt.err, err, h)
			continue
		}
		if said := err.Error(); !strings.Contains(said, "instance 77 ") || !strings.Contains(said, "money") {
			t.Errorf("%q", said)
		}
	}
}

// Whoever takes a run up as the hint says is not told the same again.
func TestRunUnfinished(t *testing.T) {
	const again = "vast-ssh run 77 --attach 0123456789abcdef --get a:b"
	for _, tt := range []struct {
		flags string
		err   error
		hint  string
	}{
		{"", io.ErrUnexpectedEOF, again},
		{"", &job.ConflictError{Paths: []string{"b/x"}}, again + " --force"},
		{"--force", &job.ConflictError{Paths: []string{"b/x"}}, "move away what is there; then: " + again + " --force"},
		{"", &job.ClashError{First: "a/x", Second: "c/x", Local: "b/x"}, "give each --get a directory of its own; then: " + again},
		{"", &job.MissingError{Path: "a"}, "see what is there: vast-ssh 77; then: " + again},
	} {
		app := newApp(&Env{})
		app.Command("run").Action = func(c *cli.Context) error {
			x := &running{c: c, name: "77", rep: runReport{Instance: 77, Run: "0123456789abcdef"}, opts: runOptions{getSpecs: []string{"a:b"}}}
			err := x.unfinished(t.Context(), fmt.Errorf("download: %w", tt.err), "the results are not all here")
			var h voice.Hinter
			if exitCode(err) != voice.Incomplete || !errors.As(err, &h) || h.Hint() != tt.hint {
				t.Errorf("%v: %q, want %q", err, h.Hint(), tt.hint)
			}
			return nil
		}
		if err := app.Run(append([]string{"vast-ssh", "run"}, strings.Fields(tt.flags)...)); err != nil {
			t.Fatal(err)
		}
	}
}

// endOf calls end with the flags of a command line.
func endOf(t *testing.T, x *running, flags string, status int) (err error) {
	t.Helper()
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	x.env = &Env{Stderr: stderr}
	if x.run == nil {
		if x.run, err = job.New(job.Config{ID: job.NewID()}); err != nil {
			t.Fatal(err)
		}
	}
	app := newApp(x.env)
	app.Command("run").Action = func(c *cli.Context) error {
		x.c = c
		err = x.end(t.Context(), status)
		return nil
	}
	if err := app.Run(append([]string{"vast-ssh", "run"}, strings.Fields(flags)...)); err != nil {
		t.Fatal(err)
	}
	return err
}

// Whoever takes a run up says what its results are before they are wiped, and the hint that takes it up does.
func TestRunAttachAndWipe(t *testing.T) {
	const id = "0123456789abcdef"
	for _, tt := range []struct {
		flags string
		ok    bool
		again string // what the hint has behind the id of the run
	}{
		{"--attach " + id, true, ""},
		{"--attach " + id + " --wipe --yes", false, ""},
		{"--attach " + id + " --wipe-always --yes", false, ""},
		{"--attach " + id + " --wipe --yes --no-get --get a:b", false, ""},
		{"--attach " + id + " --wipe --yes --get a:b", true, " --get a:b --wipe --yes"},
		{"--attach " + id + " --wipe --yes --no-get", true, " --wipe --yes --no-get"},
		{"--wipe-always --yes box -- true", true, " --wipe-always --yes --no-get"},
		{"--keep box -- true", true, " --keep"},
	} {
		if strings.HasPrefix(tt.flags, "--attach") {
			tt.flags += " box"
		}
		app := newApp(&Env{})
		app.Command("run").Action = func(c *cli.Context) error {
			o, err := readRun(c)
			if tt.ok != (err == nil) || err != nil && exitCode(err) != voice.Usage {
				t.Errorf("%q: %v", tt.flags, err)
			}
			x := &running{c: c, opts: o, name: "77", rep: runReport{Run: id}}
			if got, want := x.again(false), "vast-ssh run 77 --attach "+id+tt.again; tt.ok && got != want {
				t.Errorf("%q: %q, want %q", tt.flags, got, want)
			}
			return nil
		}
		if err := app.Run(append([]string{"vast-ssh", "run"}, strings.Fields(tt.flags)...)); err != nil {
			t.Errorf("%q: %v", tt.flags, err)
		}
	}
}

func TestRunAgain(t *testing.T) {
	for in, want := range map[string]string{
		"plain/a:b": "plain/a:b", "~/a:.": "'~/a:.'", "a~/b:c": "a~/b:c", "=a:b": "'=a:b'",
		"a b:c": "'a b:c'", "it's:x": `'it'\''s:x'`, "$(x):y": "'$(x):y'",
	} {
		if got := word(in); got != want {
			t.Errorf("%q became %s", in, got)
		}
	}
	if err := fmt.Errorf("x: %w", &incompleteError{&voice.UsageError{}}); exitCode(err) != voice.Incomplete {
		t.Error("what remains to be done has another code")
	}
}
