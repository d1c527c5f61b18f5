package sim

import (
	"net/http"
	"slices"
)

// Volume is storage that instances have mounted.
type Volume struct {
	ID        uint64
	Label     string
	MachineID uint64
	// Instances have it mounted.
	Instances []uint64
	// Hidden leaves its users out of the list of volumes. Their own rows name it.
	Hidden bool
}

// Job is a scheduled call of the API.
type Job struct {
	ID, Instance     uint64
	Endpoint, Method string
	Body             any
}

// AddVolume puts a volume into the account and returns its id, which is a new one if v.ID is 0.
func (a *Account) AddVolume(v Volume) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v.ID == 0 {
		v.ID = a.newID()
	}
	a.volumes = append(a.volumes, v)
	return v.ID
}

// AddJob puts a scheduled job into the account and returns its id.
func (a *Account) AddJob(j Job) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	j.ID = a.newID()
	a.jobs = append(a.jobs, j)
	return j.ID
}

// Jobs returns the scheduled jobs.
func (a *Account) Jobs() []Job {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.jobs)
}

func (a *Account) listVolumes(*call) reply {
	rows := []jsonObject{}
	for _, v := range a.volumes {
		row := jsonObject{
			"id": v.ID, "label": v.Label, "machine_id": v.MachineID, "status": "active", "disk_space": 100.0,
			"start_date": epoch(a.opts.Now()), "cluster_id": nil,
		}
		if !v.Hidden {
			row["instances"] = v.Instances
		}
		rows = append(rows, row)
	}
	return ok(jsonObject{"success": true, "volumes": rows})
}

// volumeInfo is what an instance's row says of its volumes. It needs mu.
func (a *Account) volumeInfo(id uint64) []jsonObject {
	rows := []jsonObject{}
	for _, v := range a.volumes {
		if slices.Contains(v.Instances, id) {
			rows = append(rows, jsonObject{"id": v.ID, "name": v.Label, "avail_space": 90.0, "total_space": 100.0})
		}
	}
	return rows
}

func (a *Account) listJobs(*call) reply {
	rows := []jsonObject{}
	for _, j := range a.jobs {
		rows = append(rows, jsonObject{
			"id": j.ID, "instance_id": orZero(j.Instance), "api_endpoint": j.Endpoint, "request_method": j.Method,
			"request_body": j.Body, "frequency": "DAILY", "day_of_the_week": nil, "hour_of_the_day": 3, "min_of_the_hour": 0,
			"start_time": epoch(a.opts.Now()), "end_time": epoch(a.opts.Now().AddDate(0, 0, 7)),
		})
	}
	return reply{status: http.StatusOK, value: rows}
}

func orZero(id uint64) any {
	if id == 0 {
		return nil
	}
	return id
}

func (a *Account) dropJob(c *call) reply {
	i := slices.IndexFunc(a.jobs, func(j Job) bool { return j.ID == c.keyID() })
	if i < 0 {
		return refuse(http.StatusNotFound, "not_found", "Scheduled job not found")
	}
	a.jobs = slices.Delete(a.jobs, i, i+1)
	return success("")
}
