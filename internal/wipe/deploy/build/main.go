// Command build makes the helper programs that vast-ssh brings along, from source, for every architecture that instances have.
// It is run by go generate in the folder above. The same source and toolchain give the same bytes.
package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"vast-ssh/internal/atomicfile"
)

const program = "vast-ssh/internal/wipe/helper"

func main() {
	for _, arch := range []string{"amd64", "arm64"} {
		if err := build(arch); err != nil {
			fmt.Fprintf(os.Stderr, "error: build the helper for %s: %v\n", arch, err)
			os.Exit(1)
		}
	}
}

func build(arch string) error {
	dir, err := os.MkdirTemp("", "helper")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "helper")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", out, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOEXPERIMENT=")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(raw); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	name := filepath.Join("helpers", "linux_"+arch+".gz")
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, packed.Bytes()) {
		return nil // so that nothing that embeds it is built again
	}
	return atomicfile.Write(name, packed.Bytes())
}
