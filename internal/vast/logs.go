package vast

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"vast-ssh/internal/secret"
)

// logWait bounds how long Logs waits for the upload, which takes 3 to 20 s as a rule.
const logWait = time.Minute

// LogQuery says which part of a log is wanted. The zero LogQuery is the API's default: the last 1000 lines of the
// container.
type LogQuery struct {
	// Tail is the number of lines from the end; 0 leaves it to the API.
	Tail int
	// Filter keeps the lines that grep would find with it; empty keeps all. At most 256 bytes, one line.
	Filter string
	// Daemon asks for the log of the host's daemon instead of the container's.
	Daemon bool
}

// Logs has the log of an instance uploaded and returns it; it takes up to a minute. The text comes from the host and
// from every process in the container, up to 8 MiB: trust nothing in it. While the image loads it is an error text of
// docker's.
func (c *Client) Logs(ctx context.Context, id uint64, q LogQuery) (string, error) {
	if q.Tail < 0 {
		return "", errors.New("the number of log lines must not be negative")
	}
	if len(q.Filter) > maxWord || strings.ContainsAny(q.Filter, "\r\n\x00") {
		return "", fmt.Errorf("a log filter is one line of at most %d bytes", maxWord)
	}
	options := make(map[string]string) // the API wants strings
	if q.Tail > 0 {
		options["tail"] = strconv.Itoa(q.Tail)
	}
	if q.Filter != "" {
		options["filter"] = q.Filter
	}
	if q.Daemon {
		options["daemon_logs"] = "true"
	}
	body, err := c.call(ctx, request{endpoint: requestLogs, id: id, body: options})
	if err != nil {
		return "", err
	}
	u, err := c.resultURL(object(body).text("result_url", maxResultURL))
	if err != nil {
		return "", c.unreadable(requestLogs, err)
	}
	return c.pollLog(ctx, u)
}

// resultURL checks where a log is said to be: in Amazon's storage, or, for an API on this machine, on this machine.
// Whoever has the URL can read the log, so that errors name its host only.
func (c *Client) resultURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("the address of the log is not usable")
	}
	host := strings.ToLower(u.Hostname())
	switch {
	case u.Scheme == "https" && (host == "s3.amazonaws.com" || strings.HasSuffix(host, ".s3.amazonaws.com")) &&
		(u.Port() == "" || u.Port() == "443"):
	case (u.Scheme == "http" || u.Scheme == "https") && isLoopback(host) && strings.EqualFold(host, c.base.Hostname()):
	default:
		where := c.said(u.Scheme+"://"+u.Host, maxSaid)
		return nil, fmt.Errorf("the log is said to be at a host that is not allowed: %q", where)
	}
	u.Fragment = ""
	return u, nil
}

// pollLog gets a log without the API key. The storage answers 403 or 404 until the host has uploaded it.
func (c *Client) pollLog(ctx context.Context, u *url.URL) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, logWait)
	defer cancel()
	var last error
	failures := 0
	for {
		if err := c.pacer.wait(ctx, fetchLog.String(), c.interval(fetchLog)); err != nil {
			if last != nil && !errors.Is(err, context.Canceled) {
				return "", last
			}
			return "", c.unsent(fetchLog, err)
		}
		a, err := c.send(ctx, fetchLog, u, nil, secret.Value{})
		c.pacer.hold(fetchLog.String(), c.interval(fetchLog))
		switch {
		case err == nil && a.status == http.StatusOK:
			return string(a.body), nil
		case err == nil && (a.status == http.StatusForbidden || a.status == http.StatusNotFound):
			last = c.unusable(fetchLog, a.status, fmt.Sprintf("the log was not uploaded in time (status %d)", a.status))
			continue
		case err == nil:
			err = c.unusable(fetchLog, a.status, saying(a.status, "", c.said(string(a.body), maxSaid)))
		}
		var failed *UnavailableError
		if failures++; failures == maxTries || !errors.As(err, &failed) || !failed.passing {
			return "", err
		}
		last = err
	}
}
