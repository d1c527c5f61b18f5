// Package sshconf renders the ssh_config files of vast-ssh and puts one Include line into the user's own. It maps
// bytes to bytes and touches no file.
//
// Not only OpenSSH reads these files: editors and libraries bring parsers of their own, which know Host but not
// Match, expand no tokens but %h, and split a ProxyCommand by spaces and double quotes without a shell. So the files
// hold Host blocks only, no Port, absolute paths in double quotes, and no keyword that OpenSSH 8.0 does not know,
// since an unknown one ends ssh for every host.
package sshconf

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Params are the settings that all instances share. Paths are absolute.
type Params struct {
	ProxyProgram string // the vast-ssh program
	KnownHosts   string // the file of pins
	AgentSocket  string // the socket of vast-agent
	IdentityFile string // the public key that selects the agent's key
	User         string // login user
}

// Host is an instance that gets an entry of its own, for the pickers of editors and for completion.
type Host struct {
	ID    uint64
	Label string // may be empty, or anything: it comes from the API
}

// ParamError reports a parameter that cannot be written to an ssh_config so that every reader takes it as meant.
type ParamError struct {
	Name   string // what it is, for people
	Value  string
	Reason string

	advice string
}

func (e *ParamError) Error() string { return fmt.Sprintf("%s %q %s", e.Name, e.Value, e.Reason) }

// Hint says what to change.
func (e *ParamError) Hint() string { return e.advice }

const header = `# written by vast-ssh; do not edit
`

// RenderConfig returns the file that the user's ~/.ssh/config includes: an entry for each host, sorted by id, and
// a block with the settings for all names that begin with "vast-". A label becomes an alias if it is a plain word
// and no other host has it. A host given twice counts once. The error is a *ParamError.
func RenderConfig(p Params, hosts []Host) ([]byte, error) {
	settings, err := p.settings()
	if err != nil {
		return nil, err
	}
	hosts = slices.Clone(hosts)
	slices.SortStableFunc(hosts, func(a, b Host) int { return cmp.Compare(a.ID, b.ID) })
	hosts = slices.CompactFunc(hosts, func(a, b Host) bool { return a.ID == b.ID })
	labels := make(map[string]int)
	for _, h := range hosts {
		labels[strings.ToLower(h.Label)]++
	}

	var b bytes.Buffer
	b.WriteString(header)
	for _, h := range hosts {
		fmt.Fprintf(&b, "\nHost vast-%d", h.ID)
		// Names are compared without case because ssh hands them to the proxy in lower case.
		if isAlias(h.Label) && labels[strings.ToLower(h.Label)] == 1 {
			fmt.Fprintf(&b, " vast-%s", h.Label)
		}
		// HostKeyAlias takes no tokens, so that it can stand here only.
		fmt.Fprintf(&b, "\n  HostName vast-%d\n  HostKeyAlias vast-%d\n", h.ID, h.ID)
	}
	b.WriteString("\nHost vast-*\n" + settings)
	return b.Bytes(), nil
}

// RenderLogin returns the file that vast-ssh itself runs ssh with, in place of the user's configuration; HostName
// and HostKeyAlias come on the command line. The error is a *ParamError.
func RenderLogin(p Params) ([]byte, error) {
	settings, err := p.settings()
	if err != nil {
		return nil, err
	}
	return []byte(header + "\nHost *\n" + settings), nil
}

// ProxyCommand returns the command that connects to %h through the instances given, each "[user@]vast-<id>". The error is a
// *ParamError.
func ProxyCommand(p Params, through ...string) (string, error) {
	if err := p.check(); err != nil {
		return "", err
	}
	for _, name := range through {
		if !stop.MatchString(name) {
			return "", &ParamError{Name: "instance", Value: name, Reason: "is not one to go through"}
		}
	}
	return p.proxyCommand(through...), nil
}

func (p Params) proxyCommand(through ...string) string {
	command := quote(p.ProxyProgram) + " proxy "
	if len(through) > 0 {
		command += "--jump " + strings.Join(through, ",") + " "
	}
	return command + "%h"
}

// settings renders the body of the block for all hosts. A setting that is also the default of ssh is here because
// the user's own "Host *" block, which comes later, must not change it for a machine that a stranger owns.
func (p Params) settings() (string, error) {
	if err := p.check(); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, s := range [][2]string{
		{"User", p.User},
		{"ProxyCommand", p.proxyCommand()},
		{"UserKnownHostsFile", quote(p.KnownHosts)},
		{"GlobalKnownHostsFile", "/dev/null"},
		{"StrictHostKeyChecking", "yes"},
		{"VerifyHostKeyDNS", "no"}, // a signed SSHFP record would be accepted without a look at the pins
		{"UpdateHostKeys", "no"},
		{"CanonicalizeHostname", "no"},
		{"IdentityAgent", quote(p.AgentSocket)},
		{"IdentityFile", quote(p.IdentityFile)},
		{"IdentitiesOnly", "yes"},
		{"PreferredAuthentications", "publickey"}, // a password typed there would be a stranger's
		{"AddKeysToAgent", "no"},                  // the user's other keys have no business in our agent
		{"ForwardAgent", "no"},                    // yes would forward the agent that IdentityAgent names
		{"ForwardX11", "no"},
		{"ServerAliveInterval", "15"},
		{"ConnectTimeout", "0"}, // the proxy has its own; the ssh that ssh -J starts hears nothing for a whole session
	} {
		fmt.Fprintf(&b, "  %s %s\n", s[0], s[1])
	}
	return b.String(), nil
}

// quote makes one argument of a checked path. ssh expands tokens in every option that holds one.
func quote(path string) string { return `"` + strings.ReplaceAll(path, "%", "%%") + `"` }

var (
	// label has no dot, so that an alias is never the name of a host elsewhere, and no pattern character.
	label    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	allDigit = regexp.MustCompile(`^[0-9]+$`)
	userName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	stop     = regexp.MustCompile(`^([a-z_][a-z0-9_-]{0,31}@)?vast-[0-9]{1,20}$`)
)

func isAlias(s string) bool { return label.MatchString(s) && !allDigit.MatchString(s) }

const (
	// inFile has what ends a quoted word or a path in some reader, or is expanded: since OpenSSH 8.4 "${" is.
	inFile = `"\$`
	// inShell has what a shell acts on between double quotes. OpenSSH gives ProxyCommand to the user's shell.
	inShell = inFile + "`!"
)

func (p Params) check() error {
	for _, path := range []struct{ name, value, refused, advice string }{
		{"program", p.ProxyProgram, inShell, "install vast-ssh in another directory, such as /usr/local/bin"},
		{"known hosts file", p.KnownHosts, inFile, "use a home directory without that character"},
		{"agent socket", p.AgentSocket, inFile, "set XDG_STATE_HOME to a directory without that character"},
		{"identity file", p.IdentityFile, inFile, "use a home directory without that character"},
	} {
		if reason := pathFault(path.value, path.refused); reason != "" {
			return &ParamError{Name: path.name, Value: path.value, Reason: reason, advice: path.advice}
		}
	}
	if !userName.MatchString(p.User) {
		return &ParamError{Name: "user", Value: p.User, Reason: "is not a user name"}
	}
	return nil
}

// pathFault says why path cannot be written between double quotes, or nothing.
func pathFault(path, refused string) string {
	if !filepath.IsAbs(path) {
		return "is not an absolute path"
	}
	for _, r := range path {
		// Some readers end a line at other characters than "\n", and some decode bytes that are not UTF-8.
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return fmt.Sprintf("holds the character %U, which ssh clients read in different ways", r)
		}
		if strings.ContainsRune(refused, r) {
			return fmt.Sprintf("holds the character %q, which cannot be quoted for every ssh client", r)
		}
	}
	return ""
}
