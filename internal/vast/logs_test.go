package vast

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"vast-ssh/internal/secret"
)

const s3URL = "https://s3.amazonaws.com/vast.ai/instance_logs/abc123.log"

func TestLogsPollsWithoutTheKey(t *testing.T) {
	answer := func(n int, r *http.Request) (*http.Response, error) {
		if n == 1 {
			return response(200, `{"success":true,"result_url":"`+s3URL+`"}`), nil
		}
		if r.Header.Get("Authorization") != "" || r.URL.String() != s3URL || r.Method != "GET" {
			t.Errorf("request %s %s with Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
		}
		switch n {
		case 2, 3:
			return response(403, "<Error><Code>AccessDenied</Code></Error>"), nil
		case 4:
			return response(404, ""), nil
		case 5:
			return response(503, "SlowDown"), nil
		case 6:
			return nil, errors.New("connection reset")
		}
		return response(200, "line 1\nline 2\n"), nil
	}
	inBubble(t, answer, func(t *testing.T, c *Client, times func() []time.Duration) {
		text, err := c.Logs(t.Context(), 7, LogQuery{})
		if err != nil || text != "line 1\nline 2\n" {
			t.Errorf("%q, error %v", text, err)
		}
		for i, at := range times()[1:] {
			if at != time.Duration(i)*time.Second {
				t.Errorf("requests at %v", times())
				break
			}
		}
	})
}

func TestLogsGivesUp(t *testing.T) {
	storage := func(status int) reply {
		return func(n int, _ *http.Request) (*http.Response, error) {
			if n == 1 {
				return response(200, `{"success":true,"result_url":"`+s3URL+`"}`), nil
			}
			return response(status, "no"), nil
		}
	}
	for _, tt := range []struct {
		status    int
		timeout   time.Duration
		want      time.Duration
		wantTries int
	}{
		{403, time.Hour, 60 * time.Second, 62},
		{404, 5500 * time.Millisecond, 5 * time.Second, 7},
		{503, time.Hour, 2 * time.Second, 4},
		{400, time.Hour, 0, 2},
		{302, time.Hour, 0, 2},
	} {
		inBubble(t, storage(tt.status), func(t *testing.T, c *Client, times func() []time.Duration) {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
			defer cancel()
			_, err := c.Logs(ctx, 7, LogQuery{})
			var u *UnavailableError
			if !errors.As(err, &u) || u.Status != tt.status {
				t.Errorf("%d: error %v", tt.status, err)
			}
			if strings.Contains(err.Error(), "abc123") {
				t.Errorf("%d: the error shows where the log is: %v", tt.status, err)
			}
			if took := time.Since(start); took != tt.want || len(times()) != tt.wantTries {
				t.Errorf("%d: %d requests in %v, want %d in %v", tt.status, len(times()), took, tt.wantTries, tt.want)
			}
		})
	}
}

func TestLogHosts(t *testing.T) {
	remote := "https://console.vast.ai"
	local := "http://127.0.0.1:8080"
	for _, tt := range []struct {
		api, log string
		ok       bool
	}{
		{remote, s3URL, true},
		{remote, "https://s3.amazonaws.com:443/public.vast.ai/x.log", true},
		{remote, "https://S3.amazonaws.com/x.log?X-Amz-Signature=a", true},
		{remote, "https://vast.ai.s3.amazonaws.com/instance_logs/x", true},
		{local, s3URL, true},
		{local, "http://127.0.0.1:9000/x", true},
		{local, "https://127.0.0.1:9000/x", true},
		{"http://[::1]:1", "http://[::1]:2/x", true},
		{remote, "http://s3.amazonaws.com/x", false},
		{remote, "https://s3.amazonaws.com:8443/x", false},
		{remote, "https://user@s3.amazonaws.com/x", false},
		{remote, "https://evil.example/s3.amazonaws.com", false},
		{remote, "https://s3.amazonaws.com.evil.example/x", false},
		{remote, "https://evils3.amazonaws.com/x", false},
		{remote, "https://.s3.amazonaws.com.evil/x", false},
		{remote, "https://console.vast.ai/x", false},
		{remote, "http://127.0.0.1/x", false},
		{remote, "https://localhost/x", false},
		{local, "http://localhost:8080/x", false},
		{local, "http://127.0.0.2:8080/x", false},
		{local, "http://169.254.169.254/latest/meta-data", false},
		{remote, "file:///etc/passwd", false},
		{remote, "//s3.amazonaws.com/x", false},
		{remote, "", false},
		{remote, "%", false},
		{remote, "https://s3.amazonaws.com/" + strings.Repeat("x", maxResultURL), false},
	} {
		fetched := false
		c := over(t, tt.api, func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut {
				return response(200, `{"success":true,"result_url":"`+tt.log+`"}`), nil
			}
			fetched = true
			return response(200, "text"), nil
		})
		_, err := c.Logs(t.Context(), 7, LogQuery{})
		if fetched != tt.ok || (err == nil) != tt.ok {
			t.Errorf("API %s, log %.60q: fetched %v, error %v", tt.api, tt.log, fetched, err)
		}
		if err != nil && kindOf(err) != "unavailable 200" {
			t.Errorf("log %.60q: error %v", tt.log, err)
		}
	}
}

func TestLogQuery(t *testing.T) {
	for _, tt := range []struct {
		q    LogQuery
		want string
	}{
		{LogQuery{}, `{}`},
		{LogQuery{Tail: 5, Filter: `a"b`, Daemon: true}, `{"daemon_logs":"true","filter":"a\"b","tail":"5"}`},
	} {
		c := over(t, "", func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut {
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != tt.want {
					t.Errorf("options %s, want %s, error %v", body, tt.want, err)
				}
			}
			return response(200, `{"success":true,"result_url":"`+s3URL+`"}`), nil
		})
		if _, err := c.Logs(t.Context(), 7, tt.q); err != nil {
			t.Error(err)
		}
	}
	c := over(t, "", func(*http.Request) (*http.Response, error) {
		t.Error("something was sent")
		return response(500, ""), nil
	})
	for _, q := range []LogQuery{{Tail: -1}, {Filter: "a\nb"}, {Filter: strings.Repeat("x", 257)}} {
		if _, err := c.Logs(t.Context(), 7, q); err == nil {
			t.Errorf("%+v was taken", q)
		}
	}
}

func TestLogOverTheCap(t *testing.T) {
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			says(200, `{"success":true,"result_url":"`+srv.URL+`/log"}`)(w, r)
			return
		}
		says(200, strings.Repeat("x", maxBody+1))(w, r)
	}))
	defer srv.Close()
	c := mustNew(t, Config{URL: srv.URL, Key: secret.New("k"), Pace: noPace})
	if _, err := c.Logs(t.Context(), 7, LogQuery{}); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("error %v", err)
	}
}
