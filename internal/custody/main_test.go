package custody

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// children are what the test binary does where a test needs a process of its own, to be killed or looked into.
var children = map[string]func(arg string) error{
	"full disk": saveOnAFullDisk,
	"crash":     crash,
}

const childEnv = "CUSTODY_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		if err := children[name](os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child returns the command that runs children[name], with the environment that t has set.
func child(t *testing.T, name, arg string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, arg)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	return cmd
}
