package sim

import (
	"net/http"
	"strings"
)

func (a *Account) oldList(c *call) reply {
	r := reply{status: http.StatusGone, value: jsonObject{
		"success": false, "error": "deprecated_endpoint",
		"msg": "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead.",
	}}
	if a.opts.Shapes.OldListOK {
		r.status = http.StatusOK
	}
	return r
}

// read returns the row of an instance to a reader, and lets time pass for it: its walk goes on, and a destroyed
// one comes nearer to its end. It needs mu.
func (a *Account) read(row *instance, byID bool) jsonObject {
	columns := a.columns(row, byID)
	if len(row.Walk) > 0 {
		row.Walk = row.Walk[1:]
	}
	if row.destroyed {
		if row.linger--; row.linger <= 0 {
			delete(a.instances, row.ID)
		}
	}
	return columns
}

func (a *Account) show(c *call) reply {
	row := a.instances[c.id()]
	if row == nil {
		if a.opts.Shapes.GoneIs404 {
			return noSuchInstance()
		}
		return ok(jsonObject{"instances": nil})
	}
	return ok(jsonObject{"instances": a.read(row, true)})
}

// live returns the instance of the path unless it is gone, destroyed ones included.
func (a *Account) live(c *call) *instance {
	if row := a.instances[c.id()]; row != nil && !row.destroyed {
		return row
	}
	return nil
}

// maxLabel is the longest label, in bytes.
const maxLabel = 1024

func (a *Account) manage(c *call) reply {
	var body struct {
		State *string `json:"state"`
		Label *string `json:"label"`
	}
	if !c.decode(&body) {
		return refuse(http.StatusBadRequest, "invalid_args", "Invalid request parameters")
	}
	row := a.live(c)
	if row == nil {
		return noSuchInstance()
	}
	switch {
	case body.Label != nil && body.State == nil:
		if len(*body.Label) > maxLabel {
			return refuse(http.StatusBadRequest, "label_too_long", "Label is too long.")
		}
		row.Label = *body.Label
	case body.State != nil && body.Label == nil && *body.State == "running":
		a.start(c, row)
	case body.State != nil && body.Label == nil && *body.State == "stopped":
		a.stop(c, row)
	default:
		c.unexpected = "neither a state nor a label"
		return refuse(http.StatusBadRequest, "invalid_args", "Invalid request parameters")
	}
	return success("")
}

func (a *Account) start(c *call, row *instance) {
	if row.Intended == "running" && row.Current == "running" {
		return
	}
	row.Intended, row.Current, row.Next = "running", "running", "running"
	a.walk(row, "running", "loading")
	c.after = append(c.after, func() { a.changed(row.ID, Started) })
}

func (a *Account) stop(c *call, row *instance) {
	if row.Intended == "stopped" && row.Current == "stopped" {
		return
	}
	// The contract stops before the container does.
	row.Intended, row.Current, row.Next = "stopped", "stopped", "stopped"
	stopped := "stopped"
	if a.opts.Shapes.StoppedIsExited {
		stopped = "exited"
	}
	a.walk(row, stopped, "running")
	c.after = append(c.after, func() { a.changed(row.ID, Stopped) })
}

func (a *Account) destroy(c *call) reply {
	if !c.empty() {
		return refuse(http.StatusBadRequest, "invalid_args", "Invalid request parameters")
	}
	row := a.live(c)
	if row == nil {
		if a.opts.Shapes.DestroyedIsNotFound {
			return refuse(http.StatusNotFound, "not_found", "Instance not found")
		}
		return noSuchInstance()
	}
	row.destroyed, row.linger = true, a.opts.LingerReads
	row.Intended, row.Current, row.Next = "stopped", "unloaded", "unloaded"
	row.Status, row.Walk = "stopped", nil
	if row.linger <= 0 {
		delete(a.instances, row.ID)
	}
	c.after = append(c.after, func() { a.changed(row.ID, Destroyed) })
	return success("Instance destroyed successfully")
}

// empty reports whether the body is an empty object or nothing, which is what a verb without arguments sends.
func (c *call) empty() bool {
	var none struct{}
	return len(c.body) == 0 || c.decode(&none)
}

func (a *Account) rebootInstance(c *call) reply {
	if !c.empty() {
		return refuse(http.StatusBadRequest, "invalid_args", "Invalid request parameters")
	}
	row := a.live(c)
	if row == nil {
		return refuse(http.StatusBadRequest, "invalid_args", "invalid instance_id")
	}
	a.walk(row, "running", "rebooting")
	c.after = append(c.after, func() { a.changed(row.ID, Rebooted) })
	return success("")
}

func (a *Account) recycleInstance(c *call) reply {
	if !c.empty() {
		return refuse(http.StatusBadRequest, "invalid_args", "Invalid request parameters")
	}
	row := a.live(c)
	if row == nil {
		return refuse(http.StatusBadRequest, "invalid_id", "Invalid instance id.")
	}
	c.after = append(c.after, a.recycle(row)...)
	return success("")
}

func (a *Account) currentUser(*call) reply {
	var first string
	if len(a.keys) > 0 {
		first = a.keys[0].PublicKey
	}
	return ok(jsonObject{
		"id": userID, "key_id": 77, "email": "someone@example.com", "balance": 0.0, "credit": 12.5,
		"ssh_key": strings.TrimSpace(first), "sid": "simulated", "tfa_enabled": false,
	})
}

// gpuNames is a catalogue that the official tool reads at its start.
func (a *Account) gpuNames(*call) reply {
	return ok(jsonObject{"gpu_names": []string{"A100 SXM4", "H100 SXM", "RTX 3090", "RTX 4090"}})
}

// userID is the account's number.
const userID = 4242
