package sim_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"vast-ssh/internal/sim"
)

func TestZZServe(t *testing.T) {
	if os.Getenv("ZZ") == "" {
		t.Skip()
	}
	a := sim.NewAccount(sim.Options{OnCommand: func(uint64, string) string { return "total 0\n" }})
	a.Start()
	id := a.Add(sim.Instance{ID: 777, Label: "x", Direct: "127.0.0.1:41022", Gateway: "127.0.0.1:12296", Log: "hello log\n"})
	a.Add(sim.Instance{ID: 778, Runtype: "jupyter_proxy ssh_proxy", Gateway: "127.0.0.1:12298"})
	_ = id
	os.WriteFile(os.Getenv("ZZ"), []byte(a.URL()+" "+a.Key().Reveal()), 0o600)
	time.Sleep(50 * time.Second)
	for _, r := range a.Ledger() {
		fmt.Printf("%s %s?%s -> %d %s\n", r.Method, r.Path, r.Query, r.Status, r.Unexpected)
	}
	a.Close()
}
