package bench

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/overlay"
	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// rented is an instance whose /data is a directory on this machine's disk.
type rented struct {
	*overlay.Instance
	b      *testing.B
	client *ssh.Client
	facts  *deploy.Facts
	// of the helper, at the end of its last run: peak of resident memory in bytes, and seconds of CPU
	memory, cpu float64
}

const rentedID = 4711

func newRented(b *testing.B) *rented {
	b.Helper()
	testenv.NeedProgram(b, "shred")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		b.Fatal(err)
	}
	in := overlay.Start(b, overlay.Config{
		ID: rentedID, Volumes: map[string]string{"/data": b.TempDir()},
		AuthorizedKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))},
	})
	client, err := ssh.Dial("tcp", in.Addr(), &ssh.ClientConfig{
		User: in.User(), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(in.HostKeys()[0]),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	facts, err := deploy.Probe(b.Context(), client, fmt.Sprintf("C.%d", rentedID), nil)
	if err != nil {
		b.Fatal(err)
	}
	return &rented{Instance: in, b: b, client: client, facts: facts}
}

// wipe has the helper wipe /data and returns the seconds from bringing it there to its result.
func (r *rented) wipe(files int64) float64 {
	r.b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	start := time.Now()
	s, err := deploy.Start(ctx, r.client, r.facts, protocol.Request{
		Label: fmt.Sprintf("C.%d", rentedID), Op: protocol.OpRun, Volumes: []string{"/data"},
		Rules: []protocol.Rule{{Glob: "/data", Tree: true}},
	})
	if err != nil {
		r.b.Fatal(err)
	}
	defer s.Close()
	if s.Kind != deploy.Helper {
		r.b.Fatalf("the helper does not run: %v", s.Reason)
	}
	for {
		m, err := s.Receive()
		if err != nil {
			r.b.Fatal(err)
		}
		if m.Result == nil {
			continue
		}
		took := time.Since(start).Seconds()
		if m.Result.Remains() > 0 || m.Result.Total.Files != files {
			r.b.Fatalf("%+v", m.Result)
		}
		r.look()
		// The rest is the journal's removal.
		if s, err = s.Finish(ctx); err != nil {
			r.b.Fatal(err)
		}
		for err == nil {
			_, err = s.Receive()
		}
		return took
	}
}

// look reads what the helper, which waits for its next word, has used.
func (r *rented) look() {
	r.b.Helper()
	out := r.Sh(`for p in /proc/[0-9]*; do
		case $(cat $p/comm) in .vast-ssh-*) sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' $p/status; sed 's/.*) //' $p/stat | cut -d' ' -f12,13 ;; esac
	done`)
	fields := strings.Fields(out)
	if len(fields) != 3 {
		r.b.Fatalf("the helper is not found: %q", out)
	}
	kib, _ := strconv.ParseFloat(fields[0], 64)
	user, _ := strconv.ParseFloat(fields[1], 64)
	system, _ := strconv.ParseFloat(fields[2], 64)
	r.memory, r.cpu = max(r.memory, kib*1024), max(r.cpu, (user+system)/100)
}

// shred does the same with GNU shred, once over each file, and removes them.
func (r *rented) shred() float64 {
	r.b.Helper()
	start := time.Now()
	r.Sh("find /data -type f -print0 | xargs -0 shred -n 1 -u && sync -f /data")
	return time.Since(start).Seconds()
}

// compare measures pairs, with the same files planted before each.
func (r *rented) compare(n int, files int64, plant string) {
	r.b.Helper()
	plant += "; sync -f /data"
	measure(0, n,
		func() float64 { r.Sh(plant); return r.wipe(files) },
		func() float64 { r.Sh(plant); return r.shred() },
	).report(r.b, "shred", "s")
	r.b.ReportMetric(r.memory/(1<<20), "MiB-helper")
	r.b.ReportMetric(r.cpu, "s-cpu-helper")
}

// BenchmarkWipe compares the helper with shred on the same file system.
func BenchmarkWipe(b *testing.B) {
	if os.Geteuid() != 0 {
		testenv.Missing(b, "root, to make namespaces")
	}
	b.Run("Large", func(b *testing.B) {
		r := newRented(b)
		for b.Loop() {
			r.compare(3, 8, "for n in 1 2 3 4 5 6 7 8; do head -c 512M /dev/zero >/data/$n; done")
		}
	})
	b.Run("One", func(b *testing.B) {
		r := newRented(b)
		for b.Loop() {
			r.compare(3, 1, "head -c 4G /dev/zero >/data/one")
		}
	})
	b.Run("Small", func(b *testing.B) {
		r := newRented(b)
		for b.Loop() {
			r.compare(3, 10_000, "for d in 1 2 3 4 5 6 7 8 9 10; do mkdir -p /data/$d; yes small | head -c 4096000 | split -b 4096 -a 4 - /data/$d/f; done")
		}
	})
}
