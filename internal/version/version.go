// Package version tells which version of the programs this is.
package version

import "runtime/debug"

// Release is the version of a release build, set by the linker.
var Release = ""

// String returns the release, or the commit that the program was built from, or "devel".
func String() string {
	if Release != "" {
		return Release
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "devel-" + s.Value[:12]
			}
		}
	}
	return "devel"
}
