package sshcmd

import (
	"reflect"
	"testing"
)

func TestParseAnswer(t *testing.T) {
	for _, tt := range []struct {
		name, out string
		want      dest
		fails     bool
	}{
		{"OpenSSH 9.2", "host trainbox\nuser root\nhostname trainbox\nport 22\nloglevel INFO\n", dest{name: "trainbox"}, false},
		{"before 8.7", "user root\nhostname trainbox\n", dest{name: "trainbox"}, false},
		{"-v", "host 5\nloglevel DEBUG\n", dest{name: "5", verbose: true}, false},
		{"-vvv", "host 5\nloglevel DEBUG3\n", dest{name: "5", verbose: true}, false},
		{"-J", "host 5\nproxyjump me@a,b\nbatchmode no\n", dest{name: "5", jump: "me@a,b"}, false},
		{"BatchMode", "host 5\nbatchmode yes\n", dest{name: "5", batch: true}, false},
		{"a label with blanks", "host my box\n", dest{name: "my box"}, false},
		{"nothing", "user root\n", dest{}, true},
	} {
		got, err := parseAnswer([]byte(tt.out))
		tt.want.answer = []byte(tt.out)
		if !reflect.DeepEqual(got, tt.want) || (err != nil) != tt.fails {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}
