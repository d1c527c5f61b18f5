package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"vast-ssh/internal/vast"
)

// calls are the steps that are calls of the API.
var calls = []string{"list", "show", "keys", "attach", "detach", "account keys", "account add", "account delete"}

// The API fails once, at every call, in every way: the request was carried out or not. What the run leaves is safe, and the
// next one completes it.
func TestAPIFaultAtEveryCall(t *testing.T) {
	for name, fault := range map[string]error{
		"429":      &vast.UnavailableError{Endpoint: "x", Status: 429, Reason: "too frequent"},
		"500":      &vast.UnavailableError{Endpoint: "x", Status: 500, Reason: "status 500"},
		"401":      &vast.AuthError{Endpoint: "x", Status: 401},
		"403":      &vast.ForbiddenError{Endpoint: "x", Scope: "user_write"},
		"time-out": fmt.Errorf("%w", &vast.UnavailableError{Endpoint: "x", Reason: "no answer in time"}),
		"no":       &vast.APIError{Endpoint: "x", Status: 200, Msg: "no"},
		"missing":  &vast.NotFoundError{ID: 11},
	} {
		for _, late := range []bool{false, true} {
			if late && (name == "429" || name == "401") {
				continue // these say that nothing was done
			}
			t.Run(fmt.Sprintf("%s, late %v", name, late), func(t *testing.T) {
				t.Parallel()
				whole := newWorld(t)
				whole.rotated(Options{})
				most := 0
				for _, what := range whole.trace {
					if slices.Contains(calls, what) {
						most++
					}
				}
				if most < 20 {
					t.Errorf("only %d calls", most)
				}
				for call := 1; call <= most; call++ {
					w := newWorld(t)
					old, n, hit := w.key(), 0, ""
					w.breaks = func(_ int, what string) *breakage {
						if slices.Contains(calls, what) {
							if n++; n == call {
								hit = what
								return &breakage{err: fault, late: late}
							}
						}
						return nil
					}
					_, err := w.engine().Rotate(t.Context(), Options{})
					where := fmt.Sprintf("call %d of %d: %v", call, most, err)
					if n < call {
						t.Fatalf("%s: not met", where)
					}
					if late && (hit == "detach" || hit == "account delete") && err != nil {
						t.Errorf("%s: the list was not believed, which shows that the %s was done", where, hit)
					}
					if err := w.safe(all, all); err != nil {
						t.Errorf("%s: %v", where, err)
					}
					w.breaks = nil
					if err != nil {
						if _, err := w.engine().Rotate(t.Context(), Options{}); err != nil {
							t.Fatalf("%s: the next run: %v", where, err)
						}
					}
					if err := w.clean(old, all...); err != nil {
						t.Errorf("%s: after the next run: %v", where, err)
					}
				}
			})
		}
	}
}

// A login fails once, at every login, by the network or because the instance does not know the key for a moment.
func TestLoginFaultAtEveryLogin(t *testing.T) {
	for name, fault := range map[string]error{"network": errors.New("connection reset"), "refused": &RefusedError{12, "x"}} {
		for call := 1; ; call++ {
			w := newWorld(t)
			old, n, hit := w.key(), 0, ""
			w.breaks = func(_ int, what string) *breakage {
				if slices.Contains([]string{"login", "agent", "accepts"}, what) {
					if n++; n == call {
						hit = what
						return &breakage{err: fault}
					}
				}
				return nil
			}
			_, err := w.engine().Rotate(t.Context(), Options{})
			if n < call {
				if call < 12 {
					t.Errorf("only %d logins", n)
				}
				break
			}
			where := fmt.Sprintf("%s, login %d: %v", name, call, err)
			if name == "refused" && hit != "accepts" && err != nil {
				t.Errorf("%s: a key that takes a moment stopped the rotation", where)
			}
			if err := w.safe(all, all); err != nil {
				t.Errorf("%s: %v", where, err)
			}
			w.breaks = nil
			if err != nil {
				if _, err := w.engine().Rotate(t.Context(), Options{}); err != nil {
					t.Fatalf("%s: the next run: %v", where, err)
				}
			}
			if err := w.clean(old, all...); err != nil {
				t.Errorf("%s: after the next run: %v", where, err)
			}
		}
	}
}

// A run that is cancelled between any two steps stops there.
func TestCancelledAtEveryStep(t *testing.T) {
	for step := 1; ; step++ {
		w := newWorld(t)
		old := w.key()
		ctx, cancel := context.WithCancel(t.Context())
		w.breaks = func(n int, _ string) *breakage {
			if n < step {
				return nil
			}
			cancel()
			return &breakage{err: context.Canceled}
		}
		_, err := w.engine().Rotate(ctx, Options{})
		cancel()
		if err == nil {
			if step < 50 {
				t.Errorf("only %d steps", step)
			}
			return
		}
		if err := w.safe(all, all); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		w.breaks = nil
		w.rotated(Options{})
		if err := w.clean(old, all...); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
	}
}
