package vast

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ScheduledJob is a call of the API that the provider makes again and again, such as a copy to a cloud.
type ScheduledJob struct {
	ID uint64
	// Instance is the one that the job was made for, 0 if the API does not say.
	Instance uint64
	// Endpoint is the path that is called, and Frequency how often ("DAILY").
	Endpoint, Frequency string
	// others are instances that the request names.
	others []uint64
}

// Concerns reports whether the job does something with an instance.
func (j ScheduledJob) Concerns(id uint64) bool {
	return j.Instance == id || slices.Contains(j.others, id)
}

// String says what the job does, without the request's body, which may hold anything.
func (j ScheduledJob) String() string { return fmt.Sprintf("%.100q, %.20q", j.Endpoint, j.Frequency) }

const maxJobs = 1000

// ScheduledJobs returns the scheduled jobs of the account.
func (c *Client) ScheduledJobs(ctx context.Context) ([]ScheduledJob, error) {
	body, err := c.call(ctx, request{endpoint: listJobs})
	if err != nil {
		return nil, err
	}
	jobs, err := decodeJobs(body)
	if err != nil {
		return nil, c.unreadable(listJobs, err)
	}
	return jobs, nil
}

// DropScheduledJob deletes a scheduled job.
func (c *Client) DropScheduledJob(ctx context.Context, id uint64) error {
	_, err := c.call(ctx, request{endpoint: dropJob, keyID: id})
	return err
}

// decodeJobs reads a bare list, or one in an object.
func decodeJobs(body []byte) ([]ScheduledJob, error) {
	raw := bytes.TrimSpace(body)
	for _, name := range []string{"scheduled_jobs", "jobs", "results"} {
		if inner, ok := object(body)[name]; ok {
			raw = inner
			break
		}
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || list == nil {
		return nil, errors.New("the answer holds no list of jobs")
	}
	if len(list) > maxJobs {
		return nil, fmt.Errorf("the answer holds %d jobs, more than %d", len(list), maxJobs)
	}
	var jobs []ScheduledJob
	for _, raw := range list {
		f := object(raw)
		j := ScheduledJob{
			ID: f.uint("id"), Instance: f.uint("instance_id"),
			Endpoint: f.text("api_endpoint", maxLabel), Frequency: f.text("frequency", maxWord),
		}
		if j.ID == 0 {
			return nil, errors.New("a job has no usable id")
		}
		j.others = append(pathIDs(j.Endpoint), bodyIDs(f["request_body"])...)
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// pathIDs are the numbers among the words of a path.
func pathIDs(path string) []uint64 {
	var ids []uint64
	for word := range strings.SplitSeq(path, "/") {
		if id, err := strconv.ParseUint(word, 10, 64); err == nil && id != 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// bodyIDs are the instances that a request's body names. A body may also be a string that holds one.
func bodyIDs(raw json.RawMessage) []uint64 {
	var inner string
	if json.Unmarshal(raw, &inner) == nil {
		raw = json.RawMessage(inner)
	}
	f := object(raw)
	var ids []uint64
	for _, name := range []string{"instance_id", "id", "src_id", "dst_id", "src", "dst"} {
		text := strings.TrimPrefix(f.text(name, maxLabel), "C.")
		text, _, _ = strings.Cut(text, ":")
		if id, err := strconv.ParseUint(text, 10, 64); err == nil && id != 0 {
			ids = append(ids, id)
		}
	}
	return ids
}
