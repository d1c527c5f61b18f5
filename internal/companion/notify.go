package companion

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"vast-ssh/internal/term"
)

// notifyTimeout bounds the showing of one notification.
const notifyTimeout = 3 * time.Second

// How often notifications are shown: maxShown in shownFor, and the same summary once in sameFor.
const (
	maxShown = 6
	shownFor = time.Minute
	sameFor  = 10 * time.Second
)

const maxSummary = 100 // characters

// pace keeps a flood of refusals from becoming one of notifications.
type pace struct {
	mu      sync.Mutex // protects the following
	shown   []shown    // of the last minute, oldest first
	leftOut int        // since the last one that was shown
}

type shown struct {
	at      time.Time
	summary string
}

// allow reports whether a notification may be shown now, and how many were left out before it.
func (p *pace) allow(summary string) (leftOut int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.shown = slices.DeleteFunc(p.shown, func(s shown) bool { return now.Sub(s.at) >= shownFor })
	again := func(s shown) bool { return s.summary == summary && now.Sub(s.at) < sameFor }
	if len(p.shown) >= maxShown || slices.ContainsFunc(p.shown, again) {
		p.leftOut++
		return 0, false
	}
	p.shown = append(p.shown, shown{now, summary})
	leftOut, p.leftOut = p.leftOut, 0
	return leftOut, true
}

// missed counts n more that were not shown.
func (p *pace) missed(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leftOut += n
}

func (p *pace) notify(ctx context.Context, n Notification) error {
	summary := term.SafeN(n.Summary, maxSummary)
	leftOut, ok := p.allow(summary)
	if !ok {
		return nil
	}
	body := plain(n.Body)
	if leftOut > 0 {
		body += fmt.Sprintf("\n(not shown before this one: %d)", leftOut)
	}
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	if err := show(ctx, summary, body); err != nil {
		p.missed(leftOut + 1)
		return fmt.Errorf("show a notification: %w", err)
	}
	return nil
}
