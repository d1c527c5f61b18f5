package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestValueIsNeverPrinted(t *testing.T) {
	const canary = "canary-5f1d"
	v := New(canary)
	holder := struct {
		Key Value
		Ptr *Value
	}{v, &v}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v", "%10.3s"} {
		args := []any{v}
		if strings.Count(verb, "%") == 2 {
			args = append(args, v)
		}
		fmt.Fprintf(&out, verb+"\n", args...)
		fmt.Fprintf(&out, "%v %+v %#v\n", holder, holder, holder)
	}
	fmt.Fprintln(&out, fmt.Errorf("wrapped: %v", v))
	if err := json.NewEncoder(&out).Encode(holder); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", v, "holder", holder)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", v, "holder", holder)

	hex := fmt.Sprintf("%x", canary)
	for _, leak := range []string{canary, hex, strings.ToUpper(hex)} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("output holds the secret as %q:\n%s", leak, out.String())
		}
	}
	if v.Reveal() != canary {
		t.Errorf("Reveal() = %q", v.Reveal())
	}
}

func TestEqual(t *testing.T) {
	for _, tt := range []struct {
		a, b Value
		want bool
	}{
		{New("a"), New("a"), true},
		{New("a"), New("b"), false},
		{New("a"), New("ab"), false},
		{Value{}, New(""), true},
		{Value{}, New("a"), false},
	} {
		if got := tt.a.Equal(tt.b); got != tt.want {
			t.Errorf("Equal = %v, want %v", got, tt.want)
		}
	}
	if !(Value{}).IsZero() || New("a").IsZero() {
		t.Error("IsZero is wrong")
	}
}
