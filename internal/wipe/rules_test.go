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
