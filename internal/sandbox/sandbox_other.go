//go:build !linux

package sandbox

// Restrict does nothing here and says so.
func Restrict(Rules) (string, error) { return "none: this system has no Landlock", nil }
