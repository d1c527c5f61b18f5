package companion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vast-ssh/internal/testenv"
)

// TestConfirm asks through a real companion and real programs. Only a program that ended well and did not say no is
// consent.
func TestConfirm(t *testing.T) {
	mode := func(text string, mode fs.FileMode) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := script(t, text)
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	says := func(text string) func(t *testing.T) string { return mode(text, 0o700) }
	tests := []struct {
		name    string
		askpass func(t *testing.T) string
		yes     bool
		err     string // in the error; empty is none
	}{
		{"exit 0", says("exit 0"), true, ""},
		{"yes", says("echo yes"), true, ""},
		{"YES without an end of line", says("printf YES"), true, ""},
		{"an empty line", says("echo"), true, ""},
		{"may be read by all", mode("exit 0", 0o755), true, ""},
		{"through a link", func(t *testing.T) string {
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(script(t, "exit 0"), link); err != nil {
				t.Fatal(err)
			}
			return link
		}, true, ""},

		{"exit 1", says("exit 1"), false, ""},
		{"exit 255", says("exit 255"), false, ""},
		{"yes, and exit 1", says("echo yes; exit 1"), false, ""},
		{"no", says("echo no"), false, ""},
		{"y", says("echo y"), false, ""},
		{"a passphrase", says("echo secret"), false, ""},
		{"yes and more", says("echo yes; echo no"), false, ""},
		{"NUL", says(`printf 'yes\000'`), false, ""},
		{"killed", says("kill -KILL $$"), false, "signal: killed"},
		{"terminated", says("kill -TERM $$"), false, "signal: terminated"},
		{"says too much", says("head -c 1025 /dev/zero; exit 0"), false, "more than 1024 bytes"},
		{"says more and more", says("trap '' PIPE; while :; do echo yes; done"), false, "more than 1024 bytes"},

		{"missing", func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, false, "no such file"},
		{"a link to nothing", func(t *testing.T) string {
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(link+".gone", link); err != nil {
				t.Fatal(err)
			}
			return link
		}, false, "no such file"},
		{"a directory", func(t *testing.T) string { return t.TempDir() }, false, "not a file"},
		{"relative", func(t *testing.T) string { return "askpass" }, false, "absolute"},
		{"not executable", mode("exit 0", 0o600), false, "permission denied"},
		{"writable by the group", mode("exit 0", 0o720), false, "others may write"},
		{"writable by all", mode("exit 0", 0o702), false, "others may write"},
		{"of another user", func(t *testing.T) string {
			path := script(t, "exit 0")
			if err := os.Chown(path, 12345, -1); err != nil {
				testenv.Missing(t, "root, to give a file away")
			}
			return path
		}, false, "another user"},
		{"in a directory that all may write to", func(t *testing.T) string {
			path := script(t, "exit 0")
			if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			return path
		}, false, "directory"},
		{"a link to a directory that all may write to", func(t *testing.T) string {
			path, link := script(t, "exit 0"), filepath.Join(t.TempDir(), "link")
			if err := errors.Join(os.Chmod(filepath.Dir(path), 0o777), os.Symlink(path, link)); err != nil {
				t.Fatal(err)
			}
			return link
		}, false, "directory"},
		{"a link in a directory that all may write to", func(t *testing.T) string {
			dir := t.TempDir()
			if err := errors.Join(os.Symlink("/bin/sh", dir+"/a"), os.Chmod(dir, 0o777)); err != nil {
				t.Fatal(err)
			}
			return dir + "/a"
		}, false, "directory"},
		{"an interpreter that is missing", func(t *testing.T) string {
			path := script(t, "")
			if err := os.WriteFile(path, []byte("#!/none/such\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			return path
		}, false, "no such file"},
		{"no program", func(t *testing.T) string {
			path := script(t, "")
			if err := os.WriteFile(path, []byte("\x7fELF"), 0o700); err != nil {
				t.Fatal(err)
			}
			return path
		}, false, "exec format error"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := launch(t, test.askpass(t))
			yes, err := c.Confirm(t.Context(), Question{Title: "Sign?", Text: "for 1"})
			if yes != test.yes {
				t.Errorf("consent: %v", yes)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

// TestConfirmWithAChildLeft has a program that says yes and leaves a child that holds its output open. The end of that
// is not waited for.
func TestConfirmWithAChildLeft(t *testing.T) {
	askpass := script(t, `sleep 1000 & echo $! >"$DIR/pids"; echo yes`)
	c := launch(t, askpass)
	yes, err := c.Confirm(t.Context(), Question{Title: "?"})
	if !yes {
		t.Error(err)
	}
	syscall.Kill(pids(t, askpass, 1)[0], syscall.SIGKILL)
}

// TestQuestionIsPlain shows what the program is asked to show.
func TestQuestionIsPlain(t *testing.T) {
	for _, test := range []struct {
		q    Question
		want string
	}{
		{Question{"Sign a login?", "instance 1\nuser root"}, "Sign a login?\n\ninstance 1\nuser root"},
		{Question{"a\nb", "c\x1b[2J\u202ed\r"}, `a\x0ab` + "\n\n" + `c\x1b[2J\u202ed\x0d`},
		{Question{"--text=x", ""}, "text=x\n\n"},
		{Question{"", "-e"}, "e"},
	} {
		askpass := script(t, `printf '%s|' "$@" >"$DIR/said"`)
		c := launch(t, askpass)
		if yes, err := c.Confirm(t.Context(), test.q); !yes {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(filepath.Dir(askpass), "said"))
		if err != nil || string(got) != test.want+"|" {
			t.Errorf("shown %q, want %q, %v", got, test.want, err)
		}
	}
}

// TestQuestionTooLong is not cut: a person would agree to what was not shown.
func TestQuestionTooLong(t *testing.T) {
	askpass := script(t, `echo x >>"$DIR/asked"`)
	c := launch(t, askpass)
	for _, q := range []Question{
		{Text: strings.Repeat("x", maxText+1)},
		{Title: "x", Text: strings.Repeat("x", maxText)},
		{Text: strings.Repeat("\n", maxLines)},
	} {
		if yes, err := c.Confirm(t.Context(), q); yes || err == nil {
			t.Errorf("got %v, %v", yes, err)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(askpass), "asked")); err == nil {
		t.Error("it was asked")
	}
	if yes, err := c.Confirm(t.Context(), Question{Text: strings.Repeat("x\n", maxLines-1)}); !yes {
		t.Error(err)
	}
}

func TestAsk(t *testing.T) {
	long := strings.Repeat("x", maxAnswer-1)
	for _, test := range []struct {
		name, text string
		want       string
		err        error
	}{
		{"a line", "echo 'pass phrase '", "pass phrase ", nil},
		{"no end of line", "printf x", "x", nil},
		{"two ends", `printf 'x\n\n'`, "x\n", nil},
		{"nothing", "exit 0", "", nil},
		{"as long as may be", "echo " + long, long, nil},
		{"cancelled", "echo x; exit 1", "", ErrDeclined},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Ask(t.Context(), script(t, test.text), "Passphrase:")
			if string(got) != test.want || !errors.Is(err, test.err) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	t.Run("prompt", func(t *testing.T) {
		t.Setenv("SSH_ASKPASS_PROMPT", "confirm")
		t.Setenv("SSH_ASKPASS", script(t, `printf '%s|%s' "$1" "$SSH_ASKPASS_PROMPT"`))
		if got, err := Ask(t.Context(), "", "-\x1bfor x:"); string(got) != `\x1bfor x:|` {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("errors tell no answer", func(t *testing.T) {
		for _, text := range []string{"echo canary; exit 1", "echo canary; kill -KILL $$", "while :; do echo canary; done"} {
			got, err := Ask(t.Context(), script(t, text), "")
			if err == nil || len(got) > 0 || strings.Contains(fmt.Sprintf("%+v", err), "canary") {
				t.Errorf("got %q, %v", got, err)
			}
		}
	})
	t.Run("the end of the context", func(t *testing.T) {
		path := script(t, waiting)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		asked := make(chan error, 1)
		go func() {
			_, err := Ask(ctx, path, "")
			asked <- err
		}()
		p := pids(t, path, 1)
		cancel()
		if err := <-asked; err != context.Canceled {
			t.Errorf("got %v", err)
		}
		ended(t, p[0])
		ended(t, p[1])
	})
}

// TestFind has programs in the usual places and elsewhere.
func TestFind(t *testing.T) {
	before := usualPlaces
	defer func() { usualPlaces = before }()
	dir := t.TempDir()
	usualPlaces = []string{dir + "/none", dir + "/second", dir + "/third"}
	t.Setenv("SSH_ASKPASS", "")
	var none *AskpassError
	if _, err := Ask(t.Context(), "", ""); !errors.As(err, &none) || none.Program != "" || none.Hint() == "" {
		t.Errorf("no program anywhere: %v", err)
	}
	for _, name := range []string{"second", "third"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho "+name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Ask(t.Context(), "", ""); string(got) != "second" {
		t.Errorf("got %q, %v", got, err)
	}
	t.Setenv("SSH_ASKPASS", dir+"/third")
	if got, err := Ask(t.Context(), "", ""); string(got) != "third" {
		t.Errorf("got %q, %v", got, err)
	}
	t.Setenv("SSH_ASKPASS", dir+"/none")
	if _, err := Ask(t.Context(), "", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that is not there was replaced by another: %v", err)
	}
	if got, err := Ask(t.Context(), dir+"/second", ""); string(got) != "second" {
		t.Errorf("got %q, %v", got, err)
	}
}
