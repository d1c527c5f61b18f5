//go:build linux

package remote

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"vast-ssh/internal/wipe/protocol"
)

func TestJournalGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	j, resumed, err := openJournal(dir, 2, "")
	if err != nil || resumed {
		t.Fatal(resumed, err)
	}
	j.add(entry{Done: &doneEntry{Group: 1, Bytes: 100, File: "1:1"}})
	j.add(entry{Open: &openEntry{"1:2", checkpoint{Nonce: 5, Offset: 300}}})
	j.add(entry{Open: &openEntry{"1:3", checkpoint{Nonce: 6, Offset: 300}}})
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
	if open := again.state.Open; len(open) != 1 || open["1:2"] != (checkpoint{Nonce: 5, Offset: 300}) {
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
		{Done: &doneEntry{Bytes: 100, File: "1:1"}}, {Open: &openEntry{"1:2", checkpoint{Nonce: 5, Offset: 300}}},
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
	if j.state.Open["1:2"] != (checkpoint{Nonce: 5, Offset: 300}) || !bytes.Equal(j.state.Key, first.state.Key) {
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
