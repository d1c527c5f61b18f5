package deploy

import (
	"embed"
	"errors"
	"io/fs"
)

//go:generate go run ./build
//go:embed helpers
var helpers embed.FS

// Built reports whether this build carries helpers: go generate makes them.
func Built() bool {
	_, err := helper("Linux", "x86_64")
	return err == nil
}

// errNoHelper is for an architecture, or a build of vast-ssh, without a helper.
var errNoHelper = errors.New("this build of vast-ssh carries no helper for the machine; sh install.sh makes one that does")

// helper returns the compressed helper for what uname calls the machine.
func helper(system, machine string) ([]byte, error) {
	arch := map[string]string{"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}[machine]
	if system != "Linux" || arch == "" {
		return nil, errNoHelper
	}
	packed, err := helpers.ReadFile("helpers/linux_" + arch + ".gz")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoHelper
	}
	return packed, err
}
