package service

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vast-ssh/internal/testenv"
)

// units writes the units of a with a program that exists at its place, and returns their directory.
func units(t *testing.T, a Agent) string {
	t.Helper()
	dir := t.TempDir()
	a.Program = filepath.Join(dir, a.Program)
	err := errors.Join(
		os.MkdirAll(filepath.Dir(a.Program), 0o700),
		os.WriteFile(a.Program, []byte("#!/bin/sh\n"), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	files, err := a.files()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func analyze(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(testenv.NeedProgram(t, "systemd-analyze"), args...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir(), "SYSTEMD_COLORS=0")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestVerify has systemd read the units. It looks for the program, and complains of what it does not understand.
func TestVerify(t *testing.T) {
	for name, a := range map[string]Agent{"plain": plainAgent, "awkward": awkwardAgent} {
		t.Run(name, func(t *testing.T) {
			dir := units(t, a)
			verify := func() (string, error) {
				return analyze(t, "--user", "verify", filepath.Join(dir, SocketUnit), filepath.Join(dir, ServiceUnit))
			}
			if out, err := verify(); err != nil || strings.Contains(out, "vast-agent") {
				t.Errorf("%v\n%s", err, out)
			}
			// It would say so if the path were another.
			if err := os.Remove(filepath.Join(dir, a.Program)); err != nil {
				t.Fatal(err)
			}
			if out, err := verify(); err == nil || !strings.Contains(out, "vast-agent") {
				t.Errorf("a missing program is not missed: %v\n%s", err, out)
			}
		})
	}
}

// TestSecurity asks systemd what the service is exposed to. It counts as for a service of the system that runs as root:
// capabilities, which a user's service has none of, and name spaces, which it cannot rely on, make up the rest.
func TestSecurity(t *testing.T) {
	unit := filepath.Join(units(t, plainAgent), ServiceUnit)
	const threshold = "65" // of 100; 96 for a service that restricts nothing
	if out, err := analyze(t, "security", "--offline=true", "--threshold="+threshold, "--no-pager", unit); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out, err := analyze(t, "security", "--offline=true", "--json=short", "--no-pager", unit)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var found []struct {
		Set  bool
		Name string
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	set := make(map[string]bool)
	for _, f := range found {
		set[f.Name] = f.Set
	}
	for _, name := range []string{
		"NoNewPrivileges=", "KeyringMode=", "LockPersonality=", "RestrictRealtime=", "RestrictSUIDSGID=", "UMask=",
		"SystemCallArchitectures=", "IPAddressDeny=", "RestrictAddressFamilies=~AF_(INET|INET6)",
		"RestrictAddressFamilies=~AF_NETLINK", "RestrictAddressFamilies=~AF_PACKET", "RestrictAddressFamilies=~…",
		"RestrictNamespaces=~user", "RestrictNamespaces=~mnt", "RestrictNamespaces=~pid", "RestrictNamespaces=~net",
		"SystemCallFilter=~@clock", "SystemCallFilter=~@cpu-emulation", "SystemCallFilter=~@debug", "SystemCallFilter=~@module",
		"SystemCallFilter=~@mount", "SystemCallFilter=~@obsolete", "SystemCallFilter=~@privileged", "SystemCallFilter=~@raw-io",
		"SystemCallFilter=~@reboot", "SystemCallFilter=~@resources", "SystemCallFilter=~@swap",
	} {
		if !set[name] {
			t.Errorf("%s is not set", name)
		}
	}
}
