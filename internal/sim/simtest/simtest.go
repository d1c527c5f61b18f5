// Package simtest joins a simulated account to a test.
package simtest

import (
	"testing"

	"vast-ssh/internal/sim"
)

// Start starts an account that ends with the test. The test fails if the account met an unexpected request, or if
// a fault of the script was never met.
func Start(t testing.TB, opts sim.Options) *sim.Account {
	t.Helper()
	a := sim.NewAccount(opts)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		Check(t, a)
	})
	return a
}

// Check fails the test for every request that nobody expected and for every fault that is left. Start calls it at
// the end of the test.
func Check(t testing.TB, a *sim.Account) {
	t.Helper()
	for _, r := range a.Unexpected() {
		t.Errorf("unexpected request %s %s?%s: %s (answered %d)", r.Method, r.Path, r.Query, r.Unexpected, r.Status)
	}
	for _, f := range a.PendingFaults() {
		t.Errorf("fault %s %s%s was not met %d times", f.Method, f.Path, f.Endpoint, f.Times)
	}
}
