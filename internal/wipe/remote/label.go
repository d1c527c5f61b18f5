//go:build linux

package remote

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"vast-ssh/internal/wipe/protocol"
)

// labelVariable is set by Vast.ai in the environment of a container's first process
// (https://docs.vast.ai/documentation/instances/connect/docker-environment).
const labelVariable = "VAST_CONTAINERLABEL"

// environment reads the environment of PID 1, in which the container was started.
func environment() ([]string, error) {
	data, err := os.ReadFile("/proc/1/environ")
	if err != nil {
		return nil, err
	}
	var list []string
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if len(entry) > 0 {
			list = append(list, string(entry))
		}
	}
	return list, nil
}

// checkLabel makes sure that this is the container that is meant. Only PID 1's own environment counts: files with the
// label can come with a volume, and the environment of a login from anywhere.
func checkLabel(environ []string, want string) error {
	if want == "" {
		return fmt.Errorf("no container label was given")
	}
	i := slices.IndexFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, labelVariable+"=") })
	if i < 0 {
		return fmt.Errorf("this is no container of Vast.ai: its first process has no %s", labelVariable)
	}
	if got := strings.TrimPrefix(environ[i], labelVariable+"="); got != want {
		return fmt.Errorf("this is the container %.64q and not %q", got, want)
	}
	return nil
}

// names returns the names of the variables.
func names(environ []string) []string {
	var list []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if len(name) <= protocol.MaxText {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list[:min(len(list), protocol.MaxItems)]
}
