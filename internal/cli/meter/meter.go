// Package meter shows how far long work has come: on a terminal by bars for bytes and files with rate and remaining time,
// elsewhere by a plain line every few seconds.
package meter

import (
	"fmt"
	"io"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Meter is for one goroutine.
type Meter struct {
	out   io.Writer
	began time.Time
	last  time.Time
	first int64 // bytes that were done before this meter began
	now   func() time.Time

	progress     *mpb.Progress // nil without a terminal
	bytes, files *mpb.Bar
}

// plainEvery is how often a line is printed without a terminal.
const plainEvery = 5 * time.Second

// New returns a meter on out, with bars if terminal is set: one that says how wide it is. Nothing is shown before the first Set.
func New(out io.Writer, terminal bool) *Meter {
	m := &Meter{out: out, now: time.Now}
	if terminal {
		m.progress = mpb.New(mpb.WithOutput(out), mpb.WithWidth(40), mpb.ForceAutoRefresh(), mpb.WithRefreshRate(150*time.Millisecond))
	}
	return m
}

// Set says that so many files and bytes of all are done.
func (m *Meter) Set(files, bytes, allFiles, allBytes int64) {
	now := m.now()
	if m.began.IsZero() {
		m.began, m.last, m.first = now, now, bytes
		if m.progress != nil {
			m.bars(allFiles, allBytes)
		}
	}
	if m.progress != nil {
		m.bytes.SetTotal(max(allBytes, 1), false)
		m.bytes.SetCurrent(bytes)
		m.files.SetTotal(max(allFiles, 1), false)
		m.files.SetCurrent(files)
		return
	}
	if now.Sub(m.last) < plainEvery {
		return
	}
	m.last = now
	fmt.Fprintln(m.out, line(files, bytes, allFiles, allBytes, m.first, now.Sub(m.began)))
}

// line is the plain form. Bytes that were done before are no part of the rate.
func line(files, bytes, allFiles, allBytes, first int64, took time.Duration) string {
	text := fmt.Sprintf("%s of %s, %d of %d files", Size(bytes), Size(allBytes), files, allFiles)
	rate := float64(bytes-first) / took.Seconds()
	if rate < 1 {
		return text
	}
	left := time.Duration(float64(allBytes-bytes) / rate * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s, %s/s, %v left", text, Size(int64(rate)), left)
}

func (m *Meter) bars(files, bytes int64) {
	add := func(all int64, name string, count, rate decor.Decorator) *mpb.Bar {
		return m.progress.New(max(all, 1), mpb.BarStyle(), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), count),
			mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace), rate,
				decor.AverageETA(decor.ET_STYLE_GO, decor.WC{C: decor.DextraSpace})),
		)
	}
	m.bytes = add(bytes, "bytes", decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace),
		decor.AverageSpeed(decor.SizeB1024(0), "% .1f", decor.WCSyncSpace))
	m.files = add(files, "files", decor.CountersNoUnit("%d / %d", decor.WCSyncSpace),
		decor.AverageSpeed(0, "%.0f/s", decor.WCSyncSpace))
	for _, b := range []*mpb.Bar{m.bytes, m.files} {
		b.EnableTriggerComplete()
	}
}

// Say prints a line that stays, above the bars.
func (m *Meter) Say(text string) {
	if m.progress != nil && m.bytes != nil {
		fmt.Fprintln(m.progress, text)
		return
	}
	fmt.Fprintln(m.out, text)
}

// Close takes the bars away. The meter says nothing after it.
func (m *Meter) Close() {
	if m.progress == nil {
		return
	}
	if m.bytes != nil {
		m.bytes.Abort(true)
		m.files.Abort(true)
	}
	m.progress.Wait()
}

// Size writes a number of bytes for people.
func Size(bytes int64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("% .1f", decor.SizeB1024(bytes))
}
