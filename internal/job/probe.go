package job

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// hashTools are the programs that the probe tries, in its order. Each reads stdin, and the first word it says is the hash.
var hashTools = []string{"sha256sum", "busybox sha256sum", "openssl dgst -sha256 -r", "shasum -a 256"}

// tools are what the remote side has.
type tools struct {
	hash   int    // index in hashTools
	nap    string // for sleep
	setsid string // "1" or "0"
}

// waitTries is how often a script naps while it waits for a process.
func (t *tools) waitTries() string {
	n := 10 * time.Second
	if t.nap == "1" {
		return fmt.Sprint(int(n / time.Second))
	}
	return fmt.Sprint(int(n / (200 * time.Millisecond)))
}

// MissingToolsError names the programs that an instance would need.
type MissingToolsError struct{ Tools []string }

func (e *MissingToolsError) Error() string {
	return fmt.Sprintf("the instance has not what a run needs: %q", e.Tools)
}

// probe looks at the remote side once. create makes the directory of the run.
func (r *Run) probe(ctx context.Context, create bool) error {
	if r.tools != nil {
		return nil
	}
	var found tools
	made := "0"
	if create {
		made = "1"
	}
	err := r.call(ctx, func() call {
		return call{script: "probe", args: []string{r.cfg.ID, made}, read: func(l *lines) error {
			return found.read(l)
		}}
	})
	if err == nil {
		r.tools = &found
	}
	return err
}

func (t *tools) read(l *lines) error {
	answers := make(map[string]string)
	for _, key := range []string{"hash", "nap", "setsid", "missing"} {
		line, err := l.next()
		if err != nil {
			return err
		}
		word, rest, _ := strings.Cut(line, " ")
		if word != key {
			return l.wrong("%.100q", line)
		}
		answers[key] = rest
	}
	if err := l.end(); err != nil {
		return err
	}
	missing := strings.Fields(answers["missing"])
	if answers["hash"] == "-" {
		missing = append(missing, "sha256sum")
	}
	if len(missing) > 0 {
		return &MissingToolsError{missing}
	}
	n, err := l.number(answers["hash"])
	if err != nil {
		return err
	}
	if n >= int64(len(hashTools)) || !slices.Contains([]string{"0.2", "1"}, answers["nap"]) {
		return l.wrong("no sense")
	}
	*t = tools{hash: int(n), nap: answers["nap"], setsid: "0"}
	if answers["setsid"] == "1" {
		t.setsid = "1"
	}
	return nil
}
