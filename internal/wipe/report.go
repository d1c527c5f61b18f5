package wipe

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/term"
	"vast-ssh/internal/vast"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// Outcome is how the data of an instance came out.
type Outcome string

const (
	Clean      Outcome = "clean"      // everything that was meant is overwritten, read back and removed
	Incomplete Outcome = "incomplete" // something that was meant is still there
	Stopped    Outcome = "stopped"    // it was ended before it was through
)

// Destruction is how the instance came out.
type Destruction string

const (
	DestroyNot     Destruction = "not destroyed"
	DestroyGone    Destruction = "gone"
	DestroyUnknown Destruction = "unknown"
	DestroyRefused Destruction = "refused"
)

// reportVersion is that of the report's form.
const reportVersion = 1

// method is said in every report, in words that claim no more than was done.
const method = "each file's data overwritten once in place with random data, flushed, read back (whole up to 1 MiB, samples above), " +
	"renamed, removed; as seen from inside the container"

// Report is what a wipe has done: the evidence that is kept, and what the terminal shows.
type Report struct {
	Version   int       `json:"version"`
	Program   string    `json:"program"`
	Instance  uint64    `json:"instance"`
	Label     string    `json:"label,omitempty"`
	Container string    `json:"container_label"`
	Machine   uint64    `json:"machine_id,omitempty"`
	Rented    time.Time `json:"rented_at"` // the start that the API gives, by which an instance is told from another of its id
	Started   time.Time `json:"started_at"`
	DataEnded time.Time `json:"data_ended_at"`
	Ended     time.Time `json:"ended_at"`

	Scope   Scope    `json:"scope"`
	Policy  Policy   `json:"destroy_policy"`
	Paths   []string `json:"paths,omitempty"`
	Keep    []string `json:"keep,omitempty"`
	Volumes []string `json:"volumes_wiped,omitempty"`
	Method  string   `json:"method"`
	// FarSide did the work, over so many connections, with its journal in memory or on the disk.
	FarSide         deploy.Kind `json:"far_side"`
	Connections     int         `json:"connections"`
	JournalInMemory bool        `json:"journal_in_memory"`

	Data Outcome `json:"data"`
	// Problem says why the data is not clean, besides what is left.
	Problem     string                  `json:"problem,omitempty"`
	Groups      []Count                 `json:"overwritten,omitempty"`
	Total       protocol.Tally          `json:"overwritten_total"`
	Deleted     protocol.Tally          `json:"overwritten_deleted_but_open"`
	Names       int64                   `json:"names_removed"`
	Processes   []protocol.Process      `json:"processes_ended,omitempty"`
	Left        []Left                  `json:"left,omitempty"`
	Counts      map[protocol.Code]int64 `json:"left_counts,omitempty"`
	Unlisted    int64                   `json:"left_unlisted,omitempty"`
	Unreachable []string                `json:"unreachable"`
	Rotate      []Secret                `json:"rotate,omitempty"`
	JobsDropped []Job                   `json:"scheduled_jobs_deleted,omitempty"`
	JobsLeft    []Job                   `json:"scheduled_jobs_left,omitempty"`

	// LoginRemoved says that nobody can log in any more; LoginUnconfirmed that the machine's word on it was lost, and that
	// it does not let the key in.
	LoginRemoved bool `json:"login_removed"`
	// LoginBegun says that all else is done, and that the machine was told to remove the login.
	LoginBegun       bool `json:"login_removal_begun,omitempty"`
	LoginUnconfirmed bool `json:"login_unconfirmed,omitempty"`

	Destroyed       Destruction `json:"destroyed"`
	DestroyProblem  string      `json:"destroy_problem,omitempty"`
	DestroySent     bool        `json:"destroy_sent,omitempty"`
	TracesRemoved   []string    `json:"local_traces_removed,omitempty"`
	TracesRemaining []string    `json:"local_traces_remaining,omitempty"`

	path string
}

// Path is where the report is kept, or empty.
func (r *Report) Path() string { return r.path }

// Remains is the number of things that were meant and are still there.
func (r *Report) Remains() int64 {
	res := protocol.Result{Counts: r.Counts}
	return res.Remains()
}

// loginEnd is when the login was to be gone: with the data, or, where nobody lived to write that down, with the last word.
func (r *Report) loginEnd() time.Time {
	if r.DataEnded.IsZero() {
		return r.Ended
	}
	return r.DataEnded
}

// take fills in what the far side has reported.
func (r *Report) take(set *ruleSet, res *protocol.Result) {
	r.Groups = nil
	for i, t := range res.Groups {
		if t.Files > 0 {
			r.Groups = append(r.Groups, Count{set.groups[i], t})
		}
	}
	r.Total, r.Deleted, r.Names, r.Processes = res.Total, res.Deleted, res.Names, res.Processes
	r.Left, r.Counts, r.Unlisted = left(res.Items), res.Counts, res.Unlisted
	for _, s := range set.secrets(res.Secrets) {
		if !slices.Contains(r.Rotate, s) {
			r.Rotate = append(r.Rotate, s)
		}
	}
}

// write keeps the report in dir, under one name from its start to its end. Two wipes of one instance that begin in the same
// second have two. Names sort by their time.
func (r *Report) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.EnsureDir(dir); err != nil {
		return err
	}
	name := filepath.Join(dir, fmt.Sprintf("%d-%s.json", r.Instance, r.Started.UTC().Format("20060102T150405.000000000Z")))
	if err := atomicfile.Write(name, append(term.SafeJSON(data), '\n')); err != nil {
		return err
	}
	r.path = name
	return nil
}

// maxReport bounds what is read of a report, in bytes.
const maxReport = 64 << 20

// lastReport returns the newest report of an instance, or nil. One of another instance that had the same id does not count.
func lastReport(dir string, in vast.Instance) *Report {
	r := newest(dir, in.ID)
	if r == nil || in.Started.IsZero() || !r.Rented.Equal(in.Started) {
		return nil
	}
	return r
}

// Unconfirmed returns where the newest report of an id is, if its instance was not seen to be gone, or nothing.
func Unconfirmed(dir string, id uint64) (path string) {
	r := newest(dir, id)
	if r == nil || r.Destroyed == DestroyGone {
		return ""
	}
	return r.path
}

// newest returns the newest report of an id, or nil.
func newest(dir string, id uint64) *Report {
	if atomicfile.CheckDir(dir) != nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	prefix := fmt.Sprintf("%d-", id)
	var found []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && strings.HasSuffix(e.Name(), ".json") {
			found = append(found, e.Name())
		}
	}
	if len(found) == 0 {
		return nil
	}
	name := filepath.Join(dir, slices.MaxFunc(found, cmp.Compare[string]))
	data, err := atomicfile.Read(name, maxReport)
	if err != nil {
		return nil
	}
	var r Report
	if json.Unmarshal(data, &r) != nil || r.Version != reportVersion || r.Instance != id {
		return nil
	}
	r.path = name
	return &r
}
