package cmdline

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func testApp() *cli.App {
	return &cli.App{
		Commands: []*cli.Command{
			{Name: "ls", Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}}},
			{Name: "pin", Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "fingerprint", Aliases: []string{"f"}}, &cli.BoolFlag{Name: "replace"},
			}},
			{Name: "pins", Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}}, Subcommands: []*cli.Command{
				{Name: "rm", Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}}}},
			}},
			{Name: "raw", SkipFlagParsing: true},
			{Name: "secret", Hidden: true},
		},
	}
}

func TestArrange(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"ls", "ls"},
		{"ls --json", "ls --json"},
		{"pin 5 --fingerprint SHA256:x", "pin --fingerprint SHA256:x 5"},
		{"pin 5 -f a --replace -f b", "pin -f a --replace -f b 5"},
		{"pin 5 --fingerprint=a", "pin --fingerprint=a 5"},
		{"pin 5 --fingerprint", "pin --fingerprint 5"},
		{"pin 5 --unknown x", "pin --unknown 5 x"},
		{"pin -- 5 --replace", "pin -- 5 --replace"},
		{"pin a --replace -- -f b", "pin --replace a -- -f b"},
		{"pin - --replace", "pin --replace -"},
		{"pins rm 5 -y 6", "pins rm -y 5 6"},
		{"pins --json", "pins --json"},
		{"pins 5 --json", "pins --json 5"},
		{"raw x -y", "raw x -y"},
		{"--json ls", "--json ls"},
		{"nothing --json", "nothing --json"},
		{"help", "--help"},
		{"help pins rm", "pins rm --help"},
		{"version", "--version"},
		{"-V", "--version"},
	} {
		in := append([]string{"program"}, strings.Fields(tt.in)...)
		before := slices.Clone(in)
		got := Arrange(testApp(), in)
		if want := append([]string{"program"}, strings.Fields(tt.want)...); !slices.Equal(got, want) {
			t.Errorf("%q became %q, want %q", tt.in, got[1:], tt.want)
		}
		if !slices.Equal(in, before) {
			t.Errorf("%q was changed in place", tt.in)
		}
	}
}

func TestNearest(t *testing.T) {
	app := testApp()
	app.Setup()
	for _, tt := range []struct{ word, want string }{
		{"lss", "ls"},
		{"pns", "pins"},
		{"sl", ""}, // two letters away from a verb of two
		{"trainbox", ""},
		{"secre", ""},
		{"", ""},
	} {
		if got := Nearest(app, tt.word); got != tt.want {
			t.Errorf("%q is nearly %q, want %q", tt.word, got, tt.want)
		}
	}
}
