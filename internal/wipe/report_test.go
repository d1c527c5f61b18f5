package wipe

import (
	"testing"
	"time"

	"vast-ssh/internal/vast"
)

// TestTwoWipesOfOneSecond are two, and the later one is the last.
func TestTwoWipesOfOneSecond(t *testing.T) {
	dir := t.TempDir() + "/reports"
	at := time.Date(2026, 7, 31, 12, 0, 0, 0, time.UTC)
	in := vast.Instance{ID: 5, Started: at.Add(-time.Hour)}
	paths := make(map[string]bool)
	var last string
	for _, after := range []time.Duration{0, 5 * time.Millisecond, 40 * time.Millisecond, 2 * time.Second} {
		r := &Report{Version: reportVersion, Instance: in.ID, Rented: in.Started, Started: at.Add(after)}
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
		last = r.Path()
		paths[last] = true
	}
	if len(paths) != 4 {
		t.Errorf("%d reports of 4: %v", len(paths), paths)
	}
	if r := lastReport(dir, in); r == nil || r.Path() != last {
		t.Errorf("the last one is %+v, want %s", r, last)
	}
}
