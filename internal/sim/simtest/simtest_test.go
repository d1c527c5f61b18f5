package simtest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"vast-ssh/internal/sim"
)

// recorder is a test whose failures are looked at.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestCheck(t *testing.T) {
	a := sim.NewAccount(sim.Options{})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	quiet := &recorder{TB: t}
	Check(quiet, a)
	if len(quiet.errors) > 0 {
		t.Errorf("failures without a request: %q", quiet.errors)
	}
	resp, err := http.Get(a.URL() + "/api/v0/nothing/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	a.Fault(sim.Fault{Endpoint: sim.ShowEndpoint, Times: 2, Drop: true})
	r := &recorder{TB: t}
	Check(r, a)
	all := strings.Join(r.errors, "\n")
	if len(r.errors) != 2 || !strings.Contains(all, "/api/v0/nothing/") || !strings.Contains(all, "2 times") {
		t.Errorf("got %q", r.errors)
	}
}
