package protocol

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"
)

// TestALineOfManyValues is short for what it would take of memory.
func TestALineOfManyValues(t *testing.T) {
	const head, tail = `{"result":{"items":[{}`, `]}}` + "\n"
	line := head + strings.Repeat(",{}", (MaxLine-len(head)-len(tail))/3) + tail
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var m Message
	err := NewReader(strings.NewReader(line)).Receive(&m)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, ErrLine) || took > 8*MaxLine {
		t.Errorf("%v, and %d MiB", err, took>>20)
	}
}

// TestCommasInStrings are none between values.
func TestCommasInStrings(t *testing.T) {
	path := strings.Repeat(`,"\\`, 2*maxValues)
	var b bytes.Buffer
	if err := NewWriter(&b).Send(Message{Error: path}); err != nil {
		t.Fatal(err)
	}
	var m Message
	if err := NewReader(&b).Receive(&m); err != nil || m.Error != path {
		t.Errorf("%v", err)
	}
}

// TestEveryCodeHasRoom in one message, whatever is listed of the others.
func TestEveryCodeHasRoom(t *testing.T) {
	room := Failed.Listed()
	for _, code := range []Code{Special, Kept, InUse, Login, Package, Image, Volume, Link, Vanished, Unseen, Memory, Absent} {
		if code.Remains() {
			t.Errorf("%s remains", code)
		}
		room += code.Listed()
	}
	if room > MaxItems || InUse.Listed() <= Kept.Listed() {
		t.Errorf("%d of %d", room, MaxItems)
	}
}
