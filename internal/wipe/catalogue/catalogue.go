// Package catalogue holds the sensitive places of a rented machine: where programs keep credentials, histories, caches and
// traces. It is one data file, catalogue.txt, one line an entry, and the rules that turn an entry into patterns for the
// homes and the environment of one machine.
//
// Both come from that machine, which is not trusted: no home and no value of a variable makes a pattern that names a
// directory of the system, a whole home or the whole workspace.
package catalogue

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

// Kind is what an entry's places hold, and by that what a wipe does with them.
type Kind string

const (
	// Secret is credentials: wiped, and to be rotated when they were there.
	Secret Kind = "secret"
	// History is what was typed and done.
	History Kind = "history"
	// Cache is what was downloaded or derived.
	Cache Kind = "cache"
	// Trace is logs, settings and state that tell about the user.
	Trace Kind = "trace"
	// Login is what logging in to the machine itself needs: wiped last, whatever else matches the same file.
	Login Kind = "login"
	// Environment entries name environment variables that hold secrets. The provider keeps them; nothing here can wipe them.
	Environment Kind = "environment"
)

var kinds = []Kind{Secret, History, Cache, Trace, Login, Environment}

// Entry is one line of the catalogue. A file that several entries match belongs to the first of them, except that Login
// comes before all.
type Entry struct {
	Kind Kind
	// Tool is the program or service, and What a short noun phrase for people: "access token".
	Tool, What string
	// Paths are in the grammar at the head of catalogue.txt; for Environment they are names of variables.
	Paths []string
	// Source is where the places are documented: a URL, a repository and path, or a manual page.
	Source string
}

//go:embed catalogue.txt
var data []byte

var entries = sync.OnceValue(func() []Entry {
	list, err := Parse(data)
	if err != nil {
		panic(err)
	}
	return list
})

// Entries returns the catalogue in the order of its file. The caller owns the slice, and must not write to the paths in it.
func Entries() []Entry { return slices.Clone(entries()) }

// Variables returns the names of the variables that move paths of the catalogue, sorted. They are all that has to be read
// of a machine's environment.
func Variables() []string { return variables() }

var variables = sync.OnceValue(func() []string {
	var names []string
	for _, e := range entries() {
		if e.Kind == Environment {
			continue
		}
		for _, text := range e.Paths {
			t, _ := parseTemplate(text)
			for n := &t.node; n != nil; n = n.fallback {
				if n.variable != "" {
					names = append(names, n.variable)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
})

// String returns the line of the entry as Parse reads it.
func (e Entry) String() string {
	return strings.Join([]string{string(e.Kind), e.Tool, e.What, strings.Join(e.Paths, " "), e.Source}, " | ")
}
