package vast

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const fullInstance = `{"id":1234567,"actual_status":"running","cur_state":"running","next_state":"running",
"intended_status":"running","status_msg":"success, running","label":"train \u001b[31m","template_id":null,
"image_uuid":"vastai/base-image:cuda-12","image_args":[],"image_runtype":"ssh ssh_direc ssh_proxy","extra_env":[["A","b"]],
"onstart":"secret","jupyter_token":"secret","public_ipaddr":" 203.0.113.9\n","local_ipaddrs":"10.0.0.1 10.0.0.2",
"ssh_host":"ssh5.vast.ai","ssh_idx":"5","ssh_port":12296,"machine_dir_ssh_port":51199,"machine_id":4321,"host_id":99,
"start_date":1770000000.5,"num_gpus":2,"gpu_name":"RTX 4090","direct_port_count":2,
"ports":{"22/tcp":[{"HostIp":"0.0.0.0","HostPort":"20000"},{"HostIp":"::","HostPort":"20001"}],"8080/tcp":[{"HostIp":"0.0.0.0","HostPort":20002}]},
"dph_base":0.4,"dph_total":0.4567}`

func TestDecodeInstance(t *testing.T) {
	want := Instance{
		ID: 1234567, Label: "train \x1b[31m", ActualStatus: "running", IntendedStatus: "running", CurState: "running",
		NextState: "running", StatusMsg: "success, running", Image: "vastai/base-image:cuda-12",
		ImageRuntype: "ssh ssh_direc ssh_proxy", PublicIP: "203.0.113.9", SSHHost: "ssh5.vast.ai", SSHPort: 12296,
		Ports: map[string][]PortBinding{
			"22/tcp":   {{"0.0.0.0", 20000}, {"::", 20001}},
			"8080/tcp": {{"0.0.0.0", 20002}},
		},
		MachineID: 4321, HostID: 99, GPUName: "RTX 4090", NumGPUs: 2, DPHTotal: 0.4567, Started: time.Unix(1770000000, 0),
	}
	for _, body := range []string{`{"instances":` + fullInstance + `}`, fullInstance} {
		got, found, err := decodeOne([]byte(body))
		if err != nil || !found || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v, %v", got, found, err)
		}
	}
	got, next, err := decodeList([]byte(`{"instances":[` + fullInstance + `],"next_token":"eyJ2Ijp7fX0="}`))
	if err != nil || next != "eyJ2Ijp7fX0=" || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("%+v, %q, %v", got, next, err)
	}
}

func TestDecodeIsLenientByField(t *testing.T) {
	for _, tt := range []struct {
		field, json string
		get         func(Instance) any
		want        any
	}{
		{"ssh_port", `12296`, sshPort, uint16(12296)},
		{"ssh_port", `"12296"`, sshPort, uint16(12296)},
		{"ssh_port", `" 12296 "`, sshPort, uint16(12296)},
		{"ssh_port", `12296.0`, sshPort, uint16(12296)},
		{"ssh_port", `null`, sshPort, uint16(0)},
		{"ssh_port", `65536`, sshPort, uint16(0)},
		{"ssh_port", `-1`, sshPort, uint16(0)},
		{"ssh_port", `22.5`, sshPort, uint16(0)},
		{"ssh_port", `{"a":1}`, sshPort, uint16(0)},
		{"ssh_port", `true`, sshPort, uint16(0)},
		{"machine_id", `18446744073709551615`, func(i Instance) any { return i.MachineID }, uint64(1<<64 - 1)},
		{"machine_id", `1e30`, func(i Instance) any { return i.MachineID }, uint64(0)},
		{"num_gpus", `"4"`, func(i Instance) any { return i.NumGPUs }, 4},
		{"num_gpus", `1e15`, func(i Instance) any { return i.NumGPUs }, 65535},
		{"dph_total", `"0.25"`, price, 0.25},
		{"dph_total", `"NaN"`, price, 0.0},
		{"dph_total", `"Inf"`, price, 0.0},
		{"dph_total", `[]`, price, 0.0},
		{"start_date", `"1770000000"`, func(i Instance) any { return i.Started.Unix() }, int64(1770000000)},
		{"start_date", `1e300`, func(i Instance) any { return i.Started.IsZero() }, true},
		{"start_date", `null`, func(i Instance) any { return i.Started.IsZero() }, true},
		{"label", `null`, label, ""},
		{"label", `42`, label, "42"},
		{"label", `["x"]`, label, ""},
		{"label", `"` + strings.Repeat("x", 1024) + `"`, label, strings.Repeat("x", 1024)},
		{"label", `"` + strings.Repeat("x", 1025) + `"`, label, ""},
		{"actual_status", `null`, func(i Instance) any { return i.ActualStatus }, ""},
		{"public_ipaddr", `"\n 203.0.113.9 \r\n"`, publicIP, "203.0.113.9"},
		{"public_ipaddr", `"2001:db8::1"`, publicIP, "2001:db8::1"},
		{"public_ipaddr", `"a:b"`, publicIP, ""},
		{"public_ipaddr", `"-oProxyCommand=x"`, publicIP, ""},
		{"public_ipaddr", `"1.2.3.4 x"`, publicIP, ""},
		{"public_ipaddr", `"1.2.3.4;x"`, publicIP, ""},
		{"public_ipaddr", `"` + strings.Repeat("a", 254) + `"`, publicIP, ""},
		{"public_ipaddr", `null`, publicIP, ""},
		{"ports", `null`, ports, "map[]"},
		{"ports", `[22,80]`, ports, "map[]"},
		{"ports", `{}`, ports, "map[]"},
		{"ports", `"x"`, ports, "map[]"},
		{"ports", `{"22/tcp":null,"80/tcp":[{"HostPort":"81"}]}`, ports, "map[80/tcp:[{ 81}]]"},
		{"ports", `{"22/tcp":[]}`, ports, "map[]"},
		{"ports", `{"22/tcp":{"HostPort":"1"}}`, ports, "map[]"},
		{"ports", `{"22/tcp":[null,{"HostIp":"0.0.0.0"},{"HostIp":5,"HostPort":"x"},{"HostIp":"0.0.0.0","HostPort":22}]}`, ports,
			"map[22/tcp:[{0.0.0.0 22}]]"},
		{"ports", `{"22/tcp":[{"HostPort":"0"}]}`, ports, "map[]"},
		{"ports", `{"22/tcp":[` + strings.Repeat(`{"HostPort":"1"},`, maxBindings) + `{"HostPort":"1"}]}`, ports, "map[]"},
		{"ssh_idx", `"5"`, label, ""},
		{"status_msg", `"` + strings.Repeat("é", 4000) + `"`, func(i Instance) any { return len(i.StatusMsg) <= maxStatusMsg+3 && utf8.ValidString(i.StatusMsg) }, true},
	} {
		body := fmt.Sprintf(`{"instances":[{"id":1,%q:%s},{"id":"2"}]}`, tt.field, tt.json)
		got, _, err := decodeList([]byte(body))
		if err != nil || len(got) != 2 || got[1].ID != 2 {
			t.Errorf("%s = %.80s: %d instances, error %v", tt.field, tt.json, len(got), err)
			continue
		}
		if v := tt.get(got[0]); v != tt.want {
			t.Errorf("%s = %.80s: %v, want %v", tt.field, tt.json, v, tt.want)
		}
	}
}

func sshPort(i Instance) any  { return i.SSHPort }
func price(i Instance) any    { return i.DPHTotal }
func label(i Instance) any    { return i.Label }
func publicIP(i Instance) any { return i.PublicIP }

func ports(i Instance) any {
	if i.Ports != nil && len(i.Ports) == 0 {
		return "an empty map"
	}
	return fmt.Sprint(i.Ports)
}

func TestDecodeListRefuses(t *testing.T) {
	for _, body := range []string{
		``, `null`, `[]`, `{}`, `"x"`, `{"instances":null}`, `{"instances":{}}`, `{"instances":[null]}`, `{"instances":[7]}`,
		`{"instances":[{}]}`, `{"instances":[{"id":null}]}`, `{"instances":[{"id":0}]}`, `{"instances":[{"id":-1}]}`,
		`{"instances":[{"id":1.5}]}`, `{"instances":[{"id":"x"}]}`, `{"instances":[{"id":1},{"label":"x"}]}`,
		`{"instances":[],"next_token":7}`, `{"instances":[],"next_token":"` + strings.Repeat("x", maxToken+1) + `"}`,
		`{"instances":[` + strings.Repeat(`{"id":1},`, maxPage) + `{"id":1}]}`,
	} {
		if got, next, err := decodeList([]byte(body)); err == nil {
			t.Errorf("%.60s: %v, %q", body, got, next)
		}
	}
	if got, _, err := decodeList([]byte(`{"instances":[` + strings.Repeat(`{"id":1},`, maxPage-1) + `{"id":1}]}`)); err != nil || len(got) != maxPage {
		t.Errorf("at the bound: %d, %v", len(got), err)
	}
}

func TestDecodeKeys(t *testing.T) {
	one := []SSHKey{{ID: 1, Name: "my-key", PublicKey: "ssh-rsa AAAA"}}
	for _, tt := range []struct {
		body string
		want []SSHKey
	}{
		{`{"success":true,"ssh_keys":"[{\"id\":1,\"name\":\"my-key\",\"public_key\":\"ssh-rsa AAAA\"}]"}`, one},
		{`{"success":true,"ssh_keys":[{"id":"1","name":"my-key","key":"ssh-rsa AAAA\n"}]}`, one},
		{`[{"id":1,"name":"my-key","user_id":3,"key":"ssh-rsa AAAA","created_at":"x","deleted_at":null}]`, one},
		{` [{"id":1.0,"name":"my-key","public_key":"ssh-rsa AAAA"},{"id":2,"key":"x","deleted_at":"2026-01-01"}]`, one},
		{`{"ssh_keys":"[]"}`, nil},
		{`{"ssh_keys":""}`, nil},
		{`{"ssh_keys":"null"}`, nil},
		{`{"ssh_keys":null}`, nil},
		{`[]`, nil},
		{`[{"name":[],"public_key":"a\nb"}]`, []SSHKey{{}}},
		{`[{"id":5,"public_key":null,"key":"ssh-rsa AAAA"}]`, []SSHKey{{ID: 5, PublicKey: "ssh-rsa AAAA"}}},
	} {
		got, err := decodeKeys([]byte(tt.body))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, error %v", tt.body, got, err)
		}
	}
	for _, body := range []string{
		``, `{}`, `"x"`, `7`, `{"ssh_keys":7}`, `{"ssh_keys":"x"}`, `{"ssh_keys":{}}`, `[null]`, `["ssh-rsa AAAA"]`,
		`[` + strings.Repeat(`{},`, maxKeys) + `{}]`,
	} {
		if got, err := decodeKeys([]byte(body)); err == nil {
			t.Errorf("%.40s: %+v", body, got)
		}
	}
}

// checkBounds fails for an instance that no caller should ever see.
func checkBounds(t *testing.T, i Instance) {
	if i.ID == 0 || len(i.Label) > maxLabel || len(i.StatusMsg) > maxStatusMsg+len("…") || len(i.Image) > maxLabel ||
		len(i.PublicIP) > maxHost || len(i.SSHHost) > maxHost || len(i.Ports) > maxPorts || i.NumGPUs < 0 || i.DPHTotal != i.DPHTotal {
		t.Errorf("out of bounds: %+v", i)
	}
	if i.Ports != nil && len(i.Ports) == 0 {
		t.Error("an empty port map is not nil")
	}
	for name, list := range i.Ports {
		if len(list) == 0 || len(list) > maxBindings || len(name) > maxWord {
			t.Errorf("port %q: %v", name, list)
		}
		for _, b := range list {
			if b.HostPort == 0 {
				t.Errorf("port %q: %v", name, list)
			}
		}
	}
	for _, host := range []string{i.PublicIP, i.SSHHost} {
		if strings.HasPrefix(host, "-") || strings.ContainsAny(host, " \t\r\n'\"$`;%") {
			t.Errorf("host %q", host)
		}
	}
}

func FuzzDecodeList(f *testing.F) {
	f.Add([]byte(`{"success":true,"instances":[` + fullInstance + `],"next_token":"eyJ2Ijp7fX0="}`))
	f.Add([]byte(`{"instances":[{"id":"7","ports":null,"label":null}],"next_token":null}`))
	f.Add([]byte(`{"instances":[{"id":1e3,"ports":[1,2]},{"id":2,"ports":{"22/tcp":[{"HostPort":1.0}]}}]}`))
	f.Add([]byte(`{"instances":[[]]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, next, err := decodeList(body)
		if err != nil {
			return
		}
		if len(list) > maxPage || len(next) > maxToken {
			t.Errorf("%d instances, token of %d bytes", len(list), len(next))
		}
		for _, inst := range list {
			checkBounds(t, inst)
		}
	})
}

func FuzzDecodeOne(f *testing.F) {
	f.Add([]byte(`{"instances":` + fullInstance + `}`))
	f.Add([]byte(fullInstance))
	f.Add([]byte(`{"instances":null}`))
	f.Add([]byte(`{"id":7,"public_ipaddr":" ::1 ","ssh_port":"22"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		inst, found, err := decodeOne(body)
		if err == nil && found {
			checkBounds(t, inst)
		} else if found || inst.ID != 0 {
			t.Errorf("%+v, %v, %v", inst, found, err)
		}
	})
}

func FuzzDecodeKeys(f *testing.F) {
	f.Add([]byte(`{"ssh_keys":"[{\"id\":1,\"name\":\"k\",\"public_key\":\"ssh-rsa AAAA\"}]"}`))
	f.Add([]byte(`[{"id":1,"key":"ssh-rsa AAAA","deleted_at":null}]`))
	f.Add([]byte(`{"ssh_keys":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := decodeKeys(body)
		if err == nil && len(keys) > maxKeys {
			t.Errorf("%d keys", len(keys))
		}
		for _, k := range keys {
			if strings.ContainsAny(k.PublicKey, "\r\n") || len(k.PublicKey) > maxPublicKey || len(k.Name) > maxLabel {
				t.Errorf("%+v", k)
			}
		}
	})
}
