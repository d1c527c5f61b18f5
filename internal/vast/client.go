// Package vast is a client of the Vast.ai HTTP API: the few calls that vast-ssh needs, typed, with lenient decoding
// of what the API is known to answer and strict bounds on all of it.
//
// The API key goes to the host of Config.URL and nowhere else: redirects are refused, there are no cookies, and
// neither an error nor a log line can hold the key. Calls of one endpoint are spaced as the API's documentation asks
// (https://docs.vast.ai/api-reference/rate-limits-and-errors).
//
// Errors are meant for errors.As: *AuthError, *ForbiddenError, *NotFoundError, *UnavailableError (nothing was
// learned about the state), *APIError (a definite refusal of another kind). Text that the server chose is in them
// bounded, without the key, and quoted by Error.
package vast

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"vast-ssh/internal/secret"
)

const (
	// DefaultURL is the address of the public API.
	DefaultURL = "https://console.vast.ai"

	defaultTimeout = 20 * time.Second
	maxTries       = 3
	maxBody        = 8 << 20
)

// Config says which API a Client speaks to, and as whom.
type Config struct {
	// URL is the API's address; empty means DefaultURL. It must be https, or http to a loopback host.
	URL string
	// Key is the API key; required.
	Key secret.Value
	// Fallback takes the place of Key for good once the API has refused Key, as it does when the two-factor session
	// behind Key has ended. It may be zero.
	Fallback secret.Value
	// UserAgent is sent with every request; empty means "vast-ssh".
	UserAgent string
	// HTTP carries the requests; nil means a transport of our own with deadlines and TLS 1.2 or later. It is called
	// without an http.Client around it, so it must not follow redirects by itself.
	HTTP http.RoundTripper
	// Timeout bounds one API call with its retries and waits, one page of a list being one call; 0 means 20 s. The
	// context of a call can only shorten it.
	Timeout time.Duration
	// Pace gives the least time between two calls of one endpoint, which is named by method and path as in
	// "GET /api/v0/instances/{id}/"; nil means the intervals that the API documents.
	Pace func(endpoint string) time.Duration
}

// Client calls the API. It is safe for concurrent use.
type Client struct {
	base      *url.URL
	key       secret.Value
	fallback  secret.Value
	refused   atomic.Bool // key was refused, and fallback is in use
	userAgent string
	http      http.RoundTripper
	timeout   time.Duration
	pace      func(endpoint string) time.Duration
	pacer     pacer
}

// New checks cfg and returns a Client; nothing is sent. Its error is a *URLError or a *BadKeyError.
func New(cfg Config) (*Client, error) {
	base, err := parseBase(cfg.URL)
	if err != nil {
		return nil, err
	}
	if reason := badKey(cfg.Key.Reveal()); reason != "" {
		return nil, &BadKeyError{Source: "the API key", Reason: reason}
	}
	if reason := badKey(cfg.Fallback.Reveal()); reason != "" && !cfg.Fallback.IsZero() {
		return nil, &BadKeyError{Source: "the fallback API key", Reason: reason}
	}
	c := &Client{
		base: base, key: cfg.Key, fallback: cfg.Fallback, userAgent: cfg.UserAgent,
		http: cfg.HTTP, timeout: cfg.Timeout, pace: cfg.Pace,
	}
	if c.userAgent == "" {
		c.userAgent = "vast-ssh"
	}
	if c.http == nil {
		c.http = newTransport()
	}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	return c, nil
}

// request is one API call: an endpoint with the values of its path, its query and its JSON body.
type request struct {
	endpoint
	id, keyID uint64
	query     url.Values
	body      any
}

// call makes one API call within the client's timeout and returns the body of its successful answer.
func (c *Client) call(ctx context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()

	key, first := c.key, !c.refused.Load()
	if !first {
		key = c.fallback
	}
	body, err := c.retry(ctx, r, key)
	// A refused key means that nothing was done, so that even a POST can be sent again.
	if auth := (*AuthError)(nil); first && !c.fallback.IsZero() && errors.As(err, &auth) {
		c.refused.Store(true)
		return c.retry(ctx, r, c.fallback)
	}
	return body, err
}

// retry sends r until there is an answer to keep, at most maxTries times, as far as the endpoint allows it.
func (c *Client) retry(ctx context.Context, r request, key secret.Value) ([]byte, error) {
	var last error
	for try := 1; ; try++ {
		if err := c.pacer.wait(ctx, r.String(), c.interval(r.endpoint)); err != nil {
			if last != nil && !errors.Is(err, context.Canceled) {
				return nil, last
			}
			return nil, c.unsent(r.endpoint, err)
		}
		body, err := c.attempt(ctx, r, key)
		if err == nil {
			return body, nil
		}
		if last = err; try == maxTries || !r.again(err) {
			return nil, err
		}
		// The pause holds for every caller of the endpoint; the jitter parts processes that failed together.
		pause := c.interval(r.endpoint) * time.Duration(try)
		c.pacer.hold(r.String(), pause+rand.N(pause/2+1))
	}
}

func (c *Client) interval(e endpoint) time.Duration {
	if c.pace != nil {
		return c.pace(e.String())
	}
	return e.interval
}

// attempt sends r once and judges the answer.
func (c *Client) attempt(ctx context.Context, r request, key secret.Value) ([]byte, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return nil, err
		}
	}
	u := c.base.JoinPath(r.fill(r.id, r.keyID))
	u.RawQuery = r.query.Encode()
	a, err := c.send(ctx, r.endpoint, u, body, key)
	// The next call may start one interval after this answer: the server counts from the arrival of the request,
	// which no clock of ours shows and which lies before the answer.
	c.pacer.hold(r.String(), c.interval(r.endpoint))
	if err != nil {
		return nil, err
	}
	if err := c.judge(r.endpoint, r.id, a); err != nil {
		return nil, err
	}
	return a.body, nil
}

// answer is what a server said, whole.
type answer struct {
	status   int
	location string
	body     []byte
}

// send makes one HTTP exchange, with the bearer only if key is not zero. Its error is an *UnavailableError.
//
// It uses a RoundTripper without an http.Client, because the client would add what is refused here: redirects,
// cookies, and errors that hold the URL.
func (c *Client) send(ctx context.Context, e endpoint, u *url.URL, body []byte, key secret.Value) (answer, error) {
	var payload io.Reader
	if body != nil {
		payload = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, e.method, u.String(), payload)
	if err != nil {
		return answer{}, c.unreached(ctx, e, err)
	}
	req.Header.Set("User-Agent", c.userAgent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !key.IsZero() {
		req.Header.Set("Accept", "application/json")
		req.Header.Set("Authorization", "Bearer "+key.Reveal())
	}
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return answer{}, c.unreached(ctx, e, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return answer{}, c.unreached(ctx, e, err)
	}
	if len(data) > maxBody {
		return answer{}, c.unusable(e, resp.StatusCode, fmt.Sprintf("the answer is larger than %d bytes", maxBody))
	}
	return answer{resp.StatusCode, resp.Header.Get("Location"), data}, nil
}
