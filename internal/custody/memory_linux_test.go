package custody

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"filippo.io/edwards25519"
	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
)

// region is a mapping of a process.
type region struct {
	start, end uintptr
	perms      string
	flags      []string // VmFlags
}

// regions reads /proc/pid/smaps (proc_pid_smaps(5)).
func regions(t *testing.T, pid int) []region {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []region
	for line := range strings.Lines(string(data)) {
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok {
			all[len(all)-1].flags = strings.Fields(flags)
			continue
		}
		var r region
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &r.start, &r.end, &r.perms); n == 3 {
			all = append(all, r)
		}
	}
	return all
}

func at(all []region, address uintptr) *region {
	for i, r := range all {
		if r.start <= address && address < r.end {
			return &all[i]
		}
	}
	return nil
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

func TestPagesAreLocked(t *testing.T) {
	key := inMemory(t, Generate())
	if err := key.MemoryLocked(); err != nil {
		t.Fatal(err)
	}
	start, end := address(key.pages.all), address(key.pages.all)+uintptr(len(key.pages.all))
	all := regions(t, os.Getpid())
	r := at(all, address(key.pages.data))
	if r == nil || r.perms != "rw-p" {
		t.Fatalf("the pages of the key: %+v", r)
	}
	for _, flag := range []string{"lo", "dd", "wf"} { // locked, do not dump, wipe on fork
		if !slices.Contains(r.flags, flag) {
			t.Errorf("VmFlags %q lack %q", r.flags, flag)
		}
	}
	for _, guard := range []uintptr{start, end - 1} {
		if g := at(all, guard); g == nil || g.perms != "---p" {
			t.Errorf("guard page: %+v", g)
		}
	}
	key.Destroy()
	all = regions(t, os.Getpid())
	for a := start; a < end; a += uintptr(os.Getpagesize()) {
		if r := at(all, a); r != nil && slices.Contains(r.flags, "lo") {
			t.Errorf("after Destroy: %+v", r)
		}
	}
}

func TestGuardPagesFault(t *testing.T) {
	p, _, err := newPages(1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.free()
	for _, i := range []int{0, os.Getpagesize() - 1, len(p.all) - os.Getpagesize(), len(p.all) - 1} {
		func() {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
			defer func() {
				if recover() == nil {
					t.Errorf("byte %d of %d can be written to", i, len(p.all))
				}
			}()
			p.all[i] = 1
		}()
	}
}

// TestMemoryLimit has no memory to lock: the key is of use, and says why it is not locked.
func TestMemoryLimit(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The limit does not bind root, whose capability is taken from this thread; the thread ends with its goroutine.
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capget(&header, &caps[0]); err != nil {
			t.Error(err)
			return
		}
		caps[0].Effective &^= 1 << unix.CAP_IPC_LOCK
		if err := unix.Capset(&header, &caps[0]); err != nil {
			t.Error(err)
			return
		}
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
			t.Error(err)
			return
		}
		private := Generate()
		key, err := newKey((*[ed25519.SeedSize]byte)(private[:ed25519.SeedSize]))
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			t.Error(err)
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer key.Destroy()
		if err := key.MemoryLocked(); err == nil || !strings.Contains(err.Error(), "mlock") {
			t.Errorf("MemoryLocked: %v", err)
		}
		signs(t, key, private)
		r := at(regions(t, os.Getpid()), address(key.pages.data))
		if r == nil || slices.Contains(r.flags, "lo") || !slices.Contains(r.flags, "dd") {
			t.Errorf("the pages of the key: %+v", r)
		}
	}()
	<-done
}

func init() { children["memory"] = useKey }

var signedInChild = bytes.Repeat([]byte("a login "), 40)

// useKey is the child that TestNothingRemains looks into. It loads the key in the file base, signs, and destroys it. A
// passphrase is a line of its standard input, and every further line lets it go on.
func useKey(base string) error {
	line := make([]byte, 64)
	read := func() ([]byte, error) {
		n, err := unix.Read(0, line)
		if err != nil || n == 0 {
			return nil, errors.Join(err, io.EOF)
		}
		return line[:n-1], nil
	}
	key, err := newFile(base).Load(context.Background(), read)
	if err != nil {
		return err
	}
	for range 3 {
		if _, err := key.Sign(nil, signedInChild); err != nil {
			return err
		}
	}
	os.Stdout.WriteString("loaded\n")
	if _, err := read(); err != nil {
		return err
	}
	key.Destroy()
	os.Stdout.WriteString("destroyed\n")
	_, err = read()
	return err
}

// needles are what gives the key away, by name.
func needles(t *testing.T, private ed25519.PrivateKey, file []byte) map[string][]byte {
	t.Helper()
	h := sha512.Sum512(private[:ed25519.SeedSize])
	scalar, err := edwards25519.NewScalar().SetBytesWithClamping(h[:32])
	if err != nil {
		t.Fatal(err)
	}
	r := sha512.Sum512(append(h[32:64:64], signedInChild...))
	nonce, err := edwards25519.NewScalar().SetUniformBytes(r[:])
	if err != nil {
		t.Fatal(err)
	}
	inside := func(s *edwards25519.Scalar) []byte { return bytes.Clone((*[32]byte)(unsafe.Pointer(s))[:]) }
	lines := bytes.Split(file, []byte("\n"))
	return map[string][]byte{
		"seed":                 private[:ed25519.SeedSize],
		"hash of the seed":     h[:32],
		"prefix":               h[32:],
		"scalar":               scalar.Bytes(),
		"scalar in its struct": inside(scalar),
		"hash of the nonce":    r[:],
		"nonce":                nonce.Bytes(),
		"nonce in its struct":  inside(nonce),
		// In words of the machine, as the hash function has them.
		"seed in words":               words(private[:ed25519.SeedSize]),
		"hash of the seed, in words":  words(h[:32]),
		"prefix in words":             words(h[32:]),
		"hash of the nonce, in words": words(r[:]),
		"line 5 of the file":          lines[4], // in an unencrypted file the seed is in these
		"line 6 of the file":          lines[5],
	}
}

// words returns b with the bytes of every eight swapped.
func words(b []byte) []byte {
	var swapped []byte
	for word := range slices.Chunk(b, 8) {
		swapped = binary.LittleEndian.AppendUint64(swapped, binary.BigEndian.Uint64(word))
	}
	return swapped
}

// search returns where needles, or their halves, are in the writable memory of a process.
func search(t *testing.T, pid int, needles map[string][]byte) map[string][]region {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if errors.Is(err, os.ErrPermission) {
		testenv.Missing(t, "a kernel that lets a parent read its child's memory (ptrace_scope at most 1)")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer pagemap.Close()
	found := make(map[string][]region)
	for _, r := range regions(t, pid) {
		// What is as large as this is memory of the race detector, which holds no data.
		if !strings.HasPrefix(r.perms, "rw") || r.end-r.start > 4<<30 {
			continue
		}
		data := touched(t, mem, pagemap, r)
		for name, needle := range needles {
			half := len(needle) / 2
			for _, part := range [][]byte{needle[:half], needle[half:]} {
				if bytes.Contains(data, part) {
					found[name] = append(found[name], r)
				}
			}
		}
	}
	return found
}

// touched returns the pages of r that are in memory or in the swap, in their order.
func touched(t *testing.T, mem, pagemap *os.File, r region) []byte {
	t.Helper()
	page := uintptr(os.Getpagesize())
	entries := make([]byte, (r.end-r.start)/page*8)
	if _, err := pagemap.ReadAt(entries, int64(r.start/page*8)); err != nil {
		t.Fatal(err)
	}
	var data []byte
	for i := uintptr(0); i < (r.end-r.start)/page; i++ {
		if binary.NativeEndian.Uint64(entries[i*8:])>>62 == 0 { // proc_pid_pagemap(5)
			continue
		}
		n := len(data)
		data = append(data, make([]byte, page)...)
		if _, err := mem.ReadAt(data[n:], int64(r.start+i*page)); err != nil {
			t.Fatalf("%x-%x: %v", r.start, r.end, err)
		}
	}
	return data
}

// TestNothingRemains reads the whole memory of a process that has loaded a key and signed with it. While the key is
// loaded its secrets are in its locked pages only, and after Destroy nowhere.
func TestNothingRemains(t *testing.T) {
	for _, tt := range []struct{ name, passphrase, leaves string }{
		{"plain", "", ""},
		// The decoder of encrypted keys is not ours.
		{"encrypted", "correct horse battery staple", "seed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			private := Generate()
			s := newStore(t)
			var passphrase []byte
			inPages := make(map[string]bool)
			if tt.passphrase != "" {
				passphrase = []byte(tt.passphrase)
			}
			if err := s.Save(t.Context(), private, "", passphrase); err != nil {
				t.Fatal(err)
			}
			file, err := os.ReadFile(s.base)
			if err != nil {
				t.Fatal(err)
			}
			cmd := child(t, "memory", s.base)
			// A signal saves the registers of the thread that it meets, in which there may be a secret.
			cmd.Env = append(cmd.Env, "GODEBUG=asyncpreemptoff=1")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			answers := bufio.NewReader(out)
			wait := func(want string) {
				t.Helper()
				if line, err := answers.ReadString('\n'); line != want+"\n" {
					t.Fatalf("the child says %q: %v", line, err)
				}
			}
			goOn := func(line string) {
				t.Helper()
				if _, err := io.WriteString(in, line+"\n"); err != nil {
					t.Fatal(err)
				}
			}
			if tt.passphrase != "" {
				goOn(tt.passphrase)
			}
			secrets := needles(t, private, file)
			wait("loaded")
			for name, where := range search(t, cmd.Process.Pid, secrets) {
				for _, r := range where {
					if slices.Contains(r.flags, "lo") {
						inPages[name] = true
					} else if tt.leaves != name {
						t.Errorf("loaded: the %s is at %x-%x", name, r.start, r.end)
					}
				}
			}
			for _, name := range []string{"prefix", "scalar in its struct"} {
				if !inPages[name] {
					t.Errorf("loaded: the %s is not in the locked pages; is it searched for in vain?", name)
				}
			}
			goOn("")
			wait("destroyed")
			for name, where := range search(t, cmd.Process.Pid, secrets) {
				if tt.leaves == name {
					t.Logf("destroyed: the %s is there %d times, left by the decoder", name, len(where))
					continue
				}
				t.Errorf("destroyed: the %s is at %+v", name, where)
			}
			goOn("")
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
