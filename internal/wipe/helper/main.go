//go:build linux

// Command helper is the program that vast-ssh brings to a rented machine in order to wipe it. It speaks over its standard
// streams and has no options. Its own file is gone before it does anything.
package main

import (
	"os"
	"runtime/debug"

	"vast-ssh/internal/wipe/remote"
)

func main() {
	debug.SetGCPercent(100) // GOGC of the container's environment is meant for other programs
	if err := remote.RemoveSelf(); err != nil {
		os.Exit(1)
	}
	if err := remote.Serve(os.Stdin, os.Stdout); err != nil {
		os.Exit(1)
	}
}
