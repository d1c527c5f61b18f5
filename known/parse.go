package known

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	maxFile = 4 << 20
	maxLine = 8 << 10 // as long as sshd reads
	maxPins = 8       // of one instance
	// minRSA is the least modulus, in bits, of a key that is pinned: OpenSSH makes 3072, and a shorter one can be
	// within reach of those who own many machines.
	minRSA = 2048
)

// keyTypes are the host keys that OpenSSH makes today. Certificates are left out because their trust comes from
// an authority and not from a pin; ssh-dss because it is broken.
var keyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA,
}

// Pinnable returns nil for a host key that may be pinned: Ed25519, ECDSA on a NIST curve, or RSA of at least 2048
// bits, and no certificate. Callers that gather the keys of a machine leave the others out.
func Pinnable(key ssh.PublicKey) error {
	_, err := parseKey(key.Type(), key.Marshal())
	return err
}

// parseKey decodes the blob of a key of type typ (RFC 4253, section 6.6) and holds it to the one encoding that
// writes the same bytes again, so that comparing blobs is comparing keys.
func parseKey(typ string, blob []byte) (ssh.PublicKey, error) {
	if !slices.Contains(keyTypes, typ) {
		return nil, fmt.Errorf("key type %q cannot be pinned", typ)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, errors.New("key is damaged")
	}
	if key.Type() != typ {
		return nil, fmt.Errorf("key of type %q is called %q", key.Type(), typ)
	}
	if !bytes.Equal(key.Marshal(), blob) {
		return nil, errors.New("key is not in its canonical encoding")
	}
	if typ == ssh.KeyAlgoRSA {
		if bits := key.(ssh.CryptoPublicKey).CryptoPublicKey().(*rsa.PublicKey).N.BitLen(); bits < minRSA {
			return nil, fmt.Errorf("RSA key has %d bits, fewer than %d", bits, minRSA)
		}
	}
	return key, nil
}

// table is the content of a file. It is never changed once parsed.
type table struct {
	data    []byte
	entries []entry
	of      map[uint64][]int // instance to indices of entries, in the order of the file
}

type entry struct {
	Pin
	blob       []byte // Key.Marshal(), which is slow
	start, end int    // where in data the line is, newline included
}

// lineError says what is wrong with a line, counted from 1.
type lineError struct {
	line   int
	reason string
}

func (e *lineError) Error() string { return e.reason }

// parse reads a whole file. Its errors are of type *lineError.
func parse(data []byte) (*table, error) {
	t := &table{data: data, of: make(map[uint64][]int)}
	number := 0
	for start := 0; start < len(data); {
		number++
		n := bytes.IndexByte(data[start:], '\n')
		if n < 0 {
			// Every writer ends its last line. A cut-off line can look whole ("machine=47" of 4711), so none is taken.
			return nil, &lineError{number, "the last line is not ended: the file may be cut off"}
		}
		end := start + n + 1
		if err := t.add(start, end); err != nil {
			return nil, &lineError{number, err.Error()}
		}
		start = end
	}
	return t, nil
}

// add takes the line that is data[start:end].
func (t *table) add(start, end int) error {
	line := t.data[start : end-1]
	if len(line) > maxLine {
		return fmt.Errorf("line is longer than %d bytes", maxLine)
	}
	ascii := true
	for _, c := range line {
		// OpenSSH ends a line at NUL, and some readers do at CR: neither they nor other control bytes have a use here.
		if c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("line has the control byte 0x%02x", c)
		}
		ascii = ascii && c < 0x80
	}
	line = bytes.Trim(line, " \t")
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	// In ASCII without control bytes, strings.Fields splits as OpenSSH does: at spaces and tabs.
	if !ascii {
		return errors.New("line is not ASCII")
	}
	e := entry{start: start, end: end}
	var err error
	if e.Pin, e.blob, err = parsePin(strings.Fields(string(line))); err != nil {
		return err
	}
	same := t.of[e.Instance]
	if len(same) == maxPins {
		return fmt.Errorf("%s has more than %d keys", Name(e.Instance), maxPins)
	}
	for _, i := range same {
		if bytes.Equal(t.entries[i].blob, e.blob) {
			return fmt.Errorf("%s has the same key twice", Name(e.Instance))
		}
	}
	t.of[e.Instance] = append(same, len(t.entries))
	t.entries = append(t.entries, e)
	return nil
}

// parsePin reads the fields of one line, at least one, and also returns the blob of the key.
func parsePin(fields []string) (Pin, []byte, error) {
	name := fields[0]
	switch name[0] {
	case '@':
		return Pin{}, nil, fmt.Errorf("marker %q has no place among pins", name)
	case '|':
		return Pin{}, nil, errors.New("name is hashed")
	}
	id, ok := ParseName(name)
	if !ok {
		return Pin{}, nil, fmt.Errorf("name %q is not vast-<id>", name)
	}
	if len(fields) < 3 {
		return Pin{}, nil, errors.New("key is missing")
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(fields[2])
	if err != nil {
		return Pin{}, nil, errors.New("key is not base64")
	}
	key, err := parseKey(fields[1], blob)
	if err != nil {
		return Pin{}, nil, err
	}
	pin := Pin{Instance: id, Key: key}
	if err := parseNotes(&pin, fields[3:]); err != nil {
		return Pin{}, nil, err
	}
	return pin, blob, nil
}

// parseNotes reads what follows the key: via= and at=, and machine= if it is known, each once.
func parseNotes(pin *Pin, notes []string) error {
	for _, note := range notes {
		name, value, _ := strings.Cut(note, "=")
		ok := false
		switch {
		case name == "via" && pin.Via == "":
			pin.Via = Via(value)
			ok = pin.Via.valid()
		case name == "at" && pin.At.IsZero():
			pin.At, ok = parseTime(value)
		case name == "machine" && pin.Machine == 0:
			pin.Machine, ok = parseNumber(value)
		}
		if !ok {
			return fmt.Errorf("note %q is not understood", note)
		}
	}
	if pin.Via == "" || pin.At.IsZero() {
		return errors.New("notes via= and at= are missing")
	}
	return nil
}

func (v Via) valid() bool {
	if len(v) == 0 || len(v) > 16 || v[0] < 'a' || v[0] > 'z' {
		return false
	}
	for _, c := range []byte(v) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// timeLayout is RFC 3339 in UTC, to the second.
const timeLayout = "2006-01-02T15:04:05Z"

func parseTime(s string) (time.Time, bool) {
	at, err := time.Parse(timeLayout, s)
	// time.Parse lets a fraction of a second follow.
	return at, err == nil && len(s) == len(timeLayout) && validTime(at)
}

func validTime(at time.Time) bool { return at.Year() >= 1970 && at.Year() <= 9999 }

// line returns the line, newline included, that parses as p. validate must have passed p.
func (p Pin) line() string {
	s := fmt.Sprintf("%s %s %s via=%s at=%s", Name(p.Instance), p.Key.Type(),
		base64.StdEncoding.EncodeToString(p.Key.Marshal()), p.Via, p.At.Format(timeLayout))
	if p.Machine != 0 {
		s += " machine=" + strconv.FormatUint(p.Machine, 10)
	}
	return s + "\n"
}

// validate returns pins as they will be read again, or says why they may not be written for instance id.
func validate(id uint64, pins []Pin) ([]Pin, error) {
	if id == 0 {
		return nil, errors.New("0 is no instance")
	}
	if len(pins) == 0 || len(pins) > maxPins {
		return nil, fmt.Errorf("%s cannot have %d pins (1 to %d)", Name(id), len(pins), maxPins)
	}
	pins = slices.Clone(pins)
	for i := range pins {
		p := &pins[i]
		p.At = p.At.UTC().Truncate(time.Second)
		switch {
		case p.Instance != id:
			return nil, fmt.Errorf("a pin for %s is not one of %s", Name(p.Instance), Name(id))
		case p.Key == nil:
			return nil, fmt.Errorf("a pin for %s has no key", Name(id))
		case !p.Via.valid():
			return nil, fmt.Errorf("a pin for %s has via %q", Name(id), string(p.Via))
		case !validTime(p.At):
			return nil, fmt.Errorf("a pin for %s has no valid time", Name(id))
		case holds(pins[:i], p.Key):
			return nil, fmt.Errorf("a key of %s is given twice", Name(id))
		}
		if err := Pinnable(p.Key); err != nil {
			return nil, fmt.Errorf("a pin for %s: %w", Name(id), err)
		}
	}
	return pins, nil
}

func holds(pins []Pin, key ssh.PublicKey) bool {
	return slices.ContainsFunc(pins, func(p Pin) bool { return sameKey(p.Key, key) })
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }
