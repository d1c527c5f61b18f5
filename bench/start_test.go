package bench

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"vast-ssh/internal/e2e"
	"vast-ssh/internal/sim/sshd"
)

const starts = 31

// BenchmarkStart shows the processor time, user and system, that a program takes to get to its work.
func BenchmarkStart(b *testing.B) {
	report := func(b *testing.B, run func() *exec.Cmd) {
		for b.Loop() {
			var took []float64
			for range starts {
				state := run().ProcessState
				took = append(took, float64(state.UserTime()+state.SystemTime())/float64(time.Millisecond))
			}
			b.ReportMetric(median(took), "cpu-ms")
			silent(b)
		}
	}
	b.Run("Help", func(b *testing.B) {
		w := e2e.New(b)
		report(b, func() *exec.Cmd {
			cmd := w.Command(b.Context(), nil, "vast-ssh", "--help")
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
			return cmd
		})
	})
	b.Run("ProxyToDial", func(b *testing.B) {
		m := newMachine(b, sshd.Config{Listen: []string{"127.0.0.1:0"}})
		// The instance's address is silent from here on. What connects to it is ended at once.
		m.instance.Stop()
		l, err := net.Listen("tcp", m.instance.Addr())
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		report(b, func() *exec.Cmd {
			cmd := m.Command(b.Context(), nil, "vast-ssh", "proxy", m.id)
			stdin, err := cmd.StdinPipe() // open, as ssh leaves it
			if err != nil {
				b.Fatal(err)
			}
			defer stdin.Close()
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			l.(*net.TCPListener).SetDeadline(time.Now().Add(commandTimeout))
			conn, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			cmd.Process.Kill()
			cmd.Wait()
			return cmd
		})
	})
}
