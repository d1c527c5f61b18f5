package companion

import (
	"fmt"
	"sync"
	"time"

	"vast-ssh/internal/term"
)

const (
	maxChain   = 16
	maxProgram = 512 // characters of a program's path
)

// A chain is believed for chainLife, and at most maxChains of them are kept.
const (
	chainLife = 2 * time.Second
	maxChains = 256
)

// process is one process at one moment. A process whose start is another is another one with the same pid.
type process struct {
	parent  int    // 0 if it has none
	started uint64 // in units of the platform since some moment
	program string
}

// chains names processes and remembers what it has just read.
type chains struct {
	mu   sync.Mutex // protects the following
	kept map[int]keptChain
}

type keptChain struct {
	started uint64
	until   time.Time
	chain   []Process
}

func (c *chains) get(pid int) ([]Process, error) {
	p, err := look(pid)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c.mu.Lock()
	kept, ok := c.kept[pid]
	c.mu.Unlock()
	if ok && kept.started == p.started && now.Before(kept.until) {
		return kept.chain, nil
	}
	first, err := inspect(pid)
	if err != nil {
		return nil, err
	}
	chain, err := walk(pid, first, inspect)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil || len(c.kept) >= maxChains {
		c.kept = make(map[int]keptChain)
	}
	c.kept[pid] = keptChain{started: first.started, until: now.Add(chainLife), chain: chain}
	return chain, nil
}

// inspect names a process. The start is read before and after the name, so that both belong to one process.
func inspect(pid int) (process, error) {
	p, err := look(pid)
	if err != nil {
		return process{}, err
	}
	p.program = program(pid)
	if again, err := look(pid); err != nil {
		return process{}, err
	} else if again.started != p.started {
		return process{}, fmt.Errorf("process %d has ended", pid)
	}
	return p, nil
}

// walk goes from the process pid, which is first, up to its oldest ancestor. It ends early at an ancestor that has
// gone, and at a process that began after its supposed child and so only has the number of the parent.
func walk(pid int, first process, inspect func(pid int) (process, error)) ([]Process, error) {
	chain := []Process{named(pid, first)}
	for p := first; len(chain) < maxChain && p.parent > 0; {
		parent, err := inspect(p.parent)
		if err != nil || parent.started > p.started {
			break
		}
		chain = append(chain, named(p.parent, parent))
		p = parent
	}
	if again, err := inspect(pid); err != nil {
		return nil, err
	} else if again.started != first.started {
		return nil, fmt.Errorf("process %d has ended", pid)
	}
	return chain, nil
}

func named(pid int, p process) Process {
	return Process{PID: pid, Program: term.SafeN(p.program, maxProgram)}
}
