package vast

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"vast-ssh/internal/secret"
)

const (
	invalidUserKey = "invalid user key"
	sessionExpired = "session expired"
	tooFrequent    = "requests too frequent"

	maxCode = 64  // bytes of an error code that are kept
	maxSaid = 200 // bytes of a server's text that are kept
)

// words are what an answer says about success and failure, in any of the shapes that the API uses.
type words struct {
	object    bool // the body is a JSON object
	json      bool // the body is JSON
	success   bool
	failure   bool // the body says outright that the request failed
	code, msg string
}

func readWords(body []byte) words {
	var w words
	w.json = json.Valid(body)
	f := object(body)
	if f == nil {
		w.msg = string(body) // whole: a cut before said could leave a part of a key
		if w.json {
			// A bare string is the message, any other value is shown as it is.
			json.Unmarshal(body, &w.msg)
		}
		return w
	}
	w.object = true
	w.code = f.said("error")
	for _, name := range []string{"msg", "message", "detail"} {
		if w.msg = f.said(name); w.msg != "" {
			break
		}
	}
	success, known := f.truth("success")
	w.success = success
	w.failure = known && !success || !known && w.code != ""
	return w
}

// judge returns nil for an answer that says the request was done, and else the typed error that it amounts to.
func (c *Client) judge(e endpoint, id uint64, a answer) error {
	w := readWords(a.body)
	code, msg := c.said(w.code, maxCode), c.said(w.msg, maxSaid)
	lower := strings.ToLower(msg)
	markup := bytes.HasPrefix(bytes.TrimSpace(a.body), []byte("<"))
	unusable := func(what string) error {
		return c.unusable(e, a.status, what+saying(a.status, code, msg))
	}
	switch {
	case a.status >= 300 && a.status < 400:
		to := c.said(a.location, maxSaid)
		return c.unusable(e, a.status, fmt.Sprintf("status %d: redirect to %q refused", a.status, to))
	case a.status/100 == 2 && !w.failure:
		if !w.json {
			return unusable("the answer is not JSON: ")
		}
		// What changes something must be confirmed; what reads is judged by what it brings.
		if e.method != http.MethodGet && !w.success {
			return unusable("the answer confirms nothing: ")
		}
		return nil
	case markup:
		// A page is from something before the API, and says nothing about a key or an instance.
		return unusable("the answer is a page, not JSON: ")
	case a.status == http.StatusForbidden:
		return &ForbiddenError{Endpoint: e.String(), Scope: e.scope, Msg: msg}
	case a.status == http.StatusUnauthorized, code == "auth_error",
		strings.Contains(lower, invalidUserKey), strings.Contains(lower, sessionExpired):
		return &AuthError{Endpoint: e.String(), Status: a.status, Msg: msg}
	case strings.Contains(lower, tooFrequent):
		a.status = http.StatusTooManyRequests
		return unusable("")
	case a.status == http.StatusRequestTimeout, a.status == http.StatusTooManyRequests, a.status >= 500:
		return unusable("")
	case a.status == http.StatusGone:
		return &APIError{Endpoint: e.String(), Status: a.status, Code: codeDeprecated, Msg: msg}
	case e.noInstance(a.status, w):
		return &NotFoundError{ID: id}
	case a.status == http.StatusNotFound && !w.object:
		return unusable("")
	}
	return &APIError{Endpoint: e.String(), Status: a.status, Code: code, Msg: msg}
}

// noInstance reports whether an answer says that the instance of the path does not exist. A 404 of another shape,
// such as the {"detail": "Not Found"} of a web framework, is about the route; and where the path names a key as well,
// only the code tells which of the two is missing.
func (e endpoint) noInstance(status int, w words) bool {
	switch {
	case !strings.Contains(e.path, "{id}"):
		return false
	case w.code == "no_such_instance":
		return true
	case strings.Contains(e.path, "{key}"):
		return false
	}
	known := slices.Contains([]string{"", "not_found", "invalid_id"}, w.code)
	return status == http.StatusNotFound && w.failure && known
}

// unusable makes the error for an answer that cannot be used. The server's text in reason must have passed said.
func (c *Client) unusable(e endpoint, status int, reason string) error {
	passing := false
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		passing = true
	}
	return &UnavailableError{Endpoint: e.String(), Status: status, Reason: reason, passing: passing}
}

// unreadable makes the error for a successful answer that does not hold what it should.
func (c *Client) unreadable(e endpoint, err error) error {
	return c.unusable(e, http.StatusOK, c.plain(err.Error()))
}

// unreached makes the error for an exchange that failed before the answer was complete. The cause is kept as text
// only: net/http puts what a broken server sent into its errors.
func (c *Client) unreached(ctx context.Context, e endpoint, err error) error {
	if ended := ctx.Err(); ended != nil {
		return c.unsent(e, ended)
	}
	u := &UnavailableError{Endpoint: e.String(), Reason: c.plain(err.Error()), passing: true}
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	if errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &cert) {
		u.passing = false
	}
	return u
}

// unsent makes the error for a call that ended with its context, or that could not start before the deadline.
func (c *Client) unsent(e endpoint, err error) error {
	u := &UnavailableError{Endpoint: e.String(), Reason: err.Error(), ctx: err}
	switch {
	case errors.Is(err, context.Canceled):
		u.Reason = "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		u.Reason = "no answer in time"
	case errors.Is(err, errTooLate):
		u.ctx = context.DeadlineExceeded
	}
	return u
}

// said prepares a server's text for an error: no key, no end blanks, at most limit bytes. It is to be quoted when
// shown.
func (c *Client) said(text string, limit int) string {
	return cut(strings.TrimSpace(c.redact(text)), limit)
}

// plain prepares the text of a local error, in which a server's words may be nested, to be shown without quotes.
func (c *Client) plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, c.said(text, maxSaid))
}

// redact takes the keys out of text, also in the spellings that an echo in a URL, in JSON, in HTML or in Go's quotes
// has.
func (c *Client) redact(text string) string {
	for _, key := range []secret.Value{c.key, c.fallback} {
		if key.IsZero() {
			continue
		}
		k := key.Reveal()
		quoted := strconv.Quote(k)
		inJSON, _ := json.Marshal(k)
		for _, form := range []string{
			k, url.QueryEscape(k), url.PathEscape(k), html.EscapeString(k),
			string(inJSON[1 : len(inJSON)-1]), quoted[1 : len(quoted)-1],
		} {
			text = strings.ReplaceAll(text, form, "[redacted]")
		}
	}
	return text
}

// cut shortens text to limit bytes without breaking a character.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
