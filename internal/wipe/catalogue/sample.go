package catalogue

import "strings"

// Sample is an example of a file that an entry means.
type Sample struct {
	Entry   Entry
	Pattern Pattern
	Path    string
}

// Samples returns one file for each pattern of the catalogue on a machine, in the order of the catalogue: globs are replaced
// by text that matches, and of a tree it is a file below. No sample lies below another, so that all can exist at once.
func Samples(homes []string, env map[string]string) []Sample {
	var list []Sample
	for _, e := range entries() {
		for _, p := range e.Expand(homes, env) {
			list = append(list, Sample{Entry: e, Pattern: p, Path: example(p)})
		}
	}
	return list
}

func example(p Pattern) string {
	var b strings.Builder
	for g := p.Glob; g != ""; {
		c := g[0]
		g = g[1:]
		switch c {
		case '\\':
			b.WriteByte(g[0])
			g = g[1:]
		case '*', '?':
			b.WriteByte('x')
		case '[':
			b.WriteByte(g[0])
			_, g, _ = strings.Cut(g, "]")
		default:
			b.WriteByte(c)
		}
	}
	if p.Tree {
		b.WriteString("/sample")
	}
	return b.String()
}
