package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
)

// maxHops is how many links one way may have in it, as on Linux.
const maxHops = 40

// readLinks asks where the links of a listing lead.
func (r *Run) readLinks(ctx context.Context, remote string, entries []entry) error {
	var links []int
	for i, e := range entries {
		if e.kind == fs.ModeSymlink {
			links = append(links, i)
		}
	}
	if len(links) == 0 {
		return nil
	}
	return r.call(ctx, func() call {
		return call{
			script: "links",
			in: func(w io.Writer) error {
				for _, i := range links {
					if _, err := fmt.Fprintln(w, i, encode(joinRemote(remote, entries[i].name))); err != nil {
						return err
					}
				}
				return nil
			},
			read: func(l *lines) error {
				for _, i := range links {
					leads, err := l.value(i)
					if err != nil {
						return err
					}
					if leads != "f" && leads != "d" && leads != "-" {
						return l.wrong("%.40q for what a link leads to", leads)
					}
					entries[i].leads = leads
					if entries[i].target, err = readName(l); err != nil {
						return err
					}
					l.moved()
				}
				return l.end()
			},
		}
	})
}

// localLink is a link to be made. Its text is made of names of the listing, and leads to something below the root.
type localLink struct{ name, text string }

// listing is what was listed, to go through it as the instance does.
type listing struct {
	top    string // the remote directory
	byName map[string]entry
}

func newListing(top string, entries []entry) *listing {
	l := &listing{top: strings.TrimRight(top, "/"), byName: map[string]entry{".": {name: ".", kind: fs.ModeDir}}}
	for _, e := range entries {
		l.byName[e.name] = e
	}
	return l
}

// link returns the local link for a link of the listing, if that leads to what is downloaded.
func (l *listing) link(e entry) (localLink, bool) {
	to, ok := l.resolve(e)
	if !ok || e.leads == "-" || l.byName[to].skipped() != "" {
		return localLink{}, false
	}
	text, err := filepath.Rel(path.Dir(e.name), to)
	return localLink{e.name, text}, err == nil
}

// resolve returns the name of the file or directory of the listing that a link leads to.
func (l *listing) resolve(link entry) (string, bool) {
	at, way, ok := l.begin(link, "")
	for hops := 1; ok && hops <= maxHops; {
		part, more, _ := strings.Cut(way, "/")
		way = more
		switch {
		case part == "", part == ".":
		case part != "..":
			at = path.Join(at, part)
		case at == ".":
			return "", false
		default:
			at = path.Dir(at)
		}
		switch e, there := l.byName[at]; {
		case !there, e.kind != fs.ModeDir && e.kind != fs.ModeSymlink && way != "":
			return "", false
		case e.kind == fs.ModeSymlink:
			at, way, ok = l.begin(e, way)
			hops++
		case way == "":
			return at, true
		}
	}
	return "", false
}

// begin returns the directory of the listing in which the way of a link begins, and the way, which goes on with more.
func (l *listing) begin(link entry, more string) (at, way string, ok bool) {
	at, way, ok = path.Dir(link.name), link.target, link.target != ""
	if path.IsAbs(way) {
		at = "."
		way, ok = strings.CutPrefix(way+"/", l.top+"/")
	}
	if more != "" {
		way += "/" + more
	}
	return at, way, ok
}

// whySkipped tells why a link is not made.
func (e entry) whySkipped() string {
	switch {
	case e.target == "":
		return "a symbolic link"
	case e.leads == "-":
		return fmt.Sprintf("a symbolic link to %.100q, where nothing is", e.target)
	}
	return fmt.Sprintf("a symbolic link to %.100q, which is not among the results", e.target)
}

// sortOut has the links that are to be made, and returns what of a listing is not downloaded.
func (d *destination) sortOut(entries []entry) (skipped []Skipped) {
	all := newListing(d.get.Remote, entries)
	d.links = nil
	for _, e := range entries {
		why := e.skipped()
		if why == "" {
			continue
		}
		s := Skipped{Path: path.Join(d.get.Remote, e.name), Reason: why}
		if e.kind == fs.ModeSymlink {
			l, ok := all.link(e)
			if ok {
				d.links = append(d.links, l)
				continue
			}
			s.Reason, s.link = e.whySkipped(), true
			switch e.leads {
			case "f":
				s.Local = filepath.Join(d.get.Local, path.Dir(e.name))
			case "d":
				s.Local = filepath.Join(d.get.Local, e.name)
			}
		}
		skipped = append(skipped, s)
	}
	return skipped
}

// makeLinks makes the links of a destination. This comes after every file of every destination, so that none is written
// through a link. One that cannot be made is told as skipped.
func (r *Run) makeLinks(d *destination, rep *Report) error {
	if len(d.links) == 0 {
		return nil
	}
	for _, l := range d.links {
		there, err := d.linkThere(l, r.cfg.Overwrite)
		if err != nil {
			return err
		}
		if !there {
			if err := r.makeLink(d, l); err != nil {
				why := fmt.Sprintf("a symbolic link that cannot be made here: %v", err)
				rep.Skipped = append(rep.Skipped, Skipped{Path: path.Join(d.get.Remote, l.name), Reason: why})
				continue
			}
		}
		rep.Links++
	}
	return d.sync()
}

// linkThere reports whether a link is in its place. For what else is there and may not be replaced it returns the error of mayReplace.
func (d *destination) linkThere(l localLink, overwrite bool) (bool, error) {
	info, err := d.root.Lstat(l.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case info.Mode().Type() == fs.ModeSymlink:
		if text, err := d.root.Readlink(l.name); err != nil || text == l.text {
			return true, err
		}
	}
	return false, d.mayReplace(l.name, joinRemote(d.get.Remote, l.name), info, overwrite)
}

// makeLink makes a link under another name first, so that what it replaces is there until it is.
func (r *Run) makeLink(d *destination, l localLink) error {
	part := path.Join(path.Dir(l.name), partName(r.cfg.ID, l.name))
	if err := d.root.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.root.Symlink(l.text, part); err != nil {
		return err
	}
	info, err := d.root.Lstat(part)
	if err == nil {
		err = d.root.Rename(part, l.name)
	}
	if err != nil {
		d.root.Remove(part)
		return err
	}
	d.written[idOf(info)] = joinRemote(d.get.Remote, l.name)
	return nil
}
