package wipe

import (
	"slices"
	"strings"

	"vast-ssh/internal/wipe/catalogue"
	"vast-ssh/internal/wipe/deploy"
	"vast-ssh/internal/wipe/protocol"
)

// Group is a line of the plan and of the report: one subject, under which files are counted.
type Group struct {
	// Kind is a kind of the catalogue, or "path", "workspace", "volume" or "changed".
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// ruleSet is a scope as rules, with the groups that they count in and the entries of the catalogue that they come from.
type ruleSet struct {
	groups []Group
	rules  []protocol.Rule
	// entries has the entry of each rule that has one, by its place among the rules.
	entries map[int]catalogue.Entry
	// keep are the paths that no rule reaches, and keepGlobs patterns of such.
	keep, keepGlobs []string
}

// kinds are those that a scope takes from the catalogue, in the order of its rules. What logging in needs comes first,
// so that no other rule takes it before the end.
func (o Options) kinds() []catalogue.Kind {
	if o.Scope != Secrets {
		return []catalogue.Kind{catalogue.Login, catalogue.Secret, catalogue.History, catalogue.Cache, catalogue.Trace}
	}
	if o.staysInUse() {
		return []catalogue.Kind{catalogue.Secret}
	}
	return []catalogue.Kind{catalogue.Login, catalogue.Secret}
}

// staysInUse reports whether the machine is to be logged in to afterwards.
func (o Options) staysInUse() bool { return o.Scope == Secrets && o.Destroy == Never }

// keepLogin spares what logging in needs, wherever else it is named.
func (s *ruleSet) keepLogin(entries []catalogue.Entry, facts *deploy.Facts) {
	for _, e := range entries {
		if e.Kind != catalogue.Login {
			continue
		}
		for _, p := range e.Expand(facts.Homes, facts.Env) {
			s.keepGlobs = append(s.keepGlobs, p.Glob)
		}
	}
}

// defaultWorkspace is where Vast.ai's images keep what a user works on, unless WORKSPACE says otherwise.
const defaultWorkspace = "/workspace"

// build turns options into rules for a machine. volumes are mount points that may be wiped.
func build(o Options, facts *deploy.Facts, entries []catalogue.Entry, volumes []string) ruleSet {
	// What a far side says of processes and of what they hold has the group 0, which is no rule's.
	set := ruleSet{entries: make(map[int]catalogue.Entry), keep: slices.Clone(o.Keep), groups: []Group{{"process", "what processes hold"}}}
	if o.staysInUse() {
		set.keepLogin(entries, facts)
	}
	for _, kind := range o.kinds() {
		for _, e := range entries {
			if e.Kind == kind {
				set.addEntry(e, facts)
			}
		}
	}
	for _, name := range o.Paths {
		set.add(Group{"path", name}, protocol.Rule{Glob: literal(name), Tree: true})
	}
	if o.Scope != Secrets {
		workspace := catalogue.Entry{Kind: catalogue.Cache, Paths: []string{"${WORKSPACE:-" + defaultWorkspace + "}/"}}
		for _, p := range workspace.Expand(facts.Homes, facts.Env) {
			set.add(Group{"workspace", p.Glob}, protocol.Rule{Glob: p.Glob, Tree: true})
		}
		for _, name := range volumes {
			set.add(Group{"volume", name}, protocol.Rule{Glob: literal(name), Tree: true})
		}
		set.add(Group{"changed", "everything else that was made or changed"}, protocol.Rule{Changed: true})
	}
	return set
}

func (s *ruleSet) addEntry(e catalogue.Entry, facts *deploy.Facts) {
	for _, p := range e.Expand(facts.Homes, facts.Env) {
		s.entries[len(s.rules)] = e
		s.add(Group{string(e.Kind), e.Tool + ": " + e.What}, protocol.Rule{
			Glob: p.Glob, Tree: p.Tree, Secret: e.Kind == catalogue.Secret, Login: e.Kind == catalogue.Login,
		})
	}
}

// add appends a rule to the group, which is the last one if it has the same name.
func (s *ruleSet) add(g Group, r protocol.Rule) {
	if n := len(s.groups); n == 0 || s.groups[n-1] != g {
		s.groups = append(s.groups, g)
	}
	r.Group = len(s.groups) - 1
	s.rules = append(s.rules, r)
}

// removesLogin reports whether nobody can log in when the rules were followed to the end.
func (s *ruleSet) removesLogin() bool {
	return slices.ContainsFunc(s.rules, func(r protocol.Rule) bool { return r.Login })
}

// leavesLogin reports whether something by which one logs in is among what a run has left, as when it was to be kept.
func (s *ruleSet) leavesLogin(res *protocol.Result) bool {
	return slices.ContainsFunc(res.Items, func(it protocol.Item) bool {
		return s.groups[it.Group].Kind == string(catalogue.Login) && it.Code != protocol.Vanished && it.Code != protocol.Image
	})
}

// literal makes a pattern that matches one path.
func literal(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}
