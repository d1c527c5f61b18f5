package vast

import (
	"fmt"
	"net/http"
	"strings"
)

const (
	keysPage = "https://cloud.vast.ai/manage-keys/"
	setKey   = "create a key at " + keysPage + " and set it: export VAST_API_KEY=<key>"

	codeDeprecated = "deprecated_endpoint"
	codeTeamKeys   = "team_ssh_keys_not_supported"
)

// APIError is a definite refusal that is of none of the other kinds. Code and Msg are the server's words, bounded
// and without the API key; both may be empty.
type APIError struct {
	Endpoint string // method and path, as in "PUT /api/v0/instances/{id}/"
	Status   int    // 200 occurs: the API also refuses with "success": false
	Code     string
	Msg      string
}

func (e *APIError) Error() string {
	return "vast.ai refused " + e.Endpoint + ": " + saying(e.Status, e.Code, e.Msg)
}

// Hint is empty where there is no advice to give.
func (e *APIError) Hint() string {
	switch e.Code {
	case codeDeprecated:
		return "vast.ai has retired this API call: install a newer vast-ssh"
	case codeTeamKeys:
		return "attach to the instance instead: vast-ssh key attach <id>"
	}
	return ""
}

// AuthError says that the API does not accept the key. Nothing was done.
type AuthError struct {
	Endpoint string
	Status   int
	Msg      string
}

func (e *AuthError) Error() string {
	return "vast.ai does not accept the API key: " + saying(e.Status, "", e.Msg)
}

// Hint says how to get a key that is accepted.
func (e *AuthError) Hint() string {
	if strings.Contains(strings.ToLower(e.Msg), sessionExpired) {
		return "log in again: vastai tfa login"
	}
	return setKey
}

// ForbiddenError says that the key is good but must not do this.
type ForbiddenError struct {
	Endpoint string
	// Scope is the permission that the call needs, such as "instance_read".
	Scope string
	Msg   string
}

func (e *ForbiddenError) Error() string {
	text := fmt.Sprintf("this API key must not %s (it needs the permission %s", e.Endpoint, e.Scope)
	if strings.Contains(e.Endpoint, "{id}") {
		text += ", and the instance must be yours"
	}
	return text + "): " + saying(http.StatusForbidden, "", e.Msg)
}

// Hint names the permission to add.
func (e *ForbiddenError) Hint() string {
	return "use a key with the permission " + e.Scope + ": " + keysPage
}

// NotFoundError says that the API knows no such instance of this account. It is never made from an answer that could
// mean something else, such as a bad key or an unknown route, because callers read it as "destroyed".
type NotFoundError struct{ ID uint64 }

func (e *NotFoundError) Error() string { return fmt.Sprintf("no instance %d in this account", e.ID) }

// Hint names the command that lists what there is.
func (e *NotFoundError) Hint() string { return "list your instances: vast-ssh ls" }

// UnavailableError says that there was no usable answer: the network failed, time ran out, the server failed, was
// asked too often, or sent what cannot be read. Whether a changing request was carried out is unknown, except that
// with Status 429 it was not. It wraps context.Canceled or context.DeadlineExceeded where one of them was the cause.
type UnavailableError struct {
	Endpoint string
	Status   int // 0 when there was no answer
	Reason   string

	passing bool  // the same request could succeed in a moment
	ctx     error // the context's error, or nil; any other cause could hold text of the server
}

func (e *UnavailableError) Error() string {
	return "no usable answer to " + e.Endpoint + ": " + e.Reason
}

// Unwrap returns the context's error, or nil.
func (e *UnavailableError) Unwrap() error { return e.ctx }

// Hint says what to try.
func (e *UnavailableError) Hint() string {
	if e.Status == http.StatusTooManyRequests {
		return "vast.ai limits how often it may be asked: wait a few seconds, then try again"
	}
	return "check the network connection, then try again"
}

// URLError says why an API address is not acceptable. URL is its scheme and host, without anything secret, or empty.
type URLError struct{ URL, Reason string }

func (e *URLError) Error() string {
	if e.URL == "" {
		return "the API address " + e.Reason
	}
	return fmt.Sprintf("the API address %q %s", e.URL, e.Reason)
}

// Hint says how to get back to an address that works.
func (e *URLError) Hint() string { return "go back to the default: unset VAST_URL" }

// saying renders what a server said: its status, and its words in quotes.
func saying(status int, code, msg string) string {
	text := fmt.Sprintf("status %d", status)
	for _, s := range []string{code, msg} {
		if s != "" {
			text += fmt.Sprintf(": %q", s)
		}
	}
	return text
}
