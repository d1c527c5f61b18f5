package job

import (
	"fmt"
	"strings"
)

// SpecError says what is wrong with a transfer as it was written.
type SpecError struct{ Spec, Reason string }

func (e *SpecError) Error() string { return fmt.Sprintf("%.200q: %s", e.Spec, e.Reason) }

// ParsePut reads "LOCAL:REMOTE". The last colon counts: a local path may have colons in it, a remote one may not.
func ParsePut(spec string) (Transfer, error) {
	i := strings.LastIndexByte(spec, ':')
	if i < 0 {
		return Transfer{}, &SpecError{spec, "there is no colon between the local source and the remote directory"}
	}
	return checkSpec(spec, Transfer{Local: spec[:i], Remote: spec[i+1:]})
}

// ParseGet reads "REMOTE:LOCAL". The first colon counts: a local path may have colons in it, a remote one may not.
func ParseGet(spec string) (Transfer, error) {
	i := strings.IndexByte(spec, ':')
	if i < 0 {
		return Transfer{}, &SpecError{spec, "there is no colon between the remote source and the local directory"}
	}
	return checkSpec(spec, Transfer{Local: spec[i+1:], Remote: spec[:i]})
}

func checkSpec(spec string, t Transfer) (Transfer, error) {
	switch {
	case t.Local == "":
		return t, &SpecError{spec, "the local path is empty"}
	case t.Remote == "":
		return t, &SpecError{spec, "the remote path is empty"}
	case strings.ContainsRune(spec, 0):
		return t, &SpecError{spec, "there is a NUL in it"}
	}
	return t, nil
}
