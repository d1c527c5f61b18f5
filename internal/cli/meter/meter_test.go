package meter

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 4 << 30: "4.0 GiB", 1536 << 20: "1.5 GiB", 5000 << 40: "5000.0 TiB"} {
		if got := Size(bytes); got != want {
			t.Errorf("Size(%d) = %q, want %q", bytes, got, want)
		}
	}
}

func TestPlainLinesComeEveryFewSeconds(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	m := New(&out, false)
	m.now = func() time.Time { return now }
	for i := range int64(11) { // ten seconds, at 100 MiB a second after 200 MiB that were done before
		m.Set(i, 200<<20+i*100<<20, 20, 2200<<20)
		now = now.Add(time.Second)
	}
	m.Close()
	want := "700.0 MiB of 2.1 GiB, 5 of 20 files, 100.0 MiB/s, 15s left\n" +
		"1.2 GiB of 2.1 GiB, 10 of 20 files, 100.0 MiB/s, 10s left\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestBarsShowBothCountsAndGoAway(t *testing.T) {
	var out syncBuffer
	m := New(&out, true)
	m.Say("before")
	m.Set(1, 1<<20, 10, 10<<20)
	m.Say("a line that stays")
	m.Set(10, 10<<20, 10, 10<<20)
	m.Set(10, 10<<20, 10, 10<<20) // more of the same, after all is done
	m.Close()
	for _, want := range []string{"before\n", "a line that stays", "MiB / 10.0 MiB", "/ 10"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
}
