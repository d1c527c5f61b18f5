package resolve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vast-ssh/internal/vast"
)

// The test binary is also the program of a test's processes: with childEnv set it resolves instance 5 once its
// standard input ends, and prints what it got.
const (
	childEnv = "RESOLVE_TEST_CHILD" // the cache directory
	apiEnv   = "RESOLVE_TEST_API"   // URL that answers with the status of instance 5
	fullEnv  = "RESOLVE_TEST_FULL"  // set when no byte can be written to a file
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir); err != nil {
			fmt.Println("error:", err)
		}
		return
	}
	os.Exit(m.Run())
}

func child(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if os.Getenv(fullEnv) != "" {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{}); err != nil {
			return err
		}
	}
	r := New(Config{API: func() (API, error) { return remote(os.Getenv(apiEnv)), nil }, CacheDir: dir})
	target, err := r.Resolve(ctx, "5")
	if err != nil {
		return err
	}
	fmt.Println(target.ID, target.Source, target.Endpoints[0].Addr(), target.Problem != nil)
	return nil
}

// remote is an API at a URL of the parent process.
type remote string

func (u remote) Instance(ctx context.Context, id uint64) (vast.Instance, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(u), nil)
	if err != nil {
		return vast.Instance{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return vast.Instance{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return running(id, status(string(body))), err
}

func (remote) Instances(context.Context) ([]vast.Instance, error) {
	return nil, errors.New("the account was listed")
}

// startChild returns a function that lets the process go on, and one that returns what it printed.
func startChild(t *testing.T, dir, url string, env ...string) (release func(), result func() string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), append(env, childEnv+"="+dir, apiEnv+"="+url)...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(stdout, ready); err != nil {
		t.Fatalf("the process did not start: %v", err)
	}
	return func() { stdin.Close() }, func() string {
		out, err := io.ReadAll(stdout)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(out))
	}
}

// server answers with the status of an instance, or with 503, and counts.
func server(t *testing.T, status string) (url string, calls *atomic.Int32) {
	calls = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		if status == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, status)
	}))
	t.Cleanup(s.Close)
	return s.URL, calls
}

// expired makes a cache in which instance 5 has an address, one hour old.
func expired(t *testing.T) (dir string) {
	dir = filepath.Join(t.TempDir(), "cache")
	past := func() time.Time { return time.Now().Add(-time.Hour) }
	r := New(Config{API: newAccount(t, running(5, at("192.0.2.1"))).api, CacheDir: dir, Now: past})
	if _, err := r.Resolve(t.Context(), "5"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestProcessesAskOnce(t *testing.T) {
	const n = 24
	for name, test := range map[string]struct {
		status string
		want   string // of the processes that did not ask
	}{
		"up":   {"running", "5 cache 192.0.2.7:41022 false"},
		"down": {"", "5 stale cache 192.0.2.1:41022 true"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := expired(t)
			url, calls := server(t, test.status)
			var releases []func()
			var results []func() string
			for range n {
				release, result := startChild(t, dir, url)
				releases, results = append(releases, release), append(results, result)
			}
			for _, release := range releases {
				release()
			}
			got := make(map[string]int)
			for _, result := range results {
				got[result()]++
			}
			if calls.Load() != 1 || got[test.want] < n-1 {
				t.Errorf("%d calls, results %v; want one call, and %q", calls.Load(), got, test.want)
			}
		})
	}
}

// The lock of a process that dies while it asks is free for the next.
func TestAProcessKilledWhileAsking(t *testing.T) {
	dir := expired(t)
	asked := make(chan struct{})
	hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		close(asked)
		<-req.Context().Done()
	}))
	defer hung.Close()
	ctx, kill := context.WithCancel(t.Context())
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir, apiEnv+"="+hung.URL)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	kill()
	_ = cmd.Wait() // killed

	url, calls := server(t, "running")
	release, result := startChild(t, dir, url)
	release()
	if got := result(); got != "5 api 192.0.2.7:41022 false" || calls.Load() != 1 {
		t.Errorf("the next process got %q with %d calls", got, calls.Load())
	}
}

// On a full disk every call asks, and an address that was taken back does not stay.
func TestFullDisk(t *testing.T) {
	dir := expired(t)
	for _, test := range []struct{ status, want string }{
		{"running", "5 api 192.0.2.7:41022 true"},
		{"running", "5 api 192.0.2.7:41022 true"},
		{"", "5 stale cache 192.0.2.1:41022 true"},
		{"stopped", `error: instance 5 is not running: its status is "stopped", and "running" is intended`},
		{"", "error: 503 Service Unavailable"},
	} {
		url, _ := server(t, test.status)
		release, result := startChild(t, dir, url, fullEnv+"=1")
		release()
		if got := result(); got != test.want {
			t.Errorf("API says %q: %q, want %q", test.status, got, test.want)
		}
	}
}
