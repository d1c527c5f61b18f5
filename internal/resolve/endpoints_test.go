package resolve

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vast-ssh/internal/vast"
)

// running returns an instance with both routes, changed by change.
func running(id uint64, change ...func(*vast.Instance)) vast.Instance {
	inst := vast.Instance{
		ID: id, ActualStatus: "running", IntendedStatus: "running", ImageRuntype: "ssh_direc ssh_proxy",
		PublicIP: "192.0.2.7", SSHHost: "ssh4.vast.ai", SSHPort: 12296, MachineID: 77,
		Ports: map[string][]vast.PortBinding{"22/tcp": {{HostIP: "0.0.0.0", HostPort: 41022}}},
	}
	for _, f := range change {
		f(&inst)
	}
	return inst
}

func TestEndpoints(t *testing.T) {
	type change = func(*vast.Instance)
	ports := func(list ...uint16) change {
		return func(inst *vast.Instance) {
			var bindings []vast.PortBinding
			for _, p := range list {
				bindings = append(bindings, vast.PortBinding{HostPort: p})
			}
			inst.Ports = map[string][]vast.PortBinding{"22/tcp": bindings}
		}
	}
	ip := func(s string) change { return func(inst *vast.Instance) { inst.PublicIP = s } }
	gateway := func(host string, port uint16) change {
		return func(inst *vast.Instance) { inst.SSHHost, inst.SSHPort = host, port }
	}
	runtype := func(s string) change { return func(inst *vast.Instance) { inst.ImageRuntype = s } }
	const direct, proxied = "direct 192.0.2.7:41022", "gateway ssh4.vast.ai:12296"

	tests := []struct {
		name   string
		change []change
		want   []string // nil for a *NoAddressError
	}{
		{"direct first", nil, []string{direct, proxied}},
		{"null ports", []change{func(inst *vast.Instance) { inst.Ports = nil }}, []string{proxied}},
		{"no binding of port 22", []change{ports()}, []string{proxied}},
		{"another port only", []change{func(inst *vast.Instance) {
			inst.Ports = map[string][]vast.PortBinding{"8080/tcp": {{HostPort: 8080}}, "22/udp": {{HostPort: 22}}}
		}}, []string{proxied}},
		{"one binding for each address family", []change{ports(41022, 41022)}, []string{direct, proxied}},
		{"first binding unusable", []change{ports(0, 41022)}, []string{direct, proxied}},
		{"all bindings unusable", []change{ports(0, 0)}, []string{proxied}},
		{"address with white space", []change{ip(" 192.0.2.7\n")}, []string{direct, proxied}},
		{"no public address", []change{ip("")}, []string{proxied}},
		{"IPv6", []change{ip("2001:db8::7")}, []string{"direct [2001:db8::7]:41022", proxied}},
		{"host name", []change{ip("box.example.net")}, []string{"direct box.example.net:41022", proxied}},
		{"loopback, as in a simulation", []change{ip("127.0.0.1")}, []string{"direct 127.0.0.1:41022", proxied}},
		{"unspecified address", []change{ip("0.0.0.0")}, []string{proxied}},
		{"option in place of an address", []change{ip("-oProxyCommand=x")}, []string{proxied}},
		{"shell in place of an address", []change{ip("1.2.3.4;id")}, []string{proxied}},
		{"user in the gateway", []change{gateway("root@ssh4.vast.ai", 12296)}, []string{direct}},
		{"gateway by address", []change{gateway("198.51.100.3", 2)}, []string{direct, "gateway 198.51.100.3:2"}},
		{"no gateway port", []change{gateway("ssh4.vast.ai", 0)}, []string{direct}},
		{"no gateway host", []change{gateway("", 12296)}, []string{direct}},
		{"jupyter", []change{runtype("jupyter_direc ssh_direc ssh_proxy")},
			[]string{direct, "gateway ssh4.vast.ai:12297", proxied}},
		{"jupyter without ssh in the run type", []change{runtype("jupyter")},
			[]string{direct, "gateway ssh4.vast.ai:12297", proxied}},
		{"jupyter at the last port", []change{runtype("jupyter_proxy ssh_proxy"), gateway("ssh4.vast.ai", 65535)},
			[]string{direct, "gateway ssh4.vast.ai:65535"}},
		{"jupyter without a gateway port", []change{runtype("jupyter_proxy"), gateway("ssh4.vast.ai", 0)},
			[]string{direct}},
		{"documented spelling", []change{runtype("ssh_direct")}, []string{direct, proxied}},
		{"run type missing", []change{runtype("")}, []string{direct, proxied}},
		{"nothing at all", []change{ports(), gateway("", 0)}, nil},
		{"a mapping without an address", []change{ip(""), gateway("", 0)}, nil},
	}
	for _, test := range tests {
		got, err := Endpoints(running(5, test.change...))
		var list []string
		for _, e := range got {
			list = append(list, string(e.Route)+" "+e.Addr())
		}
		if !slices.Equal(list, test.want) {
			t.Errorf("%s: %q, want %q", test.name, list, test.want)
		}
		var noAddress *NoAddressError
		if test.want == nil && (!errors.As(err, &noAddress) || noAddress.ID != 5) {
			t.Errorf("%s: error %v, want a *NoAddressError", test.name, err)
		}
		if test.want != nil && err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestValidHost(t *testing.T) {
	label := strings.Repeat("a", 49)
	name250 := strings.Repeat(label+".", 5)[:249] // 5 labels
	for host, want := range map[string]bool{
		"192.0.2.7": true, "::1": true, "fe80::1": true, "ssh4.vast.ai": true, "localhost": true, "a-b.c1": true,
		name250: true, name250 + ".abc": true, name250 + ".abcd": false,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "-a": false, "a-": false, "a.-b": false,
		"a_b": false, "a b": false, "a/b": false, "a%b": false, "[::1]": false, "fe80::1%eth0": false, "::": false,
		"a:b": false, "1.2.3": false, "1.2.3.256": false, "16909060": false, "0x7f000001": false, "ä.de": false,
		"a\nb": false, "a\x00": false,
	} {
		if got := validHost(host); got != want {
			t.Errorf("validHost(%.40q) = %v, want %v", host, got, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	inst := func(runtype, actual, intended string) vast.Instance {
		return running(5, func(inst *vast.Instance) {
			inst.ImageRuntype, inst.ActualStatus, inst.IntendedStatus = runtype, actual, intended
			inst.Label, inst.StatusMsg = "train", "pulling\x1b[2J"
		})
	}
	const start = "start it in the web console or with: vastai start instance 5"
	const wait = "wait a minute and try again; vast-ssh show 5 tells how far it is"
	const show = "vast-ssh show 5"
	const ssh = "ssh_proxy"
	tests := []struct {
		runtype, actual, intended string
		hint                      string
	}{
		{ssh, "stopped", "stopped", start},
		{ssh, "stopped", "running", start},
		{ssh, "exited", "stopped", start},
		{ssh, "exited", "running", show},
		{ssh, "frozen", "frozen", start},
		{ssh, "loading", "running", wait},
		{ssh, "loading", "stopped", start},
		{ssh, "created", "running", wait},
		{ssh, "", "running", wait},
		{ssh, "rebooting", "running", wait},
		{ssh, "recycling", "running", wait},
		{ssh, "offline", "running", show},
		{ssh, "unknown", "running", show},
		{ssh, "Running", "running", show}, // not a status that the API documents
		{ssh, "something new", "", show},
	}
	for _, test := range tests {
		// Addresses of an instance that does not run, as the API gives them, must not be used.
		_, err := Endpoints(inst(test.runtype, test.actual, test.intended))
		want := &NotRunningError{ID: 5, Label: "train", Status: test.actual, Intended: test.intended,
			Message: "pulling\x1b[2J"}
		var got *NotRunningError
		if !errors.As(err, &got) || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: error %#v, want %#v", test.actual, err, want)
			continue
		}
		if got.Hint() != test.hint {
			t.Errorf("%q, intended %q: hint %q, want %q", test.actual, test.intended, got.Hint(), test.hint)
		}
	}
	for _, actual := range []string{"running", "stopped"} {
		_, err := Endpoints(inst("args", actual, "running"))
		var noSSH *NoSSHError
		if !errors.As(err, &noSSH) || noSSH.ID != 5 || noSSH.Runtype != "args" {
			t.Errorf("args, %q: error %v, want a *NoSSHError", actual, err)
		}
	}
}

func TestErrorTexts(t *testing.T) {
	const evil = "\x1b[2J\n"
	tests := []struct {
		err  error
		text string
		hint string
	}{
		{&NameError{Name: evil, Reason: "is bad"}, `instance name "\x1b[2J\n" is bad`, "vast-ssh ls"},
		{&NotFoundError{Name: evil}, `the account has no instance "\x1b[2J\n"`, "vast-ssh ls"},
		{&AmbiguousError{Label: evil, IDs: []uint64{4, 11}}, `label "\x1b[2J\n" is on 2 instances: 4, 11`, "vast-ssh 4"},
		{&NoSSHError{ID: 5, Runtype: evil}, `instance 5 was created without ssh (run type "\x1b[2J\n")`,
			"create a new instance with the ssh or jupyter launch mode; the mode of this one is fixed"},
		{&NoAddressError{ID: 5}, "instance 5 is running, but Vast.ai gives no address for it", "vast-ssh show 5"},
		{&NotRunningError{ID: 5}, "instance 5 is not running: it has no status yet",
			"wait a minute and try again; vast-ssh show 5 tells how far it is"},
		{&NotRunningError{ID: 5, Label: evil, Status: evil, Intended: "x" + evil, Message: evil},
			`instance 5 ("\x1b[2J\n") is not running: its status is "\x1b[2J\n", and "x\x1b[2J\n" is intended: "\x1b[2J\n"`,
			"vast-ssh show 5"},
		{&NotRunningError{ID: 5, Status: "stopped", Intended: "stopped"},
			`instance 5 is not running: its status is "stopped"`,
			"start it in the web console or with: vastai start instance 5"},
	}
	for _, test := range tests {
		if got := test.err.Error(); got != test.text {
			t.Errorf("%T: %q, want %q", test.err, got, test.text)
		}
		var hinter interface{ Hint() string }
		if !errors.As(test.err, &hinter) || hinter.Hint() != test.hint {
			t.Errorf("%T: hint is not %q", test.err, test.hint)
		}
	}
}
