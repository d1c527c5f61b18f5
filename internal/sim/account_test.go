package sim_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/secret"
	"vast-ssh/internal/sim"
	"vast-ssh/internal/sim/simtest"
)

// client asks an account, and does not forgive a transport error.
type client struct {
	t   *testing.T
	url string
	key string
}

type object = map[string]any

func newClient(t *testing.T, a *sim.Account) *client {
	return &client{t: t, url: a.URL(), key: a.Key().Reveal()}
}

// raw sends a request and returns status and body. A body of "" is none.
func (c *client) raw(method, path, body string) (int, string) {
	c.t.Helper()
	status, _, text := c.full(method, path, body)
	return status, text
}

func (c *client) full(method, path, body string) (int, http.Header, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// want sends a request and returns the JSON object of the answer, which must have the status.
func (c *client) want(status int, method, path, body string) object {
	c.t.Helper()
	got, text := c.raw(method, path, body)
	if got != status {
		c.t.Fatalf("%s %s: status %d, want %d: %s", method, path, got, status, text)
	}
	var o object
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&o); err != nil {
		c.t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
	return o
}

// show returns the row of one instance.
func (c *client) show(id uint64) object {
	c.t.Helper()
	row, _ := c.want(200, "GET", instancePath(id), "")["instances"].(object)
	return row
}

func (c *client) list(parameters ...string) object {
	c.t.Helper()
	query := make(url.Values)
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	return c.want(200, "GET", "/api/v1/instances/?"+query.Encode(), "")
}

func instancePath(id uint64) string { return fmt.Sprintf("/api/v0/instances/%d/", id) }

func encode(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func publicKey(t *testing.T, comment string) string {
	t.Helper()
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))) + " " + comment
}

func sshKeyBody(t *testing.T, key string) string { return encode(t, object{"ssh_key": key}) }

func TestOldListIsGone(t *testing.T) {
	for status, shapes := range map[int]sim.Shapes{410: {}, 200: {OldListOK: true}} {
		a := simtest.Start(t, sim.Options{Shapes: shapes})
		got := newClient(t, a).want(status, "GET", "/api/v0/instances/", "")
		if got["success"] != false || got["error"] != "deprecated_endpoint" {
			t.Errorf("status %d: %v", status, got)
		}
	}
}

func TestListPages(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	c := newClient(t, a)
	for n := range 60 {
		a.Add(sim.Instance{Label: []string{"", "even", "odd"}[n%3]})
	}
	var ids []string
	token, pages := "", 0
	for {
		parameters := []string{"limit", "1000", "order_by", `[{"col": "id", "dir": "asc"}]`}
		if token != "" {
			parameters = append(parameters, "after_token", token)
		}
		page := c.list(parameters...)
		rows := page["instances"].([]any)
		counts := fmt.Sprint(page["instances_found"], " of ", page["total_instances"])
		if len(rows) > 25 || counts != fmt.Sprintf("%d of 60", len(rows)) {
			t.Fatalf("a page of %d rows: %s", len(rows), counts)
		}
		for _, row := range rows {
			ids = append(ids, fmt.Sprint(row.(object)["id"]))
		}
		pages++
		if pages == 1 {
			// Rows that come and go between pages disturb no others.
			a.Remove(4_000_001)
			a.Add(sim.Instance{ID: 3_999_999})
		}
		if page["next_token"] == nil {
			break
		}
		token = page["next_token"].(string)
	}
	if pages != 3 || len(ids) != 60 || !slices.IsSorted(ids) || len(slices.Compact(ids)) != 60 {
		t.Errorf("%d pages, ids %v", pages, ids)
	}
	if labels := c.list()["label_counts"].(object); len(labels) != 3 || fmt.Sprint(labels["odd"]) != "20" {
		t.Errorf("label_counts %v", labels)
	}
}

func TestListParameters(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	c := newClient(t, a)
	for _, i := range []sim.Instance{
		{ID: 11, Label: "train"}, {ID: 12, Status: "loading", GPUName: "H100"}, {ID: 13, Label: "train"},
		{ID: 14, Label: "a"}, {ID: 15}, {ID: 16, Status: sim.StatusNull},
	} {
		a.Add(i)
	}
	for _, test := range []struct {
		name, value, want string
	}{
		{"select_filters", `{"id": {"eq": 13}}`, "13"},
		{"select_filters", `{"id": {"eq": 99}}`, ""},
		{"select_filters", `{"id": {"gt": 12, "lte": 14}}`, "13 14"},
		{"select_filters", `{"id": {"in": [11, 15]}}`, "11 15"},
		{"select_filters", `{"label": {"eq": "train"}}`, "11 13"},
		{"select_filters", `{"label": {"eq": "train"}, "id": {"neq": 11}}`, "13"},
		{"select_filters", `{"label": {"notin": ["train", "a"]}}`, "12 15 16"},
		{"select_filters", `{"actual_status": {"eq": "loading"}}`, "12"},
		{"select_filters", `{"actual_status": {"eq": null}}`, "16"},
		{"select_filters", `{"gpu_name": {"eq": "H100"}}`, "12"},
		{"select_filters", `{}`, "11 12 13 14 15 16"},
		{"order_by", `[{"col": "id", "dir": "desc"}]`, "16 15 14 13 12 11"},
		{"order_by", `[{"col": "label", "dir": "desc"}]`, "11 13 14 12 15 16"},
		{"limit", "2", "11 12"},
		{"limit", "0", "11 12 13 14 15"},
		{"limit", "-3", "11 12 13 14 15"},
		{"select_cols", `["*"]`, "11 12 13 14 15 16"},
	} {
		var ids []string
		for _, row := range c.list(test.name, test.value)["instances"].([]any) {
			ids = append(ids, fmt.Sprint(row.(object)["id"]))
		}
		if got := strings.Join(ids, " "); got != test.want {
			t.Errorf("%s=%s: ids %s, want %s", test.name, test.value, got, test.want)
		}
	}
	row := c.list("select_cols", `["id", "no_such"]`, "limit", "1")["instances"].([]any)[0].(object)
	if value, there := row["no_such"]; len(row) != 2 || !there || value != nil {
		t.Errorf("select_cols: %v", row)
	}
	for query, code := range map[string]string{
		`select_filters={"dph_total":{"lt":1}}`:   "invalid_request",
		`select_filters={"id":{"like":1}}`:        "invalid_request",
		`select_filters={"id":{"eq":"x"}}`:        "invalid_request",
		`select_filters=[`:                        "invalid_request",
		`order_by=[{"col":"num_gpus"}]`:           "invalid_request",
		`limit=many`:                              "invalid_request",
		`after_token=!`:                           "invalid_token",
		`after_token=e30=`:                        "invalid_token",
		`after_token=eyJ2YWx1ZXMiOnsiaWQiOi0xfX0`: "invalid_token",
	} {
		name, value, _ := strings.Cut(query, "=")
		got := c.want(400, "GET", "/api/v1/instances/?"+name+"="+url.QueryEscape(value), "")
		if _, has := got["success"]; got["error"] != code || has {
			t.Errorf("%s: %v", query, got)
		}
	}
}

// The token of the API reference is what this order would give, so it must be understood.
func TestListTokenOfTheReference(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	a.Add(sim.Instance{ID: 123})
	a.Add(sim.Instance{ID: 124})
	rows := newClient(t, a).list("after_token", "eyJ2YWx1ZXMiOiB7ImlkIjogMTIzfX0=")["instances"].([]any)
	if len(rows) != 1 || fmt.Sprint(rows[0].(object)["id"]) != "124" {
		t.Errorf("got %v", rows)
	}
}

func TestShow(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	c := newClient(t, a)
	id := a.Add(sim.Instance{
		Label: "train", Direct: "127.0.0.2:41022", Gateway: "127.0.0.3:12296", ExtraEnv: [][2]string{{"DOG", "CAT"}},
	})
	row, _ := c.want(200, "GET", instancePath(id)+"?owner=me", "")["instances"].(object)
	for name, want := range map[string]string{
		"id": fmt.Sprint(id), "label": `"train"`, "actual_status": `"running"`, "cur_state": `"running"`,
		"public_ipaddr": `"127.0.0.2"`, "ssh_host": `"127.0.0.3"`, "ssh_port": `12296`, "ssh_idx": `"6"`,
		"image_runtype": `"ssh ssh_direc ssh_proxy"`, "extra_env": `[["DOG","CAT"]]`, "direct_port_start": "41022",
		"ports": `{"22/tcp":[{"HostIp":"0.0.0.0","HostPort":"41022"}],"8080/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}]}`,
	} {
		if got := encode(t, row[name]); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	a.Move(id, "", "127.0.0.3:12297")
	row = c.show(id)
	got := encode(t, []any{row["ports"], row["direct_port_start"], row["direct_port_end"], row["ssh_port"]})
	if got != "[{},65535,-1,12297]" {
		t.Errorf("without a direct route: %s", got)
	}
	// The official tool walks over this list without looking whether it is there.
	if got := encode(t, c.show(a.Add(sim.Instance{}))["extra_env"]); got != "[]" {
		t.Errorf("extra_env without variables: %s", got)
	}
	if got := encode(t, c.want(200, "GET", instancePath(99), "")); got != `{"instances":null}` {
		t.Errorf("an unknown instance: %s", got)
	}
	if i, found := a.Get(id); !found || i.Gateway != "127.0.0.3:12297" {
		t.Errorf("Get: %v %v", i, found)
	}
}

func TestShowShapes(t *testing.T) {
	const direct, gateway = "127.0.0.2:41022", "127.0.0.3:12296"
	for _, test := range []struct {
		name    string
		shapes  sim.Shapes
		runtype string
		column  string
		want    string
	}{
		{"array", sim.Shapes{PortsByID: sim.PortsArray}, "", "ports", `[41022]`},
		{"null", sim.Shapes{PortsByID: sim.PortsNull}, "", "ports", `null`},
		{"white space", sim.Shapes{PaddedIP: true}, "", "public_ipaddr", `" 127.0.0.2\n"`},
		{"dual stack", sim.Shapes{DualStackPorts: true}, "", "ports",
			`{"22/tcp":[{"HostIp":"0.0.0.0","HostPort":"41022"},{"HostIp":"::","HostPort":"41022"}],` +
				`"8080/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}]}`},
		{"jupyter", sim.Shapes{}, "jupyter_direc ssh_direc ssh_proxy", "ssh_port", `12295`},
		{"jupyter without shift", sim.Shapes{NoJupyterShift: true}, "jupyter_proxy ssh_proxy", "ssh_port", `12296`},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := simtest.Start(t, sim.Options{Shapes: test.shapes})
			id := a.Add(sim.Instance{Direct: direct, Gateway: gateway, Runtype: test.runtype})
			if got := encode(t, newClient(t, a).show(id)[test.column]); got != test.want {
				t.Errorf("%s is %s, want %s", test.column, got, test.want)
			}
		})
	}
	t.Run("absent", func(t *testing.T) {
		a := simtest.Start(t, sim.Options{Shapes: sim.Shapes{PortsByID: sim.PortsAbsent}})
		id := a.Add(sim.Instance{Direct: direct})
		c := newClient(t, a)
		if _, there := c.show(id)["ports"]; there {
			t.Error("ports are there")
		}
		if row := c.list()["instances"].([]any)[0].(object); row["ports"] == nil {
			t.Error("the list has no ports either")
		}
	})
	t.Run("gone", func(t *testing.T) {
		a := simtest.Start(t, sim.Options{Shapes: sim.Shapes{GoneIs404: true}})
		if got := newClient(t, a).want(404, "GET", instancePath(7), ""); got["error"] != "no_such_instance" {
			t.Errorf("got %v", got)
		}
	})
}

// A new instance passes through its statuses; the gateway is known first, the ports only when it runs.
func TestStatusWalk(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	c := newClient(t, a)
	id := a.Add(sim.Instance{
		Walk: []string{sim.StatusNull, "created", "loading"}, Direct: "127.0.0.1:41022", Gateway: "127.0.0.1:12296",
	})
	var seen []string
	for n := range 5 {
		row := c.show(id)
		if n == 3 {
			row = c.list()["instances"].([]any)[0].(object)
		}
		seen = append(seen, fmt.Sprint(row["actual_status"]))
		if running := row["actual_status"] == "running"; running != (row["ports"] != nil) {
			t.Errorf("status %v with ports %v", row["actual_status"], row["ports"])
		}
		if row["ssh_host"] != "127.0.0.1" {
			t.Errorf("status %v without a gateway", row["actual_status"])
		}
	}
	if got := strings.Join(seen, " "); got != "<nil> created loading running running" {
		t.Errorf("statuses %s", got)
	}
	a.SetStatus(id, "offline")
	if got := c.show(id)["actual_status"]; got != "offline" {
		t.Errorf("after SetStatus: %v", got)
	}
}

func TestManage(t *testing.T) {
	var changes []sim.Change
	a := simtest.Start(t, sim.Options{
		BootReads: 1, OnChange: func(_ uint64, change sim.Change) { changes = append(changes, change) },
	})
	c := newClient(t, a)
	id := a.Add(sim.Instance{Direct: "127.0.0.1:41022"})
	put := func(body string) { c.want(200, "PUT", instancePath(id), body) }
	statuses := func() string {
		one, two := c.show(id), c.show(id)
		return fmt.Sprint(one["actual_status"], two["actual_status"], two["intended_status"], two["cur_state"])
	}

	put(`{"label": "train"}`)
	if got := c.show(id)["label"]; got != "train" {
		t.Errorf("label %v", got)
	}
	put(`{"label": ""}`)
	if got := c.show(id)["label"]; got != nil {
		t.Errorf("label %v after it was taken away", got)
	}
	put(`{"state": "stopped"}`)
	if got := statuses(); got != "runningstoppedstoppedstopped" {
		t.Errorf("stop: %s", got)
	}
	put(`{"state": "stopped"}`)
	put(`{"state": "running"}`)
	if got := statuses(); got != "loadingrunningrunningrunning" {
		t.Errorf("start: %s", got)
	}
	if got := fmt.Sprint(changes); got != "[stopped started]" {
		t.Errorf("changes %s", got)
	}
	long := encode(t, object{"label": strings.Repeat("x", 1025)})
	if got := c.want(400, "PUT", instancePath(id), long); got["error"] != "label_too_long" {
		t.Errorf("a long label: %v", got)
	}
	if got := c.want(404, "PUT", instancePath(99), `{"state": "running"}`); got["error"] != "no_such_instance" {
		t.Errorf("an unknown instance: %v", got)
	}
}

func TestStoppedIsExited(t *testing.T) {
	a := simtest.Start(t, sim.Options{Shapes: sim.Shapes{StoppedIsExited: true}})
	c := newClient(t, a)
	id := a.Add(sim.Instance{})
	c.want(200, "PUT", instancePath(id), `{"state": "stopped"}`)
	if row := c.show(id); row["actual_status"] != "exited" || row["intended_status"] != "stopped" || row["ports"] != nil {
		t.Errorf("got %v", row)
	}
}

func TestRebootAndRecycle(t *testing.T) {
	type event struct {
		id   uint64
		what string
	}
	var events []event
	var a *sim.Account
	move := ""
	a = simtest.Start(t, sim.Options{
		BootReads: 1,
		OnChange: func(id uint64, change sim.Change) {
			events = append(events, event{id, string(change)})
			if change == sim.Recycled && move != "" {
				a.Move(id, move, "")
			}
		},
		OnAttach: func(id uint64, key string) { events = append(events, event{id, key}) },
	})
	c := newClient(t, a)
	account, attached := publicKey(t, "account"), publicKey(t, "attached")
	c.want(200, "POST", "/api/v0/ssh/", sshKeyBody(t, account))
	id := a.Add(sim.Instance{Direct: "127.0.0.1:41022"})
	c.want(200, "POST", instancePath(id)+"ssh/", sshKeyBody(t, attached))
	if want := []event{{id, account}, {id, attached}}; !slices.Equal(events, want) {
		t.Errorf("keys of a new instance: %v", events)
	}

	statuses := func() string {
		var all []string
		for range 3 {
			all = append(all, fmt.Sprint(c.show(id)["actual_status"]))
		}
		return strings.Join(all, " ")
	}
	events = nil
	c.want(200, "PUT", fmt.Sprintf("/api/v0/instances/reboot/%d/", id), "{}")
	if got := statuses(); got != "rebooting running running" {
		t.Errorf("reboot: %s", got)
	}
	if got := fmt.Sprint(c.show(id)["direct_port_start"]); got != "41022" {
		t.Errorf("a reboot moved the ports: %s", got)
	}
	if want := []event{{id, "rebooted"}}; !slices.Equal(events, want) {
		t.Errorf("events of a reboot: %v", events)
	}

	events = nil
	c.want(200, "PUT", fmt.Sprintf("/api/v0/instances/recycle/%d/", id), "{}")
	if got := statuses(); got != "recycling loading running" {
		t.Errorf("recycle: %s", got)
	}
	if got := fmt.Sprint(c.show(id)["direct_port_start"]); got == "41022" {
		t.Error("a recycle left the ports as they were")
	}
	if want := []event{{id, "recycled"}, {id, account}, {id, attached}}; !slices.Equal(events, want) {
		t.Errorf("events of a recycle: %v", events)
	}
	move = "127.0.0.1:41099"
	a.Recycle(id)
	if i, _ := a.Get(id); i.Direct != move {
		t.Errorf("the hook moved the instance to %s, and it is at %s", move, i.Direct)
	}
	for verb, code := range map[string]string{"reboot": "invalid_args", "recycle": "invalid_id"} {
		if got := c.want(400, "PUT", "/api/v0/instances/"+verb+"/99/", "{}"); got["error"] != code {
			t.Errorf("%s of an unknown instance: %v", verb, got)
		}
	}
}

func TestDestroy(t *testing.T) {
	var destroyed []uint64
	a := simtest.Start(t, sim.Options{LingerReads: 2, OnChange: func(id uint64, c sim.Change) {
		if c == sim.Destroyed {
			destroyed = append(destroyed, id)
		}
	}})
	c := newClient(t, a)
	id := a.Add(sim.Instance{Direct: "127.0.0.1:41022"})
	if got := c.want(200, "DELETE", instancePath(id), "{}"); got["success"] != true {
		t.Fatalf("got %v", got)
	}
	if got := c.want(404, "DELETE", instancePath(id), "{}"); got["error"] != "no_such_instance" {
		t.Errorf("the second time: %v", got)
	}
	if row := c.show(id); row["cur_state"] != "unloaded" || row["ports"] != nil {
		t.Errorf("the row that lingers: %v", row)
	}
	if n := len(c.list()["instances"].([]any)); n != 1 {
		t.Errorf("%d rows linger", n)
	}
	if row := c.show(id); row != nil {
		t.Errorf("the row after its time: %v", row)
	}
	if _, found := a.Get(id); found || !slices.Equal(destroyed, []uint64{id}) {
		t.Errorf("found %v, destroyed %v", found, destroyed)
	}
	a = simtest.Start(t, sim.Options{Shapes: sim.Shapes{DestroyedIsNotFound: true}})
	if got := newClient(t, a).want(404, "DELETE", instancePath(id), ""); got["error"] != "not_found" {
		t.Errorf("the other shape: %v", got)
	}
}

func TestAccountKeys(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	c := newClient(t, a)
	if _, text := c.raw("GET", "/api/v0/ssh/", ""); text != "[]" {
		t.Errorf("no keys: %s", text)
	}
	key := publicKey(t, "me@laptop")
	created := c.want(200, "POST", "/api/v0/ssh/", sshKeyBody(t, key))["key"].(object)
	if created["public_key"] != key {
		t.Errorf("created %v", created)
	}
	again := strings.TrimSuffix(key, "me@laptop") + "other comment"
	got := c.want(400, "POST", "/api/v0/ssh/", sshKeyBody(t, again))
	if got["msg"] != "The SSH key already exists on this account" {
		t.Errorf("a second time: %v", got)
	}
	_, text := c.raw("GET", "/api/v0/ssh/", "")
	var list []object
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != 1 || list[0]["public_key"] != key {
		t.Errorf("list %s: %v", text, err)
	}
	path := fmt.Sprintf("/api/v0/ssh/%v/", created["id"])
	other := publicKey(t, "")
	c.want(200, "PUT", path, encode(t, object{"id": created["id"], "ssh_key": other}))
	if keys := a.AccountKeys(); len(keys) != 1 || keys[0].PublicKey != other {
		t.Errorf("after an update: %v", keys)
	}
	c.want(200, "DELETE", path, "{}")
	c.want(400, "DELETE", path, "{}")
	if keys := a.AccountKeys(); len(keys) != 0 {
		t.Errorf("after a deletion: %v", keys)
	}
}

func TestAccountKeyShapes(t *testing.T) {
	var arrived []string
	a := simtest.Start(t, sim.Options{
		Shapes:   sim.Shapes{KeyField: true, WrappedKeys: true, NoKeysIs404: true, KeysReachInstances: true},
		OnAttach: func(id uint64, key string) { arrived = append(arrived, fmt.Sprint(id, " ", key)) },
	})
	c := newClient(t, a)
	c.want(404, "GET", "/api/v0/ssh/", "")
	id, key := a.Add(sim.Instance{}), publicKey(t, "")
	c.want(200, "POST", "/api/v0/ssh/", sshKeyBody(t, key))
	list := c.want(200, "GET", "/api/v0/ssh/", "")["ssh_keys"].([]any)
	if len(list) != 1 || list[0].(object)["key"] != key {
		t.Errorf("list %v", list)
	}
	if want := fmt.Sprint(id, " ", key); len(arrived) != 1 || arrived[0] != want {
		t.Errorf("arrived %q, want %q", arrived, want)
	}
}

func TestTeamKey(t *testing.T) {
	a := simtest.Start(t, sim.Options{Keys: []sim.Key{{Value: secret.New("team"), Team: true}}})
	c := newClient(t, a)
	got := c.want(400, "POST", "/api/v0/ssh/", sshKeyBody(t, publicKey(t, "")))
	if got["error"] != "team_ssh_keys_not_supported" {
		t.Errorf("got %v", got)
	}
	id := a.Add(sim.Instance{})
	c.want(200, "POST", instancePath(id)+"ssh/", sshKeyBody(t, publicKey(t, "")))
}

func TestInstanceKeys(t *testing.T) {
	type event struct {
		id  uint64
		key string
	}
	var attached, detached []event
	a := simtest.Start(t, sim.Options{
		OnAttach: func(id uint64, key string) { attached = append(attached, event{id, key}) },
		OnDetach: func(id uint64, key string) { detached = append(detached, event{id, key}) },
	})
	c := newClient(t, a)
	id, key := a.Add(sim.Instance{}), publicKey(t, "my key")
	path := instancePath(id) + "ssh/"
	if got := c.want(200, "POST", path, sshKeyBody(t, key)); got["success"] != true {
		t.Fatalf("attach: %v", got)
	}
	got := c.want(200, "POST", path, sshKeyBody(t, key))
	if got["success"] != false || got["msg"] != "SSH key already associated with instance." {
		t.Errorf("attach again: %v", got)
	}
	text, isString := c.want(200, "GET", path, "")["ssh_keys"].(string)
	var list []struct {
		ID        uint64
		Name      string
		PublicKey string `json:"public_key"`
	}
	if err := json.Unmarshal([]byte(text), &list); !isString || err != nil || len(list) != 1 {
		t.Fatalf("list %q: %v", text, err)
	}
	if list[0].PublicKey != key || list[0].Name != "my key" {
		t.Errorf("list %v", list)
	}
	if keys := a.InstanceKeys(id); len(keys) != 1 || keys[0].ID != list[0].ID {
		t.Errorf("InstanceKeys: %v", keys)
	}
	one := fmt.Sprintf("%s%d/", path, list[0].ID)
	c.want(200, "DELETE", one, "{}")
	if got := c.want(404, "DELETE", one, "{}"); got["error"] != "no_such_ssh_key" {
		t.Errorf("detach again: %v", got)
	}
	for _, path := range []string{"/api/v0/instances/99/ssh/5/", "/api/v0/instances/99/ssh/"} {
		method, body := "DELETE", ""
		if strings.HasSuffix(path, "/ssh/") {
			method, body = "POST", sshKeyBody(t, key)
		}
		if got := c.want(404, method, path, body); got["error"] != "no_such_instance" {
			t.Errorf("%s %s: %v", method, path, got)
		}
	}
	if want := []event{{id, key}}; !slices.Equal(attached, want) || !slices.Equal(detached, want) {
		t.Errorf("attached %v, detached %v", attached, detached)
	}
}

func TestInstanceKeyShapes(t *testing.T) {
	a := simtest.Start(t, sim.Options{Shapes: sim.Shapes{InstanceKeysArray: true, DuplicateAttachIs400: true}})
	c := newClient(t, a)
	id, key := a.Add(sim.Instance{}), publicKey(t, "")
	path := instancePath(id) + "ssh/"
	c.want(200, "POST", path, sshKeyBody(t, key))
	c.want(400, "POST", path, sshKeyBody(t, key))
	if list := c.want(200, "GET", path, "")["ssh_keys"].([]any); len(list) != 1 {
		t.Errorf("list %v", list)
	}
}

// An instance can list the account keys that it was created with, and they leave it as they came.
func TestBornKeys(t *testing.T) {
	left := make(chan string, 1)
	a := simtest.Start(t, sim.Options{
		Shapes: sim.Shapes{BornKeysListed: true}, AttachDelay: time.Millisecond,
		OnDetach: func(_ uint64, key string) { left <- key },
	})
	c, key := newClient(t, a), publicKey(t, "")
	c.want(200, "POST", "/api/v0/ssh/", sshKeyBody(t, key))
	id := a.Add(sim.Instance{})
	keys := a.InstanceKeys(id)
	if len(keys) != 1 || keys[0].PublicKey != key || keys[0].ID == a.AccountKeys()[0].ID {
		t.Fatalf("keys %v", keys)
	}
	c.want(200, "DELETE", fmt.Sprintf("%sssh/%d/", instancePath(id), keys[0].ID), "{}")
	if got := <-left; got != key || len(a.InstanceKeys(id)) != 0 {
		t.Errorf("%q left, %v are there", got, a.InstanceKeys(id))
	}
}

// A key takes its time to the instance, and Close does not wait for it, nor does the hook run after Close.
func TestAttachDelay(t *testing.T) {
	arrived := make(chan string, 1)
	opts := sim.Options{AttachDelay: time.Millisecond, OnAttach: func(_ uint64, key string) { arrived <- key }}
	a := simtest.Start(t, opts)
	id, key := a.Add(sim.Instance{}), publicKey(t, "")
	newClient(t, a).want(200, "POST", instancePath(id)+"ssh/", sshKeyBody(t, key))
	if got := <-arrived; got != key {
		t.Errorf("arrived %q", got)
	}
	opts.AttachDelay = time.Hour
	a = simtest.Start(t, opts)
	id = a.Add(sim.Instance{})
	newClient(t, a).want(200, "POST", instancePath(id)+"ssh/", sshKeyBody(t, key))
	a.Close()
	if len(arrived) > 0 {
		t.Error("the key arrived an hour early")
	}
}

func TestLogs(t *testing.T) {
	a := simtest.Start(t, sim.Options{LogReads: 2})
	c := newClient(t, a)
	id := a.Add(sim.Instance{
		Log: "one\ntwo KEY\n" + strings.Repeat("x", 600) + "\nthree KEY\n", DaemonLog: "daemon\n", Walk: []string{"loading"},
	})
	fetch := func(body string) string {
		t.Helper()
		where := c.want(200, "PUT", fmt.Sprintf("/api/v0/instances/request_logs/%d/", id), body)["result_url"].(string)
		path, onServer := strings.CutPrefix(where, a.URL())
		if !onServer || !strings.HasPrefix(path, "/instance_logs/") {
			t.Fatalf("result_url %q", where)
		}
		anonymous := &client{t: t, url: c.url}
		for range 2 {
			if status, text := anonymous.raw("GET", path, ""); status != 403 || !strings.Contains(text, "AccessDenied") {
				t.Fatalf("too early: %d %s", status, text)
			}
		}
		status, text := anonymous.raw("GET", path, "")
		if status != 200 {
			t.Fatalf("in time: %d %s", status, text)
		}
		return text
	}
	if got, want := fetch("{}"), fmt.Sprintf("Error response from daemon: No such container: C.%d\n", id); got != want {
		t.Errorf("while loading: %q", got)
	}
	c.show(id)
	for body, want := range map[string]string{
		"":                                "one\ntwo KEY\n" + strings.Repeat("x", 500) + "\nthree KEY\n",
		`{"tail": "1"}`:                   "three KEY\n",
		`{"filter": "KEY"}`:               "two KEY\nthree KEY\n",
		`{"tail": "2", "filter": "KEY"}`:  "three KEY\n",
		`{"daemon_logs": "true"}`:         "daemon\n",
		`{"tail": "1000", "filter": "y"}`: "",
	} {
		if got := fetch(body); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	if got := c.want(404, "PUT", "/api/v0/instances/request_logs/99/", "{}"); got["error"] != "invalid_id" {
		t.Errorf("an unknown instance: %v", got)
	}
	c.want(200, "PUT", fmt.Sprintf("/api/v0/instances/request_logs/%d", id), "{}")
	if got := a.Count(sim.LogsEndpoint); got != 9 {
		t.Errorf("%d requests for logs counted", got)
	}
}

func TestLogThatNeverComes(t *testing.T) {
	a := simtest.Start(t, sim.Options{LogReads: -1})
	c := newClient(t, a)
	id := a.Add(sim.Instance{})
	where := c.want(200, "PUT", fmt.Sprintf("/api/v0/instances/request_logs/%d/", id), "{}")["result_url"].(string)
	anonymous := &client{t: t, url: where}
	for range 5 {
		if status, _ := anonymous.raw("GET", "", ""); status != 403 {
			t.Fatalf("status %d", status)
		}
	}
}

func TestExecute(t *testing.T) {
	var ran []string
	a := simtest.Start(t, sim.Options{BootReads: 1, OnCommand: func(_ uint64, command string) string {
		ran = append(ran, command)
		return "total 0\n"
	}})
	c := newClient(t, a)
	id := a.Add(sim.Instance{})
	path := fmt.Sprintf("/api/v0/instances/command/%d/", id)
	refused := c.want(400, "PUT", path, `{"command": "ls -l"}`)["msg"].(string)
	if !strings.Contains(refused, "only avail on stopped instances") {
		t.Errorf("running: %s", refused)
	}
	c.want(200, "PUT", instancePath(id), `{"state": "stopped"}`)
	// The contract has stopped, the container has not yet.
	c.want(400, "PUT", path, `{"command": "ls -l"}`)
	c.show(id)
	for _, command := range []string{"cat /etc/passwd", "", "rm " + strings.Repeat("x", 510)} {
		if got := c.want(400, "PUT", path, encode(t, object{"command": command})); got["error"] != "invalid_args" {
			t.Errorf("%.20s: %v", command, got)
		}
	}
	got := c.want(200, "PUT", path, `{"command": "ls -l"}`)
	anonymous := &client{t: t, url: got["result_url"].(string)}
	if status, _ := anonymous.raw("GET", "", ""); status != 403 {
		t.Errorf("too early: %d", status)
	}
	if status, text := anonymous.raw("GET", "", ""); status != 200 || text != "total 0\n" || got["writeable_path"] == "" {
		t.Errorf("got %d %q, %v", status, text, got)
	}
	if !slices.Equal(ran, []string{"ls -l"}) {
		t.Errorf("ran %q", ran)
	}
	c.want(400, "PUT", "/api/v0/instances/command/99/", `{"command": "ls"}`)
}

func TestBadKey(t *testing.T) {
	for status, shapes := range map[int]sim.Shapes{401: {}, 404: {BadKeyIs404: true}} {
		a := simtest.Start(t, sim.Options{Shapes: shapes})
		id := a.Add(sim.Instance{})
		for _, key := range []string{"", "wrong"} {
			c := &client{t: t, url: a.URL(), key: key}
			if got := c.want(status, "DELETE", instancePath(id), "{}"); got["error"] != "auth_error" || got["success"] != false {
				t.Errorf("%q: %v", key, got)
			}
		}
		if _, found := a.Get(id); !found {
			t.Error("a bad key destroyed an instance")
		}
		for _, r := range a.Ledger() {
			if r.Bearer {
				t.Errorf("the ledger believes a bad key: %v", r)
			}
		}
	}
}

func TestScopes(t *testing.T) {
	a := simtest.Start(t, sim.Options{Keys: []sim.Key{
		{Value: secret.New("all")}, {Value: secret.New("reader"), Scopes: []sim.Scope{sim.InstanceRead}},
	}})
	id := a.Add(sim.Instance{})
	reader := &client{t: t, url: a.URL(), key: "reader"}
	reader.list()
	reader.show(id)
	reader.want(200, "PUT", fmt.Sprintf("/api/v0/instances/request_logs/%d/", id), "{}")
	for _, request := range [][2]string{
		{"DELETE", instancePath(id)}, {"PUT", instancePath(id)}, {"POST", instancePath(id) + "ssh/"},
		{"GET", "/api/v0/ssh/"}, {"POST", "/api/v0/ssh/"}, {"GET", "/api/v0/users/current/"},
	} {
		if got := reader.want(403, request[0], request[1], ""); got["success"] != false {
			t.Errorf("%v: %v", request, got)
		}
	}
	newClient(t, a).want(200, "GET", "/api/v0/gpu_names/unique/", "")
	newClient(t, a).want(200, "GET", "/api/v0/users/current", "")
	user := newClient(t, a).want(200, "GET", "/api/v0/users/current/", "")
	if user["email"] != "someone@example.com" || user["api_key"] != nil {
		t.Errorf("user %v", user)
	}
}

func TestRateLimits(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a := simtest.Start(t, sim.Options{
		Keys: []sim.Key{{Value: secret.New("one")}, {Value: secret.New("two")}},
		Pace: 0.5, Now: func() time.Time { return now },
	})
	c := newClient(t, a)
	id := a.Add(sim.Instance{})
	c.show(id)
	status, header, text := c.full("GET", instancePath(id), "")
	if status != 429 || text != "API requests too frequent: endpoint threshold=2.0" || header.Get("Retry-After") != "" {
		t.Errorf("too soon: %d %q %v", status, text, header)
	}
	if kind := header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
		t.Errorf("content type %q", kind)
	}
	// Another endpoint and another identity have intervals of their own.
	c.list()
	(&client{t: t, url: a.URL(), key: "two"}).show(id)
	now = now.Add(999 * time.Millisecond)
	if status, _ := c.raw("GET", instancePath(id), ""); status != 429 {
		t.Errorf("a millisecond too soon: %d", status)
	}
	now = now.Add(time.Millisecond)
	c.show(id)

	a = simtest.Start(t, sim.Options{Pace: 1000, Shapes: sim.Shapes{ThrottleJSON: true}})
	c = newClient(t, a)
	c.want(404, "DELETE", instancePath(9), "{}")
	got := c.want(429, "DELETE", instancePath(9), "{}")
	if got["detail"] != "API requests too frequent endpoint threshold=3.0" {
		t.Errorf("as JSON: %v", got)
	}
}

func TestFaults(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	c := newClient(t, a)
	id := a.Add(sim.Instance{})
	a.Fault(sim.Fault{Endpoint: sim.ShowEndpoint, Status: 503, Body: "sorry", Times: 2})
	a.Fault(sim.Fault{Method: "GET", Path: "/api/v0/instances/", Garbage: true})
	a.Fault(sim.Fault{Endpoint: sim.DestroyEndpoint, Late: true, Status: 500, Body: `{"success":false}`})
	a.Fault(sim.Fault{Endpoint: sim.ListEndpoint, Delay: time.Millisecond})
	for range 2 {
		if status, text := c.raw("GET", instancePath(id), ""); status != 503 || text != "sorry" {
			t.Errorf("got %d %q", status, text)
		}
	}
	if status, text := c.raw("GET", instancePath(id), ""); status != 200 || json.Valid([]byte(text)) {
		t.Errorf("got %d %q", status, text)
	}
	c.show(id)
	c.list()
	if _, found := a.Get(id); !found {
		t.Fatal("destroyed early")
	}
	c.want(500, "DELETE", instancePath(id), "{}")
	if _, found := a.Get(id); found {
		t.Error("a late fault did not carry the request out")
	}
	if left := a.PendingFaults(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	var faults int
	for _, r := range a.Ledger() {
		if r.Fault {
			faults++
		}
	}
	if faults != 4 || a.Count(sim.ShowEndpoint) != 4 {
		t.Errorf("%d faults in the ledger, %d shows", faults, a.Count(sim.ShowEndpoint))
	}
}

func TestHangAndDrop(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	get := func() error {
		// A connection of its own: Go repeats a request whose reused connection was dropped.
		transport := &http.Transport{DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: transport}).Get(a.URL() + "/api/v1/instances/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	a.Fault(sim.Fault{Endpoint: sim.ListEndpoint, Drop: true})
	if err := get(); err == nil {
		t.Error("a dropped connection answered")
	}
	if err := get(); err != nil {
		t.Errorf("after the fault: %v", err)
	}

	a.Fault(sim.Fault{Hang: true, Times: -1})
	hanging := make(chan error)
	go func() { hanging <- get() }()
	for a.Count(sim.ListEndpoint) < 3 {
		time.Sleep(time.Millisecond)
	}
	a.Close()
	if err := <-hanging; err == nil {
		t.Error("a hanging request was answered")
	}
	if last := a.Ledger()[2]; last.Status != 0 || !last.Fault {
		t.Errorf("ledger: %v", last)
	}
}

// A fault skips its share, and one with Halt stops the account until Resume.
func TestSkipAndHalt(t *testing.T) {
	a := simtest.Start(t, sim.Options{})
	status := func() int {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", a.URL()+"/api/v1/instances/", nil)
		if err != nil {
			t.Fatal(err)
		}
		seen := len(a.Ledger())
		answered := make(chan int, 1)
		go func() {
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				answered <- 0
				return
			}
			resp.Body.Close()
			answered <- resp.StatusCode
		}()
		for len(a.Ledger()) == seen {
			time.Sleep(time.Millisecond)
		}
		if last := a.Ledger()[seen]; last.Fault && last.Status == 0 {
			cancel() // it hangs
		}
		return <-answered
	}
	a.Fault(sim.Fault{Endpoint: sim.ListEndpoint, Skip: 1, Hang: true, Halt: true})
	for i, want := range []int{401, 0, 0, 0} {
		if got := status(); got != want {
			t.Errorf("request %d: status %d, want %d", i, got, want)
		}
	}
	a.Resume()
	if got := status(); got != 401 {
		t.Errorf("after Resume: status %d", got)
	}
}

func TestUnexpected(t *testing.T) {
	a := sim.NewAccount(sim.Options{Keys: []sim.Key{{Value: secret.New("canary-key")}}})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	c := newClient(t, a)
	id := a.Add(sim.Instance{})
	key := publicKey(t, "")
	for i, test := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/", "", 404},
		{"GET", "/api/v0/instances/1", "", 404},
		{"GET", "/api/v0/instances/x/", "", 404},
		{"GET", "/api/v0//instances/1/", "", 404},
		{"GET", "/api/v0/canary-key/", "", 404},
		{"PATCH", "/api/v0/instances/1/", "", 405},
		{"GET", "/api/v1/instances/?color=red", "", 400},
		{"GET", "/api/v1/instances/?limit=1&limit=2", "", 400},
		{"GET", "/api/v1/instances/", "{}", 400},
		{"GET", "/api/v1/instances/?api_key=canary-key", "", 200},
		{"PUT", instancePath(id), `{"state": "exploded"}`, 400},
		{"PUT", instancePath(id), `{"state": "running", "label": "x"}`, 400},
		{"PUT", instancePath(id), `{"colour": "red"}`, 400},
		{"PUT", instancePath(id), `nonsense`, 400},
		{"DELETE", instancePath(id), `{"force": true}`, 400},
		{"DELETE", instancePath(id), strings.Repeat(" ", 70_000), 413},
		{"POST", "/api/v0/ssh/", "{}", 400},
		{"POST", "/api/v0/ssh/", `{"ssh_key": "~/.ssh/id_ed25519.pub"}`, 400},
		{"POST", "/api/v0/ssh/", encode(t, object{"ssh_key": key + "\n" + key}), 400},
		{"POST", "/api/v0/ssh/", encode(t, object{"ssh_key": key, "id": 3}), 400},
		{"POST", instancePath(id) + "ssh/", `{"ssh_key": "-----BEGIN OPENSSH PRIVATE KEY-----"}`, 400},
		{"PUT", fmt.Sprintf("/api/v0/instances/command/%d/", id), `{`, 483},
		{"PUT", fmt.Sprintf("/api/v0/instances/request_logs/%d/", id), `{"tail": 1000}`, 400},
		{"GET", "/instance_logs/x.log", "", 400},
	} {
		if status, text := c.raw(test.method, test.path, test.body); status != test.status {
			t.Errorf("%s %s: status %d, want %d: %s", test.method, test.path, status, test.status, text)
		}
		if n := len(a.Unexpected()); n != i+1 {
			t.Fatalf("%s %s %s was expected", test.method, test.path, test.body)
		}
	}
	if _, found := a.Get(id); !found {
		t.Error("an unexpected request destroyed the instance")
	}
	for _, r := range a.Ledger() {
		if text := fmt.Sprintf("%+v", r); strings.Contains(text, "canary-key") {
			t.Errorf("the ledger holds the key: %s", text)
		}
	}
}

func TestStartAndClose(t *testing.T) {
	a := sim.NewAccount(sim.Options{})
	a.Close()
	if err := a.Start(); err == nil {
		t.Error("started after Close")
	}
	a = sim.NewAccount(sim.Options{})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err == nil {
		t.Error("started twice")
	}
	if len(a.Key().Reveal()) != 64 || !bytes.HasPrefix([]byte(a.URL()), []byte("http://127.0.0.1:")) {
		t.Errorf("key of %d characters, URL %s", len(a.Key().Reveal()), a.URL())
	}
	a.Close()
	a.Close()
	if resp, err := http.Get(a.URL()); err == nil {
		resp.Body.Close()
		// Its port may be another's by now.
		if len(a.Ledger()) > 0 {
			t.Error("a closed account answers")
		}
	}
}
