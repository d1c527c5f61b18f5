package vast

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vast-ssh/internal/secret"
)

// reply answers the nth request.
type reply = func(n int, r *http.Request) (*http.Response, error)

// inBubble runs f under a fake clock with a client whose requests are answered by answer, and a function that tells
// when, since the start, each request was made.
func inBubble(t *testing.T, answer reply, f func(t *testing.T, c *Client, times func() []time.Duration)) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var times []time.Duration
		c := mustNew(t, Config{Key: secret.New("k"), HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			times = append(times, time.Since(start))
			n := len(times)
			mu.Unlock()
			return answer(n, r)
		})})
		f(t, c, func() []time.Duration { return times })
	})
}

func always(status int, body string) reply {
	return func(int, *http.Request) (*http.Response, error) { return response(status, body), nil }
}

func TestTries(t *testing.T) {
	failures := map[string]struct {
		answer reply
		tries  func(i int) int
	}{
		"429": {always(429, "API requests too frequent"), func(i int) int { return calls[i].tries429 }},
		"502": {always(502, "<html>"), func(i int) int { return calls[i].tries503 }},
		"503": {always(503, ""), func(i int) int { return calls[i].tries503 }},
		"504": {always(504, `{"msg":"x"}`), func(i int) int { return calls[i].tries503 }},
		"network": {func(int, *http.Request) (*http.Response, error) { return nil, errors.New("connection reset") },
			func(i int) int { return calls[i].tries503 }},
		"500":     {always(500, `{"success":false}`), func(int) int { return 1 }},
		"400":     {always(400, `{"success":false}`), func(int) int { return 1 }},
		"401":     {always(401, `{"success":false}`), func(int) int { return 1 }},
		"garbage": {always(200, `hello`), func(int) int { return 1 }},
	}
	for name, failure := range failures {
		for i, call := range calls {
			t.Run(name+"/"+call.name, func(t *testing.T) {
				inBubble(t, failure.answer, func(t *testing.T, c *Client, times func() []time.Duration) {
					if err := call.do(t.Context(), c); err == nil {
						t.Error("no error")
					}
					if got, want := len(times()), failure.tries(i); got != want {
						t.Errorf("%d tries, want %d", got, want)
					}
				})
			})
		}
	}
}

func TestRetryWaitsForTheInterval(t *testing.T) {
	inBubble(t, func(n int, _ *http.Request) (*http.Response, error) {
		if n < 3 {
			return response(503, ""), nil
		}
		return response(200, `{"instances":{"id":7}}`), nil
	}, func(t *testing.T, c *Client, times func() []time.Duration) {
		if _, err := c.Instance(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		at := times()
		first, second := at[1]-at[0], at[2]-at[1]
		if first < 2*time.Second || first > 3*time.Second || second < 4*time.Second || second > 6*time.Second {
			t.Errorf("waits %v and %v", first, second)
		}
	})
}

func TestCallsAreSpaced(t *testing.T) {
	good := always(200, `{"success":true,"instances":{"id":7}}`)
	inBubble(t, good, func(t *testing.T, c *Client, times func() []time.Duration) {
		for range 2 {
			if _, err := c.Instance(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
			if err := c.Destroy(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
		}
		// Each endpoint has its own interval: show at 0 and 2 s, destroy at 0 and 3 s.
		want := []time.Duration{0, 0, 2 * time.Second, 3 * time.Second}
		if !slices.Equal(times(), want) {
			t.Errorf("requests at %v, want %v", times(), want)
		}
	})
}

func TestSpacingCountsFromTheAnswer(t *testing.T) {
	slow := func(int, *http.Request) (*http.Response, error) {
		time.Sleep(5 * time.Second) // of the fake clock
		return response(200, `{"instances":{"id":7}}`), nil
	}
	inBubble(t, slow, func(t *testing.T, c *Client, times func() []time.Duration) {
		for range 2 {
			if _, err := c.Instance(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
		}
		if want := []time.Duration{0, 7 * time.Second}; !slices.Equal(times(), want) {
			t.Errorf("requests at %v, want %v", times(), want)
		}
	})
}

func TestConcurrentCallsAreSpaced(t *testing.T) {
	inBubble(t, always(200, `{"success":true}`), func(t *testing.T, c *Client, times func() []time.Duration) {
		done := make(chan error)
		for id := range uint64(3) {
			go func() { done <- c.Stop(t.Context(), id) }()
		}
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if want := []time.Duration{0, time.Second, 2 * time.Second}; !slices.Equal(times(), want) {
			t.Errorf("requests at %v, want %v", times(), want)
		}
	})
}

func TestPages(t *testing.T) {
	page := func(n int, r *http.Request) (*http.Response, error) {
		if got, want := r.URL.Query().Get("after_token"), []string{"", "t1+/=", "t2"}[n-1]; got != want {
			t.Errorf("page %d asked with token %q, want %q", n, got, want)
		}
		next := []string{`"t1+/="`, `"t2"`, `null`}[n-1]
		// Each page repeats the last instance of the page before it.
		return response(200, fmt.Sprintf(`{"instances":[{"id":%d},{"id":%d}],"next_token":%s}`, n, n+1, next)), nil
	}
	inBubble(t, page, func(t *testing.T, c *Client, times func() []time.Duration) {
		all, err := c.Instances(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var ids []uint64
		for _, inst := range all {
			ids = append(ids, inst.ID)
		}
		if !slices.Equal(ids, []uint64{1, 2, 3, 4}) {
			t.Errorf("ids %v", ids)
		}
		if want := []time.Duration{0, time.Second, 2 * time.Second}; !slices.Equal(times(), want) {
			t.Errorf("requests at %v, want %v", times(), want)
		}
	})
}

func TestPagesWithoutEnd(t *testing.T) {
	circle := func(n int, _ *http.Request) (*http.Response, error) {
		return response(200, fmt.Sprintf(`{"instances":[],"next_token":"t%d"}`, n%2)), nil
	}
	inBubble(t, circle, func(t *testing.T, c *Client, times func() []time.Duration) {
		_, err := c.Instances(t.Context())
		if err == nil || !strings.Contains(err.Error(), "circle") || len(times()) != 3 {
			t.Errorf("%d requests, error %v", len(times()), err)
		}
	})
	endless := func(n int, _ *http.Request) (*http.Response, error) {
		return response(200, fmt.Sprintf(`{"instances":[],"next_token":"t%d"}`, n)), nil
	}
	inBubble(t, endless, func(t *testing.T, c *Client, times func() []time.Duration) {
		_, err := c.Instances(t.Context())
		if err == nil || !strings.Contains(err.Error(), "pages") || len(times()) != maxPages {
			t.Errorf("%d requests, error %v", len(times()), err)
		}
	})
}

func TestDeadlineShorterThanTheWait(t *testing.T) {
	inBubble(t, always(503, ""), func(t *testing.T, c *Client, times func() []time.Duration) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		_, err := c.Instance(ctx, 7)
		var u *UnavailableError
		if !errors.As(err, &u) || u.Status != 503 || len(times()) != 1 || time.Since(start) != 0 {
			t.Errorf("after %v and %d tries: error %v", time.Since(start), len(times()), err)
		}
		// The next call has nothing else to report than that it could not start.
		_, err = c.Instance(ctx, 7)
		if !errors.Is(err, context.DeadlineExceeded) || len(times()) != 1 || time.Since(start) != 0 {
			t.Errorf("after %v and %d tries: error %v", time.Since(start), len(times()), err)
		}
	})
}

func TestCancelDuringTheWait(t *testing.T) {
	inBubble(t, always(503, ""), func(t *testing.T, c *Client, times func() []time.Duration) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := c.Instance(ctx, 7)
		var u *UnavailableError
		if !errors.As(err, &u) || !errors.Is(err, context.Canceled) || len(times()) != 1 {
			t.Errorf("%d tries: error %v", len(times()), err)
		}
	})
}

func TestTimeout(t *testing.T) {
	silent := func(_ int, r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	inBubble(t, silent, func(t *testing.T, c *Client, times func() []time.Duration) {
		start := time.Now()
		_, err := c.Instance(t.Context(), 7)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != defaultTimeout || len(times()) != 1 {
			t.Errorf("after %v and %d tries: error %v", time.Since(start), len(times()), err)
		}
	})
}

func TestPaceNamesEndpoints(t *testing.T) {
	var names []string
	c := mustNew(t, Config{Key: secret.New("k"),
		Pace: func(name string) time.Duration { names = append(names, name); return 0 },
		HTTP: roundTrip(func(*http.Request) (*http.Response, error) { return response(200, `{"success":true}`), nil }),
	})
	if err := c.DetachKey(t.Context(), 7, 8); err != nil {
		t.Fatal(err)
	}
	if names = slices.Compact(names); len(names) != 1 || names[0] != "DELETE /api/v0/instances/{id}/ssh/{key}/" {
		t.Errorf("Pace was asked about %q", names)
	}
}
