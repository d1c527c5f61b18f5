// Package bench measures the programs against what people would use without them, side by side in one run, as ratios.
// README.md has the command and the numbers to hold.
package bench

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"vast-ssh/internal/e2e"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(floodEnv); socket != "" {
		n, err := strconv.Atoi(os.Getenv(floodEnv + "_N"))
		if err == nil {
			err = flood(socket, n)
		}
		if err != nil {
			panic(err)
		}
		return
	}
	code := m.Run()
	e2e.Cleanup()
	os.Exit(code)
}

// pairs are measurements of the same work, ours[i] taken right beside theirs[i], so that whatever else the machine did
// at that moment was done to both.
type pairs struct {
	ours, theirs []float64
}

// measure takes n pairs after warmups that are not kept. The first of a pair is each in turn.
func measure(warmups, n int, ours, theirs func() float64) pairs {
	var p pairs
	for i := range warmups + n {
		var o, t float64
		if i%2 == 0 {
			o, t = ours(), theirs()
		} else {
			t, o = theirs(), ours()
		}
		if i >= warmups {
			p.ours, p.theirs = append(p.ours, o), append(p.theirs, t)
		}
	}
	return p
}

// report prints the medians of both sides in unit, their ratio, and the median of the ratios within pairs.
func (p pairs) report(b *testing.B, them, unit string) {
	b.Helper()
	ours, theirs := median(p.ours), median(p.theirs)
	within := make([]float64, len(p.ours))
	for i := range within {
		within[i] = p.ours[i] / p.theirs[i]
	}
	b.ReportMetric(ours, "ours-"+unit)
	b.ReportMetric(theirs, them+"-"+unit)
	b.ReportMetric(ours/theirs, "ratio")
	b.ReportMetric(median(within), "pair-ratio")
	silent(b)
}

// silent leaves the time of the whole benchmark out, which says nothing.
func silent(b *testing.B) { b.ReportMetric(0, "ns/op") }

// median returns the middle of values, of which there must be one at least.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
