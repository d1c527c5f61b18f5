//go:build linux

package remote

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vast-ssh/internal/testenv"
	"vast-ssh/internal/wipe/protocol"
)

func TestLabelOfPID1Decides(t *testing.T) {
	const want = "C.123"
	for name, c := range map[string]struct {
		environ []string
		ok      bool
	}{
		"the one":            {[]string{"A=b", "VAST_CONTAINERLABEL=C.123"}, true},
		"another":            {[]string{"VAST_CONTAINERLABEL=C.1234"}, false},
		"none":               {[]string{"A=b"}, false},
		"empty":              {[]string{"VAST_CONTAINERLABEL="}, false},
		"in another's value": {[]string{"X=VAST_CONTAINERLABEL=C.123"}, false},
		"longer name":        {[]string{"MY_VAST_CONTAINERLABEL=C.123"}, false},
		"first counts":       {[]string{"VAST_CONTAINERLABEL=C.9", "VAST_CONTAINERLABEL=C.123"}, false},
	} {
		if err := checkLabel(c.environ, want); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if checkLabel([]string{"VAST_CONTAINERLABEL="}, "") == nil {
		t.Error("no label is taken for a label")
	}
}

// TestServeRefusesThisMachine is what keeps the code from the machine that tests it.
func TestServeRefusesThisMachine(t *testing.T) {
	for _, op := range []protocol.Op{protocol.OpPlan, protocol.OpRun, protocol.OpFinish} {
		var in, out bytes.Buffer
		json.NewEncoder(&in).Encode(protocol.Request{
			Version: protocol.Version, Label: "C.123", Op: op, Dir: filepath.Join(t.TempDir(), "d"),
			Rules: []protocol.Rule{{Changed: true}},
		})
		if err := Serve(&in, &out); err != nil {
			t.Fatal(err)
		}
		var m protocol.Message
		if err := protocol.NewReader(&out).Receive(&m); err != nil || m.Refused == "" {
			t.Errorf("%s: not refused: %+v, %v", op, m, err)
		}
	}
}

func TestRequestsThatCannotBeMeant(t *testing.T) {
	good := protocol.Request{
		Version: protocol.Version, Label: "C.1", Op: protocol.OpRun, Dir: "/dev/shm/x",
		Rules: []protocol.Rule{{Glob: "/root/*"}, {Changed: true}}, Keep: []string{"/a"}, Volumes: []string{"/v"},
	}
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*protocol.Request){
		"another version":    func(r *protocol.Request) { r.Version++ },
		"no op":              func(r *protocol.Request) { r.Op = "" },
		"relative dir":       func(r *protocol.Request) { r.Dir = "x" },
		"dir at the root":    func(r *protocol.Request) { r.Dir = "/x" },
		"dir with dots":      func(r *protocol.Request) { r.Dir = "/dev/shm/../../x/y" },
		"relative glob":      func(r *protocol.Request) { r.Rules[0].Glob = "root" },
		"everything":         func(r *protocol.Request) { r.Rules[0].Glob = "/" },
		"dots in a glob":     func(r *protocol.Request) { r.Rules[0].Glob = "/root/../etc" },
		"broken glob":        func(r *protocol.Request) { r.Rules[0].Glob = "/root/[" },
		"glob and changed":   func(r *protocol.Request) { r.Rules[0].Changed = true },
		"neither":            func(r *protocol.Request) { r.Rules[0].Glob = "" },
		"negative group":     func(r *protocol.Request) { r.Rules[0].Group = -1 },
		"huge group":         func(r *protocol.Request) { r.Rules[0].Group = 1 << 40 },
		"relative keep":      func(r *protocol.Request) { r.Keep[0] = "a" },
		"relative volume":    func(r *protocol.Request) { r.Volumes[0] = "v/" },
		"too many rules":     func(r *protocol.Request) { r.Rules = make([]protocol.Rule, maxRules+1) },
		"too many keeps":     func(r *protocol.Request) { r.Keep = make([]string, maxNames+1) },
		"a finish by itself": func(r *protocol.Request) { r.Op = protocol.OpFinish },
	} {
		r := good
		r.Rules = append([]protocol.Rule(nil), good.Rules...)
		r.Keep, r.Volumes = []string{"/a"}, []string{"/v"}
		change(&r)
		if check(r) == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestStreamIsTheSameFromAnywhere(t *testing.T) {
	key := newKey()
	s, err := newStream(key)
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]byte, 1<<20)
	s.fill(whole, 7, 0)
	for range 100 {
		from := rand.IntN(len(whole)/16) * 16
		n := rand.IntN(len(whole) - from)
		part := bytes.Repeat([]byte{0xaa}, n)
		s.fill(part, 7, int64(from))
		if !bytes.Equal(part, whole[from:from+n]) {
			t.Fatalf("%d bytes from %d differ", n, from)
		}
	}
	other := make([]byte, 64)
	s.fill(other, 8, 0)
	if bytes.Equal(other, whole[:64]) {
		t.Error("two files have one stream")
	}
	s.fill(other, 7, 16<<40) // beyond any file, and another counter
	if bytes.Equal(other, whole[:64]) {
		t.Error("the stream repeats")
	}
}

func TestExtentsLeaveHolesOut(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 64 << 20
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{1 << 20, 32<<20 + 5, size - 10} {
		if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 10), at); err != nil {
			t.Fatal(err)
		}
	}
	parts, err := extents(int(f.Fd()), size)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, p := range parts {
		if p.from%page != 0 || p.to > size || p.from >= p.to {
			t.Errorf("a part of %v", p)
		}
		sum += p.to - p.from
	}
	if len(parts) != 3 || sum > 3*page {
		t.Errorf("three written pages are %v", parts)
	}
	if none, err := extents(int(f.Fd()), 0); err != nil || len(none) != 0 {
		t.Errorf("an empty file has %v, %v", none, err)
	}
}

// TestOverwriteInPlace writes over files of its own only.
func TestOverwriteInPlace(t *testing.T) {
	s, err := newStream(newKey())
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorker(s)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for _, size := range []int64{1, 15, 4095, 4096, 4097, directFrom - 1, directFrom, directFrom + 1, chunkSize, chunkSize + 1, 3*chunkSize + 12345} {
		name := filepath.Join(t.TempDir(), "f")
		old := bytes.Repeat([]byte("canary--"), int(size/8)+1)[:size]
		if err := os.WriteFile(name, old, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		var wrote int64
		j := &job{fd: int(f.Fd()), size: size, nonce: 1, wrote: func(n int64) { wrote += n }, checkpoint: func(int64) {}}
		if j.parts, err = extents(j.fd, size); err != nil {
			t.Fatal(err)
		}
		if err := w.overwrite(t.Context(), j); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if err := w.verify(j); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size)
		s.fill(want, 1, 0)
		if !bytes.Equal(got, want) || wrote != size {
			t.Errorf("%d bytes: %d written, the content is the stream: %v", size, wrote, bytes.Equal(got, want))
		}
		// What was not written shows: one byte anywhere that is read back.
		if _, err := f.WriteAt([]byte{got[size-1] ^ 1}, size-1); err != nil {
			t.Fatal(err)
		}
		if err := w.verify(j); err == nil {
			t.Errorf("%d bytes: a wrong last byte is not seen", size)
		}
		f.Close()
	}
}

func TestOverwriteGoesOnFromACheckpoint(t *testing.T) {
	s, _ := newStream(newKey())
	w, err := newWorker(s)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	const size = 5 * chunkSize
	name := filepath.Join(t.TempDir(), "f")
	want := make([]byte, size)
	s.fill(want, 9, 0)
	half := append(append([]byte(nil), want[:2*chunkSize]...), make([]byte, 3*chunkSize)...)
	for i := range half[2*chunkSize:] {
		half[2*chunkSize+i] = 0xcc
	}
	if err := os.WriteFile(name, half, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var wrote int64
	j := &job{fd: int(f.Fd()), size: size, nonce: 9, from: 2 * chunkSize, parts: []extent{{0, size}},
		wrote: func(n int64) { wrote += n }, checkpoint: func(int64) {}}
	if err := w.overwrite(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	if err := w.verify(j); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(name)
	if wrote != 3*chunkSize || !bytes.Equal(got, want) {
		t.Errorf("%d bytes written, the whole is the stream: %v", wrote, bytes.Equal(got, want))
	}
}

func TestJournalGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	j, resumed, err := openJournal(dir, 2, "")
	if err != nil || resumed {
		t.Fatal(resumed, err)
	}
	j.add(entry{Done: &doneEntry{Group: 1, Bytes: 100, File: "1:1"}})
	j.add(entry{Open: &openEntry{File: "1:2", Nonce: 5, Offset: 300}})
	j.add(entry{Open: &openEntry{File: "1:3", Nonce: 6, Offset: 300}})
	j.add(entry{Done: &doneEntry{Group: 0, Bytes: 50, File: "1:3"}})
	j.add(entry{Names: 2})
	j.add(entry{Deleted: 11})
	j.add(entry{Item: &protocol.Item{Code: protocol.Failed, Path: "/x"}})
	j.add(entry{Secret: &protocol.Secret{Rule: 3, Path: "/s"}})
	j.add(entry{Secret: &protocol.Secret{Rule: 3, Path: "/s"}})
	j.add(entry{Process: &protocol.Process{PID: 4, Name: "p"}})
	want := j.result()
	// A kill in the middle of a line.
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"done":{"group":1,"by`)
	f.Close()
	j.lock.Close()

	again, resumed, err := openJournal(dir, 2, "")
	if err != nil || !resumed {
		t.Fatal(resumed, err)
	}
	if got := again.result(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if open := again.state.Open; len(open) != 1 || open["1:2"] != (checkpoint{5, 300}) {
		t.Errorf("open files: %v", open)
	}
	if !bytes.Equal(again.state.Key, j.state.Key) {
		t.Error("the stream is another")
	}
	// Killed between the line and the removal: the file is found again.
	again.add(entry{Done: &doneEntry{Group: 1, Bytes: 100, File: "1:1"}})
	if got := again.result().Total; got != want.Total {
		t.Errorf("a file counts twice: %v, %v", got, want.Total)
	}
	again.forget()
	if r := again.result(); len(r.Items) != 0 || len(r.Counts) != 0 || len(r.Secrets) != 1 {
		t.Errorf("after forgetting the items: %+v", r)
	}
	if err := again.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
}

// TestJournalOfOtherRules: its counts and secrets are not of these, and what is half overwritten is all the same.
func TestJournalOfOtherRules(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	first, _, err := openJournal(dir, 1, "a")
	if err != nil {
		t.Fatal(err)
	}
	gone := item(protocol.Failed, 0, "/gone", nil)
	for _, e := range []entry{
		{Done: &doneEntry{Bytes: 100, File: "1:1"}}, {Open: &openEntry{File: "1:2", Nonce: 5, Offset: 300}},
		{Secret: &protocol.Secret{Path: "/s"}}, {Lasting: &gone},
	} {
		first.add(e)
	}
	first.lock.Close()
	j, resumed, err := openJournal(dir, 1, "b")
	if err != nil || resumed {
		t.Fatal(resumed, err)
	}
	j.forget()
	if res := j.result(); res.Total.Files != 0 || len(res.Secrets) != 0 || len(res.Items) != 1 {
		t.Errorf("%+v", res)
	}
	if j.state.Open["1:2"] != (checkpoint{5, 300}) || !bytes.Equal(j.state.Key, first.state.Key) {
		t.Errorf("open files: %v", j.state.Open)
	}
	j.add(entry{Done: &doneEntry{Bytes: 100, File: "1:1"}})
	if res := j.result(); res.Total.Files != 1 {
		t.Errorf("%+v", res)
	}
}

func TestJournalForgetsOnlyWhatIsFoundAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	for range 2 {
		j, _, err := openJournal(dir, 1, "")
		if err != nil {
			t.Fatal(err)
		}
		j.forget()
		if !reflect.DeepEqual(j.result().Items, j.state.Lasting) {
			t.Errorf("%+v, want %+v", j.result().Items, j.state.Lasting)
		}
		for _, name := range []string{"/a", "/b"} {
			it := item(protocol.Failed, 0, name, nil)
			j.add(entry{Item: &it})
		}
		if len(j.state.Lasting) == 0 {
			it := item(protocol.Failed, 0, "/gone", nil)
			j.add(entry{Lasting: &it})
		}
		if res := j.result(); res.Remains() != 3 || len(res.Items) != 3 {
			t.Errorf("%+v", res)
		}
		j.lock.Close()
	}
}

// TestAnotherFileOfTheNumber is behind a checkpoint of the journal, and overwritten from its start.
// TestAFileThatWasWrittenToSinceACheckpoint has a page of somebody's where a sample need not be.
func TestAFileThatWasWrittenToSinceACheckpoint(t *testing.T) {
	j, _, err := openJournal(filepath.Join(t.TempDir(), "j"), 1, "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRun(&far{}, j)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorker(r.stream)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	const size, from = 64 * chunkSize, 60 * chunkSize
	content := make([]byte, size)
	r.stream.fill(content, 1, 0)
	copy(content[31*chunkSize+5*page:], "secret")
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := target{}
	if err := unix.Fstat(int(file.Fd()), &f.st); err != nil {
		t.Fatal(err)
	}
	j.add(entry{Open: &openEntry{File: idOf(&f.st).String(), Nonce: 1, Offset: from}})
	if err := r.scrub(t.Context(), w, f, int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(name); err != nil || bytes.Contains(data, []byte("secret")) {
		t.Errorf("it is left: %v", err)
	}
}

func TestAnotherFileOfTheNumber(t *testing.T) {
	j, _, err := openJournal(filepath.Join(t.TempDir(), "j"), 1, "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRun(&far{}, j)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorker(r.stream)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	content := bytes.Repeat([]byte("secret "), 100_000)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	f := target{}
	if err := unix.Fstat(int(file.Fd()), &f.st); err != nil {
		t.Fatal(err)
	}
	j.add(entry{Open: &openEntry{File: idOf(&f.st).String(), Nonce: 1, Offset: 500_000}})
	if err := r.scrub(t.Context(), w, f, int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file.Name()); err != nil || bytes.Contains(data, []byte("secret")) || len(data) != len(content) {
		t.Errorf("%d bytes, and not all are overwritten: %v", len(data), err)
	}
	if r.written.Load() != 0 {
		t.Errorf("%d bytes are said to be in work", r.written.Load())
	}
}

// TestAReplacedJournalIsOverwritten where somebody may still read it.
func TestAReplacedJournalIsOverwritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	j, _, err := openJournal(dir, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	it := item(protocol.Failed, 0, "/telling", nil)
	j.add(entry{Item: &it})
	old, err := os.Open(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	j.compact()
	if data, err := io.ReadAll(old); err != nil || len(data) == 0 || bytes.Contains(data, []byte("telling")) {
		t.Errorf("%q, %v", data, err)
	}
	if s, err := readJournal(filepath.Join(dir, journalName)); err != nil || len(s.Result.Items) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestJournalIsCompacted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	j, _, err := openJournal(dir, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	const n = 100_000
	for i := range n {
		j.add(entry{Done: &doneEntry{Bytes: 1, File: id{1, uint64(i)}.String()}})
	}
	info, err := os.Stat(filepath.Join(dir, journalName))
	if err != nil || info.Size() > compactAt+64<<10 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	j.lock.Close()
	again, resumed, err := openJournal(dir, 1, "")
	if err != nil || !resumed || again.total() != (protocol.Tally{Files: n, Bytes: n}) {
		t.Errorf("%v, %v, %v", again.total(), resumed, err)
	}
}

func TestJournalOfNobodyElse(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(link, 1, ""); err == nil {
		t.Error("a link is taken for a directory")
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(open, 1, ""); err == nil {
		t.Error("a directory that others can read is taken")
	}
	for name, content := range map[string]string{
		"garbage": "\x00\x01", "another form": `{"key":"AAAA","result":{"groups":[]}}`, "empty": "", "null": "null\n",
	} {
		at := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, journalName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, resumed, err := openJournal(at, 1, ""); resumed || err != nil {
			t.Errorf("%s: resumed %v, %v", name, resumed, err)
		}
	}
}

func TestItemsAreBounded(t *testing.T) {
	var n notes
	for range 3 * protocol.MaxItems {
		n.item(item(protocol.Kept, 0, "/k", nil))
	}
	for range 3 * protocol.MaxItems {
		n.item(item(protocol.Failed, 0, strings.Repeat("x", 2*protocol.MaxPath), unix.EIO))
	}
	if len(n.items) > protocol.MaxItems || n.counts[protocol.Failed] != 3*protocol.MaxItems {
		t.Errorf("%d items, counts %v", len(n.items), n.counts)
	}
	if int64(len(n.items))+n.unlisted != 6*protocol.MaxItems {
		t.Errorf("%d listed and %d not", len(n.items), n.unlisted)
	}
	if last := n.items[len(n.items)-1]; last.Code != protocol.Failed || len(last.Path) > protocol.MaxPath+10 {
		t.Errorf("what remains has no room: %.100v", last)
	}
}

func TestPlacesStayInside(t *testing.T) {
	for range 1000 {
		from := rand.Int64N(1000) * page
		part := extent{from, from + 1 + rand.Int64N(8<<20)}
		for _, at := range places(part, samples) {
			if at < part.from || at >= part.to || at%page != 0 {
				t.Fatalf("a sample of %v at %d", part, at)
			}
		}
	}
}

func TestPlacesBeyondTheBoundRemain(t *testing.T) {
	f := &far{notes: &notes{}, owner: make(map[string]int), req: protocol.Request{Rules: []protocol.Rule{{Group: 3}}}}
	f.roots = make([]root, maxRoots-1)
	for _, name := range []string{"/a", "/b", "/a"} {
		f.addRoot(root{path: name})
	}
	if len(f.roots) != maxRoots || len(f.notes.items) != 1 || f.notes.items[0].Path != "/b" || f.notes.items[0].Group != 3 || !f.notes.items[0].Code.Remains() {
		t.Errorf("%d roots, %+v", len(f.roots), f.notes.items)
	}
}

// TestLibrariesOfAProgram asks the loader of this machine, which runs nothing.
func TestLibrariesOfAProgram(t *testing.T) {
	program := testenv.NeedProgram(t, "/bin/bash")
	list := libraries(program)
	if len(list) < 2 || list[0] != loaderOf(program) || !slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, "/libc.so") }) {
		t.Errorf("of %s: %q", program, list)
	}
	for _, name := range list {
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v", name, err)
		}
	}
	text := filepath.Join(t.TempDir(), "text")
	cut := filepath.Join(t.TempDir(), "cut")
	os.WriteFile(text, []byte("#!/bin/sh\n"), 0o700)
	os.WriteFile(cut, append([]byte("\x7fELF\x02\x01"), bytes.Repeat([]byte{0xff}, 58)...), 0o700)
	for _, name := range []string{text, cut, "/nowhere", "/"} {
		if got := libraries(name); got != nil {
			t.Errorf("of %s: %q", name, got)
		}
	}
}

// TestRolesOfProcesses is a container whose entrypoint has started the ssh server and a tunnel.
func TestRolesOfProcesses(t *testing.T) {
	all := []process{
		{pid: 1, session: 1},
		{pid: 2, parent: 1, session: 1},                // the entrypoint
		{pid: 3, parent: 2, session: 3, server: true},  // listens
		{pid: 4, parent: 3, session: 4, server: true},  // our connection
		{pid: 5, parent: 4, session: 5},                // this
		{pid: 6, parent: 5, session: 5},                // a child that the login has left
		{pid: 7, parent: 3, session: 7, server: true},  // another connection
		{pid: 8, parent: 7, session: 8},                // its shell
		{pid: 9, parent: 2, session: 9},                // the entrypoint may wait for it
		{pid: 10, parent: 1, session: 1},               // so may PID 1
		{pid: 11, parent: 1, session: 11},              // or for this
		{pid: 12, parent: 1, session: 8},               // its parent has ended
		{pid: 13, parent: 10, session: 1},              // a child of one that is held
		{pid: 14, parent: 8, session: 8},               // has started a tunnel
		{pid: 15, parent: 14, session: 8},              // the tunnel
		{pid: 16, parent: 1, session: 1, zombie: true}, // waits for its parent
		{pid: 17, parent: 0, session: 0},               // came from outside
	}
	r := assign(all, map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true}, 5, []int{15})
	sorted := func(m map[int]bool) []int { return slices.Sorted(maps.Keys(m)) }
	if got := sorted(r.spared); !slices.Equal(got, []int{1, 2, 3, 4, 5, 15}) {
		t.Errorf("spared: %v", got)
	}
	if got := sorted(r.held); !slices.Equal(got, []int{7, 8, 9, 10, 11, 14}) {
		t.Errorf("held: %v", got)
	}
	if !slices.Equal(r.doomed, []int{6, 12, 13, 17}) {
		t.Errorf("doomed: %v", r.doomed)
	}
}

// TestOneDeadlineForAll waits for processes that go on, as those that hang in the kernel do.
func TestOneDeadlineForAll(t *testing.T) {
	const processes, wait = 40, 100 * time.Millisecond
	fds := make(map[int]int)
	for n := range processes {
		cmd := exec.Command("sleep", "100000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		fds[cmd.Process.Pid] = -1
		if n%2 == 0 {
			fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			fds[cmd.Process.Pid] = fd
		}
	}
	began := time.Now()
	if ended := awaitAll(t.Context(), fds, began.Add(wait)); len(ended) > 0 {
		t.Errorf("%v have ended", ended)
	}
	if took := time.Since(began); took < wait || took > processes/2*wait {
		t.Errorf("it took %v for %d processes, with a deadline after %v", took, processes, wait)
	}
}

// TestKillAll kills children of its own, with pidfds and where nobody may open one.
func TestKillAll(t *testing.T) {
	defer func(was func(int, int) (int, error)) { pidfdOpen = was }(pidfdOpen)
	for _, refusal := range []error{nil, unix.ENOSYS, unix.EPERM} {
		if refusal != nil {
			pidfdOpen = func(int, int) (int, error) { return -1, refusal }
		}
		var pids []int
		for range 3 {
			cmd := exec.Command("sleep", "100000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			pids = append(pids, cmd.Process.Pid)
			unix.Kill(cmd.Process.Pid, unix.SIGSTOP)
		}
		if gone := killAll(t.Context(), pids); len(gone) != len(pids) {
			t.Errorf("%v: %d of %d are gone", refusal, len(gone), len(pids))
		}
	}
}
