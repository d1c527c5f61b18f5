package e2e

import (
	"testing"
	"time"
)

// eventually waits until the condition holds, which is told as what, and gives it up with an error.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(attackTimeout); !holds(); {
		if time.Now().After(deadline) {
			t.Errorf("not within %v: %s", attackTimeout, what)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
