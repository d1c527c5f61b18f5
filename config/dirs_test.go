package config

import (
	"errors"
	"strings"
	"testing"
)

func TestLocateDirs(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
		want Dirs
	}{
		{"home alone", []string{"HOME", "/home/u"},
			Dirs{"/home/u", "/home/u/.config/vast-ssh", "/home/u/.ssh/vast-ssh", "/home/u/.local/state/vast-ssh",
				"/home/u/.cache/vast-ssh"}},
		{"xdg", []string{"HOME", "/home/u/", "XDG_CONFIG_HOME", "/c", "XDG_STATE_HOME", "/s/", "XDG_CACHE_HOME", "/k"},
			Dirs{"/home/u", "/c/vast-ssh", "/home/u/.ssh/vast-ssh", "/s/vast-ssh", "/k/vast-ssh"}},
		{"relative xdg", []string{"HOME", "/h", "XDG_CONFIG_HOME", "c", "XDG_STATE_HOME", "./s", "XDG_CACHE_HOME", "~/k"},
			Dirs{"/h", "/h/.config/vast-ssh", "/h/.ssh/vast-ssh", "/h/.local/state/vast-ssh", "/h/.cache/vast-ssh"}},
	} {
		got, err := LocateDirs(env(tt.env...))
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
	for _, home := range []string{"", "u", "./u", "~"} {
		_, err := LocateDirs(env("HOME", home, "XDG_CONFIG_HOME", "/c"))
		var e *Error
		if !errors.As(err, &e) || e.Key != "HOME" {
			t.Errorf("HOME=%q: err = %v", home, err)
		}
	}
}

func TestFileNames(t *testing.T) {
	d, err := LocateDirs(env("HOME", "/h"))
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		d.ConfigFile():    "/h/.config/vast-ssh/config.toml",
		d.UserSSHConfig(): "/h/.ssh/config",
		d.SSHConfig():     "/h/.ssh/vast-ssh/config",
		d.LoginConfig():   "/h/.ssh/vast-ssh/login",
		d.KnownHosts():    "/h/.ssh/vast-ssh/known_hosts",
		d.PublicKey():     "/h/.ssh/vast-ssh/id_ed25519.pub",
		d.PrivateKey():    "/h/.ssh/vast-ssh/id_ed25519",
		d.AgentSocket():   "/h/.local/state/vast-ssh/agent.sock",
		d.ControlSocket(): "/h/.local/state/vast-ssh/control.sock",
		d.AgentLock():     "/h/.local/state/vast-ssh/agent.lock",
		d.StartLock():     "/h/.local/state/vast-ssh/start.lock",
		d.AgentLog():      "/h/.local/state/vast-ssh/agent.log",
		d.WipeReports():   "/h/.local/state/vast-ssh/wipe",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCheckSockets(t *testing.T) {
	fixed := len("/") + len("/vast-ssh/control.sock")
	for length, ok := range map[int]bool{maxSocketPath: true, maxSocketPath + 1: false} {
		d, err := LocateDirs(env("HOME", "/h", "XDG_STATE_HOME", "/"+strings.Repeat("s", length-fixed)))
		if err != nil {
			t.Fatal(err)
		}
		if len(d.ControlSocket()) != length {
			t.Fatalf("the test made a path of %d bytes", len(d.ControlSocket()))
		}
		var e *SocketPathError
		if err := d.CheckSockets(); (err == nil) != ok || !ok && (!errors.As(err, &e) || e.Hint() == "") {
			t.Errorf("%d bytes: err = %v", length, err)
		}
	}
}
