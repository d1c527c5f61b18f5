package vast

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"vast-ssh/internal/secret"
)

// testKey has every character that some encoding of an echo would change; keyCore is the part that none changes.
const (
	keyCore = "canary5f1d"
	testKey = `"` + keyCore + `&%<\`

	testProxy = "http://127.0.0.1:1"
)

func TestMain(m *testing.M) {
	// net/http reads the proxy variables once, so they are set before any test.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Setenv(name, testProxy)
	}
	os.Unsetenv("NO_PROXY")
	os.Unsetenv("no_proxy")
	os.Exit(m.Run())
}

func noPace(string) time.Duration { return 0 }

// serve starts a server and returns a client of it that does not wait.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return mustNew(t, Config{URL: srv.URL, Key: secret.New(testKey), Pace: noPace})
}

func mustNew(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if tr, ok := c.http.(*http.Transport); ok {
		t.Cleanup(tr.CloseIdleConnections)
	}
	return c
}

// says answers every request with the same status and body.
func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// over returns a client of the API at url whose requests end in f, and that does not wait.
func over(t *testing.T, url string, f roundTrip) *Client {
	t.Helper()
	return mustNew(t, Config{URL: url, Key: secret.New("k"), Pace: noPace, HTTP: f})
}

func response(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@laptop"

// calls are all calls of the API with the shape of their request.
var calls = []struct {
	name, method, uri, body string
	good                    string // an answer of success
	tries503, tries429      int
	do                      func(context.Context, *Client) error
}{
	{"Instances", "GET",
		"/api/v1/instances/?limit=25&order_by=%5B%7B%22col%22%3A%22id%22%2C%22dir%22%3A%22asc%22%7D%5D", "",
		`{"success":true,"instances":[],"next_token":null}`, 3, 3,
		func(ctx context.Context, c *Client) error { _, err := c.Instances(ctx); return err }},
	{"Instance", "GET", "/api/v0/instances/7/?owner=me", "", `{"instances":{"id":7}}`, 3, 3,
		func(ctx context.Context, c *Client) error { _, err := c.Instance(ctx, 7); return err }},
	{"Destroy", "DELETE", "/api/v0/instances/7/", `{}`, `{"success":true}`, 1, 3,
		func(ctx context.Context, c *Client) error { return c.Destroy(ctx, 7) }},
	{"Start", "PUT", "/api/v0/instances/7/", `{"state":"running"}`, `{"success":true}`, 3, 3,
		func(ctx context.Context, c *Client) error { return c.Start(ctx, 7) }},
	{"Stop", "PUT", "/api/v0/instances/7/", `{"state":"stopped"}`, `{"success":true}`, 3, 3,
		func(ctx context.Context, c *Client) error { return c.Stop(ctx, 7) }},
	{"SetLabel", "PUT", "/api/v0/instances/7/", `{"label":"x"}`, `{"success":true}`, 3, 3,
		func(ctx context.Context, c *Client) error { return c.SetLabel(ctx, 7, "x") }},
	{"InstanceKeys", "GET", "/api/v0/instances/7/ssh/", "", `{"success":true,"ssh_keys":"[]"}`, 3, 3,
		func(ctx context.Context, c *Client) error { _, err := c.InstanceKeys(ctx, 7); return err }},
	{"AttachKey", "POST", "/api/v0/instances/7/ssh/", `{"ssh_key":"` + publicKey + `"}`, `{"success":true}`, 1, 3,
		func(ctx context.Context, c *Client) error { _, err := c.AttachKey(ctx, 7, publicKey+"\n"); return err }},
	{"DetachKey", "DELETE", "/api/v0/instances/7/ssh/9/", `{}`, `{"success":true}`, 1, 3,
		func(ctx context.Context, c *Client) error { return c.DetachKey(ctx, 7, 9) }},
	{"AccountKeys", "GET", "/api/v0/ssh/", "", `[]`, 3, 3,
		func(ctx context.Context, c *Client) error { _, err := c.AccountKeys(ctx); return err }},
	{"AddAccountKey", "POST", "/api/v0/ssh/", `{"ssh_key":"` + publicKey + `"}`,
		`{"success":true,"key":{"id":1}}`, 1, 3,
		func(ctx context.Context, c *Client) error { _, err := c.AddAccountKey(ctx, publicKey); return err }},
	{"DeleteAccountKey", "DELETE", "/api/v0/ssh/9/", `{}`, `{"success":true}`, 1, 3,
		func(ctx context.Context, c *Client) error { return c.DeleteAccountKey(ctx, 9) }},
	{"Logs", "PUT", "/api/v0/instances/request_logs/7/", `{"tail":"10"}`, "", 3, 3,
		func(ctx context.Context, c *Client) error { _, err := c.Logs(ctx, 7, LogQuery{Tail: 10}); return err }},
}
