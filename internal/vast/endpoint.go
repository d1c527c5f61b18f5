package vast

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// endpoint is one route of the API with what its documentation says about it.
type endpoint struct {
	method, path string
	// interval is the least time between two calls that the API accepts from one user.
	interval time.Duration
	// scope is the permission that an API key needs.
	scope string
	retry retry
}

// retry says after which failures a request may be sent a second time.
type retry int

const (
	// retryNever is for what has waits of its own.
	retryNever retry = iota
	// retryRefused is for POST and DELETE. A 429 says that nothing was done. After a lost answer nobody knows: a key could
	// be added twice under two ids, and the answer to a second DELETE, "no such instance", would not tell "the first one worked" from "that id is wrong": the
	// caller has to look at the instance, which it must do anyway because a destroyed one lingers in lists.
	retryRefused
	// retryAlways is for what can be said twice to the same effect: GET; PUT of a state or a label, which are
	// absolute values; PUT of request_logs, which changes no instance and makes one more upload at worst.
	retryAlways
)

const instance = "/api/v0/instances/{id}/"

var (
	listInstances    = endpoint{http.MethodGet, "/api/v1/instances/", time.Second, "instance_read", retryAlways}
	showInstance     = endpoint{http.MethodGet, instance, 2 * time.Second, "instance_read", retryAlways}
	changeInstance   = endpoint{http.MethodPut, instance, time.Second, "instance_write", retryAlways}
	destroyInstance  = endpoint{http.MethodDelete, instance, 3 * time.Second, "instance_write", retryRefused}
	listInstanceKeys = endpoint{http.MethodGet, instance + "ssh/", time.Second, "instance_read", retryAlways}
	attachKey        = endpoint{http.MethodPost, instance + "ssh/", time.Second, "instance_write", retryRefused}
	detachKey        = endpoint{http.MethodDelete, instance + "ssh/{key}/", 2 * time.Second, "instance_write",
		retryRefused}
	listAccountKeys = endpoint{http.MethodGet, "/api/v0/ssh/", time.Second, "user_read", retryAlways}
	addAccountKey   = endpoint{http.MethodPost, "/api/v0/ssh/", time.Second, "user_write", retryRefused}
	dropAccountKey  = endpoint{http.MethodDelete, "/api/v0/ssh/{key}/", time.Second, "user_write", retryRefused}
	requestLogs     = endpoint{http.MethodPut, "/api/v0/instances/request_logs/{id}/", time.Second, "instance_read",
		retryAlways}
	listVolumes = endpoint{http.MethodGet, "/api/v0/volumes/", time.Second, "instance_read", retryAlways}
	listJobs    = endpoint{http.MethodGet, "/api/v0/commands/schedule_job/", time.Second, "instance_read", retryAlways}
	dropJob     = endpoint{http.MethodDelete, "/api/v0/commands/schedule_job/{key}/", time.Second, "instance_write", retryRefused}

	// fetchLog is no route of the API but the address that requestLogs answers with.
	fetchLog = endpoint{http.MethodGet, "result_url", time.Second, "", retryNever}
)

// String names the endpoint in errors and for Config.Pace.
func (e endpoint) String() string { return e.method + " " + e.path }

// fill returns the path with the ids in place.
func (e endpoint) fill(id, keyID uint64) string {
	r := strings.NewReplacer("{id}", strconv.FormatUint(id, 10), "{key}", strconv.FormatUint(keyID, 10))
	return r.Replace(e.path)
}

// again reports whether a request that failed with err may be sent once more.
func (e endpoint) again(err error) bool {
	var u *UnavailableError
	if !errors.As(err, &u) || !u.passing {
		return false
	}
	return e.retry == retryAlways || e.retry == retryRefused && u.Status == http.StatusTooManyRequests
}
