package rotate

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// aJournal is one as it is written.
func aJournal(t testing.TB) []byte {
	t.Helper()
	keys := make([]string, 2)
	for i := range keys {
		_, keys[i] = newKey(t, "vast-ssh")
	}
	old, new := mustParse(t, keys[0]), mustParse(t, keys[1])
	j := newJournal(Detaching, old, new, time.Unix(1900000000, 0))
	j.Account, j.Swapped = AccountBoth, time.Unix(1900000100, 0).UTC()
	*j.entry(7) = Instance{ID: 7, Label: "train\u202e", Stage: Verified, At: time.Unix(1900000050, 0).UTC()}
	*j.entry(5) = Instance{ID: 5, Stage: Seen, Left: true, Problem: "it is not running"}
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDecodeJournal(t *testing.T) {
	good := aJournal(t)
	j, err := decodeJournal(good)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.MarshalIndent(j, "", "  ")
	if err != nil || string(again) != string(good) {
		t.Errorf("%v\n%s\n%s", err, good, again)
	}
	if strings.Contains(string(good), "PRIVATE") {
		t.Error("the journal holds a private key")
	}
	_, other := newKey(t, "vast-ssh")
	for name, bad := range map[string]string{
		"empty":              "",
		"cut":                string(good[:len(good)/2]),
		"more behind it":     string(good) + "{}",
		"unknown field":      strings.Replace(string(good), `"version"`, `"more": 1, "version"`, 1),
		"unknown version":    strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"unknown phase":      strings.Replace(string(good), `"detaching"`, `"done"`, 1),
		"unknown stage":      strings.Replace(string(good), `"verified"`, `"sure"`, 1),
		"ids out of order":   strings.Replace(string(good), `"id": 7`, `"id": 5`, 1),
		"id 0":               strings.Replace(string(good), `"id": 5`, `"id": 0`, 1),
		"another old key":    strings.Replace(string(good), j.OldKey, other, 1),
		"another new key":    strings.Replace(string(good), j.NewKey, other, 1),
		"a key with options": strings.Replace(string(good), `"old_key": "`, `"old_key": "no-pty `, 1),
		"both keys the same": strings.NewReplacer(j.NewKey, j.OldKey, j.New, j.Old).Replace(string(good)),
	} {
		if bad == string(good) {
			t.Errorf("%s: nothing was replaced", name)
		}
		if _, err := decodeJournal([]byte(bad)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// A journal that cannot be read stops everything, and is not touched.
func TestDamagedJournal(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "state", "rotation.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged *JournalError
	if _, err := w.engine().Rotate(t.Context(), Options{}); !errors.As(err, &damaged) || len(w.trace) > 0 {
		t.Errorf("%v after %v", err, w.trace)
	}
	if _, err := w.engine().Abort(t.Context()); !errors.As(err, &damaged) {
		t.Error(err)
	}
	if data, err := os.ReadFile(path); string(data) != "{" {
		t.Errorf("%q, %v", data, err)
	}
}

func FuzzDecodeJournal(f *testing.F) {
	f.Add(aJournal(f))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := decodeJournal(data)
		if err != nil {
			return
		}
		out, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeJournal(out)
		if err != nil {
			t.Fatalf("what was read is not taken again: %v\n%s", err, out)
		}
		if !reflect.DeepEqual(j.Instances, again.Instances) || j.Phase != again.Phase || !same(j.newKey, again.newKey) {
			t.Errorf("%+v, %+v", j, again)
		}
	})
}
