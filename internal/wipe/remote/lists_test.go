//go:build linux

package remote

import (
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/wipe/protocol"
	"vast-ssh/internal/wipe/script"
)

// TestTheScriptHasTheSameLists of what stays.
func TestTheScriptHasTheSameLists(t *testing.T) {
	text, err := script.Render(protocol.Request{Label: "C.1", Op: protocol.OpPlan, Dir: "/run/x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{"needed": loginFiles, "standing": append([]string{"/"}, standing...), "system": system} {
		_, rest, _ := strings.Cut(string(text), "\n"+name+"='")
		line, _, _ := strings.Cut(rest, "'\n")
		line, root := strings.CutPrefix(line, "///") // a path, and the end of one
		got := strings.Split(strings.TrimSuffix(line, "//"), "//")
		if root {
			got = append(got, "/")
		}
		want = slices.Clone(want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%q\n%q", name, got, want)
		}
	}
}
