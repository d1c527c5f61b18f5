package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"vast-ssh/internal/unixsock"
)

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "va")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// BenchmarkSign measures signatures over a real socket with all checks on: each is for a session of its own that was
// witnessed just before, and names its host key. The sessions are made before the clock starts.
func BenchmarkSign(b *testing.B) {
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			b.ReportAllocs()
			e := newEnv(b)
			path := filepath.Join(shortDir(b), "a")
			l, err := unixsock.Listen(path)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			served := make(chan struct{})
			go func() {
				defer close(served)
				unixsock.Serve(ctx, l, clients, func(ctx context.Context, c *unixsock.Conn) { e.agent.Serve(ctx, c, c.Peer) })
			}()
			defer func() { l.Close(); cancel(); <-served }()

			sessions := make([]*session, b.N)
			requests := make([][]byte, b.N)
			for i := range sessions {
				sessions[i] = e.session()
				requests[i] = signRequest(e.keyBlob(), e.login(sessions[i], hostBound(sessions[i])))
			}
			var next atomic.Int64
			var running sync.WaitGroup
			b.ResetTimer()
			for range clients {
				conn, err := unixsock.Dial(ctx, path)
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				c := &client{TB: b, Conn: conn}
				running.Go(func() {
					for {
						i := int(next.Add(1)) - 1
						if i >= b.N {
							return
						}
						if err := e.agent.Witness(ctx, sessions[i].witness()); err != nil {
							b.Error(err)
							return
						}
						if answer, err := c.try(requests[i]); err != nil || answer[0] != msgSignResponse {
							b.Errorf("answer %x, %v", answer, err)
							return
						}
					}
				})
			}
			running.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
		})
	}
}
