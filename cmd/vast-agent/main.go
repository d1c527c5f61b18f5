// Command vast-agent is an ssh-agent that holds one key and signs for the user's own pinned Vast.ai instances only.
package main

import (
	"context"
	"io"
	"log"
	"os"

	"vast-ssh/internal/cli/agentcmd"
	"vast-ssh/internal/version"
)

func main() {
	log.SetOutput(io.Discard) // libraries have nothing to say on a stderr that may be part of an SSH stream
	os.Exit(int(agentcmd.Main(context.Background(), &agentcmd.Env{
		Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version.String(),
	}, os.Args)))
}
