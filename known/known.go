// Package known pins host keys by instance id.
//
// Vast.ai reuses addresses, so an address says nothing about the machine behind it. The pins are kept in one file
// in the format of OpenSSH's known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), under the name vast-<id>:
//
//	vast-1234567 ssh-ed25519 AAAA… via=tofu at=2026-11-23T20:00:00Z machine=4711
//
// ssh reads the same file as a second, independent check. A line therefore means to this package what it means to
// OpenSSH, or the whole file is refused. What OpenSSH takes as a comment after the key holds how the key was learnt.
//
// A file that cannot be read or trusted is an error everywhere and is never written over: to start afresh would
// turn every pinned machine into an unknown one.
package known

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Via is how a key was learnt. It is a word of at most 16 lower-case letters, digits and hyphens; words that this
// version does not know are kept and count for nothing.
type Via string

const (
	// Tofu is trust on first use: one connection showed the key.
	Tofu Via = "tofu"
	// TwoPath means that the direct route and the provider's gateway showed the same key.
	TwoPath Via = "two-path"
	// Log means that the instance printed the key to its log, read through the API.
	Log Via = "log"
	// Manual means that a person gave the key.
	Manual Via = "manual"
)

// AtLeast reports whether v is as good as least or better: tofu, then two-path, then log and manual alike. It is
// false when either word is unknown.
func (v Via) AtLeast(least Via) bool {
	return least.rank() > 0 && v.rank() >= least.rank()
}

func (v Via) rank() int {
	switch v {
	case Tofu:
		return 1
	case TwoPath:
		return 2
	case Log, Manual:
		return 3
	}
	return 0
}

// Pin says that an instance owns a host key.
type Pin struct {
	Instance uint64
	Key      ssh.PublicKey
	Via      Via
	At       time.Time // when it was learnt, UTC, whole seconds
	Machine  uint64    // Vast.ai's number of the machine that the instance ran on, 0 if not known
}

// Name returns the name under which ssh knows an instance: vast-<id>.
func Name(id uint64) string { return namePrefix + strconv.FormatUint(id, 10) }

// ParseName is the inverse of Name. It takes nothing else: no leading zero, no sign, no other case, and not 0,
// which is no instance.
func ParseName(name string) (id uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return 0, false
	}
	return parseNumber(digits)
}

const namePrefix = "vast-"

// parseNumber reads a positive decimal number in the one form that strconv.FormatUint writes.
func parseNumber(s string) (uint64, bool) {
	if s == "" || s[0] < '1' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, false
	}
	return n, true
}

// Shared returns the keys that pins give to more than one instance: SHA-256 fingerprint to instance ids, ascending.
// Whoever holds such a key can stand in for all of them; an image with a baked-in host key is the common cause.
func Shared(pins []Pin) map[string][]uint64 {
	owners := make(map[string][]uint64)
	for _, p := range pins {
		fp := ssh.FingerprintSHA256(p.Key)
		if !slices.Contains(owners[fp], p.Instance) {
			owners[fp] = append(owners[fp], p.Instance)
		}
	}
	for fp, ids := range owners {
		if len(ids) < 2 {
			delete(owners, fp)
			continue
		}
		slices.Sort(ids)
	}
	return owners
}

// UnknownError is returned by Check for an instance that has no pin at all: this is a first contact, and Introduce
// is the way to make it.
type UnknownError struct {
	Instance uint64
	Key      ssh.PublicKey // the key that was shown
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("no host key of %s is pinned (it shows %s)", Name(e.Instance), describe(e.Key))
}

// MismatchError is returned for an instance that has pins when a key is none of them. Another machine answers at
// its address, the instance was recycled, or somebody is in between; there is no telling which, so the connection
// must not be made. A key of a type that is not pinned is a mismatch too: all types that a machine has are pinned
// at first contact, so it owns no other, and an attacker would choose just such a type.
type MismatchError struct {
	Instance uint64
	Got      ssh.PublicKey
	Want     []Pin // never empty
}

func (e *MismatchError) Error() string {
	want := make([]string, len(e.Want))
	for i, p := range e.Want {
		want[i] = describe(p.Key)
	}
	return fmt.Sprintf("host key of %s has changed: got %s, pinned %s",
		Name(e.Instance), describe(e.Got), strings.Join(want, ", "))
}

func describe(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }
