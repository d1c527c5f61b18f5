package e2e

import (
	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/overlay"
	// As in world.go: what go generate builds, so that no result of before a change is taken from the cache.
	_ "vast-ssh/internal/wipe/remote"
)

// AddOverlay puts an instance with the label into the account whose machine is an overlay over this one's root: for
// what removes files and kills processes there. The account chooses cfg.ID unless it is set.
func (w *World) AddOverlay(label string, cfg overlay.Config) (*Instance, *overlay.Instance) {
	w.T.Helper()
	if len(cfg.Listen) == 0 {
		cfg.Listen = twoRoutes()
	}
	// The machine carries the id, so the account gives it out first.
	cfg.ID = w.Account.Add(sim.Instance{ID: cfg.ID, Label: label})
	machine := overlay.Start(w.T, cfg)
	addrs := append(machine.Addrs(), "")
	w.Account.Update(cfg.ID, func(i *sim.Instance) { i.Direct, i.Gateway = addrs[0], addrs[1] })
	return w.enter(&Instance{ID: cfg.ID, Label: label, Machine: machine}), machine
}
