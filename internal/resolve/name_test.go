package resolve

import (
	"errors"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	long := strings.Repeat("é", maxLabel)
	tests := []struct {
		name  string
		id    uint64
		label string
		bad   string // reason
	}{
		{name: "1234567", id: 1234567},
		{name: "vast-1234567", id: 1234567},
		{name: "1", id: 1},
		{name: "18446744073709551615", id: 1<<64 - 1},
		{name: "18446744073709551616", label: "18446744073709551616"},
		{name: "0", label: "0"},
		{name: "007", label: "007"},
		{name: "vast-0", label: "vast-0"},
		{name: "vast-007", label: "vast-007"},
		{name: "vast-vast-7", label: "vast-vast-7"},
		{name: "vast-", label: "vast-"},
		{name: "vast-train", label: "vast-train"},
		{name: "VAST-7", label: "VAST-7"},
		{name: "+7", label: "+7"},
		{name: "-7", label: "-7"},
		{name: "1_000", label: "1_000"},
		{name: "0x10", label: "0x10"},
		{name: " 7", label: " 7"},
		{name: "７", label: "７"}, // a digit, but not one of an id
		{name: "my training box", label: "my training box"},
		{name: long, label: long},
		{name: long + "x", bad: "is longer than 1024 characters"},
		{name: strings.Repeat("9", 5000), bad: "is longer than 1024 characters"},
		{name: "", bad: "is empty"},
		{name: "a\nb", bad: "contains a control character"},
		{name: "a\x00", bad: "contains a control character"},
		{name: "a\u009bb", bad: "contains a control character"},
		{name: "a\xff", bad: "is not valid UTF-8"},
	}
	for _, test := range tests {
		id, label, err := ParseName(test.name)
		if id != test.id || label != test.label {
			t.Errorf("ParseName(%.40q) = %d, %.40q, want %d, %.40q", test.name, id, label, test.id, test.label)
		}
		var nameErr *NameError
		if test.bad == "" && err != nil {
			t.Errorf("ParseName(%.40q): %v", test.name, err)
		}
		if test.bad != "" && (!errors.As(err, &nameErr) || nameErr.Reason != test.bad) {
			t.Errorf("ParseName(%.40q): error %v, want reason %q", test.name, err, test.bad)
		}
	}
}

func TestNameErrorIsShortAndQuoted(t *testing.T) {
	_, _, err := ParseName("\x1b[2J" + strings.Repeat("x", 1<<20))
	if text := err.Error(); len(text) > 200 || strings.Contains(text, "\x1b") {
		t.Errorf("error of %d bytes: %.300q", len(text), text)
	}
}
