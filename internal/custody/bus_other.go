//go:build !linux

package custody

// sessionBus returns nil: only Linux reaches its keyring over D-Bus.
func sessionBus() error { return nil }
