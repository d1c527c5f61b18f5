package sim

import (
	"net/url"
	"slices"
	"strings"
	"time"
)

// Endpoint names what a request asked for.
type Endpoint string

// The endpoints that the account knows. OtherEndpoint is everything else.
const (
	OtherEndpoint            Endpoint = "other"
	OldListEndpoint          Endpoint = "GET /api/v0/instances/"
	ListEndpoint             Endpoint = "GET /api/v1/instances/"
	ShowEndpoint             Endpoint = "GET /api/v0/instances/{id}/"
	ManageEndpoint           Endpoint = "PUT /api/v0/instances/{id}/"
	DestroyEndpoint          Endpoint = "DELETE /api/v0/instances/{id}/"
	RebootEndpoint           Endpoint = "PUT /api/v0/instances/reboot/{id}/"
	RecycleEndpoint          Endpoint = "PUT /api/v0/instances/recycle/{id}/"
	ExecuteEndpoint          Endpoint = "PUT /api/v0/instances/command/{id}/"
	LogsEndpoint             Endpoint = "PUT /api/v0/instances/request_logs/{id}/"
	ResultEndpoint           Endpoint = "GET /instance_logs/{object}"
	KeysEndpoint             Endpoint = "GET /api/v0/instances/{id}/ssh/"
	AttachEndpoint           Endpoint = "POST /api/v0/instances/{id}/ssh/"
	DetachEndpoint           Endpoint = "DELETE /api/v0/instances/{id}/ssh/{key}/"
	AccountKeysEndpoint      Endpoint = "GET /api/v0/ssh/"
	AddAccountKeyEndpoint    Endpoint = "POST /api/v0/ssh/"
	UpdateAccountKeyEndpoint Endpoint = "PUT /api/v0/ssh/{key}/"
	DeleteAccountKeyEndpoint Endpoint = "DELETE /api/v0/ssh/{key}/"
	VolumesEndpoint          Endpoint = "GET /api/v0/volumes/"
	JobsEndpoint             Endpoint = "GET /api/v0/commands/schedule_job/"
	DropJobEndpoint          Endpoint = "DELETE /api/v0/commands/schedule_job/{key}/"
	CurrentUserEndpoint      Endpoint = "GET /api/v0/users/current/"
	GPUNamesEndpoint         Endpoint = "GET /api/v0/gpu_names/unique/"
)

// Request is a line of the ledger. It never holds a key.
type Request struct {
	At          time.Time
	Method      string
	Path, Query string
	Endpoint    Endpoint
	// Status is what was answered; 0 if nothing was, because the connection was dropped or hung.
	Status int
	// Bearer says that a valid key came in the Authorization header.
	Bearer bool
	// Fault says that a Fault answered.
	Fault bool
	// Unexpected says why the API would not expect this request, or is empty.
	Unexpected string
}

// maxLedger bounds the ledger; a test that asks more often forgets its first requests.
const maxLedger = 100_000

// Ledger returns the answered requests, oldest first.
func (a *Account) Ledger() []Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.ledger)
}

// Count returns how many requests for the endpoint were answered.
func (a *Account) Count(e Endpoint) int {
	n := 0
	for _, r := range a.Ledger() {
		if r.Endpoint == e {
			n++
		}
	}
	return n
}

// Unexpected returns the requests that the real API does not know, or that no client should send: an unknown path
// or parameter, a body of another form, an API key in the URL or shown to the store of logs.
func (a *Account) Unexpected() []Request {
	return slices.DeleteFunc(a.Ledger(), func(r Request) bool { return r.Unexpected == "" })
}

func (a *Account) record(r Request) {
	r.Path, r.Query = a.redact(r.Path), a.redact(redactQuery(r.Query))
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.ledger) == maxLedger {
		a.ledger = a.ledger[1:]
	}
	a.ledger = append(a.ledger, r)
}

func redactQuery(raw string) string {
	query, err := url.ParseQuery(raw)
	if err != nil || !query.Has("api_key") {
		return raw
	}
	query.Set("api_key", "redacted")
	return query.Encode()
}

// redact takes the account's keys out of a text.
func (a *Account) redact(text string) string {
	for _, k := range a.opts.Keys {
		if !k.Value.IsZero() {
			text = strings.ReplaceAll(text, k.Value.Reveal(), "redacted")
		}
	}
	return text
}
