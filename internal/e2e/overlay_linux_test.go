package e2e

import (
	"fmt"
	"strings"
	"testing"

	"vast-ssh/internal/sim/overlay"
)

// An overlay is an instance like any other: it is listed, pinned, logged in to, moved, and given keys.
func TestLoginToAnOverlay(t *testing.T) {
	w := New(t)
	in, machine := w.AddOverlay("box", overlay.Config{})
	w.Ready()
	where := []string{fmt.Sprint(in.ID), "tr", `'\0'`, `'\n'`, "</proc/1/environ"}
	if out := w.Must("vast-ssh", where...); !strings.Contains(out, fmt.Sprintf("VAST_CONTAINERLABEL=C.%d\n", in.ID)) {
		t.Errorf("the environment of process 1 is %q", out)
	}
	w.Must("vast-ssh", "box", "rm -rf /etc; touch /root/mark")
	machine.Sh("test -e /root/mark && ! test -e /etc/passwd")
}

func TestMoveOfAnOverlay(t *testing.T) {
	w := New(t)
	in, _ := w.AddOverlay("box", overlay.Config{})
	w.Ready()
	w.Must("vast-ssh", "box", "touch /root/mark")
	w.MoveTo(in, "127.0.0.1:0", "127.0.0.2:0")
	w.Must("vast-ssh", "box", "test -e /root/mark")
}
