package wipe_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/wipe"
)

// dumb is a connection that can fall silent: then nothing comes, nothing goes, and no error does.
type dumb struct {
	net.Conn
	silent *atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (d *dumb) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if d.silent.Load() {
		<-d.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (d *dumb) Write(p []byte) (int, error) {
	if d.silent.Load() {
		<-d.closed // as when the buffers of the system are full
		return 0, net.ErrClosed
	}
	return d.Conn.Write(p)
}

func (d *dumb) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Conn.Close()
}

// dumbConnect logs in by a connection that falls silent with the flag.
func (w *world) dumbConnect(ctx context.Context, silent *atomic.Bool) (*ssh.Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.line.addr)
	if err != nil {
		return nil, err
	}
	return w.over(ctx, &dumb{Conn: conn, silent: silent, closed: make(chan struct{})})
}

func TestASilentLineIsGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	w.plant("for n in 1 2 3; do echo $C >/workspace/$n; done")
	hold := w.Hold("/workspace/2")
	cfg := w.config(wipe.Options{})
	cfg.Silence = 30 * time.Second // a busy machine must not be taken for a silent line
	var silent, never atomic.Bool
	connections := 0
	cfg.Connect = func(ctx context.Context) (*ssh.Client, error) {
		if connections++; connections == 1 {
			return w.dumbConnect(ctx, &silent)
		}
		hold.Release()
		return w.dumbConnect(ctx, &never)
	}
	cfg.Notify = func(ev wipe.Event) {
		select {
		case <-hold.Met:
			silent.Store(true)
		default:
		}
	}
	p, err := wipe.Prepare(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Run(t.Context())
	if err != nil || r.Data != wipe.Clean || r.Connections != 2 || len(w.found()) > 0 {
		t.Errorf("%v: %+v", err, r)
	}
}

// TestAnInterruptOnASilentLine ends at once or in a moment, whatever is under way.
func TestAnInterruptOnASilentLine(t *testing.T) {
	t.Parallel()
	t.Run("plan", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, overlay.Config{})
		cfg := w.config(wipe.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cfg.Connect = func(ctx context.Context) (*ssh.Client, error) {
			var silent atomic.Bool
			client, err := w.dumbConnect(ctx, &silent)
			silent.Store(true)
			time.AfterFunc(100*time.Millisecond, cancel)
			return client, err
		}
		if _, err := wipe.Prepare(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Errorf("the plan: %v", err)
		}
	})
	t.Run("run", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, overlay.Config{})
		w.plant("for n in 1 2 3; do echo $C >/workspace/$n; done")
		hold := w.Hold("/workspace/2")
		cfg := w.config(wipe.Options{})
		cfg.Silence = 30 * time.Second // a third of it is waited for a last word
		ctx, cancel := context.WithCancel(t.Context())
		var silent atomic.Bool
		cfg.Connect = func(ctx context.Context) (*ssh.Client, error) { return w.dumbConnect(ctx, &silent) }
		cfg.Notify = func(ev wipe.Event) {
			select {
			case <-hold.Met:
				silent.Store(true)
				cancel()
			default:
			}
		}
		p, err := wipe.Prepare(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.Run(ctx)
		if err != nil || r.Data != wipe.Stopped || r.LoginRemoved || r.LoginBegun {
			t.Errorf("the run: %v: %+v", err, r)
		}
	})
}

// TestAnOvertakenRunIsNotClean, and leaves the machine to the one that has it.
func TestAnOvertakenRunIsNotClean(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	w.plant("echo $C >/workspace/x")
	hold := w.Hold("/workspace/x")
	first, err := wipe.Prepare(t.Context(), w.config(wipe.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	var r *wipe.Report
	done := make(chan error, 1)
	go func() {
		var err error
		r, err = first.Run(t.Context())
		done <- err
	}()
	hold.Await()
	w.Sh("pkill -TERM -f '/[.]vast-ssh-'") // as a later run does
	hold.Release()
	if err := <-done; err != nil || r.Data != wipe.Incomplete || !strings.Contains(r.Problem, "another wipe") || r.LoginRemoved {
		t.Fatalf("%v: %+v", err, r)
	}
	again := w.prepare(wipe.Options{})
	if r, err := again.Run(t.Context()); err != nil || r.Data != wipe.Clean || len(w.found()) > 0 {
		t.Errorf("again: %v: %+v", err, r)
	}
}

// whileTheLoginGoes makes a run that does something when the login is about to be removed.
func (w *world) whileTheLoginGoes(ctx context.Context, cfg wipe.Config, do func()) *wipe.Report {
	w.t.Helper()
	cfg.Notify = func(ev wipe.Event) {
		if strings.Contains(ev.Step, "removing what logging in needs") {
			do()
		}
	}
	p, err := wipe.Prepare(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := p.Run(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func TestAnInterruptWhileTheLoginGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	w.plant("echo $C >/workspace/x")
	ctx, cancel := context.WithCancel(t.Context())
	r := w.whileTheLoginGoes(ctx, w.config(wipe.Options{}), cancel)
	if r.Data != wipe.Clean || !r.LoginRemoved || len(w.found()) > 0 {
		t.Errorf("%+v", r)
	}
	again, err := wipe.Prepare(t.Context(), w.config(wipe.Options{}))
	if err != nil || again.Plan.Done == nil {
		t.Errorf("again: %v", err)
	}
}

// TestAMachineOutOfReachWhileTheLoginGoes has proved nothing, and is not clean. The next run finds out.
func TestAMachineOutOfReachWhileTheLoginGoes(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"before": true, "after": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, overlay.Config{})
			w.plant("echo $C >/workspace/x")
			cfg := w.config(wipe.Options{})
			cfg.Patience = time.Second
			var down atomic.Bool
			cfg.Connect = func(ctx context.Context) (*ssh.Client, error) {
				if down.Load() {
					return nil, errors.New("the network is unreachable")
				}
				if before {
					return w.connect(ctx)
				}
				// The word arrives, and the answer does not.
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.line.addr)
				if err != nil {
					return nil, err
				}
				return w.over(ctx, &deaf{Conn: conn, down: &down})
			}
			r := w.whileTheLoginGoes(t.Context(), cfg, func() {
				down.Store(true)
				if before {
					w.line.cutNow()
				}
			})
			if r.Data != wipe.Incomplete || r.LoginRemoved || !r.LoginBegun || !strings.Contains(r.Problem, "nobody knows") {
				t.Errorf("%+v", r)
			}
			if !before { // the far side does what it was told, whoever hears of it
				eventually(t, func() bool {
					client, err := w.connect(t.Context())
					if err == nil {
						client.Close()
					}
					return err != nil
				})
			}
			p, err := wipe.Prepare(t.Context(), w.config(wipe.Options{}))
			if err != nil || (p.Plan.Done == nil) != before {
				t.Fatalf("again: %v", err)
			}
			again, err := p.Run(t.Context())
			if err != nil || again.Data != wipe.Clean || !again.LoginRemoved || len(w.found()) > 0 || again.LoginUnconfirmed == before {
				t.Errorf("again: %v, %+v", err, again)
			}
		})
	}
}

// deaf is a connection whose answers get lost and that then ends.
type deaf struct {
	net.Conn
	down *atomic.Bool
}

func (d *deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if d.down.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func eventually(t *testing.T, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !happened(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// TestALongSilenceOfProgress is no time out of reach.
func TestALongSilenceOfProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	w.plant("for n in 1 2 3; do echo $C >/workspace/$n; done")
	hold := w.Hold("/workspace/2")
	cfg := w.config(wipe.Options{})
	var late atomic.Int64
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	events := 0
	cfg.Notify = func(ev wipe.Event) {
		if ev.Progress == nil {
			return
		}
		switch events++; events {
		case 1:
			late.Store(int64(2 * cfg.Patience))
		case 3: // the far side was heard since
			w.line.cutNow()
			hold.Release()
		}
	}
	p, err := wipe.Prepare(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Run(t.Context())
	if err != nil || r.Data != wipe.Clean || r.Connections != 2 {
		t.Errorf("%v: %+v", err, r)
	}
}

func TestAReportThatCannotBeKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, overlay.Config{})
	w.plant("echo $C >/workspace/x")
	cfg := w.config(wipe.Options{})
	cfg.Dir = "/dev/null/reports"
	p, err := wipe.Prepare(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := p.Run(t.Context()); err == nil || r != nil || !strings.Contains(err.Error(), "nothing was touched") || len(w.found()) != 1 {
		t.Errorf("%v: %+v", err, r)
	}
}
