package sim

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// object is a text in the store of logs.
type object struct {
	text string
	// early is how often it is still asked for too early; negative is for ever.
	early int
}

// maxObjects bounds the store.
const maxObjects = 1000

// maxLogLine is where the store cuts the lines of a log, in bytes.
const maxLogLine = 500

// newObject returns the name of an object to come and its URL. It needs mu.
func (a *Account) newObject() (name, url string) {
	name = randomHex(20) + ".log"
	return name, a.url + "/instance_logs/" + name
}

// store keeps an object. It needs mu.
func (a *Account) store(name, text string) {
	if len(a.objects) >= maxObjects {
		clear(a.objects)
	}
	a.objects[name] = &object{text: text, early: a.opts.LogReads}
}

// result is the store: S3, which knows no API keys, and does not tell a missing object from a forbidden one.
func (a *Account) result(c *call) reply {
	const kind = "application/xml"
	if c.Header.Get("Authorization") != "" {
		c.unexpected = "an API key shown to the store of logs"
		return reply{status: http.StatusBadRequest, kind: kind,
			text: "<Error><Code>InvalidArgument</Code><Message>Unsupported Authorization Type</Message></Error>"}
	}
	o := a.objects[c.vars["object"]]
	if o == nil || o.early != 0 {
		if o != nil && o.early > 0 {
			o.early--
		}
		return reply{status: http.StatusForbidden, kind: kind,
			text: "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"}
	}
	return reply{status: http.StatusOK, kind: "text/plain", text: o.text}
}

func (a *Account) requestLogs(c *call) reply {
	var body struct {
		Tail   string `json:"tail"`
		Filter string `json:"filter"`
		Daemon string `json:"daemon_logs"`
	}
	if len(c.body) > 0 && !c.decode(&body) {
		return refuse(http.StatusBadRequest, "invalid_args", "Invalid request parameters")
	}
	tail := -1
	if body.Tail != "" {
		n, err := strconv.Atoi(body.Tail)
		if err != nil || n < 0 {
			c.unexpected = "a tail that is no number"
			return refuse(http.StatusBadRequest, "invalid_args", "Invalid request parameters")
		}
		tail = n
	}
	row := a.live(c)
	if row == nil {
		return reply{status: http.StatusNotFound, value: jsonObject{"error": "invalid_id", "msg": "Invalid instance id."}}
	}
	text := row.Log
	switch {
	case body.Daemon == "true":
		text = row.DaemonLog
	case row.booting():
		text = fmt.Sprintf("Error response from daemon: No such container: C.%d\n", row.ID)
	}
	name, url := a.newObject()
	a.store(name, selectLines(text, tail, body.Filter))
	return ok(jsonObject{
		"success": true, "result_url": url,
		"msg": "Log request sent, wait a few seconds and then view",
	})
}

// selectLines returns the last lines of a text that contain the filter, cut to their greatest length.
func selectLines(text string, tail int, filter string) string {
	lines := slices.Collect(strings.Lines(text))
	if tail >= 0 && len(lines) > tail {
		lines = lines[len(lines)-tail:]
	}
	var out strings.Builder
	for _, line := range lines {
		if !strings.Contains(line, filter) {
			continue
		}
		line = strings.TrimSuffix(line, "\n")
		out.WriteString(line[:min(len(line), maxLogLine)])
		out.WriteByte('\n')
	}
	return out.String()
}

const (
	maxCommand    = 512
	writeablePath = "/var/lib/docker/overlay2/simulated/diff"
)

// execute answers the endpoint that is not a shell: three commands, on a stopped instance, without an exit status.
func (a *Account) execute(c *call) reply {
	var body struct {
		Command string `json:"command"`
	}
	if !c.decode(&body) {
		// The only endpoint with a status of its own for this.
		return refuse(483, "invalid_args", "Invalid json_body")
	}
	row := a.live(c)
	if row == nil {
		return refuse(http.StatusBadRequest, "invalid_container_id", "Invalid container id.")
	}
	if row.Current != "stopped" || row.shown() == "running" {
		return refuse(http.StatusBadRequest, "invalid_args",
			"Execute command only avail on stopped instances. Use ssh to run commands on running instances.")
	}
	words := strings.Fields(body.Command)
	if len(body.Command) > maxCommand || len(words) == 0 || !slices.Contains([]string{"ls", "rm", "du"}, words[0]) {
		return refuse(http.StatusBadRequest, "invalid_args", "Invalid command given.")
	}
	name, url := a.newObject()
	id, command := row.ID, body.Command
	c.after = append(c.after, func() {
		var output string
		if a.opts.OnCommand != nil {
			output = a.opts.OnCommand(id, command)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.store(name, output)
	})
	return ok(jsonObject{
		"success": true, "writeable_path": writeablePath, "result_url": url,
		"msg": "Command is executing, wait a few seconds and then view",
	})
}
