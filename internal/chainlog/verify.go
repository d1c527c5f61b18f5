package chainlog

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Problem is a place where the log is not what was written.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line"` // from 1
	Seq  uint64 `json:"seq"`  // of the record there, as it says or as it should be
	What string `json:"what"`
}

func (p Problem) String() string {
	return fmt.Sprintf("%s, line %d (record %d): %s", p.File, p.Line, p.Seq, p.What)
}

// Head is a record by its number and its hash.
type Head struct {
	Seq  uint64
	Hash string
}

// Report is what Verify found.
type Report struct {
	Records     int
	First, Last uint64 // seq of the oldest and of the newest record, 0 without records
	Head        string // hash of the newest record
	Files       int
	Rotated     bool // the oldest record is not the first of all: older files have been removed, as happens in time
	// Problems are the first ones found, in order; none if the chain is whole. Found counts all.
	Problems []Problem
	Found    int
}

// maxProblems bounds what a Report lists.
const maxProblems = 16

func (r *Report) add(p Problem) {
	if r.Found++; len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, p)
	}
}

// chain follows records from line to line.
type chain struct {
	head  Head
	first uint64 // seq of the first record, 0 before it
}

// add takes the next record and says what is wrong with it, or nothing.
func (c *chain) add(l link) (what string) {
	switch last := c.head.Seq; {
	case !l.whole:
		what = "the record was changed: its hash is another"
	case c.first == 0 && l.Seq == 1 && l.Prev != Genesis:
		what = "the first record does not begin the chain"
	case c.first == 0:
	case l.Seq == last+2:
		what = fmt.Sprintf("record %d is missing before it", last+1)
	case l.Seq > last+1:
		what = fmt.Sprintf("records %d to %d are missing before it", last+1, l.Seq-1)
	case l.Seq <= last:
		what = fmt.Sprintf("the record is out of place: it comes after record %d", last)
	case l.Prev != c.head.Hash:
		what = fmt.Sprintf("the record does not follow record %d as it is now: one of the two was replaced", last)
	}
	if c.first == 0 {
		c.first = l.Seq
	}
	c.head = Head{l.Seq, l.hash}
	return what
}

// Verify walks the log in dir from its oldest record to its newest. The error is about reading; what is wrong with
// the content is in the report. A missing directory is an fs.ErrNotExist.
func Verify(ctx context.Context, dir string) (Report, error) { return VerifyTo(ctx, dir, Head{}) }

// VerifyTo is Verify of a log that has to hold head, which a running agent has written last.
func VerifyTo(ctx context.Context, dir string, head Head) (Report, error) {
	s, err := takeSnapshot(ctx, dir)
	if err != nil {
		return Report{}, err
	}
	defer s.close()
	v := verifier{wanted: head}
	end := Problem{File: currentName, Line: 1}
	for _, f := range s {
		if end, err = v.file(ctx, f); err != nil {
			return Report{}, fmt.Errorf("read %q: %w", f.Name(), err)
		}
	}
	if v.wanted.Seq > v.chain.head.Seq { // one before it is missing in the chain, or was removed for its age
		end.Seq, end.What = head.Seq, fmt.Sprintf("the log ends before record %d, which the agent has written", head.Seq)
		v.report.add(end)
	}
	v.report.Files = len(s)
	v.report.First, v.report.Last, v.report.Head = v.chain.first, v.chain.head.Seq, v.chain.head.Hash
	v.report.Rotated = v.chain.first > 1
	return v.report, nil
}

type verifier struct {
	chain  chain
	report Report
	wanted Head // zero if nothing is, or no more
}

// A line of the current file that has no end may be on its way. This is how often, and how long, it is looked at
// again.
const (
	tornPoll = 20 * time.Millisecond
	tornWait = time.Second
)

// file walks one file, and returns the place of its end.
func (v *verifier) file(ctx context.Context, f *logFile) (end Problem, err error) {
	sc := newScanner(f, 0, toEnd)
	first, rotated := rotatedFirst(f.name)
	waited := time.Duration(0)
	for {
		if sc.line%checkEvery == 0 && ctx.Err() != nil {
			return end, ctx.Err()
		}
		line, err := sc.next()
		place := Problem{File: f.name, Line: sc.line, Seq: v.chain.head.Seq + 1}
		switch {
		case err == io.EOF:
			return place, nil
		case err == errTorn && !rotated && waited < tornWait:
			if err := pause(ctx, tornPoll); err != nil {
				return end, err
			}
			waited += tornPoll
			sc.again()
			continue
		case err == errTorn:
			place.Line++
			place.What = errTorn.Error()
			v.report.add(place)
			return place, nil
		case err == errLong:
			place.What = errLong.Error()
			v.report.add(place)
			continue
		case err != nil:
			return end, err
		}
		l, err := parseLink(line)
		if err != nil {
			place.What = "the line is not a record"
			v.report.add(place)
			continue
		}
		if place.Seq = l.Seq; rotated && first != 0 && first != l.Seq {
			place.What = fmt.Sprintf("the file does not begin with record %d, as its name says", first)
			v.report.add(place)
		}
		first = 0
		v.record(l, place)
	}
}

// checkEvery is after how many lines a reader looks whether it should stop.
const checkEvery = 1000

func (v *verifier) record(l link, place Problem) {
	if place.What = v.chain.add(l); place.What != "" {
		v.report.add(place)
	}
	v.report.Records++
	if l.Seq != v.wanted.Seq {
		return
	}
	if l.hash != v.wanted.Hash {
		place.What = "the record is not the one that the agent has written"
		v.report.add(place)
	}
	v.wanted = Head{}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
