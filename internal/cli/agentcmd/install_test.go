package agentcmd

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vast-ssh/config"
	"vast-ssh/internal/ipc"
	"vast-ssh/internal/service"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/unixsock"
)

// standIn answers the control socket as far as install asks.
type standIn struct {
	ipc.Handler // nothing else is asked
	version     string
	stop        func()
}

func (s standIn) Status(context.Context) ipc.Status { return ipc.Status{PID: 1, Version: s.version} }
func (s standIn) Stop()                             { s.stop() }

// serve answers on the control socket until it is told to stop.
func (s standIn) serve(t *testing.T, path string) (ended <-chan struct{}) {
	t.Helper()
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Error(err)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = func() {
		l.Close()
		cancel()
	}
	t.Cleanup(s.stop)
	done := make(chan struct{})
	go func() {
		defer close(done)
		unixsock.Serve(ctx, l, 4, func(ctx context.Context, c *unixsock.Conn) { ipc.Serve(ctx, c, s) })
	}()
	return done
}

// newInstaller is an installer for a user with nothing, whose PATH has only the program name, with that script.
func newInstaller(t *testing.T, name, script string) (in *installer, said *bytes.Buffer, dir string) {
	t.Helper()
	sh := testenv.NeedProgram(t, "sh")
	dir, err := os.MkdirTemp("", "in")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "bin")
	err = errors.Join(os.Mkdir(bin, 0o700), os.WriteFile(filepath.Join(bin, name), []byte("#!"+sh+"\n"+script), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	t.Setenv("DIR", dir)
	dirs, err := config.LocateDirs(func(name string) string { return map[string]string{"HOME": dir}[name] })
	if err != nil {
		t.Fatal(err)
	}
	said = new(bytes.Buffer)
	env := &Env{Stdout: said, Stderr: said, Getenv: func(string) string { return "" }, Dirs: dirs}
	return &installer{env: env, program: "/opt/vast-agent"}, said, dir
}

func (in *installer) check(t *testing.T, said *bytes.Buffer, uninstall bool, words ...string) {
	t.Helper()
	said.Reset()
	if err := in.main(t.Context(), "darwin", uninstall); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, w := range words {
		if !strings.Contains(said.String(), w) {
			t.Errorf("it does not say %q:\n%s", w, said)
		}
	}
}

const fakeLaunchctl = `
echo "$*" >>"$DIR/calls"
case $1 in
bootstrap) touch "$DIR/loaded" ;;
bootout) rm "$DIR/loaded" ;;
print) case $2 in */*/*) [ -e "$DIR/loaded" ] ;; esac ;;
*) exit 9 ;;
esac
`

// TestLaunchd installs with a launchctl that only remembers.
func TestLaunchd(t *testing.T) {
	in, said, dir := newInstaller(t, "launchctl", fakeLaunchctl)
	path := in.plistPath()
	in.dry = true
	in.check(t, said, false, "would write "+path, "<string>/opt/vast-agent</string>", "would run: launchctl bootstrap gui/")
	if _, err := os.Stat(filepath.Join(dir, "Library")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run made something: %v", err)
	}
	in.dry = false

	// The agent that was started by hand ends before the new one starts.
	control := in.env.Dirs.ControlSocket()
	first := standIn{version: "first"}.serve(t, control)
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "loaded")); err == nil {
				break
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-t.Context().Done():
				return
			}
		}
		standIn{version: "second"}.serve(t, control)
	}()
	in.check(t, said, false, "wrote "+path, "stopped the agent", "ran: launchctl bootstrap", "version second")
	<-first
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}

	in.check(t, said, false, "is up to date", service.Label+" is loaded")
	if strings.Contains(said.String(), "ran:") || strings.Contains(said.String(), "stopped") {
		t.Errorf("something was done a second time:\n%s", said)
	}

	in.check(t, said, true, "ran: launchctl bootout", "removed "+path)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	in.check(t, said, true, "not installed")
}

// TestInstallForeignFiles meets files that are not its own. They stay, all of them, until it is told otherwise.
func TestInstallForeignFiles(t *testing.T) {
	for name, place := range map[string]func(path string) error{
		"another's":         func(path string) error { return os.WriteFile(path, []byte("<plist/>"), 0o644) },
		"empty":             func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"a link to nothing": func(path string) error { return os.Symlink("/none", path) },
		"a link":            func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a directory":       func(path string) error { return os.Mkdir(path, 0o700) },
		"a large file": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, maxUnit+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			in, said, dir := newInstaller(t, "launchctl", fakeLaunchctl)
			path := in.plistPath()
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), place(path)); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, uninstall := range []bool{false, true} {
				if err := in.main(t.Context(), "darwin", uninstall); err == nil {
					t.Errorf("uninstall %v: no error\n%s", uninstall, said)
				}
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) || after.Size() != before.Size() {
				t.Errorf("it is not what it was: %v", err)
			}
			if calls, err := os.ReadFile(filepath.Join(dir, "calls")); err == nil {
				t.Errorf("launchctl was called: %s", calls)
			}
		})
	}
}

// TestInstallFails has the service manager fail in different ways. None of them hangs, and all are told.
func TestInstallFails(t *testing.T) {
	for name, test := range map[string]struct{ script, want string }{
		"no session":   {`echo "Domain does not support" >&2; exit 125`, "no launchd session answers: launchctl print gui/"},
		"refuses":      {`[ $1 = print ] && { case $2 in */*/*) exit 1; esac; exit 0; }; echo "Bootstrap failed: 5" >&2; exit 5`, "exit status 5: Bootstrap failed: 5"},
		"talks a lot":  {`[ $1 = print ] && { case $2 in */*/*) exit 1; esac; exit 0; }; head -c 100000 /dev/zero | tr '\0' x; exit 5`, "exit status 5: xxx"},
		"wants to ask": {`[ $1 = print ] && { case $2 in */*/*) exit 1; esac; exit 0; }; read answer && exit 0; exit 7`, "exit status 7"},
	} {
		t.Run(name, func(t *testing.T) {
			in, said, _ := newInstaller(t, "launchctl", test.script)
			err := in.main(t.Context(), "darwin", false)
			if err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 2*maxComplaint {
				t.Errorf("%v\n%s", err, said)
			}
		})
	}
	t.Run("no program", func(t *testing.T) {
		in, _, _ := newInstaller(t, "other", "")
		t.Setenv("PATH", t.TempDir())
		if err := in.main(t.Context(), "darwin", false); err == nil || !strings.Contains(err.Error(), "executable file not found") {
			t.Error(err)
		}
	})
	t.Run("another system", func(t *testing.T) {
		in, _, _ := newInstaller(t, "other", "")
		if err := in.main(t.Context(), "plan9", false); err == nil || !strings.Contains(err.Error(), "plan9") {
			t.Error(err)
		}
	})
	t.Run("a path that is too long", func(t *testing.T) {
		in, _, _ := newInstaller(t, "launchctl", fakeLaunchctl)
		in.env.Dirs.State = "/" + strings.Repeat("x", 120)
		var long *config.SocketPathError
		if err := in.main(t.Context(), "darwin", false); !errors.As(err, &long) {
			t.Error(err)
		}
	})
	t.Run("a path that the file cannot hold", func(t *testing.T) {
		in, _, _ := newInstaller(t, "launchctl", fakeLaunchctl)
		in.program = "/a\nb"
		var text *service.TextError
		if err := in.main(t.Context(), "darwin", false); !errors.As(err, &text) {
			t.Error(err)
		}
	})
	t.Run("an agent that does not answer", func(t *testing.T) {
		in, _, _ := newInstaller(t, "launchctl", fakeLaunchctl)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// Its patience begins when all else is done, however long that takes.
		in.env.Stdout = saying(func(text string) {
			if strings.HasPrefix(text, "ran: launchctl bootstrap") {
				time.AfterFunc(300*time.Millisecond, cancel)
			}
		})
		if err := in.main(ctx, "darwin", false); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Error(err)
		}
	})
}

// saying is told what is written.
type saying func(text string)

func (s saying) Write(p []byte) (int, error) {
	s(string(p))
	return len(p), nil
}
