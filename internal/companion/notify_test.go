package companion

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		check := func(summary string, want bool, wantLeftOut int) {
			t.Helper()
			if leftOut, ok := p.allow(summary); ok != want || leftOut != wantLeftOut {
				t.Errorf("%s at %v: %v, %d", summary, time.Now().Format("05"), ok, leftOut)
			}
		}
		check("a", true, 0)
		check("a", false, 0)
		check("a", false, 0)
		check("b", true, 2)
		time.Sleep(sameFor - time.Nanosecond)
		check("a", false, 0)
		time.Sleep(time.Nanosecond)
		check("a", true, 1)
		for _, s := range []string{"c", "d", "e"} {
			check(s, true, 0)
		}
		check("f", false, 0) // six in this minute
		p.missed(3)
		time.Sleep(shownFor - sameFor)
		check("f", true, 4) // the first two are a minute old
		check("g", true, 0)
		check("h", false, 0)
		if len(p.shown) != maxShown {
			t.Errorf("%d are remembered", len(p.shown))
		}
	})
}
