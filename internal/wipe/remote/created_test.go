//go:build linux

package remote

import (
	"errors"
	"testing"
	"time"
)

func TestWhenAContainerWasMade(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(1_800_000_000+second, 0) }
	var unknown time.Time
	const now = 1000
	for name, c := range map[string]struct{ birth, mark, started, want time.Time }{
		"birth":                  {at(10), at(500), at(20), at(10)},
		"mark":                   {unknown, at(10), at(20), at(10)},
		"mark, started again":    {unknown, at(10), at(600), at(10)},
		"mark of seconds":        {unknown, at(21), at(20), at(21)},
		"mark, and no start":     {unknown, at(10), unknown, at(10)},
		"mark that was touched":  {unknown, at(500), at(20), at(20).Add(-clockSlack)},
		"start":                  {unknown, unknown, at(20), at(20).Add(-clockSlack)},
		"birth of a clock ahead": {at(500), at(500), at(20), at(20).Add(-clockSlack)},
		"birth within slack":     {at(22), at(10), at(20), at(22)},
		"birth, and no start":    {at(500), at(10), unknown, at(500)},
		"birth to come":          {at(now + 1), at(10), at(20), unknown},
		"mark and start to come": {unknown, at(now + 500), at(now + 500), unknown},
		"start to come":          {unknown, unknown, at(now + 500), unknown},
	} {
		got, err := creation(c.birth, c.mark, c.started, at(now))
		if !got.Equal(c.want) || errors.Is(err, errLaterThanNow) != c.want.IsZero() {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
}
