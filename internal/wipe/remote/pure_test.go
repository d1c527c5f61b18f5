//go:build linux

package remote

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
		"too many rules":     func(r *protocol.Request) { r.Rules = make([]protocol.Rule, protocol.MaxRules+1) },
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
