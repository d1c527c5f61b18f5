package overlay

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/sim/simtest"
	"vast-ssh/internal/testenv"
)

func dial(i *Instance, id simtest.Identity) (*ssh.Client, error) {
	return id.Dial(i.Addr(), i.User(), ssh.FixedHostKey(i.HostKeys()[0]), ssh.KeyAlgoED25519)
}

// login starts an instance and a client of it.
func login(t *testing.T, c Config) (*Instance, *ssh.Client) {
	t.Helper()
	id := simtest.NewIdentity(t)
	c.AuthorizedKeys = append(c.AuthorizedKeys, id.Line)
	i := Start(t, c)
	client, err := dial(i, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return i, client
}

// session runs a command in a session and returns what it wrote and how it ended.
func session(t *testing.T, client *ssh.Client, command string) (string, error) {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.CombinedOutput(command)
	return strings.TrimSpace(string(out)), err
}

func must(t *testing.T, client *ssh.Client, command string) string {
	t.Helper()
	out, err := session(t, client, command)
	if err != nil {
		t.Fatalf("%q: %v: %s", command, err, out)
	}
	return out
}

// What is removed inside stays where it is outside.
func TestRemovingTouchesNothingOutside(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	outside := func() (found []string) {
		for _, name := range []string{canary, "/etc/passwd", "/etc/group", "/usr/bin/env"} {
			data, err := os.ReadFile(name)
			info, serr := os.Lstat(name)
			if err != nil || serr != nil {
				t.Fatal(err, serr)
			}
			found = append(found, fmt.Sprintf("%s %d %v %d", name, len(data), info.ModTime(), info.Sys().(*syscall.Stat_t).Ino))
		}
		return found
	}
	before := outside()
	_, client := login(t, Config{})
	if out := must(t, client, "rm -rf /etc; ls -A /etc /tmp /root 2>&1; true"); strings.Contains(out, "passwd") {
		t.Errorf("rm -rf /etc left %s", out)
	}
	must(t, client, "! test -e "+canary)
	// The old root is nowhere in the namespace.
	if out := must(t, client, "cat /proc/self/mountinfo"); strings.Contains(out, canary) || strings.Contains(out, "/base") && strings.Contains(out, " - tmpfs tmpfs rw,mode=700") {
		t.Errorf("mounts of the outside are to be seen:\n%s", out)
	}
	if after := outside(); !slices.Equal(before, after) {
		t.Errorf("outside before %q and after %q", before, after)
	}
}

func TestKillingEverythingReachesNothingOutside(t *testing.T) {
	sleep := testenv.NeedProgram(t, "sleep")
	bystander := exec.Command(sleep, "300")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()
	i, client := login(t, Config{})
	i.Spawn("echo ready; exec sleep 299")
	i.waitFor(t, func() bool { return slices.Contains(i.Processes(), "sleep") })
	session(t, client, "kill -9 -1")
	i.waitFor(t, func() bool { return slices.Equal(i.Processes(), []string{"bash"}) })
	if !i.Alive() {
		t.Error("process 1 was killed")
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process outside: %v", err)
	}
	// Reaped in the end, and not left behind as zombies.
	i.Sh(`while cat /proc/[0-9]*/stat | grep -q ' Z '; do :; done`)
	i.Restart()
	if client, err := ssh.Dial("tcp", i.Addr(), &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(i.HostKeys()[0])}); err == nil {
		client.Close()
		t.Error("somebody without a key got in")
	}
}

// waitFor waits for what gives no event.
func (i *Instance) waitFor(t *testing.T, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(killTimeout); !ready(); time.Sleep(poll) {
		if time.Now().After(deadline) {
			t.Fatalf("did not come; processes %v", i.Processes())
		}
	}
}

func TestEnvironmentOfTheFirstProcess(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   []string
	}{
		{Config{ID: 1234567, Env: []string{"A=b c", "JUPYTER_TOKEN=x"}}, []string{gnuPath, "VAST_CONTAINERLABEL=C.1234567", "A=b c", "JUPYTER_TOKEN=x"}},
		{Config{ID: 1, Label: "C.2"}, []string{gnuPath, "VAST_CONTAINERLABEL=C.2"}},
		{Config{ID: 1, Label: "-"}, []string{gnuPath}},
	} {
		_, client := login(t, c.config)
		got := strings.Split(strings.TrimSuffix(must(t, client, "cat /proc/1/environ"), "\x00"), "\x00")
		if !slices.Equal(got, c.want) {
			t.Errorf("the environment of process 1 is %q, want %q", got, c.want)
		}
	}
}

func TestSessionsHaveTheCapabilitiesOfDocker(t *testing.T) {
	i, client := login(t, Config{Disk: 64 << 20})
	// Docker's documented default: 00000000a80425fb.
	if got := must(t, client, "grep -h Cap[PEB] /proc/self/status /proc/1/status | sort -u"); got !=
		"CapBnd:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapPrm:\t00000000a80425fb" {
		t.Errorf("capabilities:\n%s", got)
	}
	if out, err := session(t, client, "touch /root/f && chattr +i /root/f"); err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("chattr +i inside: %v: %s", err, out)
	}
	i.Sh("chattr +i /root/f")
	if out, err := session(t, client, "rm -f /root/f"); err == nil {
		t.Errorf("an immutable file was removed: %s", out)
	}
	i.Sh("chattr -i /root/f")
	must(t, client, "rm /root/f")
	if out, err := session(t, client, "mount -t tmpfs tmpfs /mnt"); err == nil {
		t.Errorf("mounted inside: %s", out)
	}
	if out, err := session(t, client, "echo h >/proc/sysrq-trigger"); err == nil {
		t.Errorf("reached the kernel's keys: %s", out)
	}
}

func TestSSHDIsAChildOfTheFirstProcess(t *testing.T) {
	i, client := login(t, Config{HostKeys: []string{"ed25519", "ecdsa", "rsa"}, Listen: []string{"127.0.0.1:0", "127.0.0.2:0"}})
	if got := must(t, client, `for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline)" in *"[listen""er]"*) awk '/PPid/{print $2}' $p/status;; esac; done`); got != "1" {
		t.Errorf("the parent of the sshd that listens is %q", got)
	}
	if len(i.HostKeys()) != 3 || len(i.Addrs()) != 2 {
		t.Errorf("%d host keys, addresses %v", len(i.HostKeys()), i.Addrs())
	}
	if got := must(t, client, "cat /etc/ssh/ssh_host_ecdsa_key.pub"); got != strings.TrimSpace(string(ssh.MarshalAuthorizedKey(i.HostKeys()[1]))) {
		t.Errorf("the host key in the instance is %q", got)
	}
	if got := must(t, client, "stat -f -c %T /; ls -A /root /tmp /home /workspace; cat /proc/1/comm; echo $HOME"); got !=
		"overlayfs\n/home:\n\n/root:\n.ssh\n\n/tmp:\n\n/workspace:\nbash\n/root" {
		t.Errorf("the machine:\n%s", got)
	}
	if got := must(t, client, "ls -1 /; ls -1 /dev"); strings.Contains(got, "vda") || strings.Contains(got, "loop") {
		t.Errorf("the root and the devices:\n%s", got)
	}
}

// TestAFirstProcessThatWaits ends with what it waits for.
func TestAFirstProcessThatWaits(t *testing.T) {
	t.Parallel()
	i := Start(t, Config{Foreground: "sleep 100000\n:"})
	i.Restart()
	// The end of process 1 ends all others, and so not by Sh, which waits for its own.
	i.Spawn("until pid=$(pgrep -P 1 -x sleep); do :; done; echo ready; kill $pid")
	select {
	case <-i.init.Done:
	case <-time.After(killTimeout):
		t.Error("it goes on")
	}
}

func TestAuthorizedKeys(t *testing.T) {
	first, second := simtest.NewIdentity(t), simtest.NewIdentity(t)
	i := Start(t, Config{AuthorizedKeys: []string{first.Line}})
	may := func(id simtest.Identity) bool {
		client, err := dial(i, id)
		if err == nil {
			client.Close()
		}
		return err == nil
	}
	if !may(first) || may(second) {
		t.Fatal("the key of Config should get in, and no other")
	}
	i.AddAuthorizedKey(second.Line)
	i.RemoveAuthorizedKey(strings.TrimSpace(first.Line) + " another comment")
	if may(first) || !may(second) {
		t.Fatal("only the second key should get in")
	}
	if got := i.Sh("cat /root/.ssh/authorized_keys"); got != second.Line {
		t.Errorf("the file is %q", got)
	}
	i.Sh("rm -r /root/.ssh")
	if may(second) {
		t.Error("got in without a file")
	}
	i.AddAuthorizedKey(first.Line)
	i.SetAuthorizedKeys(second.Line)
	if may(first) || !may(second) {
		t.Error("only the second key should get in again")
	}
}

// A link that somebody inside made leads nowhere outside.
func TestWritingFollowsNoLinkOutside(t *testing.T) {
	outside := t.TempDir()
	i := Start(t, Config{})
	i.Sh(`rm -r /root/.ssh && mkdir -p "$1" && ln -s "$1" /root/.ssh`, outside)
	i.AddAuthorizedKey(simtest.NewIdentity(t).Line)
	i.Sh(`test -s "$1/authorized_keys"`, outside)
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside got %v, %v", entries, err)
	}
}

func TestBusybox(t *testing.T) {
	testenv.NeedProgram(t, "busybox")
	i, client := login(t, Config{Busybox: true})
	if out, err := session(t, client, "command -v python3 || command -v bash"); err == nil {
		t.Errorf("a program that is not busybox's is reachable: %s", out)
	}
	// A shell of busybox may find its applets without a path.
	for _, command := range []string{`readlink -f "$PATH/ls"`, "readlink -f /proc/$$/exe", "readlink -f /proc/self/exe"} {
		if got := must(t, client, command); filepath.Base(got) != "busybox" {
			t.Errorf("%s: %q", command, got)
		}
	}
	if got := must(t, client, "shred --help 2>&1; dd --help 2>&1"); strings.Count(got, "BusyBox") != 2 {
		t.Errorf("tools that are not busybox's: %q", got)
	}
	if got := must(t, client, "echo $PATH; sh -lc 'echo $PATH'; echo $SHELL"); got != "/busybox\n/busybox\n/busybox/sh" {
		t.Errorf("PATH: %q", got)
	}
	if got := i.Sh("command -v bash"); filepath.Base(strings.TrimSpace(got)) != "bash" {
		t.Errorf("a visitor from outside has %q", got)
	}
}

func TestMounts(t *testing.T) {
	volume := t.TempDir()
	if err := os.WriteFile(filepath.Join(volume, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, client := login(t, Config{
		NoExec: []string{"/tmp", "/root/deep/down"}, Tmpfs: []string{"/scratch"},
		Volumes: map[string]string{"/workspace": volume, "/ro": volume}, ReadOnly: []string{"/ro", "/opt"},
	})
	for _, dir := range []string{"/tmp", "/root/deep/down", "/dev/shm"} {
		if out, err := session(t, client, "cp /bin/true "+dir+"/t && "+dir+"/t"); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("running a program from %s: %v: %s", dir, err, out)
		}
	}
	must(t, client, "cp /bin/true /scratch/t && /scratch/t && cp /bin/true /root/t && /root/t")
	must(t, client, "test -e /workspace/kept && touch /workspace/new && [ $(stat -c %d /workspace) != $(stat -c %d /) ]")
	if _, err := os.Stat(filepath.Join(volume, "new")); err != nil {
		t.Errorf("outside: %v", err)
	}
	for _, dir := range []string{"/ro", "/opt"} {
		if out, err := session(t, client, "touch "+dir+"/x"); err == nil || !strings.Contains(out, "Read-only file system") {
			t.Errorf("writing to %s: %v: %s", dir, err, out)
		}
	}
	must(t, client, "test -e /ro/kept")
}

func TestScan(t *testing.T) {
	i, client := login(t, Config{NoExec: []string{"/noexec"}})
	needles := [][]byte{[]byte("first-needle"), []byte("second-needle"), []byte("never-planted")}
	if hits := i.Scan(needles); len(hits) != 0 {
		t.Fatalf("found before anything was planted: %v", hits)
	}
	// The needle lies across two reads.
	i.Sh(`{ head -c $((1024*1024-5)) /dev/zero; echo first-needle; } >/root/content
echo second-needle >>/etc/hostname
mkdir -p /var/dir-first-needle; ln -s /second-needle /tmp/link
touch /root/attr; setfattr -n user.x -v first-needle /root/attr 2>/dev/null ||
	python3 -c 'import os; os.setxattr("/root/attr", "user.x", b"first-needle")'
echo second-needle >/dev/shm/s; echo first-needle >/run/r; echo second-needle >/noexec/n; echo first-needle >/dev/d`)
	want := []Hit{
		{"/dev/d", 0, "content"}, {"/dev/shm/s", 1, "content"}, {"/etc/hostname", 1, "content"}, {"/noexec/n", 1, "content"},
		{"/root/attr", 0, "xattr"}, {"/root/content", 0, "content"}, {"/run/r", 0, "content"}, {"/tmp/link", 1, "target"},
		{"/var/dir-first-needle", 0, "name"},
	}
	got := i.Scan(needles)
	slices.SortFunc(got, func(a, b Hit) int { return strings.Compare(a.Path, b.Path) })
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	must(t, client, "rm -r /root/content /root/attr /var/dir-first-needle /tmp/link /dev/shm/s /run/r /noexec/n /dev/d; echo >/etc/hostname")
	if got := i.Scan(needles); len(got) != 0 {
		t.Errorf("found %v after all was removed", got)
	}
	must(t, client, "echo second-needle >/root/late")
	i.Stop()
	if got := i.Scan(needles); !slices.Equal(got, []Hit{{"/root/late", 1, "content"}}) {
		t.Errorf("found %v after Stop", got)
	}
}

func TestSearchFindsEveryPlaceOnce(t *testing.T) {
	needles := [][]byte{[]byte("abcdefgh"), []byte("aa")}
	text := bytes.Repeat([]byte("."), 3<<20)
	var want []int64
	for at := int64(1<<20 - 20); at < 1<<20+20; at += 9 {
		copy(text[at:], "abcdefgh")
		want = append(want, at)
	}
	copy(text[2<<20-1:], "aaa")
	want = append(want, 2<<20-1, 2<<20)
	var got []int64
	if err := search(bytes.NewReader(text), needles, func(_ int, at int64) { got = append(got, at) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func TestScanDisk(t *testing.T) {
	testenv.NeedProgram(t, "mkfs.ext4")
	i, client := login(t, Config{Disk: 64 << 20})
	needles := [][]byte{[]byte("a-needle-on-the-disk")}
	plant := "yes a-needle-on-the-disk | head -c 21000 >/root/f; sync /root/f; "
	must(t, client, plant+"rm /root/f")
	if hits := i.ScanDisk(needles); len(hits) < 900 {
		t.Fatalf("%d hits after rm, want those of the freed blocks", len(hits))
	}
	i2, client2 := login(t, Config{Disk: 64 << 20})
	must(t, client2, plant+"dd if=/dev/urandom of=/root/f bs=21000 count=1 conv=notrunc,fsync 2>/dev/null; rm /root/f")
	if hits := i2.ScanDisk(needles); len(hits) != 0 {
		t.Errorf("%d hits after overwriting, at %v", len(hits), hits)
	}
	if hits := i2.Scan(needles); len(hits) != 0 {
		t.Errorf("files: %v", hits)
	}
}

func TestDropConnections(t *testing.T) {
	i, client := login(t, Config{})
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("echo started; exec sleep 298"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("started\n"))); err != nil {
		t.Fatal(err)
	}
	i.waitFor(t, func() bool { return slices.Contains(i.Processes(), "sleep") })
	i.DropConnections()
	if err := client.Wait(); err == nil {
		t.Error("the connection ended well")
	}
	if !slices.Contains(i.Processes(), "sleep") {
		t.Errorf("what the session started is gone: %v", i.Processes())
	}
	id := simtest.NewIdentity(t)
	i.AddAuthorizedKey(id.Line)
	again, err := dial(i, id)
	if err != nil {
		t.Fatalf("the one that listens: %v", err)
	}
	defer again.Close()
	if got := must(t, again, "pgrep -P 1 -x sleep >/dev/null && echo adopted"); got != "adopted" {
		t.Errorf("orphan: %q", got)
	}
}

func TestRestartKeepsWhatIsThere(t *testing.T) {
	id := simtest.NewIdentity(t)
	i := Start(t, Config{AuthorizedKeys: []string{id.Line}})
	i.Sh("echo here >/root/file")
	pid := i.Spawn("echo ready; exec sleep 297")
	i.waitFor(t, func() bool { return slices.Contains(i.Processes(), "sleep") })
	old := i.Addr()
	i.Restart("127.0.0.1:0")
	if i.Addr() == old {
		t.Errorf("drew the address %s again", old)
	}
	client, err := dial(i, id)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if got := must(t, client, "cat /root/file; pgrep sleep; ps -o ppid= -C sleep | tr -d ' '"); got != fmt.Sprintf("here\n%d\n1", pid) {
		t.Errorf("found %q", got)
	}
}

func TestNothingIsLeft(t *testing.T) {
	var left remains
	t.Run("instance", func(t *testing.T) { left = trace(t) })
	left.check(t)
}

// The kernel ends what a test could not.
func TestNothingIsLeftOfAKilledTest(t *testing.T) {
	const tell = "OVERLAY_TEST_TELL"
	if file := os.Getenv(tell); file != "" {
		left := trace(t)
		if err := os.WriteFile(file, fmt.Appendf(nil, "%d %s %s %s", left.init, left.dir, left.image, left.seconds), 0o600); err != nil {
			t.Fatal(err)
		}
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	told := filepath.Join(t.TempDir(), "told")
	cmd := exec.Command(os.Args[0], "-test.run=^TestNothingIsLeftOfAKilledTest$")
	cmd.Env = append(os.Environ(), tell+"="+told, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	text, rerr := os.ReadFile(told)
	if rerr != nil {
		t.Fatalf("the test to be killed: %v: %s", err, out)
	}
	var left remains
	if _, err := fmt.Sscan(string(text), &left.init, &left.dir, &left.image, &left.seconds); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(killTimeout)
	for syscall.Kill(left.init, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatal("process 1 is left")
		}
		time.Sleep(poll)
	}
	if err := detached(left.image); err != nil {
		t.Error(err)
	}
	left.check(t)
}

// remains are what an instance could leave.
type remains struct {
	init       int
	dir, image string
	// seconds is the argument of a sleep inside, and of none of another instance, as of this test in another process.
	seconds string
}

// trace starts an instance that has everything, and a process in it that has broken all ties.
func trace(t *testing.T) remains {
	t.Helper()
	testenv.NeedProgram(t, "mkfs.ext4")
	i, client := login(t, Config{Disk: 64 << 20, Volumes: map[string]string{"/workspace": t.TempDir()}})
	left := remains{i.init.Process.Pid, i.dir, i.image(), fmt.Sprintf("%d.%d", 296, i.init.Process.Pid)}
	must(t, client, "nohup setsid sleep "+left.seconds+" >/dev/null 2>&1 </dev/null & echo")
	if device, err := loopDevice(i.image()); err != nil || device == "" {
		t.Fatalf("the disk is on the loop device %q, %v", device, err)
	}
	return left
}

func (r remains) check(t *testing.T) {
	t.Helper()
	if t.Failed() {
		return
	}
	if device, err := loopDevice(r.image); err != nil || device != "" {
		t.Errorf("the loop device %q is left, %v", device, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(r.dir)) {
		t.Errorf("mounts of %s are left:\n%s", r.dir, mounts)
	}
	if err := syscall.Kill(r.init, 0); err != syscall.ESRCH {
		t.Errorf("process 1 is left: %v", err)
	}
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range found {
		if text, _ := os.ReadFile(file); string(text) == "sleep\x00"+r.seconds+"\x00" {
			t.Errorf("%s is left", file)
		}
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	i := Start(t, Config{})
	i.Sh("echo x >/tmp/held")
	hold := i.Hold("/tmp/held")
	read := make(chan error, 1)
	go func() {
		_, err := i.run(nil, "cat /tmp/held")
		read <- err
	}()
	select {
	case <-hold.Met:
	case err := <-read:
		t.Fatalf("nobody was held: %v", err)
	}
	i.Sh("cat /etc/passwd")
	select {
	case err := <-read:
		t.Fatalf("it was not held: %v", err)
	default:
	}
	hold.Release()
	if err := <-read; err != nil {
		t.Error(err)
	}
	i.Sh("cat /tmp/held")
}
