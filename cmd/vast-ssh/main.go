// Command vast-ssh logs in to rented Vast.ai instances: it finds them by id or label, pins their host keys by instance,
// and has the login signed by vast-agent.
package main

import (
	"context"
	"os"

	"vast-ssh/internal/cli/sshcmd"
	"vast-ssh/internal/version"
)

func main() {
	os.Exit(int(sshcmd.Main(context.Background(), sshcmd.OS(version.String()), os.Args)))
}
