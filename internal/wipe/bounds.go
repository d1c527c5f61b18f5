package wipe

import (
	"errors"

	"vast-ssh/internal/wipe/protocol"
)

// maxCount is more than a machine has files, and so little that counts add up.
const maxCount = 1 << 48

// errLies is for numbers that no machine can have.
var errLies = errors.New("what the far side reports makes no sense")

// checkTallies makes sure of what sums are made of.
func checkTallies(groups []protocol.Tally, want int, more ...protocol.Tally) error {
	if len(groups) != want {
		return errLies
	}
	for _, t := range append(append([]protocol.Tally(nil), groups...), more...) {
		if t.Files < 0 || t.Bytes < 0 {
			return errLies
		}
	}
	return nil
}

// checkCounts also makes sure that what is listed is counted: by the counts a wipe is clean or not.
func checkCounts(counts map[protocol.Code]int64, items []protocol.Item, unlisted int64) error {
	listed := make(map[protocol.Code]int64)
	for _, it := range items {
		if listed[it.Code]++; listed[it.Code] > counts[it.Code] {
			return errLies
		}
	}
	for code, n := range counts {
		if n < 0 || n > maxCount || len(code) > protocol.MaxText {
			return errLies
		}
	}
	if unlisted < 0 || unlisted > maxCount || len(counts) > 100 {
		return errLies
	}
	return nil
}

// checkLists bounds the lists of a message: their lengths, and which rules and groups they name.
func checkLists(items []protocol.Item, secrets []protocol.Secret, processes []protocol.Process, set *ruleSet) error {
	if len(items) > 2*protocol.MaxItems || len(secrets) > protocol.MaxSecrets || len(processes) > protocol.MaxProcesses {
		return errLies
	}
	for _, it := range items {
		if it.Group < 0 || it.Group >= len(set.groups) || len(it.Path) > 4*protocol.MaxPath || len(it.Text) > 4*protocol.MaxText {
			return errLies
		}
	}
	for _, s := range secrets {
		if s.Rule < 0 || s.Rule >= len(set.rules) || len(s.Path) > 4*protocol.MaxPath {
			return errLies
		}
	}
	return nil
}

func (s *ruleSet) checkPlan(p *protocol.Plan) error {
	if len(p.Volumes) > protocol.MaxItems || len(p.Environment) > protocol.MaxItems || p.SwapBytes < 0 || p.IPC < 0 {
		return errLies
	}
	return errors.Join(checkTallies(p.Groups, len(s.groups), p.Total, p.Deleted), checkCounts(p.Counts, p.Items, p.Unlisted),
		checkLists(p.Items, p.Secrets, p.Processes, s))
}

func (s *ruleSet) checkResult(r *protocol.Result) error {
	if r.Names < 0 {
		return errLies
	}
	return errors.Join(checkTallies(r.Groups, len(s.groups), r.Total, r.Deleted), checkCounts(r.Counts, r.Items, r.Unlisted),
		checkLists(r.Items, r.Secrets, r.Processes, s))
}
