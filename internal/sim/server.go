package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBody is more than any request of the API needs.
const maxBody = 64 << 10

// route is an endpoint: who may call it, how often, with which query, and what it does.
type route struct {
	endpoint Endpoint
	scope    Scope
	// interval is the least time between two requests of one identity, from the threshold in the API reference.
	interval time.Duration
	query    []string
	// open needs no key.
	open bool
	// slashless may be called without the slash at the end too.
	slashless bool
	serve     func(*Account, *call) reply
}

const second = time.Second

// The intervals of request_logs, attach and the reads of keys are not documented; one second is what most endpoints
// have. Of the two paths without a slash at the end, one is written so in the reference, one in the official tool.
var routes = []route{
	{endpoint: OldListEndpoint, scope: InstanceRead, interval: second, query: ownerQuery, serve: (*Account).oldList},
	{endpoint: ListEndpoint, scope: InstanceRead, interval: second, query: listQuery, serve: (*Account).list},
	{endpoint: ShowEndpoint, scope: InstanceRead, interval: 2 * second, query: ownerQuery, serve: (*Account).show},
	{endpoint: ManageEndpoint, scope: InstanceWrite, interval: second, serve: (*Account).manage},
	{endpoint: DestroyEndpoint, scope: InstanceWrite, interval: 3 * second, serve: (*Account).destroy},
	{endpoint: RebootEndpoint, scope: InstanceWrite, interval: second, serve: (*Account).rebootInstance},
	{endpoint: RecycleEndpoint, scope: InstanceWrite, interval: second, serve: (*Account).recycleInstance},
	{endpoint: ExecuteEndpoint, scope: InstanceWrite, interval: 3 * second / 2, serve: (*Account).execute},
	{endpoint: LogsEndpoint, scope: InstanceRead, interval: second, slashless: true, serve: (*Account).requestLogs},
	{endpoint: ResultEndpoint, open: true, serve: (*Account).result},
	{endpoint: KeysEndpoint, scope: InstanceRead, interval: second, serve: (*Account).listInstanceKeys},
	{endpoint: AttachEndpoint, scope: InstanceWrite, interval: second, serve: (*Account).attach},
	{endpoint: DetachEndpoint, scope: InstanceWrite, interval: 2 * second, serve: (*Account).detach},
	{endpoint: AccountKeysEndpoint, scope: UserRead, interval: second, serve: (*Account).listAccountKeys},
	{endpoint: AddAccountKeyEndpoint, scope: UserWrite, interval: second, serve: (*Account).addAccountKey},
	{endpoint: UpdateAccountKeyEndpoint, scope: UserWrite, interval: second, serve: (*Account).updateAccountKey},
	{endpoint: DeleteAccountKeyEndpoint, scope: UserWrite, interval: second, serve: (*Account).deleteAccountKey},
	{endpoint: VolumesEndpoint, scope: InstanceRead, interval: second, query: []string{"owner", "type"}, slashless: true, serve: (*Account).listVolumes},
	{endpoint: JobsEndpoint, scope: InstanceRead, interval: second, serve: (*Account).listJobs},
	{endpoint: DropJobEndpoint, scope: InstanceWrite, interval: second, serve: (*Account).dropJob},
	{endpoint: CurrentUserEndpoint, scope: UserRead, interval: second, slashless: true, serve: (*Account).currentUser},
	{endpoint: GPUNamesEndpoint, open: true, serve: (*Account).gpuNames},
}

// ownerQuery is the parameter that the official tool adds.
var ownerQuery = []string{"owner"}

// call is a request on its way through an endpoint.
type call struct {
	*http.Request
	route *route
	vars  map[string]string
	query url.Values
	body  []byte
	key   *Key
	// after are hooks to run when the account's lock is free again.
	after []func()
	// unexpected is the reason of Request.Unexpected.
	unexpected string
}

// id is the instance in the path. It is 0, which is nobody's, if the path holds no number.
func (c *call) id() uint64 {
	id, _ := strconv.ParseUint(c.vars["id"], 10, 64)
	return id
}

func (c *call) keyID() uint64 {
	id, _ := strconv.ParseUint(c.vars["key"], 10, 64)
	return id
}

// decode reads the body into v, whose fields are all that the endpoint knows.
func (c *call) decode(v any) bool {
	d := json.NewDecoder(bytes.NewReader(c.body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil && d.More() {
		err = fmt.Errorf("more than one value")
	}
	if err != nil {
		// The text of the error could hold a part of the body, which may be a secret.
		c.unexpected = "a body of another form"
		return false
	}
	return true
}

// reply is an answer: JSON of value, or text if value is nil.
type reply struct {
	status int
	value  any
	text   string
	// kind is the content type of text.
	kind string
}

type jsonObject = map[string]any

func ok(value any) reply { return reply{status: http.StatusOK, value: value} }

func success(msg string) reply {
	if msg == "" {
		return ok(jsonObject{"success": true})
	}
	return ok(jsonObject{"success": true, "msg": msg})
}

func refuse(status int, code, msg string) reply {
	return reply{status: status, value: jsonObject{"success": false, "error": code, "msg": msg}}
}

func noSuchInstance() reply {
	return refuse(http.StatusNotFound, "no_such_instance", "Instance not found.")
}

func (a *Account) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if !a.begin() {
		panic(http.ErrAbortHandler)
	}
	defer a.working.Done()
	c := &call{Request: r}
	entry := Request{At: a.opts.Now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Endpoint: OtherEndpoint}
	var methodKnown bool
	c.route, c.vars, methodKnown = find(r.Method, r.URL.Path)
	if c.route != nil {
		entry.Endpoint = c.route.endpoint
	}
	c.key, entry.Bearer = a.authenticate(c)
	// Read before any wait: the server notices only after the body that a client went away.
	var cut error
	c.body, cut = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))

	fault := a.takeFault(r, entry.Endpoint)
	entry.Fault = fault != nil && !fault.passes()
	if fault != nil && fault.Delay > 0 && !a.wait(r.Context(), fault.Delay) {
		a.record(entry)
		panic(http.ErrAbortHandler)
	}
	var answer reply
	if !entry.Fault || fault.Late {
		answer = a.answer(c, methodKnown, cut)
		entry.Unexpected = c.unexpected
		runAll(c.after)
	}
	if entry.Fault {
		switch {
		case fault.Hang || fault.Drop:
			a.record(entry)
			if fault.Hang {
				a.wait(r.Context(), -1)
			}
			panic(http.ErrAbortHandler)
		case fault.Garbage:
			answer = reply{status: http.StatusOK, text: "<html>\x00\xff{\"instances\":", kind: "application/json"}
		default:
			answer = reply{status: fault.Status, text: fault.Body, kind: contentType(fault.Body)}
		}
	}
	entry.Status = answer.status
	// Recorded first, so that whoever has the answer finds the request in the ledger.
	a.record(entry)
	answer.write(w)
}

func contentType(body string) string {
	if json.Valid([]byte(body)) {
		return "application/json"
	}
	return "text/plain; charset=utf-8"
}

func (r reply) write(w http.ResponseWriter) {
	body, kind := []byte(r.text), r.kind
	if r.value != nil {
		kind = "application/json"
		var err error
		if body, err = json.Marshal(r.value); err != nil {
			panic(err)
		}
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(r.status)
	w.Write(body)
}

// find looks a request up. Without a route, known says that the path is one of another method.
func find(method, path string) (_ *route, vars map[string]string, known bool) {
	for i := range routes {
		m, pattern, _ := strings.Cut(string(routes[i].endpoint), " ")
		vars, fits := match(pattern, path)
		if !fits && routes[i].slashless {
			vars, fits = match(strings.TrimSuffix(pattern, "/"), path)
		}
		if fits && m == method {
			return &routes[i], vars, true
		}
		known = known || fits
	}
	return nil, nil, known
}

// match compares a path with a pattern in which {object} is a word and any other {name} a number.
func match(pattern, path string) (map[string]string, bool) {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return nil, false
	}
	vars := make(map[string]string)
	for i, w := range want {
		name, variable := strings.CutPrefix(w, "{")
		name = strings.TrimSuffix(name, "}")
		switch {
		case !variable && w != got[i]:
			return nil, false
		case variable && name != "object":
			if _, err := strconv.ParseUint(got[i], 10, 64); err != nil {
				return nil, false
			}
		}
		if variable {
			vars[name] = got[i]
		}
	}
	return vars, true
}

// authenticate returns the key of a request, or nil, and whether it is valid and came in the header.
func (a *Account) authenticate(c *call) (key *Key, bearer bool) {
	text, bearer := strings.CutPrefix(c.Header.Get("Authorization"), "Bearer ")
	if query := c.URL.Query(); query.Has("api_key") {
		c.unexpected = "an API key in the URL"
		if !bearer {
			text = query.Get("api_key")
		}
	}
	for i := range a.opts.Keys {
		if text != "" && a.opts.Keys[i].Value.Reveal() == text {
			return &a.opts.Keys[i], bearer
		}
	}
	return nil, false
}

// answer answers a request that met no fault. The error cut is that of reading its body.
func (a *Account) answer(c *call, methodKnown bool, cut error) reply {
	if c.route == nil {
		c.unexpected = "an unknown path"
		if methodKnown {
			c.unexpected = "a method that the path does not have"
			return refuse(http.StatusMethodNotAllowed, "method_not_allowed", "The method is not allowed for the requested URL.")
		}
		return refuse(http.StatusNotFound, "not_found", "The requested URL was not found on the server.")
	}
	if !c.route.open {
		if c.key == nil {
			status := http.StatusUnauthorized
			if a.opts.Shapes.BadKeyIs404 {
				status = http.StatusNotFound
			}
			return refuse(status, "auth_error", "Invalid user key")
		}
		if len(c.key.Scopes) > 0 && !slices.Contains(c.key.Scopes, c.route.scope) {
			msg := "Your API key does not have the permission " + string(c.route.scope) + "."
			return refuse(http.StatusForbidden, "not_authorized", msg)
		}
	}
	if cut != nil {
		c.unexpected = "a body that is too long or was cut"
		return refuse(http.StatusRequestEntityTooLarge, "invalid_args", "Request body too large.")
	}
	if reason := c.checkQuery(); reason != "" {
		c.unexpected = reason
		return refuse(http.StatusBadRequest, "invalid_request", "Invalid request parameters")
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tooSoon(c) {
		text := fmt.Sprintf("API requests too frequent: endpoint threshold=%.1f", c.route.interval.Seconds())
		if a.opts.Shapes.ThrottleJSON {
			return reply{status: http.StatusTooManyRequests, value: jsonObject{"detail": strings.Replace(text, ":", "", 1)}}
		}
		return reply{status: http.StatusTooManyRequests, text: text, kind: "text/plain; charset=utf-8"}
	}
	return c.route.serve(a, c)
}

// checkQuery reads the query, and says what no client should send.
func (c *call) checkQuery() string {
	var err error
	if c.query, err = url.ParseQuery(c.URL.RawQuery); err != nil {
		return "a query that cannot be read"
	}
	for name, values := range c.query {
		if name != "api_key" && !slices.Contains(c.route.query, name) || len(values) != 1 {
			return fmt.Sprintf("an unknown or repeated parameter %q", name)
		}
	}
	if c.Method == http.MethodGet && len(c.body) > 0 {
		return "a GET with a body"
	}
	return ""
}

// visit is what the API counts the time between: an endpoint and an identity.
type visit struct {
	endpoint Endpoint
	key      *Key
	ip       string
}

// maxVisits bounds the memory of visits, since the number of client addresses is not ours.
const maxVisits = 10_000

// tooSoon reports whether the request comes before the endpoint's interval is over, counted from the last one that
// was let through. It needs mu.
func (a *Account) tooSoon(c *call) bool {
	interval := time.Duration(float64(c.route.interval) * a.opts.Pace)
	if interval <= 0 {
		return false
	}
	ip, _, _ := net.SplitHostPort(c.RemoteAddr)
	v := visit{endpoint: c.route.endpoint, key: c.key, ip: ip}
	now := a.opts.Now()
	if last, seen := a.last[v]; seen && now.Sub(last) < interval {
		return true
	}
	if len(a.last) >= maxVisits {
		clear(a.last)
	}
	a.last[v] = now
	return false
}
