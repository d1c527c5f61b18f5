package resolve

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLabel is the longest label Vast.ai accepts, in characters.
const maxLabel = 1024

// NameError reports a name that can be neither an id nor a label.
type NameError struct {
	Name   string
	Reason string
}

func (e *NameError) Error() string { return fmt.Sprintf("instance name %.64q %s", e.Name, e.Reason) }

// Hint names a command that lists the names there are.
func (e *NameError) Hint() string { return "vast-ssh ls" }

// ParseName tells what a name means: "123" and "vast-123" are the instance id 123, anything else is a label. Ids
// are canonical: digits that are no id, such as "007", are a label. The error is a *NameError.
func ParseName(name string) (id uint64, label string, err error) {
	if id, ok := parseID(strings.TrimPrefix(name, "vast-")); ok {
		return id, "", nil
	}
	if reason := labelFault(name); reason != "" {
		return 0, "", &NameError{Name: name, Reason: reason}
	}
	return 0, name, nil
}

// parseID accepts exactly what strconv.FormatUint makes of an id, so that an instance has one name only.
func parseID(s string) (uint64, bool) {
	id, err := strconv.ParseUint(s, 10, 64)
	if err != nil || id == 0 || formatID(id) != s {
		return 0, false
	}
	return id, true
}

func formatID(id uint64) string { return strconv.FormatUint(id, 10) }

// labelFault says why s cannot be a label, or nothing.
func labelFault(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxLabel*utf8.UTFMax || utf8.RuneCountInString(s) > maxLabel:
		return fmt.Sprintf("is longer than %d characters", maxLabel)
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "contains a control character"
	}
	return ""
}
