// Package protocol is the conversation between vast-ssh and the far side of a wipe: what is asked of it, and what it reports.
//
// The far side is a helper program, or a shell script where that cannot run. Either gets one Request and answers with
// Messages. The helper speaks JSON, one value a line; the script speaks the lines of package script. Everything that
// comes from the far side is a stranger's word: it is bounded here, and quoted where it is shown.
package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
)

// Version is that of the conversation. The far side is always brought along, so that both ends have the same.
const Version = 1

// Op is what the far side is to do.
type Op string

// A plan changes nothing. A run follows the rules of a plan and stops before the files that logging in needs; it is
// followed by a finish in the same connection, which removes those and everything of the far side itself.
const (
	OpPlan   Op = "plan"
	OpRun    Op = "run"
	OpFinish Op = "finish"
)

// Request says what to do. Paths are absolute and clean.
type Request struct {
	Version int `json:"version"`
	// Label is the container label that PID 1 must carry, "C.<instance id>". Otherwise nothing is done.
	Label string `json:"label"`
	Op    Op     `json:"op"`
	// Dir is the far side's own directory, in memory where there is such a place. It holds the journal.
	Dir string `json:"dir"`
	// Rules say which files are meant. A file belongs to the first rule that names it.
	Rules []Rule `json:"rules"`
	// Keep are files and trees that no rule reaches.
	Keep []string `json:"keep,omitempty"`
	// KeepGlobs are patterns, as those of rules, of what no rule reaches either.
	KeepGlobs []string `json:"keep_globs,omitempty"`
	// Named are the paths that a person has named, to be kept or wiped. A plan tells where nothing is.
	Named []string `json:"named,omitempty"`
	// Volumes are the mount points of volumes that may be wiped. All others are left alone.
	Volumes []string `json:"volumes,omitempty"`
	// Packages includes what the package manager has installed since the container was created.
	Packages bool `json:"packages,omitempty"`
	// Processes says to end the user's processes.
	Processes bool `json:"processes,omitempty"`
}

// RulesHash tells the rules from others. Counts and secrets name rules by their numbers.
func (r Request) RulesHash() string {
	text, err := json.Marshal(r.Rules)
	if err != nil {
		panic(err) // plain values
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Rule names files. Exactly one of Glob and Changed is set.
type Rule struct {
	// Group is the number under which the files are counted and reported.
	Group int `json:"group"`
	// Glob is a pattern whose components may hold *, ? and […]. Links in the way to a match are resolved once.
	Glob string `json:"glob,omitempty"`
	// Tree takes everything below the matches too.
	Tree bool `json:"tree,omitempty"`
	// Secret marks a place of credentials, whose files are named in the report.
	Secret bool `json:"secret,omitempty"`
	// Login marks what logging in needs. It is left to the finish.
	Login bool `json:"login,omitempty"`
	// Changed takes all files that were created or changed since the container was created, wherever they are.
	Changed bool `json:"changed,omitempty"`
}

// Tally counts files and their allocated bytes.
type Tally struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// Add counts one file more.
func (t *Tally) Add(bytes int64) { t.Files, t.Bytes = t.Files+1, t.Bytes+bytes }

// Mount is a file system in the container that is neither its own layer nor in memory.
type Mount struct {
	Path     string `json:"path"`
	Type     string `json:"type"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Process is a process to be ended, or one that was.
type Process struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
	GPU  bool   `json:"gpu,omitempty"`
	// Held says that it is stopped, and killed as the last act of a finish: the container may end with it.
	Held bool `json:"held,omitempty"`
}

// Code says what became of a file that was not overwritten and removed, and why.
type Code string

// What was left, though a rule named it, is in the way of a clean wipe. The rest is told.
const (
	Failed    Code = "failed"    // an error of the system, named in the item's text
	Immutable Code = "immutable" // the attribute could not be taken off
	ReadOnly  Code = "read-only" // its file system cannot be written to
	Again     Code = "again"     // it came back after it was removed
	Special   Code = "special"   // a FIFO, socket or device: it holds no data
	Kept      Code = "kept"      // by --keep, or a hard link of a file that is
	InUse     Code = "in-use"    // a program or file that the connection itself runs on
	Login     Code = "login"     // a system file without which nobody could log in again
	Package   Code = "package"   // installed by the package manager, and not changed since
	Image     Code = "image"     // in a layer of the image, which cannot be written
	Volume    Code = "volume"    // on a volume that was not to be touched
	Link      Code = "link"      // a link that leads to where no rule may go
	Vanished  Code = "vanished"  // it was gone before it could be opened
	Running   Code = "running"   // a process that could not be ended
	Unseen    Code = "unseen"    // a process of which nobody could see what files it kept open
	Absent    Code = "absent"    // named to be kept or wiped, and nothing is there: the name may be a mistake
	Memory    Code = "memory"    // shared memory or a queue of messages that stays, and ends with the container or is the machine's
)

// Remains reports whether a wipe with such an item has left something that it was asked to remove.
func (c Code) Remains() bool {
	switch c {
	case Failed, Immutable, ReadOnly, Again, Running:
		return true
	}
	return false
}

// maxTold is how many items of one code are listed that are only told, and maxInUse how many of those in use: among many libraries
// may be a file of the user's. There are twelve such codes, and what remains has the rest of the room.
const (
	maxTold  = 200
	maxInUse = 1000
	maxLeft  = MaxItems - 11*maxTold - maxInUse
)

// Listed is how many items of the code a message lists.
func (c Code) Listed() int64 {
	switch {
	case c.Remains():
		return maxLeft
	case c == InUse:
		return maxInUse
	}
	return maxTold
}

// Item is one file of which there is more to say than its size. Path and Text are a stranger's words. What is said of processes,
// and of what only they hold, has the group 0, which is no rule's.
type Item struct {
	Code  Code   `json:"code"`
	Group int    `json:"group"`
	Path  string `json:"path"`
	Text  string `json:"text,omitempty"`
}

// Secret is a place where credentials were, by rule and path, never by value.
type Secret struct {
	Rule int    `json:"rule"`
	Path string `json:"path"`
}

// Served reports whether a program serves file systems of a type, see fuse(4).
func Served(fstype string) bool {
	return fstype == "fuse" || fstype == "fuseblk" || strings.HasPrefix(fstype, "fuse.")
}

// Plan is what a run would do.
type Plan struct {
	// Groups are counted by Rule.Group.
	Groups []Tally `json:"groups"`
	Total  Tally   `json:"total"`
	// Deleted are files without a name that a process keeps open.
	Deleted   Tally     `json:"deleted"`
	Volumes   []Mount   `json:"volumes,omitempty"`
	Processes []Process `json:"processes,omitempty"`
	Secrets   []Secret  `json:"secrets,omitempty"`
	// Items are the files that a run would leave.
	Items []Item `json:"items,omitempty"`
	// Unlisted counts the items and secrets that did not fit.
	Unlisted int64 `json:"unlisted,omitempty"`
	// Counts are the numbers of items by code, listed or not.
	Counts map[Code]int64 `json:"counts,omitempty"`
	// SwapBytes is the size of the host's swap, into which memory may have gone.
	SwapBytes int64 `json:"swap_bytes,omitempty"`
	// IPC is the number of System V shared memory segments and of message queues that are removed with the processes, see sysvipc(7)
	// and mq_overview(7).
	IPC int64 `json:"ipc,omitempty"`
	// Environment are the names of PID 1's variables.
	Environment []string `json:"environment,omitempty"`
}

// Result is what a run has done so far, over all connections that it took.
type Result struct {
	// Groups are counted by Rule.Group: overwritten, verified and removed.
	Groups []Tally `json:"groups"`
	Total  Tally   `json:"total"`
	// Names are names without data of their own: further hard links, links and directories.
	Names int64 `json:"names"`
	// Deleted are files without a name that were overwritten while a process kept them open.
	Deleted   Tally     `json:"deleted"`
	Processes []Process `json:"processes,omitempty"`
	Secrets   []Secret  `json:"secrets,omitempty"`
	Items     []Item    `json:"items,omitempty"`
	// Unlisted and Counts are as in Plan.
	Unlisted int64          `json:"unlisted,omitempty"`
	Counts   map[Code]int64 `json:"counts,omitempty"`
	// Stopped says that the run ended before it was through.
	Stopped bool `json:"stopped,omitempty"`
	// Finished says that the login's files are removed too.
	Finished bool `json:"finished,omitempty"`
}

// Remains is the number of things that were to be removed and are still there.
func (r *Result) Remains() int64 {
	var n int64
	for code, count := range r.Counts {
		if code.Remains() {
			n += count
		}
	}
	return n
}

// Phase is where a run is.
type Phase string

const (
	PhaseProcesses Phase = "processes"
	PhaseFiles     Phase = "files"
	PhaseSweep     Phase = "sweep" // looks for what came back
	PhaseLogin     Phase = "login"
)

// Progress is how far a run is. Total is that of the plan, and an estimate.
type Progress struct {
	Phase Phase `json:"phase"`
	Done  Tally `json:"done"`
	Total Tally `json:"total"`
}

// Hello is the first message of a far side that does not refuse.
type Hello struct {
	Version int `json:"version"`
	// Memory says that Request.Dir is in memory.
	Memory bool `json:"memory"`
	// Resumed says that there was a journal to go on with.
	Resumed bool `json:"resumed"`
}

// Message is one line of the far side. Exactly one field is set.
type Message struct {
	Hello    *Hello    `json:"hello,omitempty"`
	Refused  string    `json:"refused,omitempty"` // nothing was done
	Plan     *Plan     `json:"plan,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Result   *Result   `json:"result,omitempty"`
	Error    string    `json:"error,omitempty"` // it could not go on
}

// Command is a line to the far side after the Request.
type Command struct {
	// Op is OpFinish, or OpStop.
	Op Op `json:"op"`
}

// OpStop ends a run between two blocks, with a Result.
const OpStop Op = "stop"

// Bounds of what one message may hold. The far side keeps to the first three; the rest is what the reader allows.
const (
	MaxItems     = 5000
	MaxSecrets   = 1000
	MaxProcesses = 2000
	MaxText      = 512
	MaxPath      = 4096
	MaxLine      = 64 << 20
	// MaxRules is room for the whole catalogue in MaxHomes directories.
	MaxRules = 160_000
	MaxHomes = 200
)
