// Command vast-ssh logs in to rented Vast.ai instances: it finds them by id or label, pins their host keys by instance,
// and has the login signed by vast-agent.
package main

import (
	"context"
	"io"
	"log"
	"os"

	"vast-ssh/internal/cli/sshcmd"
	"vast-ssh/internal/version"
)

func main() {
	log.SetOutput(io.Discard) // libraries have nothing to say on a stderr that may be part of an SSH stream
	os.Exit(int(sshcmd.Main(context.Background(), sshcmd.OS(version.String()), os.Args)))
}
