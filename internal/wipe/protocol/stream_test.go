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
