package wipe

import (
	"bytes"
	"fmt"
	"testing"

	"vast-ssh/internal/wipe/catalogue"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// TestManyHomes are no reason to refuse a machine: each makes a few hundred rules.
func TestManyHomes(t *testing.T) {
	facts := &deploy.Facts{Env: make(map[string]string)}
	for n := range protocol.MaxHomes {
		facts.Homes = append(facts.Homes, fmt.Sprintf("/home/user-%d", n))
	}
	set := build(Options{Scope: All, Destroy: IfClean}, facts, catalogue.Entries(), nil)
	if len(set.rules) > protocol.MaxRules {
		t.Errorf("%d rules", len(set.rules))
	}
	var b bytes.Buffer
	if err := protocol.NewWriter(&b).Send(protocol.Request{Rules: set.rules}); err != nil {
		t.Fatal(err)
	}
	var got protocol.Request
	if err := protocol.NewReader(&b).Receive(&got); err != nil || len(got.Rules) != len(set.rules) {
		t.Errorf("%d of %d rules, %v", len(got.Rules), len(set.rules), err)
	}
}

// TestWhatAProgramServesIsNoVolume unless the API names its very path: it may be a disk of the user's elsewhere.
func TestWhatAProgramServesIsNoVolume(t *testing.T) {
	for _, c := range []struct {
		fstype, known, want string
	}{
		{"ext4", "", ""}, {"ext4", "/drive", ""}, {"ext4", "/data", "/drive"}, {"fusectl", "", ""},
		{"fuse.sshfs", "", "/drive"}, {"fuse", "", "/drive"}, {"fuseblk", "", "/drive"}, {"fuse.sshfs", "/drive", ""},
	} {
		mounts := []protocol.Mount{{Path: "/drive", Type: c.fstype}}
		if got := unnamed(mounts, map[uint64]bool{7: true}, map[uint64]string{7: c.known}); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
