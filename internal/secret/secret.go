// Package secret holds a value that must not be printed.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
)

const redacted = "[redacted]"

// Value is a secret string, such as an API key. Every way in which Go prints, logs or encodes a value shows
// "[redacted]"; only Reveal gives the text. The zero Value holds no secret.
//
// A Value cannot be compared with ==, because that comparison is not constant time: use Equal.
type Value struct {
	_ [0]func()
	// The text sits behind a function so that printers that walk memory by reflection meet code, not text.
	reveal func() string
}

// New returns a Value that holds text.
func New(text string) Value {
	return Value{reveal: func() string { return text }}
}

// Reveal returns the secret text. Call it where the text is used, and keep the result in no struct.
func (v Value) Reveal() string {
	if v.reveal == nil {
		return ""
	}
	return v.reveal()
}

// IsZero reports whether v holds no secret, or the empty one.
func (v Value) IsZero() bool { return v.Reveal() == "" }

// Equal compares two secrets in a time that depends on their lengths only.
func (v Value) Equal(other Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(other.Reveal())) == 1
}

// Format implements fmt.Formatter for every verb and flag.
func (v Value) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// String implements fmt.Stringer.
func (v Value) String() string { return redacted }

// MarshalText implements encoding.TextMarshaler, which encoding/json and log/slog use.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }
