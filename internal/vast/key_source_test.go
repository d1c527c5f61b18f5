package vast

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lay writes files below a new home directory; a name that ends in "!" is readable by others.
func lay(t *testing.T, home string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, "!") {
			name, mode = strings.TrimSuffix(name, "!"), 0o644
		}
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
}

func TestFindKey(t *testing.T) {
	const (
		session = ".config/vastai/vast_tfa_key"
		file    = ".config/vastai/vast_api_key"
		legacy  = ".vast_api_key"
	)
	for _, tt := range []struct {
		name                    string
		env, files              map[string]string
		value, source, fallback string
		warns                   []string
	}{
		{"first variable", map[string]string{"VAST_API_KEY": " k1\n", "VASTAI_API_KEY": "k2"}, map[string]string{session: "k3"},
			"k1", "VAST_API_KEY", "", nil},
		{"second variable", map[string]string{"VAST_API_KEY": "", "VASTAI_API_KEY": "k2"}, map[string]string{session: "k3"},
			"k2", "VASTAI_API_KEY", "", nil},
		{"session", nil, map[string]string{session: "k3", file: "k4\n", legacy: "k5"}, "k3", session, "k4", nil},
		{"session and legacy", nil, map[string]string{session: "k3", file: "", legacy + "!": "k5"}, "k3", session, "k5", []string{legacy}},
		{"session alone", nil, map[string]string{session + "!": "k3"}, "k3", session, "", []string{session}},
		{"session and rubbish", nil, map[string]string{session: "k3", file: "a b"}, "k3", session, "", nil},
		{"empty session", nil, map[string]string{session: " \n", file + "!": "k4"}, "k4", file, "", []string{file}},
		{"file", nil, map[string]string{file: "k4", legacy + "!": "k5"}, "k4", file, "", nil},
		{"legacy", nil, map[string]string{legacy: "\tk5\r\n"}, "k5", legacy, "", nil},
		{"two open files", nil, map[string]string{session + "!": "k3", file + "!": "k4"}, "k3", session, "k4", []string{session, file}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := t.TempDir()
			lay(t, home, tt.files)
			key, err := FindKey(func(name string) string { return tt.env[name] }, home)
			if err != nil {
				t.Fatal(err)
			}
			source := tt.source
			if tt.env == nil {
				source = filepath.Join(home, source)
			}
			if key.Value.Reveal() != tt.value || key.Source != source || key.Fallback.Reveal() != tt.fallback {
				t.Errorf("key %q from %q, fallback %q", key.Value.Reveal(), key.Source, key.Fallback.Reveal())
			}
			want := ""
			if tt.warns != nil {
				want = "other users of this machine can read your API key: chmod 600"
				for _, name := range tt.warns {
					want += " '" + filepath.Join(home, name) + "'"
				}
			}
			if key.Warning != want {
				t.Errorf("warning %q, want %q", key.Warning, want)
			}
		})
	}
}

func TestFindKeyLooksInXDGConfigHome(t *testing.T) {
	home, xdg := t.TempDir(), t.TempDir()
	lay(t, home, map[string]string{".config/vastai/vast_api_key": "home"})
	lay(t, xdg, map[string]string{"vastai/vast_api_key": "xdg"})
	for config, want := range map[string]string{xdg: "xdg", "": "home", "relative": "home"} {
		key, err := FindKey(func(name string) string { return map[string]string{"XDG_CONFIG_HOME": config}[name] }, home)
		if err != nil || key.Value.Reveal() != want {
			t.Errorf("XDG_CONFIG_HOME=%q: key %q, error %v", config, key.Value.Reveal(), err)
		}
	}
}

func TestNoKey(t *testing.T) {
	home := t.TempDir()
	lay(t, home, map[string]string{".config/vastai/vast_api_key": "\n"})
	_, err := FindKey(func(name string) string { return map[string]string{"VASTAI_API_KEY": " "}[name] }, home)
	var none *NoKeyError
	if !errors.As(err, &none) {
		t.Fatalf("error %v", err)
	}
	want := []string{
		"VAST_API_KEY (not set or empty)", "VASTAI_API_KEY (not set or empty)",
		home + "/.config/vastai/vast_tfa_key (no such file)", home + "/.config/vastai/vast_api_key (empty)",
		home + "/.vast_api_key (no such file)",
	}
	if !slices.Equal(none.Looked, want) {
		t.Errorf("looked at %q, want %q", none.Looked, want)
	}
	if !strings.Contains(err.Error(), strings.Join(want, ", ")) || !strings.Contains(none.Hint(), "export VAST_API_KEY=") {
		t.Errorf("%v; %s", err, none.Hint())
	}

	// A file where a directory should be is no key, and neither is a home that is not known.
	lay(t, t.TempDir(), nil)
	odd := t.TempDir()
	lay(t, odd, map[string]string{".config": "x"})
	for _, home := range []string{odd, ""} {
		if _, err := FindKey(func(string) string { return "" }, home); !errors.As(err, &none) {
			t.Errorf("home %q: error %v", home, err)
		}
	}
}

func TestBadKeys(t *testing.T) {
	for _, text := range []string{
		"hunter2 x", "hunter2\nx", "VAST_API_KEY = hunter2", "hunter2é", "hunter2\x00", "\xff\xfehunter2", strings.Repeat("hunter2", 600),
	} {
		home := t.TempDir()
		lay(t, home, map[string]string{".vast_api_key": text})
		_, fromFile := FindKey(func(string) string { return "" }, home)
		_, fromEnv := FindKey(func(string) string { return text }, home)
		for source, err := range map[string]error{filepath.Join(home, ".vast_api_key"): fromFile, "VAST_API_KEY": fromEnv} {
			var bad *BadKeyError
			if !errors.As(err, &bad) || bad.Source != source || strings.Contains(err.Error(), "hunter2") || bad.Hint() == "" {
				t.Errorf("%.20q in %s: error %v", text, source, err)
			}
		}
	}
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".vast_api_key"), 0o700); err != nil {
		t.Fatal(err)
	}
	var bad *BadKeyError
	if _, err := FindKey(func(string) string { return "" }, home); !errors.As(err, &bad) {
		t.Errorf("a directory as key file: error %v", err)
	}
}

func TestWarningIsSafeInAShell(t *testing.T) {
	home := filepath.Join(t.TempDir(), "it's $(touch hacked); `touch hacked` \"x\"")
	lay(t, home, map[string]string{".vast_api_key!": "k"})
	key, err := FindKey(func(string) string { return "" }, home)
	if err != nil {
		t.Fatal(err)
	}
	_, command, ok := strings.Cut(key.Warning, ": ")
	if !ok {
		t.Fatalf("warning %q", key.Warning)
	}
	sh := exec.Command("/bin/sh", "-c", command)
	sh.Dir = t.TempDir()
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	if left, _ := os.ReadDir(sh.Dir); len(left) != 0 {
		t.Errorf("%s made %v", command, left)
	}
	if key, err = FindKey(func(string) string { return "" }, home); err != nil || key.Warning != "" {
		t.Errorf("after the command: warning %q, error %v", key.Warning, err)
	}

	home = filepath.Join(t.TempDir(), "two\nlines")
	lay(t, home, map[string]string{".vast_api_key!": "k"})
	key, err = FindKey(func(string) string { return "" }, home)
	if err != nil || key.Warning == "" || strings.Contains(key.Warning+key.Source, "\n") || strings.Contains(key.Warning, "chmod") {
		t.Errorf("source %q, warning %q, error %v", key.Source, key.Warning, err)
	}
}
