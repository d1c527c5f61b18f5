package wipe_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe"
	"vast-ssh/internal/wipe/catalogue"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// nowhere leaves a program no place to run from.
var nowhere = []string{"/dev/shm", "/run", "/tmp", "/var/tmp", "/root"}

// kinds are the machines of the tests that are for each.
var kinds = map[string]overlay.Config{
	"debian": {}, "busybox": {Busybox: true}, "memory-without-exec": {NoExec: []string{"/dev/shm", "/run"}},
	"script": {NoExec: nowhere}, "busybox-script": {NoExec: nowhere, Busybox: true},
}

// TestEveryPlaceOfTheCatalogue plants a canary in every place of the catalogue, and wipes.
func TestEveryPlaceOfTheCatalogue(t *testing.T) {
	t.Parallel()
	for name, c := range kinds {
		if name == "busybox-script" {
			continue // which takes minutes, and has its turn with files of every shape
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Env = []string{"HF_TOKEN=hf_of_the_container", "HF_HOME=/workspace/.hf_home"}
			w := newWorld(t, c)
			w.Sh("mkdir -p /home/user; echo 'user:x:1000:1000::/home/user:/bin/sh' >>/etc/passwd")
			homes := []string{"/root", "/home/user"}
			if name == "script" {
				homes = homes[:1]
			}
			var script strings.Builder
			script.WriteString("p() { mkdir -p \"${1%/*}\" && echo $C >>\"$1\"; }\n")
			places := 0
			for _, s := range catalogue.Samples(homes, map[string]string{"HF_HOME": "/workspace/.hf_home"}) {
				if s.Entry.Kind == catalogue.Login {
					continue
				}
				places++
				fmt.Fprintf(&script, "p '%s'\n", s.Path)
			}
			w.plant(script.String())
			if n := len(w.found()); n < places*9/10 {
				t.Fatalf("%d places, and %d canaries", places, n)
			}
			p := w.prepare(wipe.Options{})
			r, err := p.Run(t.Context())
			if err != nil || r.Data != wipe.Clean || !r.LoginRemoved {
				t.Fatalf("%v: %+v", err, r)
			}
			if left := w.found(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			for _, want := range []string{"/root/.aws/", "/workspace/.hf_home/token", homes[len(homes)-1] + "/"} {
				if !slices.ContainsFunc(r.Rotate, func(s wipe.Secret) bool { return strings.HasPrefix(s.Path, want) }) {
					t.Errorf("nothing in %s is to be rotated", want)
				}
			}
			if !slices.ContainsFunc(r.Rotate, func(s wipe.Secret) bool { return strings.Contains(s.What, "HF_TOKEN") }) {
				t.Errorf("HF_TOKEN of the environment is not to be rotated: %+v", r.Rotate)
			}
			data, err := os.ReadFile(r.Path())
			if err != nil || strings.Contains(string(data), w.canary) || strings.Contains(string(data), "hf_of_the") {
				t.Errorf("the report: %v, or a value is in it", err)
			}
		})
	}
}

// TestNothingIsLeftOnTheDisk looks into free blocks: what was unlinked without being overwritten would be there.
func TestNothingIsLeftOnTheDisk(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"debian", "script"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := kinds[name]
			c.Disk = 512 << 20
			w := newWorld(t, c)
			w.plant(`mkdir -p /workspace/d /root/.aws
				for n in 1 2 3 4 5 6 7 8 9; do yes $C | head -c 100000 >/workspace/d/$n; done
				yes $C | head -c 30000000 >/workspace/large; echo $C >/root/.aws/credentials; printf $C >/opt/tiny
				truncate -s 200M /workspace/sparse; yes $C | dd of=/workspace/sparse bs=4096 count=10 seek=20000 conv=notrunc iflag=fullblock 2>/dev/null
				sync`)
			w.Spawn("exec 4>/workspace/open; yes " + w.canary + " | head -c 500000 >&4; sync; rm /workspace/open; echo ready; exec sleep 1000 >/dev/null 2>&1")
			needle := [][]byte{[]byte(w.canary)}
			if len(w.ScanDisk(needle)) == 0 {
				t.Fatal("nothing is planted")
			}
			r, err := w.prepare(wipe.Options{}).Run(t.Context())
			if err != nil || r.Data != wipe.Clean {
				t.Fatalf("%v: %+v", err, r)
			}
			if hits := w.ScanDisk(needle); len(hits) > 0 {
				t.Errorf("found on the disk at %v", hits)
			}
		})
	}
}

// TestTwentyCutConnections cuts the line at twenty random points: in fourteen connections after a number of bytes, while the far
// side is brought there, and six times when the far side opens a random file to overwrite it.
func TestTwentyCutConnections(t *testing.T) {
	t.Parallel()
	const early, late = 14, 6
	for _, name := range []string{"debian", "script"} { // one of either far side
		c := kinds[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Env = []string{"HF_TOKEN=x"}
			w := newWorld(t, c)
			// A connection that brings the helper is 1.3 MB, and the script's some 250 KB.
			limit, size := int64(1_300_000), 400_000_000
			if name == "script" {
				limit, size = 200_000, 3_000_000
			}
			w.plant(fmt.Sprintf("LARGE=%d", size) + `; mkdir -p /workspace/d /root/.aws; echo $C >/root/.aws/credentials
				for n in $(seq 300); do echo $C >/workspace/d/$n; done
				yes $C | head -c ${LARGE} >/workspace/large; for n in 1 2 3 4 5 6 7; do yes $C | head -c 3000000 >/workspace/large$n; done`)
			random := rand.New(rand.NewPCG(20, 261127))
			cfg := w.config(wipe.Options{})
			var cutter sync.WaitGroup
			defer cutter.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			held := w.Hold(someFiles(random)...) // by the first far side that works
			begin := sync.OnceFunc(func() {
				cutter.Go(func() { w.cutAtFiles(ctx, late, held, random) })
			})
			cfg.Notify = func(ev wipe.Event) {
				if ev.Progress == nil {
					return
				}
				if p := ev.Progress; p.TotalFiles > 0 && p.TotalFiles < 300 {
					t.Errorf("a total before anything is counted: %+v", p)
				}
				if w.line.count() >= early {
					begin()
				}
			}
			p, err := wipe.Prepare(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			p.Close() // so that the run begins with a connection of its own
			var cuts []int64
			for range early {
				cuts = append(cuts, 3000+random.Int64N(limit))
			}
			w.line.cutAfter(cuts...)
			r, err := p.Run(t.Context())
			if err != nil || r.Data != wipe.Clean || !r.LoginRemoved {
				t.Fatalf("%v, %q, %d cuts: %+v", err, r.Problem, w.line.count(), r.Left)
			}
			t.Logf("%d far sides worked", r.Connections)
			if n := w.line.count(); n != early+late || r.Connections < late {
				t.Errorf("%d cuts were made, and %d far sides worked", n, r.Connections)
			}
			if left := w.found(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if r.Total.Files < 309 || r.Total.Files > 309+40 {
				t.Errorf("%d files are counted, and 309 were planted", r.Total.Files)
			}
			if !slices.ContainsFunc(r.Rotate, func(s wipe.Secret) bool { return s.Path == "/root/.aws/credentials" }) {
				t.Errorf("a secret is forgotten: %+v", r.Rotate)
			}
		})
	}
}

// someFiles are a few of those that TestTwentyCutConnections plants. They are more than the helper works on at a time, so that it
// cannot do all others while they are held.
func someFiles(random *rand.Rand) []string {
	const some = 9
	names := []string{"/workspace/large"}
	for i := range 300 {
		names = append(names, fmt.Sprint("/workspace/d/", i+1))
	}
	for i := range 7 {
		names = append(names, fmt.Sprint("/workspace/large", i+1))
	}
	random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:some]
}

// cutAtFiles cuts the line n times, each when one of some files is opened that were still there after the cut before. The first
// of them are held already, and the others before those are let go.
func (w *world) cutAtFiles(ctx context.Context, n int, held *overlay.Hold, random *rand.Rand) {
	defer func() { held.Release() }()
	cut := make(map[int]bool)
	for {
		select {
		case <-held.Met:
		case <-ctx.Done():
			return
		}
		if far := sessionOf(held.PID); far != 0 && !cut[far] && w.line.cutNow() {
			cut[far] = true
			n--
			awaitStop(ctx, far)
		}
		if n == 0 {
			return
		}
		next := w.Hold(someFiles(random)...)
		for next == nil && ctx.Err() == nil { // those are wiped
			next = w.Hold(someFiles(random)...)
		}
		if next == nil {
			return
		}
		held.Release()
		held = next
	}
}

// awaitStop waits until a far side that has lost its connection does no further file: until it is killed by the one after it, or,
// if it is a script, knows that it is to stop. On a busy machine it may go on for so long that nothing is left for the others.
func awaitStop(ctx context.Context, far int) {
	for ctx.Err() == nil {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root", far)); err != nil {
			return
		}
		if told, _ := filepath.Glob(fmt.Sprintf("/proc/%d/root/dev/shm/.vast-ssh-wipe-sh/run.*/stop", far)); len(told) > 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// sessionOf returns the process that an ssh server has started, which is an ancestor of pid or that itself, or 0 if it has ended.
func sessionOf(pid int) int {
	for range 20 {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0
		}
		_, after, _ := strings.Cut(string(status), "\nPPid:\t")
		line, _, _ := strings.Cut(after, "\n")
		parent, err := strconv.Atoi(line)
		if err != nil || parent <= 1 {
			return 0
		}
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent)); err != nil || strings.HasPrefix(string(name), "sshd") {
			return pid
		}
		pid = parent
	}
	return 0
}

// TestStopAndGoOn interrupts a run, which must say what is left, and runs again, which must finish it.
func TestStopAndGoOn(t *testing.T) {
	t.Parallel()
	// The last of the files, which keeps the run from its end until it has been stopped.
	held := map[string]string{"debian": "/workspace/large4", "script": "/workspace/99"}
	for name, plant := range map[string]string{
		"debian": `for n in 1 2 3 4; do yes $C | head -c 200000000 >/workspace/large$n; done`,
		"script": `for n in $(seq 100); do echo $C >/workspace/$n; done`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kinds[name])
			w.plant(plant)
			ctx, cancel := context.WithCancel(t.Context())
			hold := w.Hold(held[name])
			cfg := w.config(wipe.Options{})
			cfg.Notify = func(ev wipe.Event) {
				if ev.Progress != nil && ev.Progress.Bytes > 0 {
					if p := ev.Progress; p.TotalFiles <= p.Files || p.TotalBytes <= p.Bytes {
						t.Errorf("there is no total: %+v", p)
					}
					cancel()
				}
				if strings.HasPrefix(ev.Step, "stopping") {
					hold.Release()
				}
			}
			p, err := wipe.Prepare(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Run(ctx)
			if err != nil || r.Data != wipe.Stopped || r.LoginRemoved || r.Connections != 1 {
				t.Fatalf("%v: %+v", err, r)
			}
			if len(w.found()) == 0 {
				t.Fatal("it was through before it could be stopped")
			}
			again, err := w.prepare(wipe.Options{}).Run(t.Context())
			if err != nil || again.Data != wipe.Clean {
				t.Fatalf("%v: %+v", err, again)
			}
			if left := w.found(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if again.Total.Files < 4 {
				t.Errorf("the second run's report has %d files", again.Total.Files)
			}
		})
	}
}

// TestNothingIsTouched goes through what must end a wipe before it does anything.
func TestNothingIsTouched(t *testing.T) {
	t.Parallel()
	volume := map[string]string{"/data": t.TempDir()}
	for name, c := range map[string]struct {
		config  overlay.Config
		options wipe.Options
		account func(w *world)
		want    func(error) bool
	}{
		"another container": {config: overlay.Config{Label: "C.1"}, want: is[*deploy.WrongContainerError]},
		"no container":      {config: overlay.Config{Label: "-"}, want: is[*deploy.WrongContainerError]},
		"stopped":           {account: func(w *world) { w.account.SetStatus(w.id, "exited") }, want: is[*wipe.NotRunningError]},
		"volume that another instance uses": {
			config: overlay.Config{Volumes: volume}, options: wipe.Options{Volumes: true}, want: is[*wipe.SharedVolumeError],
			account: func(w *world) {
				w.account.AddVolume(sim.Volume{Instances: []uint64{w.id, w.account.Add(sim.Instance{})}})
			},
		},
		"mount beyond the volumes that the API names": {
			config: overlay.Config{Volumes: map[string]string{"/data": t.TempDir(), "/shared": t.TempDir()}}, options: wipe.Options{Volumes: true},
			want:    is[*wipe.SharedVolumeError],
			account: func(w *world) { w.account.AddVolume(sim.Volume{Instances: []uint64{w.id}}) },
		},
		"list of jobs that fails": {
			options: wipe.Options{DropJobs: true}, want: func(err error) bool { return err != nil },
			account: func(w *world) { w.account.Fault(sim.Fault{Endpoint: sim.JobsEndpoint, Status: 500, Times: -1}) },
		},
		"volume whose users are told by their rows only": {
			config: overlay.Config{Volumes: volume}, options: wipe.Options{Volumes: true}, want: is[*wipe.SharedVolumeError],
			account: func(w *world) {
				w.account.AddVolume(sim.Volume{Instances: []uint64{w.id, w.account.Add(sim.Instance{})}, Hidden: true})
			},
		},
		"volume that the API does not know": {
			config: overlay.Config{Volumes: volume}, options: wipe.Options{Volumes: true}, want: is[*wipe.SharedVolumeError],
		},
		"list of volumes that fails": {
			config: overlay.Config{Volumes: volume}, options: wipe.Options{Volumes: true}, want: func(err error) bool { return err != nil },
			account: func(w *world) { w.account.Fault(sim.Fault{Endpoint: sim.VolumesEndpoint, Status: 500, Times: -1}) },
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.config)
			w.plant("echo $C >/workspace/x; [ ! -d /data ] || echo $C >/data/y")
			if c.account != nil {
				c.account(w)
			}
			_, err := wipe.Prepare(t.Context(), w.config(c.options))
			if !c.want(err) {
				t.Errorf("the error is %v", err)
			}
			if got := w.found(); !slices.Equal(got, []string{"content /workspace/x"}) {
				t.Errorf("touched: %q", got)
			}
			w.Sh("[ ! -d /data ] || [ -s /data/y ]")
		})
	}
}

func is[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

func TestAVolumeOfItsOwnIsWipedWhenAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{Volumes: map[string]string{"/data": t.TempDir()}})
	w.account.AddVolume(sim.Volume{Instances: []uint64{w.id}})
	w.plant("echo $C >/data/y; echo $C >/workspace/x")
	r, err := w.prepare(wipe.Options{Volumes: true}).Run(t.Context())
	if err != nil || r.Data != wipe.Clean || !slices.Equal(r.Volumes, []string{"/data"}) {
		t.Fatalf("%v: %+v", err, r)
	}
	w.Sh("[ ! -e /data/y ]")
}

func TestScopes(t *testing.T) {
	t.Parallel()
	for scope, want := range map[wipe.Scope][]string{
		wipe.Secrets:   {"content /root/.bash_history", "content /srv/mine", "content /workspace/x"},
		wipe.Workspace: nil,
		wipe.All:       nil,
	} {
		t.Run(string(scope), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, overlay.Config{})
			w.plant("mkdir -p /root/.aws; echo $C >/root/.aws/credentials; echo $C >/root/.bash_history; echo $C >/workspace/x; echo $C >/srv/mine")
			p := w.prepare(wipe.Options{Scope: scope, Destroy: wipe.Never})
			said := false
			p.Notify(func(ev wipe.Event) { said = said || strings.Contains(ev.Step, "removing what logging in needs") })
			r, err := p.Run(t.Context())
			if err != nil || r.Data != wipe.Clean {
				t.Fatalf("%v: %+v", err, r)
			}
			if got := w.found(); !slices.Equal(got, want) {
				t.Errorf("left: %q, want %q", got, want)
			}
			client, err := w.connect(t.Context())
			if err == nil {
				client.Close()
			}
			if stays := scope == wipe.Secrets; (err == nil) != stays || r.LoginRemoved == stays {
				t.Errorf("login afterwards: %v, the report says removed: %v", err, r.LoginRemoved)
			}
			if said != r.LoginRemoved {
				t.Errorf("said that the login is removed: %v, and it was: %v", said, r.LoginRemoved)
			}
		})
	}
}

// TestAMachineThatStaysInUse is logged in to afterwards, though a path was named that holds the login, and every key that is none
// of the login's is gone.
func TestAMachineThatStaysInUse(t *testing.T) {
	t.Parallel()
	for kind, c := range map[deploy.Kind]overlay.Config{
		deploy.Helper: {}, deploy.Script: {NoExec: []string{"/dev/shm", "/run", "/tmp", "/var/tmp", "/root"}},
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c)
			w.plant("for n in a au aurora auth.pem @x id_test; do echo $C >/root/.ssh/$n; done; echo $C >/etc/ssh/mine; echo $C >/root/x")
			r, err := w.prepare(wipe.Options{Scope: wipe.Secrets, Destroy: wipe.Never, Paths: []string{"/root", "/etc/ssh"}}).Run(t.Context())
			if err != nil || r.Data != wipe.Clean || r.LoginRemoved {
				t.Fatalf("%v: %+v", err, r)
			}
			if got := w.found(); len(got) > 0 {
				t.Errorf("left: %q", got)
			}
			for _, name := range []string{"a", "au", "aurora", "auth.pem", "id_test"} {
				if !slices.ContainsFunc(r.Rotate, func(s wipe.Secret) bool { return s.Path == "/root/.ssh/"+name }) {
					t.Errorf("%s is not to be rotated", name)
				}
			}
			client, err := w.connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			client.Close()
			if r.FarSide != kind {
				t.Errorf("by the %s", r.FarSide)
			}
		})
	}
}

// TestALostLastWord cuts the connection when the login is being removed.
func TestALostLastWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	w.plant("echo $C >/workspace/x")
	cfg := w.config(wipe.Options{})
	var once sync.Once
	cfg.Notify = func(ev wipe.Event) {
		if strings.Contains(ev.Step, "removing what logging in needs") {
			once.Do(w.DropConnections)
		}
	}
	p, err := wipe.Prepare(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Run(t.Context())
	if err != nil || r.Data != wipe.Clean || !r.LoginRemoved {
		t.Fatalf("%v: %+v", err, r)
	}
	if left := w.found(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := w.connect(t.Context()); err == nil {
		t.Error("one can still log in")
	}
}

// TestASecondRunAfterTheLoginIsGone finds the report of the first, which could not destroy the instance.
func TestASecondRunAfterTheLoginIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	w.plant("echo $C >/workspace/x")
	if r, err := w.prepare(wipe.Options{}).Run(t.Context()); err != nil || r.Data != wipe.Clean {
		t.Fatalf("%v: %+v", err, r)
	}
	// sshd has no host key any more, and ends every connection; a newer one still has it in memory, and refuses the login.
	p, err := wipe.Prepare(t.Context(), w.config(wipe.Options{}))
	if err != nil || p.Plan.Done == nil {
		t.Fatalf("without host keys: %v", err)
	}
	cfg := w.config(wipe.Options{})
	refused := errors.New("ssh: unable to authenticate")
	cfg.Connect = func(context.Context) (*ssh.Client, error) { return nil, refused }
	if p, err = wipe.Prepare(t.Context(), cfg); err != nil || p.Plan.Done == nil {
		t.Fatalf("%v", err)
	}
	// Another machine at the address is not the one that was wiped.
	foreign := cfg
	foreign.Connect = func(context.Context) (*ssh.Client, error) { return nil, errors.New("another key") }
	foreign.Retry = func(error) bool { return false }
	if _, err := wipe.Prepare(t.Context(), foreign); err == nil {
		t.Error("another machine counts as the one that was wiped")
	}
	r, err := p.Run(t.Context())
	if err != nil || r.Data != wipe.Clean || r.Total.Files == 0 {
		t.Errorf("%v: %+v", err, r)
	}
	// The container may have ended with the wipe.
	ended := w.config(wipe.Options{})
	ended.Instance.ActualStatus = "exited"
	if p, err := wipe.Prepare(t.Context(), ended); err != nil || p.Plan.Done == nil {
		t.Errorf("an ended container: %v", err)
	}
	// Another instance that got the id was never wiped.
	cfg.Instance.Started = cfg.Instance.Started.Add(time.Hour)
	if _, err := wipe.Prepare(t.Context(), cfg); !errors.Is(err, refused) {
		t.Errorf("the report of another instance counts: %v", err)
	}
}

// TestASecondRunThatMeansMore than the first, which has removed the login, is not clean by the report of that.
func TestASecondRunThatMeansMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	w.plant("echo $C >/workspace/x")
	if r, err := w.prepare(wipe.Options{Scope: wipe.Secrets}).Run(t.Context()); err != nil || r.Data != wipe.Clean || !r.LoginRemoved {
		t.Fatalf("%v: %+v", err, r)
	}
	for _, more := range []wipe.Options{{}, {Scope: wipe.All}, {Scope: wipe.Secrets, Paths: []string{"/workspace/x"}}} {
		var less *wipe.LessError
		if _, err := wipe.Prepare(t.Context(), w.config(more)); !errors.As(err, &less) || less.Scope != wipe.Secrets {
			t.Errorf("%+v: %v", more, err)
		}
	}
	if p := w.prepare(wipe.Options{Scope: wipe.Secrets}); p.Plan.Done == nil {
		t.Error("the same again is not taken up")
	}
	r, err := w.prepare(wipe.Options{Destroy: wipe.Always}).Run(t.Context())
	if err != nil || r.Data != wipe.Incomplete || r.Policy != wipe.Always || !strings.Contains(r.Problem, "--scope workspace") {
		t.Errorf("always: %v: %+v", err, r)
	}
	if len(w.found()) == 0 {
		t.Error("there is nothing left to be told of")
	}
}

// TestAFileInUseIsNoLogin: what is told of processes stands for none of the rules.
func TestAFileInUseIsNoLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{Foreground: "echo s >/root/start.sh; exec 9</root/start.sh; rm /root/start.sh; sleep 100000; :"})
	w.plant("until [ ! -e /root/start.sh ] && ls -l /proc/1/fd | grep -q deleted; do :; done; echo $C >/workspace/x")
	r, err := w.prepare(wipe.Options{}).Run(t.Context())
	if err != nil || r.Data != wipe.Clean || !r.LoginRemoved || r.Counts[protocol.InUse] == 0 {
		t.Fatalf("%v: %+v", err, r)
	}
	ended := w.config(wipe.Options{})
	ended.Instance.ActualStatus = "exited"
	if p, err := wipe.Prepare(t.Context(), ended); err != nil || p.Plan.Done == nil {
		t.Errorf("the ended container: %v", err)
	}
}

// TestALoginThatIsKept is no login that is removed.
func TestALoginThatIsKept(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"debian", "script"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kinds[name])
			w.plant("echo $C >/workspace/x")
			r, err := w.prepare(wipe.Options{Keep: []string{"/root/.ssh/authorized_keys"}}).Run(t.Context())
			if err != nil || r.Data != wipe.Clean || r.LoginRemoved || len(w.found()) > 0 {
				t.Errorf("%v: %+v", err, r)
			}
			w.Sh("[ -s /root/.ssh/authorized_keys ]")
		})
	}
}

func TestJobsAreListedAndDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	mine := w.account.AddJob(sim.Job{Instance: w.id, Endpoint: "/api/v0/commands/rclone/"})
	other := w.account.AddJob(sim.Job{Instance: w.id + 1, Endpoint: fmt.Sprintf("/api/v0/instances/%d/copy/", w.id)})
	p := w.prepare(wipe.Options{DropJobs: true})
	if len(p.Plan.Jobs) != 2 || p.Plan.Jobs[0].ID != mine || p.Plan.Jobs[1].Other != w.id+1 {
		t.Errorf("jobs: %+v", p.Plan.Jobs)
	}
	r, err := p.Run(t.Context())
	if err != nil || len(r.JobsDropped) != 1 {
		t.Errorf("%v: %+v", err, r.JobsDropped)
	}
	if jobs := w.account.Jobs(); len(jobs) != 1 || jobs[0].ID != other {
		t.Errorf("left: %+v", jobs)
	}
}

func TestTheReportIsPrivate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	r, err := w.prepare(wipe.Options{}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(r.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	data, err := os.ReadFile(r.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"secure erase", "securely", "compliant", "DoD"} {
		if strings.Contains(strings.ToLower(string(data)), strings.ToLower(word)) {
			t.Errorf("the report says %q", word)
		}
	}
	var back wipe.Report
	if err := json.Unmarshal(data, &back); err != nil || back.Instance != w.id || back.Counts[protocol.Failed] != 0 {
		t.Errorf("%v: %+v", err, back)
	}
}

// TestAVolumeWithoutAName is at a path that no message can hold, and beside one that has the name under which it arrives.
func TestAVolumeWithoutAName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"debian", "script"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := kinds[name]
			c.Volumes = map[string]string{"/workspace/\xe9": t.TempDir(), "/workspace/\uFFFD": t.TempDir(), "/data": t.TempDir()}
			w := newWorld(t, c)
			w.account.AddVolume(sim.Volume{Instances: []uint64{w.id}})
			w.plant(`for d in /workspace/* /data; do echo $C >"$d/f"; done`)
			p := w.prepare(wipe.Options{Volumes: true})
			left := strings.Count(strings.Join(p.Plan.Unreachable, "\n"), `the volume at "/workspace/`)
			r, err := p.Run(t.Context())
			if err != nil || left != 2 || !slices.Equal(r.Volumes, []string{"/data"}) {
				t.Errorf("%v: %d are told, wiped are %q", err, left, r.Volumes)
			}
			for at, dir := range c.Volumes {
				if _, err := os.Stat(dir + "/f"); (err != nil) != (at == "/data") {
					t.Errorf("%q: %v", at, err)
				}
			}
		})
	}
}
