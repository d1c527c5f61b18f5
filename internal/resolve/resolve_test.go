package resolve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/vast"
)

// account is the API of one account.
type account struct {
	t testing.TB

	mu        sync.Mutex // protects the following
	instances []vast.Instance
	err       error                       // what every call fails with
	keyErr    error                       // what Config.API fails with
	hang      func(context.Context) error // called within a call
	noList    bool                        // a listing is a test failure
	gets      int
	lists     int
}

func newAccount(t testing.TB, instances ...vast.Instance) *account {
	return &account{t: t, instances: instances}
}

func (a *account) api() (API, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keyErr != nil {
		return nil, a.keyErr
	}
	return a, nil
}

func (a *account) enter(ctx context.Context, count *int) ([]vast.Instance, error) {
	a.mu.Lock()
	*count++
	hang := a.hang
	a.mu.Unlock()
	if hang != nil {
		if err := hang(ctx); err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.instances), a.err
}

func (a *account) Instance(ctx context.Context, id uint64) (vast.Instance, error) {
	all, err := a.enter(ctx, &a.gets)
	if err != nil {
		return vast.Instance{}, err
	}
	for _, inst := range all {
		if inst.ID == id {
			return inst, nil
		}
	}
	return vast.Instance{}, fmt.Errorf("show: %w", &vast.NotFoundError{ID: id})
}

func (a *account) Instances(ctx context.Context) ([]vast.Instance, error) {
	if a.noList {
		a.t.Error("the account was listed")
	}
	return a.enter(ctx, &a.lists)
}

// calls returns the numbers of calls since the last look.
func (a *account) calls() (gets, lists int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	gets, lists = a.gets, a.lists
	a.gets, a.lists = 0, 0
	return gets, lists
}

func (a *account) wantCalls(gets, lists int) {
	a.t.Helper()
	if g, l := a.calls(); g != gets || l != lists {
		a.t.Errorf("%d single and %d list calls, want %d and %d", g, l, gets, lists)
	}
}

// clock moves by a microsecond at each look, so that no two moments are the same.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Microsecond)
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type fixture struct {
	*testing.T
	*account
	*clock
	dir string
	r   *Resolver
}

func newFixture(t *testing.T, instances ...vast.Instance) *fixture {
	f := &fixture{T: t, account: newAccount(t, instances...), clock: &clock{now: noon},
		dir: filepath.Join(t.TempDir(), "cache")}
	f.r = New(Config{API: f.api, CacheDir: f.dir, Now: f.clock.Now})
	return f
}

func (f *fixture) file(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) resolve(name string) Target {
	f.Helper()
	target, err := f.r.Resolve(f.Context(), name)
	if err != nil {
		f.Fatalf("resolve %q: %v", name, err)
	}
	return target
}

func (f *fixture) refresh(id uint64) Target {
	f.Helper()
	target, err := f.r.Refresh(f.Context(), id)
	if err != nil {
		f.Fatalf("refresh %d: %v", id, err)
	}
	return target
}

// fails resolves name and wants an error that errors.As finds to be like want, with the same content.
func fails[E error](f *fixture, name string, want E) {
	f.Helper()
	target, err := f.r.Resolve(f.Context(), name)
	var got E
	if !errors.As(err, &got) || !reflect.DeepEqual(got, want) {
		f.Errorf("resolve %q: %+v, error %v, want error %v", name, target, err, want)
	}
}

func (f *fixture) want(got Target, id uint64, source Source, problem bool) {
	f.Helper()
	if got.ID != id || got.Source != source || (got.Problem != nil) != problem || len(got.Endpoints) == 0 {
		f.Errorf("got %+v, want instance %d from %q, problem %v", got, id, source, problem)
	}
}

func label(s string) func(*vast.Instance) { return func(inst *vast.Instance) { inst.Label = s } }
func status(s string) func(*vast.Instance) {
	return func(inst *vast.Instance) { inst.ActualStatus = s }
}
func at(ip string) func(*vast.Instance) { return func(inst *vast.Instance) { inst.PublicIP = ip } }

var errDown = errors.New("status 503")

var _ API = (*vast.Client)(nil)

func TestFreshCacheAsksNobody(t *testing.T) {
	f := newFixture(t, running(5, label("train")))
	f.noList = true
	first := f.resolve("vast-5")
	f.want(first, 5, Fetched, false)
	if first.Label != "train" || first.Machine != 77 || first.Endpoints[0].Addr() != "192.0.2.7:41022" {
		t.Errorf("got %+v", first)
	}
	f.wantCalls(1, 0)

	f.keyErr = errors.New("no key")
	unlock, err := atomicfile.Lock(t.Context(), f.file("5.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	f.pass(4 * time.Minute)
	again := f.resolve("5")
	f.want(again, 5, Cache, false)
	again.Source = Fetched
	if !reflect.DeepEqual(again, first) {
		t.Errorf("the cache gives %+v, want %+v", again, first)
	}
}

func TestExpiredCacheAsksAgain(t *testing.T) {
	f := newFixture(t, running(5))
	f.noList = true
	f.resolve("5")
	f.instances[0].PublicIP = "192.0.2.8"
	f.pass(5 * time.Minute)
	got := f.resolve("5")
	f.want(got, 5, Fetched, false)
	if got.Endpoints[0].Host != "192.0.2.8" {
		t.Errorf("got the old address: %+v", got)
	}
	f.wantCalls(2, 0)
	f.want(f.resolve("5"), 5, Cache, false)
}

func TestCacheFilesArePrivate(t *testing.T) {
	f := newFixture(t, running(5, label("train")))
	f.resolve("train")
	f.resolve("5")
	for name, mode := range map[string]os.FileMode{".": 0o700, "5.json": 0o600, "labels.json": 0o600} {
		if info, err := os.Stat(f.file(name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %v", name, info.Mode(), err, mode)
		}
	}
}

func TestUnusableCacheFilesAreRebuilt(t *testing.T) {
	f := newFixture(t, running(5, label("train")))
	for name, content := range map[string]string{
		"damaged":         `{"version":1,"id":5,`,
		"empty":           "",
		"unknown version": strings.Replace(goodEntry, `"version":1`, `"version":2`, 1),
		"from the future": strings.Replace(goodEntry, "T11:00", "T23:00", 1),
		"too large":       goodEntry + strings.Repeat(" ", maxEntryFile),
	} {
		f.resolve("5") // makes the directory
		if err := os.WriteFile(f.file("5.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f.calls()
		f.want(f.resolve("5"), 5, Fetched, false)
		f.want(f.resolve("5"), 5, Cache, false)
		if g, _ := f.calls(); g != 1 {
			t.Errorf("%s: %d calls, want 1", name, g)
		}
		if err := os.WriteFile(f.file("labels.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f.want(f.resolve("train"), 5, Fetched, false)
		f.want(f.resolve("train"), 5, Cache, false)
		if _, l := f.calls(); l != 1 {
			t.Errorf("%s: %d listings, want 1", name, l)
		}
	}
}

func TestClockSetBack(t *testing.T) {
	f := newFixture(t, running(5))
	f.resolve("5")
	f.pass(-time.Hour)
	f.want(f.resolve("5"), 5, Fetched, false)
	f.want(f.resolve("5"), 5, Cache, false)
}

// liar answers for another instance than the one it was asked for, and cannot list.
type liar struct{ *account }

func (liar) Instance(context.Context, uint64) (vast.Instance, error) { return running(6), nil }

func TestOldAddressWhenTheAPICannotBeAsked(t *testing.T) {
	down := newAccount(t)
	down.err = errDown
	keyless := newAccount(t)
	keyless.keyErr = errors.New("no key")
	for name, test := range map[string]struct {
		api             func() (API, error)
		byID, byListing string
	}{
		"down":         {down.api, "status 503", "status 503"},
		"key missing":  {keyless.api, "no key", "no key"},
		"wrong answer": {func() (API, error) { return liar{down}, nil }, "answered with 6", "status 503"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, running(5, label("train")))
			f.resolve("train")
			f.pass(30 * 24 * time.Hour)
			f.r.cfg.API = test.api
			check := func(got Target, reason string) {
				t.Helper()
				f.want(got, 5, StaleCache, true)
				if got.Problem != nil && !strings.Contains(got.Problem.Error(), reason) {
					t.Errorf("problem is %q, want %q", got.Problem, reason)
				}
			}
			// Each twice: the second may be served by the note of the first.
			for range 2 {
				check(f.resolve("train"), test.byListing)
				check(f.resolve("5"), test.byID)
				check(f.refresh(5), test.byID)
			}
		})
	}
}

func TestNoAddressAndNoAPI(t *testing.T) {
	f := newFixture(t, running(5))
	f.err = errDown
	fails(f, "5", errDown)
	fails(f, "train", errDown)
	f.wantCalls(1, 1)
	f.keyErr = errors.New("no key")
	fails(f, "5", f.keyErr)
	fails(f, "train", f.keyErr)
	f.keyErr, f.err = nil, nil
	f.want(f.resolve("5"), 5, Fetched, false)
}

func TestCallerGoneGetsNoOldAddress(t *testing.T) {
	f := newFixture(t, running(5, label("train")))
	f.resolve("train")
	f.pass(time.Hour)
	for _, name := range []string{"5", "train"} {
		ctx, cancel := context.WithCancel(t.Context())
		f.hang = func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}
		if got, err := f.r.Resolve(ctx, name); !errors.Is(err, context.Canceled) {
			t.Errorf("resolve %q: %+v, error %v, want context.Canceled", name, got, err)
		}
		// A caller who left says nothing about the API, and nobody is spared from asking.
		f.hang = nil
		f.want(f.resolve(name), 5, Fetched, false)
		f.pass(time.Hour)
	}
}

// What the API says for certain counts, also when it is down afterwards, and only until it says otherwise.
func TestDefiniteAnswersAreNotOverridden(t *testing.T) {
	for name, test := range map[string]struct {
		after []vast.Instance
		check func(*fixture, string)
	}{
		"destroyed": {nil, func(f *fixture, name string) { fails(f, name, &NotFoundError{Name: name}) }},
		"stopped": {[]vast.Instance{running(5, label("train"), status("stopped"))}, func(f *fixture, name string) {
			fails(f, name, &NotRunningError{ID: 5, Label: "train", Status: "stopped", Intended: "running"})
		}},
		"without an address": {[]vast.Instance{{ID: 5, Label: "train", ActualStatus: "running"}},
			func(f *fixture, name string) { fails(f, name, &NoAddressError{ID: 5}) }},
		"without ssh": {[]vast.Instance{running(5, label("train"), func(i *vast.Instance) { i.ImageRuntype = "args" })},
			func(f *fixture, name string) { fails(f, name, &NoSSHError{ID: 5, Runtype: "args"}) }},
	} {
		for _, by := range []string{"5", "train"} {
			t.Run(name+" by "+by, func(t *testing.T) {
				f := newFixture(t, running(5, label("train")))
				f.resolve("train")
				f.pass(time.Hour)
				before := f.instances
				f.instances = test.after
				test.check(f, by)
				f.err = errDown
				fails(f, by, errDown)
				if _, err := f.r.Refresh(t.Context(), 5); !errors.Is(err, errDown) {
					t.Errorf("refresh: %v, want %v", err, errDown)
				}
				f.err = nil
				test.check(f, by)
				f.instances = before
				f.want(f.resolve(by), 5, Fetched, false)
			})
		}
	}
}

func TestRefreshAsksDespiteAFreshCache(t *testing.T) {
	f := newFixture(t, running(5))
	f.noList = true
	f.resolve("5")
	f.instances[0].PublicIP = "192.0.2.8"
	got := f.refresh(5)
	f.want(got, 5, Fetched, false)
	if got.Endpoints[0].Host != "192.0.2.8" {
		t.Errorf("got the old address: %+v", got)
	}
	f.wantCalls(2, 0)

	f.instances = nil
	target, err := f.r.Refresh(t.Context(), 5)
	var gone *NotFoundError
	if !errors.As(err, &gone) || gone.Name != "5" {
		t.Errorf("got %+v, error %v, want a *NotFoundError", target, err)
	}
	if known, err := f.r.Known(); err != nil || len(known) != 0 {
		t.Errorf("the cache knows %+v, %v, want nothing", known, err)
	}
}

func TestAFailureSparesTheNextCalls(t *testing.T) {
	f := newFixture(t, running(5, label("train")))
	f.resolve("train")
	f.calls()
	f.pass(time.Hour)
	f.err = errDown
	f.want(f.resolve("5"), 5, StaleCache, true)
	f.want(f.resolve("train"), 5, StaleCache, true)
	f.wantCalls(1, 1)
	f.pass(14 * time.Second)
	f.want(f.resolve("5"), 5, StaleCache, true)
	f.want(f.resolve("train"), 5, StaleCache, true)
	f.wantCalls(0, 0)
	f.want(f.refresh(5), 5, StaleCache, true)
	f.wantCalls(1, 0)

	f.pass(spared)
	f.want(f.resolve("5"), 5, StaleCache, true)
	f.want(f.resolve("train"), 5, StaleCache, true)
	f.wantCalls(1, 1)
	f.pass(spared)
	f.err = nil
	f.want(f.resolve("5"), 5, Fetched, false)
	f.want(f.resolve("train"), 5, Fetched, false)
	f.want(f.resolve("train"), 5, Cache, false)
}

// Looking for a key is quick, and somebody who has just logged in expects it to be found.
func TestAMissingKeySparesNobody(t *testing.T) {
	f := newFixture(t, running(5, label("train")))
	f.resolve("train")
	f.pass(time.Hour)
	f.keyErr = errors.New("no key")
	f.want(f.resolve("train"), 5, StaleCache, true)
	f.want(f.resolve("5"), 5, StaleCache, true)
	f.keyErr = nil
	f.want(f.resolve("5"), 5, Fetched, false)
	f.want(f.resolve("train"), 5, Fetched, false)
}

// A listing that comes while the API fails to answer about one instance is the better answer.
func TestAListingDuringAFailure(t *testing.T) {
	f := newFixture(t, running(5))
	f.resolve("5")
	f.pass(time.Hour)
	f.hang = func(context.Context) error {
		if err := f.r.Remember([]vast.Instance{running(5, status("exited"))}); err != nil {
			t.Error(err)
		}
		return errDown
	}
	fails(f, "5", &NotRunningError{ID: 5, Status: "exited", Intended: "running"})
}

func TestLabels(t *testing.T) {
	f := newFixture(t, running(5, label("train")), running(6, label("Train")), running(7, label("eval")),
		running(8, label("eval"), status("stopped")), running(9, label("eval"), status("exited")), running(10),
		running(11, label("vast-box")), running(12, label("7")), running(5, label("train")))
	f.want(f.resolve("train"), 5, Fetched, false)
	f.wantCalls(0, 1)
	f.want(f.resolve("train"), 5, Cache, false)
	f.want(f.resolve("Train"), 6, Cache, false)
	f.want(f.resolve("vast-box"), 11, Cache, false)
	f.want(f.resolve("7"), 7, Cache, false)
	f.wantCalls(0, 0)
	// That a label names none or several is never said without asking.
	fails(f, "TRAIN", &NotFoundError{Name: "TRAIN"})
	f.wantCalls(0, 1)
	fails(f, "eval", &AmbiguousError{Label: "eval", IDs: []uint64{7, 8, 9}})
	f.wantCalls(0, 1)
	f.pass(time.Hour)
	f.want(f.resolve("Train"), 6, Fetched, false)
	f.wantCalls(0, 1)
}

func TestLabelOnAnotherInstance(t *testing.T) {
	for name, change := range map[string]func(*fixture){
		"after destroying": func(f *fixture) { f.instances = []vast.Instance{running(6, label("train"))} },
		"after relabelling": func(f *fixture) {
			f.instances = []vast.Instance{running(5, label("old")), running(6, label("train"))}
		},
		"after relabelling a stopped one": func(f *fixture) {
			f.instances = []vast.Instance{running(5, label("old"), status("stopped")), running(6, label("train"))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, running(5, label("train")))
			f.resolve("train")
			change(f)
			// The listing is fresh. What is known of instance 5 is newer.
			_, _ = f.r.Refresh(t.Context(), 5)
			f.want(f.resolve("train"), 6, Fetched, false)
			f.want(f.resolve("train"), 6, Cache, false)
		})
	}
}

func TestLabelsThatLeadNowhereWhenTheAPIIsDown(t *testing.T) {
	f := newFixture(t, running(5, label("train")), running(6, label("eval")))
	f.resolve("train")
	f.instances[0].Label = "old"
	f.refresh(5)
	if err := f.r.Forget(6); err != nil {
		t.Fatal(err)
	}
	f.calls()
	f.err = errDown
	fails(f, "train", errDown) // instance 5 has lost the label
	f.wantCalls(0, 1)
	fails(f, "eval", errDown) // nothing is known of instance 6
	f.wantCalls(1, 1)

	f.err = nil
	f.resolve("old")
	f.pass(time.Hour)
	f.err = errDown
	f.want(f.resolve("old"), 5, StaleCache, true)
	f.calls()
	fails(f, "train", errDown) // the note of the failure is of use to an old address only
	f.wantCalls(0, 1)
}

func TestAnAmbiguousOldLabelIsNoAddress(t *testing.T) {
	f := newFixture(t, running(5, label("train")), running(6, label("train")))
	fails(f, "train", &AmbiguousError{Label: "train", IDs: []uint64{5, 6}})
	f.err = errDown
	fails(f, "train", errDown)
}

func TestRememberKnownForget(t *testing.T) {
	f := newFixture(t)
	if known, err := f.r.Known(); err != nil || len(known) != 0 {
		t.Errorf("an empty cache knows %+v, %v", known, err)
	}
	if err := f.r.Forget(5); err != nil {
		t.Errorf("forget in an empty cache: %v", err)
	}
	remember := func(all ...vast.Instance) {
		t.Helper()
		if err := f.r.Remember(all); err != nil {
			t.Fatal(err)
		}
	}
	known := func() (text string) {
		t.Helper()
		targets, err := f.r.Known()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range targets {
			text += fmt.Sprintf("%d %q %d %s\n", k.ID, k.Label, len(k.Endpoints), k.Source)
		}
		return text
	}
	want := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("known:\n%swant:\n%s", got, want)
		}
	}
	remember(running(1000, label("train")), running(7, status("stopped")), running(20, label("a\nb")),
		running(1<<64-1), vast.Instance{})
	want(known(), "7 \"\" 0 cache\n20 \"\" 2 cache\n1000 \"train\" 2 cache\n18446744073709551615 \"\" 2 cache\n")
	f.keyErr = errors.New("no key")
	f.want(f.resolve("train"), 1000, Cache, false)
	f.want(f.resolve("20"), 20, Cache, false)

	f.pass(time.Hour)
	want(known(), "7 \"\" 0 stale cache\n20 \"\" 2 stale cache\n1000 \"train\" 2 stale cache\n"+
		"18446744073709551615 \"\" 2 stale cache\n")
	remember(running(1000, label("eval")), running(20))
	want(known(), "20 \"\" 2 cache\n1000 \"eval\" 2 cache\n")
	f.want(f.resolve("eval"), 1000, Cache, false)

	if err := f.r.Forget(20); err != nil {
		t.Fatal(err)
	}
	want(known(), "1000 \"eval\" 2 cache\n")

	// Of an answer that was asked for later, a listing takes nothing back.
	asked := f.Now()
	f.keyErr, f.instances = nil, []vast.Instance{running(1000, at("192.0.2.8")), running(30)}
	f.refresh(1000)
	f.refresh(30)
	entries := entriesAt([]vast.Instance{running(1000, label("older"))}, asked)
	if err := f.r.remember(entries, newListing(entries, asked)); err != nil {
		t.Fatal(err)
	}
	want(known(), "30 \"\" 2 cache\n1000 \"\" 2 cache\n")
}

func TestALargeAccount(t *testing.T) {
	var all []vast.Instance
	for id := range uint64(300) {
		all = append(all, running(id+1, label(fmt.Sprint(id+1, strings.Repeat("\U0001f680", maxLabel-4)))))
	}
	f := newFixture(t, all...)
	if err := f.r.Remember(all); !errors.Is(err, atomicfile.ErrTooLarge) {
		t.Errorf("remember: %v, want %v", err, atomicfile.ErrTooLarge)
	}
	f.want(f.resolve("300"), 300, Cache, false)
	f.want(f.resolve(all[7].Label), 8, Fetched, true)
}

func TestUnusableCacheDir(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, f *fixture){
		"below a file": func(t *testing.T, f *fixture) {
			if err := os.WriteFile(f.dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			f.r.cfg.CacheDir = filepath.Join(f.dir, "cache")
		},
		"open to others": func(t *testing.T, f *fixture) {
			f.resolve("5")
			if err := os.Chmod(f.dir, 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"no directory given": func(t *testing.T, f *fixture) {
			t.Chdir(t.TempDir())
			f.r.cfg.CacheDir = ""
		},
		"files in the way": func(t *testing.T, f *fixture) {
			for _, name := range []string{"5.json", "labels.json"} {
				if err := os.MkdirAll(f.file(name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		},
		"locks in the way": func(t *testing.T, f *fixture) {
			f.r.cfg.Fresh = time.Nanosecond
			for _, name := range []string{"5.lock", "labels.lock"} {
				if err := os.MkdirAll(f.file(name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, running(5, label("train")))
			prepare(t, f)
			f.calls()
			for range 2 {
				f.want(f.resolve("5"), 5, Fetched, true)
				f.want(f.resolve("train"), 5, Fetched, true)
				f.want(f.refresh(5), 5, Fetched, true)
			}
			f.wantCalls(4, 2)
			fails(f, "6", &NotFoundError{Name: "6"})
			if left, _ := os.ReadDir("."); name == "no directory given" && len(left) != 0 {
				t.Errorf("left in the working directory: %v", left)
			}
		})
	}
}

// The processes of one test are goroutines with resolvers of their own, on fake time. They share only the files.

func started(t *testing.T, n int, a *account, dir string, run func(context.Context, *Resolver) error) (wait func()) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := run(t.Context(), New(Config{API: a.api, CacheDir: dir})); err != nil {
				t.Error(err)
			}
		})
	}
	return wg.Wait
}

// crowd starts n calls that all wait for a lock, and then lets one in after the other.
func crowd(t *testing.T, n int, a *account, dir, lock string, run func(context.Context, *Resolver) error) {
	unlock, err := atomicfile.Lock(t.Context(), filepath.Join(dir, lock))
	if err != nil {
		t.Fatal(err)
	}
	wait := started(t, n, a, dir, run)
	synctest.Wait()
	time.Sleep(time.Millisecond)
	unlock()
	wait()
}

func slow(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func never(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func found(t Target, err error) error {
	if err == nil && t.ID != 5 {
		err = fmt.Errorf("got %+v", t)
	}
	return err
}

func refused[E error](t Target, err error) error {
	var want E
	if !errors.As(err, &want) {
		return fmt.Errorf("got %+v, error %v, want a %T", t, err, want)
	}
	return nil
}

func TestACrowdAsksOnce(t *testing.T) {
	stopped := []vast.Instance{running(5, label("train"), status("stopped"))}
	for name, test := range map[string]struct {
		after       []vast.Instance
		lock        string
		run         func(context.Context, *Resolver) error
		gets, lists int
	}{
		"resolve": {[]vast.Instance{running(5)}, "5.lock", func(ctx context.Context, r *Resolver) error {
			return found(r.Resolve(ctx, "5"))
		}, 1, 0},
		"refresh": {[]vast.Instance{running(5)}, "5.lock", func(ctx context.Context, r *Resolver) error {
			return found(r.Refresh(ctx, 5))
		}, 1, 0},
		"label": {[]vast.Instance{running(5, label("train"))}, "labels.lock", func(ctx context.Context, r *Resolver) error {
			return found(r.Resolve(ctx, "train"))
		}, 0, 1},
		"not running": {stopped, "5.lock", func(ctx context.Context, r *Resolver) error {
			return refused[*NotRunningError](r.Resolve(ctx, "5"))
		}, 1, 0},
		"label of one not running": {stopped, "labels.lock", func(ctx context.Context, r *Resolver) error {
			return refused[*NotRunningError](r.Resolve(ctx, "train"))
		}, 0, 1},
		"gone": {nil, "5.lock", func(ctx context.Context, r *Resolver) error {
			return refused[*NotFoundError](r.Resolve(ctx, "5"))
		}, 1, 0},
		"label gone": {nil, "labels.lock", func(ctx context.Context, r *Resolver) error {
			return refused[*NotFoundError](r.Resolve(ctx, "train"))
		}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			prepared(t, func(t *testing.T, a *account, _ *Resolver, dir string) {
				a.instances, a.hang = test.after, slow(time.Second)
				crowd(t, 200, a, dir, test.lock, test.run)
				a.wantCalls(test.gets, test.lists)
			})
		})
	}
}

// prepared runs test on fake time with a cache that is one hour old.
func prepared(t *testing.T, test func(t *testing.T, a *account, r *Resolver, dir string)) {
	dir := filepath.Join(t.TempDir(), "cache")
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, running(5, label("train")))
		r := New(Config{API: a.api, CacheDir: dir})
		if err := found(r.Resolve(t.Context(), "train")); err != nil {
			t.Fatal(err)
		}
		a.calls()
		time.Sleep(time.Hour)
		test(t, a, r, dir)
	})
}

// Those who call Refresh while the API is being asked may have learned something that the answer does not know.
func TestRefreshDuringACall(t *testing.T) {
	prepared(t, func(t *testing.T, a *account, _ *Resolver, dir string) {
		a.hang = slow(2 * time.Second)
		refresh := func(ctx context.Context, r *Resolver) error { return found(r.Refresh(ctx, 5)) }
		first := started(t, 1, a, dir, refresh)
		time.Sleep(time.Second)
		others := started(t, 50, a, dir, refresh)
		first()
		others()
		a.wantCalls(2, 0)
	})
}

func TestAHungAPI(t *testing.T) {
	for _, name := range []string{"5", "train"} {
		prepared(t, func(t *testing.T, a *account, _ *Resolver, dir string) {
			a.hang = never
			start := time.Now()
			stale := func(ctx context.Context, r *Resolver) error {
				target, err := r.Resolve(ctx, name)
				if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
					return fmt.Errorf("took %v", took)
				}
				if err == nil && (target.Source != StaleCache || target.Problem == nil) {
					return fmt.Errorf("got %+v", target)
				}
				return found(target, err)
			}
			first := started(t, 1, a, dir, stale)
			time.Sleep(time.Second)
			others := started(t, 50, a, dir, stale)
			first()
			others()
			if gets, lists := a.calls(); gets+lists != 1 {
				t.Errorf("%q: %d single and %d list calls, want one in all", name, gets, lists)
			}
		})
	}
}

func TestAHungAPIWithoutAnAddress(t *testing.T) {
	for _, name := range []string{"6", "eval"} {
		prepared(t, func(t *testing.T, a *account, r *Resolver, _ string) {
			a.hang = never
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			start := time.Now()
			target, err := r.Resolve(ctx, name)
			if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 30*time.Second {
				t.Errorf("resolve %q: %+v, %v after %v, want the deadline of 30 s", name, target, err, took)
			}
		})
	}
}

// A caller whose time is up gets the old address all the same, for what it is worth.
func TestDeadlineWithAnOldAddress(t *testing.T) {
	prepared(t, func(t *testing.T, a *account, r *Resolver, _ string) {
		a.hang = never
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		target, err := r.Resolve(ctx, "5")
		if err := found(target, err); err != nil || target.Source != StaleCache {
			t.Errorf("got %+v, %v", target, err)
		}
	})
}

// A process that is stopped while it holds the lock must not stop the others.
func TestALockThatIsNotFreed(t *testing.T) {
	for name, other := range map[string]string{"5": "6", "train": "eval"} {
		prepared(t, func(t *testing.T, a *account, r *Resolver, dir string) {
			for _, file := range []string{"5.lock", "6.lock", "labels.lock"} {
				unlock, err := atomicfile.Lock(t.Context(), filepath.Join(dir, file))
				if err != nil {
					t.Fatal(err)
				}
				defer unlock()
			}
			start := time.Now()
			target, err := r.Resolve(t.Context(), name)
			if err := found(target, err); err != nil || target.Source != StaleCache || target.Problem == nil ||
				time.Since(start) != 10*time.Second {
				t.Errorf("resolve %q: %+v, %v after %v, want the old address after 10 s", name, target, err,
					time.Since(start))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if target, err = r.Resolve(ctx, other); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("resolve %q: %+v, %v, want the deadline", other, target, err)
			}
			a.wantCalls(0, 0)
		})
	}
}
