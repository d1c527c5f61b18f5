package resolve

import (
	"fmt"
	"strings"
)

// NotFoundError reports that no instance of the account has this id or label. The API has said so.
type NotFoundError struct {
	Name string // label or decimal id
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("the account has no instance %q", e.Name) }

// Hint names the command that lists the instances.
func (e *NotFoundError) Hint() string { return "vast-ssh ls" }

// AmbiguousError reports a label that several instances of the account carry, running or not.
type AmbiguousError struct {
	Label string
	IDs   []uint64 // ascending, at least two
}

func (e *AmbiguousError) Error() string {
	ids := make([]string, len(e.IDs))
	for i, id := range e.IDs {
		ids[i] = formatID(id)
	}
	return fmt.Sprintf("label %q is on %d instances: %s", e.Label, len(ids), strings.Join(ids, ", "))
}

// Hint names the command for one of them.
func (e *AmbiguousError) Hint() string { return "vast-ssh " + formatID(e.IDs[0]) }

// NoSSHError reports an instance whose image was started without an ssh server by Vast.ai.
type NoSSHError struct {
	ID      uint64
	Runtype string // image_runtype, from the API
}

func (e *NoSSHError) Error() string {
	return fmt.Sprintf("instance %d was created without ssh (run type %q)", e.ID, e.Runtype)
}

// Hint tells how to come by an instance that has it.
func (e *NoSSHError) Hint() string {
	return "create a new instance with the ssh or jupyter launch mode; the mode of this one is fixed"
}

// NotRunningError reports an instance that exists and is not up. The strings come from the API; Status is empty
// while the instance is being prepared.
type NotRunningError struct {
	ID       uint64
	Label    string
	Status   string // actual_status
	Intended string // intended_status
	Message  string // status_msg; empty when the answer came from another process
}

func (e *NotRunningError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "instance %d ", e.ID)
	if e.Label != "" {
		fmt.Fprintf(&b, "(%q) ", e.Label)
	}
	if e.Status == "" {
		b.WriteString("is not running: it has no status yet")
	} else {
		fmt.Fprintf(&b, "is not running: its status is %q", e.Status)
	}
	if e.Intended != "" && e.Intended != e.Status {
		fmt.Fprintf(&b, ", and %q is intended", e.Intended)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %.200q", e.Message)
	}
	return b.String()
}

// Hint tells how to get it running, or where to look.
func (e *NotRunningError) Hint() string {
	id := formatID(e.ID)
	stopped := e.Intended == "stopped" || e.Intended == "frozen"
	switch e.Status {
	case "stopped", "frozen":
		stopped = true
	case "", "created", "loading", "rebooting", "recycling":
		if !stopped {
			return "wait a minute and try again; vast-ssh show " + id + " tells how far it is"
		}
	}
	if stopped {
		return "start it in the web console or with: vastai start instance " + id
	}
	return "vast-ssh show " + id
}

// NoAddressError reports a running instance for which the API gives no usable address.
type NoAddressError struct {
	ID uint64
}

func (e *NoAddressError) Error() string {
	return "instance " + formatID(e.ID) + " is running, but Vast.ai gives no address for it"
}

// Hint names the command that shows what there is.
func (e *NoAddressError) Hint() string { return "vast-ssh show " + formatID(e.ID) }
