package agentcmd

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"vast-ssh/agent"
)

func noEnv(string) string { return "" }

// TestPolicyFollowsTheFile changes the configuration under a running agent.
func TestPolicyFollowsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	p := &policies{path: path, getenv: noEnv}
	policy, err := p.Policy()
	if err != nil {
		t.Fatal(err)
	}
	if !policy.Users(1, "root") || policy.Users(1, "ubuntu") || policy.AcceptBind || policy.Hops != nil ||
		policy.Confirm != agent.ConfirmNever || policy.WitnessLife != agent.DefaultWitnessLife {
		t.Errorf("without a file: %+v", policy)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`user = "ubuntu"
users = ["dev", "ops@7"]
accept = "bind"
hops = ["1>2"]
confirm = "first"
witness_life = "5s"`)
	if policy, err = p.Policy(); err != nil {
		t.Fatal(err)
	}
	for _, u := range []struct {
		id   uint64
		name string
		want bool
	}{
		{1, "ubuntu", true}, {1, "dev", true}, {7, "dev", true}, {7, "ops", true}, {1, "ops", false}, {1, "root", false}, {7, "", false},
	} {
		if got := policy.Users(u.id, u.name); got != u.want {
			t.Errorf("%q at %d: %v", u.name, u.id, got)
		}
	}
	if !policy.AcceptBind || !reflect.DeepEqual(policy.Hops, []agent.Hop{{From: 1, To: 2}}) ||
		policy.Confirm != agent.ConfirmFirst || policy.WitnessLife != 5*time.Second {
		t.Errorf("with a file: %+v", policy)
	}
	write(`confirm = "always"`)
	if policy, err = p.Policy(); err != nil || policy.Confirm != agent.ConfirmAlways || policy.AcceptBind {
		t.Errorf("changed: %+v, %v", policy, err)
	}

	// What is believed is not read again, and what is wrong is not signed by.
	state, err := stateOf(path)
	if err != nil {
		t.Fatal(err)
	}
	p.seen = &state
	before := p.cfg
	if cfg, err := p.Config(); err != nil || cfg != before {
		t.Errorf("read again: %v", err)
	}
	write(`confirm = "alwayz"`)
	if policy, err := p.Policy(); err == nil {
		t.Errorf("a file that is wrong means %+v", policy)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if policy, err := p.Policy(); err == nil {
		t.Errorf("a file that anybody can write means %+v", policy)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Policy(); err != nil {
		t.Errorf("a file that is gone: %v", err)
	}
}
