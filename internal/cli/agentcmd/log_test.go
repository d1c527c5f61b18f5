package agentcmd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vast-ssh/internal/chainlog"
	"vast-ssh/internal/cli/voice"
)

// logged is a user with a log of n signatures, and no agent.
func logged(t *testing.T, n int) (env *Env, l *chainlog.Log) {
	t.Helper()
	home := t.TempDir()
	env = &Env{Getenv: func(name string) string {
		if name == "HOME" {
			return home
		}
		return ""
	}}
	if err := env.locate(nil); err != nil {
		t.Fatal(err)
	}
	l, err := chainlog.Open(env.Dirs.Decisions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for i := range n {
		if err := l.Append(chainlog.Record{Verdict: chainlog.Signed, Instance: uint64(i + 1), User: "root"}); err != nil {
			t.Fatal(err)
		}
	}
	return env, l
}

func runLog(env *Env, args ...string) (code voice.Code, stdout, stderr string) {
	var out, err bytes.Buffer
	env.Stdout, env.Stderr = &out, &err
	code = Main(context.Background(), env, append([]string{"vast-agent", "log"}, args...))
	return code, out.String(), err.String()
}

func TestLogShows(t *testing.T) {
	env, _ := logged(t, 60)
	for _, tt := range []struct {
		args  []string
		first int
	}{
		{nil, 11}, {[]string{"--json"}, 11},
		{[]string{"-n", "3"}, 58}, {[]string{"-n", "0"}, 61}, {[]string{"-n", "1000"}, 1},
	} {
		code, out, said := runLog(env, tt.args...)
		if code != voice.Done || said != "" || strings.Count(out, "\n") != 61-tt.first {
			t.Errorf("log %q: exit %d, %d lines, %q", tt.args, code, strings.Count(out, "\n"), said)
		}
		want := fmt.Sprintf("signed    %d  root\n", tt.first)
		if tt.args != nil && tt.args[0] == "--json" {
			want = fmt.Sprintf(`"instance":%d,"user":"root"`, tt.first)
		}
		if line, _, _ := strings.Cut(out, "\n"); tt.first < 61 && !strings.Contains(line+"\n", want) {
			t.Errorf("log %q begins with %q, want %q", tt.args, line, want)
		}
	}
}

// A log that was tampered with is shown for what it is, and each place is told.
func TestLogVerifyTells(t *testing.T) {
	env, l := logged(t, 40)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, said := runLog(env, "--verify")
	if code != voice.Done || !strings.HasPrefix(out, "whole: records 1 to 40, ") ||
		!strings.Contains(said, "no agent is running") {
		t.Errorf("exit %d, %q, %q", code, out, said)
	}
	path := filepath.Join(env.Dirs.Decisions(), "log.jsonl")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data = append(bytes.ReplaceAll(data, []byte("root"), []byte("toor")), "\x1b[31mred\n"...)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, said = runLog(env, "--verify")
	if code != voice.Failed || out != "" || strings.Count(said, "was changed") != 16 ||
		!strings.HasSuffix(said, "\n  and 25 more\n") {
		t.Errorf("exit %d, %q, %q", code, out, said)
	}
	if _, out, _ := runLog(env, "-n", "1"); out != "not a record: \\x1b[31mred\n" {
		t.Errorf("%q", out)
	}
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestLogFollows(t *testing.T) {
	env, l := logged(t, 3)
	out := &buffer{}
	env.Stdout, env.Stderr = out, out
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan voice.Code)
	go func() { done <- Main(ctx, env, []string{"vast-agent", "log", "-f", "-n", "1"}) }()
	await := func(want string) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !strings.Contains(out.String(), want); {
			if time.Now().After(end) {
				t.Fatalf("no %q in %q", want, out.String())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	await("signed    3  root\n")
	if err := l.Append(chainlog.Record{Verdict: chainlog.Locked, Reason: "idle"}); err != nil {
		t.Fatal(err)
	}
	await("locked    idle\n")
	cancel()
	<-done
	if strings.Contains(out.String(), "signed    2") {
		t.Errorf("%q", out.String())
	}
}
