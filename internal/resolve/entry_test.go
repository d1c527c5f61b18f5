package resolve

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"vast-ssh/internal/vast"
)

var noon = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

const goodEntry = `{"version":1,"id":5,"label":"train","machine":77,"status":"running","intended":"running",` +
	`"runtype":"ssh_proxy","endpoints":[{"route":"direct","host":"192.0.2.7","port":41022}],` +
	`"at":"2026-08-01T11:00:00Z","failed_at":"2026-08-01T11:30:00Z","failure":"status 503"}`

const goodListing = `{"version":1,"labels":{"train":[5],"twice":[6,8]},"at":"2026-08-01T11:00:00Z"}`

func TestDecodeEntry(t *testing.T) {
	got, err := decodeEntry([]byte(goodEntry), 5, noon)
	want := entry{Version: 1, ID: 5, Label: "train", Machine: 77, Status: "running", Intended: "running",
		Runtype: "ssh_proxy", Endpoints: []Endpoint{{Direct, "192.0.2.7", 41022}}, At: noon.Add(-time.Hour),
		failure: failure{FailedAt: noon.Add(-30 * time.Minute), Reason: "status 503"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("decoded %+v, %v; want %+v", got, err, want)
	}

	for _, change := range [][2]string{
		{goodEntry, ""},
		{goodEntry, "null"},
		{goodEntry, "[]"},
		{goodEntry, goodEntry[:40]},
		{`"version":1`, `"version":2`},
		{`"version":1`, `"version":1,"trust":true`},
		{`"id":5`, `"id":6`},
		{`"id":5`, `"id":0`},
		{`"id":5`, `"id":-5`},
		{`"train"`, `"a\nb"`},
		{`"train"`, `"` + strings.Repeat("x", maxLabel+1) + `"`},
		{`"status":"running"`, `"status":"stopped"`},
		{`"status":"running"`, `"status":"running","gone":true`},
		{`"ssh_proxy"`, `"args"`},
		{`"intended":"running"`, `"intended":"\u001b"`},
		{`"intended":"running"`, `"intended":"` + strings.Repeat("x", maxWord+1) + `"`},
		{`"direct"`, `"detour"`},
		{`"192.0.2.7"`, `"-oProxyCommand=x"`},
		{`"192.0.2.7"`, `""`},
		{`41022`, `0`},
		{`41022`, `65536`},
		{`41022`, `"41022"`},
		{`{"route":"direct","host":"192.0.2.7","port":41022}`,
			strings.Repeat(`{"route":"direct","host":"192.0.2.7","port":41022},`, maxEndpoints) +
				`{"route":"direct","host":"192.0.2.7","port":41022}`},
		{`"2026-08-01T11:00:00Z"`, `"2026-08-01T12:00:01Z"`},
		{`"2026-08-01T11:00:00Z"`, `"0001-01-01T00:00:00Z"`},
		{`"2026-08-01T11:00:00Z"`, `""`},
		{`"at":"2026-08-01T11:00:00Z",`, ``},
		{`503"}`, `503"}{}`},
		{`503"}`, `503"}x`},
	} {
		data := strings.Replace(goodEntry, change[0], change[1], 1)
		if data == goodEntry {
			t.Fatalf("%q is not in the good entry", change[0])
		}
		if e, err := decodeEntry([]byte(data), 5, noon); err == nil {
			t.Errorf("accepted %.200s as %+v", data, e)
		}
	}

	for _, change := range [][2]string{
		{`"2026-08-01T11:30:00Z"`, `"2026-08-01T12:00:01Z"`}, // the clock was set back
		{`"status 503"`, `"a\nb"`},
	} {
		data := strings.Replace(goodEntry, change[0], change[1], 1)
		e, err := decodeEntry([]byte(data), 5, noon)
		if err != nil || e.failure != (failure{}) || !e.usable() {
			t.Errorf("bad note of a failure: %+v, %v; want the entry without the note", e, err)
		}
	}
}

func TestDecodeListing(t *testing.T) {
	got, err := decodeListing([]byte(goodListing), noon)
	want := listing{Version: 1, Labels: map[string][]uint64{"train": {5}, "twice": {6, 8}}, At: noon.Add(-time.Hour)}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("decoded %+v, %v; want %+v", got, err, want)
	}
	for _, change := range [][2]string{
		{goodListing, ""},
		{`"version":1`, `"version":0`},
		{`"version":1`, `"version":1,"x":1`},
		{`"train"`, `""`},
		{`"train"`, `"a\u0000"`},
		{`[5]`, `[]`},
		{`[5]`, `null`},
		{`[5]`, `[0]`},
		{`[6,8]`, `[8,6]`},
		{`[6,8]`, `[6,6]`},
		{`T11:`, `T13:`},
		{`00Z"}`, `00Z"} x`},
	} {
		data := strings.Replace(goodListing, change[0], change[1], 1)
		if data == goodListing {
			t.Fatalf("%q is not in the good listing", change[0])
		}
		if l, err := decodeListing([]byte(data), noon); err == nil {
			t.Errorf("accepted %s as %+v", data, l)
		}
	}
}

// What the API sends must never make a file that we do not read back.
func TestNewEntryDecodes(t *testing.T) {
	nasty := "\x00\xff\n" + strings.Repeat("é", 5000)
	for name, inst := range map[string]vast.Instance{
		"plain": running(5),
		"jupyter": running(5, func(inst *vast.Instance) {
			inst.ImageRuntype, inst.Label = "jupyter_direc ssh_proxy", strings.Repeat("é", maxLabel)
		}),
		"nasty": {ID: 5, Label: nasty, ActualStatus: nasty, IntendedStatus: nasty, ImageRuntype: nasty, StatusMsg: nasty,
			PublicIP: nasty, SSHHost: nasty, SSHPort: 1},
		"nasty and running": running(5, func(inst *vast.Instance) { inst.Label, inst.PublicIP = nasty, nasty }),
	} {
		e := newEntry(inst)
		e.At = noon
		e.failure = failed(noon, errors.New(nasty))
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeEntry(data, 5, noon)
		e.message = ""
		if err != nil || !reflect.DeepEqual(got, e) || len(data) > maxEntryFile {
			t.Errorf("%s: decoded %+v, %v; want %+v", name, got, err, e)
		}
	}
}

// Whatever decodes is within the bounds and decodes to the same after encoding.
func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte(goodEntry))
	f.Add([]byte(`{"version":1,"id":5,"gone":true,"at":"2026-08-01T11:00:00.123456789+02:00"}`))
	f.Add([]byte(`{"version":1,"id":5,"endpoints":[],"at":"0000-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data, 5, noon)
		if err != nil {
			return
		}
		if e.ID != 5 || e.At.After(noon) || len(e.Endpoints) > maxEndpoints || e.usable() && e.refusal() != nil {
			t.Fatalf("accepted %+v", e)
		}
		for _, p := range e.Endpoints {
			if !validHost(p.Host) || p.Port == 0 {
				t.Fatalf("accepted endpoint %+v", p)
			}
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		e2, err := decodeEntry(again, 5, noon)
		if len(e.Endpoints) == 0 {
			e.Endpoints, e2.Endpoints = nil, nil
		}
		if err != nil || !reflect.DeepEqual(e, e2) {
			t.Fatalf("%+v became %+v, %v", e, e2, err)
		}
	})
}

func FuzzDecodeListing(f *testing.F) {
	f.Add([]byte(goodListing))
	f.Add([]byte(`{"version":1,"labels":null,"at":"2026-08-01T11:00:00Z","failed_at":"2026-08-01T11:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := decodeListing(data, noon)
		if err != nil {
			return
		}
		for label, ids := range l.Labels {
			if labelFault(label) != "" || len(ids) == 0 || ids[0] == 0 {
				t.Fatalf("accepted %q: %v", label, ids)
			}
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if l2, err := decodeListing(again, noon); err != nil || !reflect.DeepEqual(l, l2) {
			t.Fatalf("%+v became %+v, %v", l, l2, err)
		}
	})
}
