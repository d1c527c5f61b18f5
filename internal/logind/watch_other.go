//go:build !linux

package logind

import "context"

// Watch returns ErrUnsupported.
func Watch(context.Context, func(Event)) error { return ErrUnsupported }
