package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/e2e"
	"vast-ssh/internal/sim/sshd"
	"vast-ssh/internal/testenv"
)

// commandTimeout bounds one login and what it transfers.
const commandTimeout = 5 * time.Minute

// machine is an instance that both sides can log in to with the same key: pinned, its address cached, the agent running.
type machine struct {
	*e2e.World
	instance *e2e.Instance
	id       string
	plain    []string // ssh and its options up to the destination
}

func newMachine(b *testing.B, cfg sshd.Config) *machine {
	b.Helper()
	program := testenv.NeedProgram(b, "ssh")
	w := e2e.New(b)
	w.Configure(`custody = "file"`)
	in := w.AddInstance("", cfg)
	w.Ready()
	m := &machine{World: w, instance: in, id: strconv.FormatUint(in.ID, 10)}
	w.Must("vast-ssh", m.id, "true")

	host, port, err := net.SplitHostPort(in.Addr())
	if err != nil {
		b.Fatal(err)
	}
	hosts := filepath.Join(w.Home, "known_hosts")
	line := fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(in.HostKeys()[0]))
	if err := os.WriteFile(hosts, []byte(line), 0o600); err != nil {
		b.Fatal(err)
	}
	m.plain = []string{program, "-F", "none", "-p", port, "-i", w.Dirs.PrivateKey(),
		"-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + hosts, "-o", "GlobalKnownHostsFile=/dev/null", in.User() + "@" + host}
	return m
}

// ours is vast-ssh with the instance and args.
func (m *machine) ours(ctx context.Context, args ...string) *exec.Cmd {
	return m.Command(ctx, nil, "vast-ssh", append([]string{m.id}, args...)...)
}

// theirs is plain ssh with the address and args.
func (m *machine) theirs(ctx context.Context, args ...string) *exec.Cmd {
	return m.Command(ctx, nil, m.plain[0], append(m.plain[1:len(m.plain):len(m.plain)], args...)...)
}

// elapsed runs what prepare makes, with stdin from the file input unless that is empty, and returns its seconds.
func elapsed(b *testing.B, prepare func(context.Context, ...string) *exec.Cmd, input string, args ...string) float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := prepare(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if input != "" {
		f, err := os.Open(input)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil {
		b.Fatalf("%q: %v\n%s", cmd.Args, err, &stderr)
	}
	return took.Seconds()
}

// BenchmarkLogin compares `vast-ssh <id> true` with `ssh root@host true` and the same key from its file.
func BenchmarkLogin(b *testing.B) {
	m := newMachine(b, sshd.Config{})
	for b.Loop() {
		measure(3, 30,
			func() float64 { return 1000 * elapsed(b, m.ours, "", "true") },
			func() float64 { return 1000 * elapsed(b, m.theirs, "", "true") },
		).report(b, "ssh", "ms")
	}
}

const (
	transfer = 1 << 30
	cipher   = "aes128-gcm@openssh.com"
)

// BenchmarkThroughput moves 1 GiB down and up, with one cipher on both sides.
func BenchmarkThroughput(b *testing.B) {
	m := newMachine(b, sshd.Config{})
	compare := func(b *testing.B, input, command string) {
		rate := func(prepare func(context.Context, ...string) *exec.Cmd) float64 {
			return transfer / 1e6 / elapsed(b, prepare, input, "-c", cipher, command)
		}
		for b.Loop() {
			measure(1, 5,
				func() float64 { return rate(m.ours) },
				func() float64 { return rate(m.theirs) },
			).report(b, "ssh", "MB/s")
		}
	}
	b.Run("Down", func(b *testing.B) {
		compare(b, "", fmt.Sprintf("head -c %d /dev/zero", transfer))
	})
	b.Run("Up", func(b *testing.B) {
		sparse := filepath.Join(b.TempDir(), "zeros")
		if err := os.WriteFile(sparse, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		if err := os.Truncate(sparse, transfer); err != nil {
			b.Fatal(err)
		}
		compare(b, sparse, "cat >/dev/null")
	})
}
