package vast

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"vast-ssh/internal/secret"
	"vast-ssh/internal/testenv"
)

func TestRequests(t *testing.T) {
	for _, call := range calls {
		t.Run(call.name, func(t *testing.T) {
			seen := 0
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/log" {
					io.WriteString(w, "text")
					return
				}
				seen++
				body, _ := io.ReadAll(r.Body)
				if r.Method != call.method || r.RequestURI != call.uri || string(body) != call.body {
					t.Errorf("request %s %s %q, want %s %s %q",
						r.Method, r.RequestURI, body, call.method, call.uri, call.body)
				}
				if got := r.Header.Get("Authorization"); got != "Bearer "+testKey {
					t.Errorf("Authorization = %q", got)
				}
				if got := r.Header.Get("User-Agent"); got != "vast-ssh" {
					t.Errorf("User-Agent = %q", got)
				}
				http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
				if r.Header.Get("Cookie") != "" {
					t.Error("a cookie was sent back")
				}
				good := call.good
				if good == "" {
					good = `{"success":true,"result_url":"http://` + r.Host + `/log"}`
				}
				io.WriteString(w, good)
			})
			for range 2 {
				if err := call.do(t.Context(), c); err != nil {
					t.Error(err)
				}
			}
			if seen != 2 {
				t.Errorf("%d requests for 2 calls", seen)
			}
		})
	}
}

func TestBaseURL(t *testing.T) {
	good := map[string]string{
		"":                          "https://console.vast.ai/api/v0/ssh/",
		"https://api.example":       "https://api.example/api/v0/ssh/",
		"https://api.example:8443/": "https://api.example:8443/api/v0/ssh/",
		"https://api.example/vast/": "https://api.example/vast/api/v0/ssh/",
		"http://127.0.0.1:8080":     "http://127.0.0.1:8080/api/v0/ssh/",
		"http://127.8.9.1":          "http://127.8.9.1/api/v0/ssh/",
		"http://[::1]:80":           "http://[::1]:80/api/v0/ssh/",
		"http://LocalHost:80":       "http://LocalHost:80/api/v0/ssh/",
	}
	for text, want := range good {
		var got string
		c := over(t, text, func(r *http.Request) (*http.Response, error) {
			got = r.URL.String()
			return response(200, "[]"), nil
		})
		if _, err := c.AccountKeys(t.Context()); err != nil || got != want {
			t.Errorf("URL %q: requested %q, want %q, error %v", text, got, want, err)
		}
	}
	for _, text := range []string{
		"http://console.vast.ai", "http://127.0.0.1.example", "http://localhost.example", "http://10.0.0.1",
		"http://0.0.0.0", "https://me:hunter2@api.example", "https://hunter2@api.example",
		"https://api.example?hunter2", "https://api.example?", "https://api.example#hunter2", "https://",
		"api.example", "ftp://api.example", "file:///etc", "https://hunter2 x", "https:api.example",
		"http://[::1%25hunter2]x",
	} {
		_, err := New(Config{URL: text, Key: secret.New("k")})
		var bad *URLError
		if !errors.As(err, &bad) || bad.Hint() == "" {
			t.Errorf("URL %q: error %v", text, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("URL %q: the error shows a part that may be secret: %v", text, err)
		}
	}
}

func TestNewRefusesBadKeys(t *testing.T) {
	for _, key := range []string{"", "a b", "a\nb", "é", "a\x7f", strings.Repeat("k", maxKey+1)} {
		var bad *BadKeyError
		if _, err := New(Config{Key: secret.New(key)}); !errors.As(err, &bad) {
			t.Errorf("key of %d bytes: error %v", len(key), err)
		}
		if _, err := New(Config{Key: secret.New("k"), Fallback: secret.New(key)}); key != "" && !errors.As(err, &bad) {
			t.Errorf("fallback of %d bytes: error %v", len(key), err)
		}
	}
}

func TestRedirectIsRefused(t *testing.T) {
	var reached atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		requests := 0
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			requests++
			// 127.0.0.1 and localhost are two hosts to net/http; a redirect to the same host is refused as well.
			to := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
			if r.Method == http.MethodDelete {
				to = "/elsewhere"
			}
			http.Redirect(w, r, to, status)
		})
		for _, do := range []func() error{
			func() error { _, err := c.Instance(t.Context(), 1); return err },
			func() error { return c.Destroy(t.Context(), 1) },
		} {
			var u *UnavailableError
			if err := do(); !errors.As(err, &u) || u.Status != status || !strings.Contains(err.Error(), "redirect") {
				t.Errorf("%d: error %v", status, err)
			}
		}
		if requests != 2 {
			t.Errorf("%d: %d requests for 2 calls", status, requests)
		}
	}
	if reached.Load() {
		t.Error("a redirect was followed")
	}
}

func TestProxyNeverCarriesPlainHTTP(t *testing.T) {
	for target, want := range map[string]string{
		"https://console.vast.ai/": testProxy,
		"http://127.0.0.1:8080/":   "",
		"http://localhost/":        "",
		// No such request is made; the rule holds by itself.
		"http://console.vast.ai/": "",
	} {
		u, err := newTransport().Proxy(httptest.NewRequest("GET", target, nil))
		got := ""
		if u != nil {
			got = u.String()
		}
		if err != nil || got != want {
			t.Errorf("%s: proxy %q, want %q, error %v", target, got, want, err)
		}
	}
}

func TestBodyCap(t *testing.T) {
	list := func(size int) string {
		const frame = `{"success":true,"instances":[{"id":1,"x":""}]}`
		return strings.Replace(frame, `""`, `"`+strings.Repeat("a", size-len(frame))+`"`, 1)
	}
	c := serve(t, says(200, list(maxBody)))
	if all, err := c.Instances(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("at the cap: %d instances, error %v", len(all), err)
	}
	c = serve(t, says(200, list(maxBody+1)))
	var u *UnavailableError
	if _, err := c.Instances(t.Context()); !errors.As(err, &u) || !strings.Contains(err.Error(), "larger") {
		t.Errorf("over the cap: error %v", err)
	}
}

func TestTruncatedAndUnreachable(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"success":true`)
	})
	var u *UnavailableError
	if err := c.Destroy(t.Context(), 1); !errors.As(err, &u) || u.Status != 0 {
		t.Errorf("truncated: error %v", err)
	}

	c = mustNew(t, Config{URL: "http://" + testenv.RefusedAddr(t), Key: secret.New("k"), Pace: noPace})
	if _, err := c.Instance(t.Context(), 1); !errors.As(err, &u) || u.Status != 0 {
		t.Errorf("refused: error %v", err)
	}

	srv := httptest.NewUnstartedServer(says(200, "[]"))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // it reports the refused handshake
	srv.StartTLS()
	defer srv.Close()
	tries := 0
	tr := newTransport()
	defer tr.CloseIdleConnections()
	c = over(t, srv.URL, func(r *http.Request) (*http.Response, error) {
		tries++
		return tr.RoundTrip(r)
	})
	if _, err := c.Instance(t.Context(), 1); !errors.As(err, &u) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown authority: error %v", err)
	}
	if tries != 1 {
		t.Errorf("a bad certificate was tried %d times", tries)
	}
}

func TestFallbackKey(t *testing.T) {
	refusals := map[string]http.HandlerFunc{
		"401":             says(401, `{"success":false,"error":"auth_error","msg":"Invalid user key"}`),
		"session expired": says(404, `{"success":false,"msg":"Session expired. Please log in again."}`),
	}
	for name, refuse := range refusals {
		t.Run(name, func(t *testing.T) {
			var got []string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				got = append(got, r.Method+" "+key)
				if key != "good" {
					refuse(w, r)
					return
				}
				io.WriteString(w, `{"success":true,"instances":{"id":1}}`)
			}))
			defer srv.Close()
			cfg := Config{URL: srv.URL, Key: secret.New("session"), Fallback: secret.New("good"), Pace: noPace}
			c := mustNew(t, cfg)
			if _, err := c.AttachKey(t.Context(), 1, publicKey); err != nil {
				t.Error(err)
			}
			if _, err := c.Instance(t.Context(), 1); err != nil {
				t.Error(err)
			}
			if want := "[POST session POST good GET good]"; fmt.Sprint(got) != want {
				t.Errorf("requests %v, want %v", got, want)
			}

			got = nil
			cfg.Fallback = secret.New("bad")
			c = mustNew(t, cfg)
			var auth *AuthError
			if _, err := c.Instance(t.Context(), 1); !errors.As(err, &auth) || len(got) != 2 {
				t.Errorf("two bad keys: %v, error %v", got, err)
			}
			if _, err := c.Instance(t.Context(), 1); !errors.As(err, &auth) || len(got) != 3 {
				t.Errorf("after two bad keys: %v, error %v", got, err)
			}
		})
	}
}

// TestKeyIsInNoError lets a server echo the key in all the places that end in an error, to every call.
func TestKeyIsInNoError(t *testing.T) {
	inJSON, _ := json.Marshal(testKey)
	shapes := []string{
		`{"success":false,"error":%s,"msg":"x"}`, `{"success":false,"error":"auth_error","msg":%s}`,
		`{"success":false,"error":"not_found","msg":%s}`, `{"success":false,"msg":%s}`,
		`{"message":%s}`, `{"detail":%s}`, `{"detail":[%s]}`, `{"error":{"a":%s}}`, `%s`, `[%s]`,
		`{"success":true,"instances":[{"id":%s}]}`, `{"success":true,"instances":{"id":%s}}`,
		`{"success":true,"next_token":1,"instances":%s}`,
		`{"success":true,"result_url":%s}`, `{"success":true,"ssh_keys":%s}`,
		`{"success":false,"error":"team_ssh_keys_not_supported","msg":%s}`,
	}
	handlers := map[string]http.HandlerFunc{
		"malformed": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\n\r\n", testKey)
			conn.Close()
		},
		"header": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", testKey)
			conn.Close()
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://other.example/?k="+url.QueryEscape(testKey)+testKey)
			w.WriteHeader(302)
		},
	}
	for _, status := range []int{200, 400, 401, 403, 404, 410, 418, 429, 483, 500, 503} {
		for _, shape := range shapes {
			handlers[fmt.Sprint(status, shape)] = says(status, fmt.Sprintf(shape, inJSON))
		}
		handlers[fmt.Sprint(status, "page")] = says(status, "<html>"+html.EscapeString(testKey)+testKey)
		handlers[fmt.Sprint(status, "text")] = says(status, "bad key "+testKey)
		// Whatever is cut off must be cut off after the key was taken out.
		handlers[fmt.Sprint(status, "long")] = says(status, strings.Repeat(" ", 70_000)+strings.Repeat(testKey, 5_000))
	}
	for name, h := range handlers {
		c := serve(t, h)
		for _, call := range calls {
			err := call.do(t.Context(), c)
			for e := err; e != nil; e = errors.Unwrap(e) {
				asJSON, _ := json.Marshal(e)
				text := fmt.Sprintf("%v %+v %#v %s", e, e, e, asJSON)
				if h, ok := e.(interface{ Hint() string }); ok {
					text += h.Hint()
				}
				if strings.Contains(text, keyCore) {
					t.Errorf("%s: %s: the key is in %s", name, call.name, text)
				}
				if strings.ContainsAny(e.Error(), "\r\n") || len(e.Error()) > 700 {
					t.Errorf("%s: %s: not one short line: %q", name, call.name, e.Error())
				}
			}
		}
	}
}

func TestClientDoesNotPrintItsKey(t *testing.T) {
	c := mustNew(t, Config{Key: secret.New(testKey), Fallback: secret.New(testKey)})
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, keyCore) {
		t.Error(text)
	}
}

func TestContextEndsACall(t *testing.T) {
	asked := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := c.Instance(ctx, 1)
	var u *UnavailableError
	if !errors.As(err, &u) || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
