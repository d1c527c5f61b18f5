// Command vast-agent is an ssh-agent that holds one key and signs for the user's own pinned Vast.ai instances only.
package main

import (
	"context"
	"os"

	"vast-ssh/internal/cli/agentcmd"
	"vast-ssh/internal/version"
)

func main() {
	os.Exit(int(agentcmd.Main(context.Background(), &agentcmd.Env{
		Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version.String(),
	}, os.Args)))
}
