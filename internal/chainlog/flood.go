package chainlog

import (
	"maps"
	"slices"
	"time"
)

// flood keeps somebody who is refused thousands of times a second from driving what happened before out of the log.
//
// Refusals, and logins that went unused, are alike if reason, process, instance and host key are the same. Of those
// that are alike the first few are written as they come. More within a minute are counted, and the last of them is
// written with the count when the minute is over, and when the log is closed; if they go on, then once a minute.
//
// As process and host key can be made up anew each time, lines of refusals are rationed besides: a burst, and then a
// few a minute. Where the ration is used up, refusals that are like none before are counted by their reason alone. So
// a flood that does not end writes about 5 MB a day, and takes days to fill the log. Everything else is written
// always.
type flood struct {
	kinds  map[kind]*held
	tokens float64
	filled time.Time // when tokens was right
	owing  bool      // there is something to write as soon as it can be
}

const (
	alike     = 16          // refusals of a kind that are written one by one in a window
	window    = time.Minute // how long a kind is counted before its line is written
	maxKinds  = 64          // kinds that are told apart at a time
	burst     = 128         // lines of refusals at once
	reserve   = 16          // of which these are for lines with a count, so that new refusals do not take them all
	perToken  = 15 * time.Second
	manyKinds = -1 // the pid of a kind that is a reason alone
)

// kind is what makes refusals alike.
type kind struct {
	verdict, reason string
	pid             int
	instance        uint64
	hostKey         string
}

func kindOf(r Record) kind { return kind{r.Verdict, r.Reason, r.PID, r.Instance, r.HostKey} }

// held is the state of a kind.
type held struct {
	since   time.Time // when its window began
	written int       // lines in this window
	last    Record    // of those that are counted
	count   int       // not written yet
}

func newFlood(now time.Time) *flood {
	return &flood{kinds: make(map[kind]*held), tokens: burst, filled: now}
}

func floods(verdict string) bool { return verdict == Refused || verdict == Unused }

// admit tells whether r is to be written now. If not, it has been counted.
func (f *flood) admit(r Record, now time.Time) bool {
	k := kindOf(r)
	h := f.kinds[k]
	if h != nil && h.over(now) {
		delete(f.kinds, k)
		h = nil
	}
	switch {
	case h == nil && f.room(now) && f.take(now, reserve):
		f.kinds[k] = &held{since: now, written: 1}
		return true
	case h != nil && h.count == 0 && h.written < alike && f.take(now, reserve):
		h.written++
		return true
	}
	f.hold(r, now)
	return false
}

// owe counts r, which could not be written when it came and is due from now on.
func (f *flood) owe(r Record, now time.Time) {
	f.hold(r, now).since = now.Add(-window)
	f.owing = true
}

// hold counts r.
func (f *flood) hold(r Record, now time.Time) *held {
	count := max(r.Count, 1)
	h := f.kinds[kindOf(r)]
	if h == nil {
		r = Record{At: r.At, Verdict: r.Verdict, Reason: r.Reason, Sentence: r.Sentence}
		k := kind{verdict: r.Verdict, reason: r.Reason, pid: manyKinds}
		if h = f.kinds[k]; h == nil {
			h = &held{since: now}
			f.kinds[k] = h
		}
	}
	h.last = r
	h.count += count
	return h
}

// write gives the lines that are due to use, or all there are, and stops at its error.
func (f *flood) write(now time.Time, all bool, use func(Record) error) error {
	due := slices.SortedFunc(maps.Values(f.kinds), func(a, b *held) int { return a.since.Compare(b.since) })
	for _, h := range due {
		if h.count == 0 || !all && now.Sub(h.since) < window {
			continue
		}
		if !all && !f.take(now, 0) {
			return nil
		}
		r := h.last
		if h.count > 1 {
			r.Count = h.count
		}
		if err := use(r); err != nil {
			return err
		}
		*h = held{since: now, written: alike}
	}
	return nil
}

// pending tells whether anything is counted.
func (f *flood) pending() bool {
	for _, h := range f.kinds {
		if h.count > 0 {
			return true
		}
	}
	return false
}

// over tells whether a kind need not be remembered.
func (h *held) over(now time.Time) bool { return h.count == 0 && now.Sub(h.since) >= window }

// room tells whether there is room for one more kind.
func (f *flood) room(now time.Time) bool {
	if len(f.kinds) >= maxKinds {
		maps.DeleteFunc(f.kinds, func(_ kind, h *held) bool { return h.over(now) })
	}
	return len(f.kinds) < maxKinds
}

// take takes one line of the ration, if more than keep are left.
func (f *flood) take(now time.Time, keep float64) bool {
	f.tokens = min(f.tokens+now.Sub(f.filled).Seconds()/perToken.Seconds(), burst)
	f.filled = now
	if f.tokens < keep+1 {
		return false
	}
	f.tokens--
	return true
}
