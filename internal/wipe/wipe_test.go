package wipe_test

import (
	"errors"
	"strings"
	"testing"

	"vast-ssh/internal/wipe"
)

func TestPathsThatCannotBeNamed(t *testing.T) {
	for _, name := range []string{"", "a", "/", "/a/", "/a/../b", "/a\nb", "/a\x00", "/latin\xe9", "/half\xe2\x82"} {
		for option, o := range map[string]wipe.Options{"--path": {Paths: []string{name}}, "--keep": {Keep: []string{"/b", name}}} {
			o.Scope, o.Destroy = wipe.Workspace, wipe.Never
			var wrong *wipe.OptionError
			if err := o.Check(); !errors.As(err, &wrong) || wrong.Option != option || wrong.Value != name || wrong.Hint() == "" {
				t.Errorf("%s %q: %v", option, name, err)
			}
			// More than is to be kept is no advice to somebody who wants to keep everything.
			if name == "/" && strings.Contains(wrong.Error(), "--scope all") != (option == "--path") {
				t.Errorf("%v", wrong)
			}
		}
	}
	o := wipe.Options{Scope: wipe.All, Destroy: wipe.Always, Keep: []string{"/caf\u00e9 \uFFFD"}}
	if err := o.Check(); err != nil {
		t.Error(err)
	}
}
