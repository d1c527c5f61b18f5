// Package script is the far side of a wipe as a POSIX shell script, for machines where the helper program cannot run. It
// follows the same rules by the tools that the machine has, and says what it does in lines that a Reader turns into the
// messages of package protocol.
package script

import (
	"embed"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"vast-ssh/internal/wipe/protocol"
)

//go:embed sh
var sh embed.FS

// far are the files that every shell of the script reads, and main those of the main shell.
var (
	far  = read("words.sh", "overwrite.sh", "files.sh")
	main = read("mounts.sh", "rules.sh", "processes.sh", "ipc.sh", "main.sh")
)

func read(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		text, err := sh.ReadFile("sh/" + name)
		if err != nil {
			panic(err) // it is part of the program
		}
		b.Write(text)
	}
	return b.String()
}

// end ends the text of far within the script.
const end = "VAST_SSH_END_OF_TEXT"

// needed are what a login needs besides its keys, standing are directories that stay though they are empty, and system are those
// that no link may make the root of a tree. They are those of the helper.
const (
	needed = "/etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/nsswitch.conf /etc/pam.conf /etc/pam.d /etc/authselect /etc/security " +
		"/usr/lib/pam.d /usr/lib/security /usr/etc/pam.d /usr/etc/security /usr/etc/nsswitch.conf /usr/etc/login.defs /usr/etc/shells " +
		"/usr/etc/ssh/sshd_config /usr/etc/ssh/sshd_config.d " +
		"/etc/login.defs /etc/shells /etc/ssh/sshd_config /etc/ssh/sshd_config.d /etc/ssh/moduli /etc/ssl/openssl.cnf /etc/crypto-policies " +
		"/etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/ld-musl-x86_64.path /etc/ld-musl-aarch64.path /etc/hosts.allow " +
		"/etc/hosts.deny /etc/localtime /etc/resolv.conf /etc/hosts /etc/hostname /etc/mtab /.dockerenv /run/sshd /var/run/sshd"
	standing = "/ /run /var /etc /usr /bin /sbin /lib /lib64 /tmp /dev /home /root /workspace /opt /srv /data /mnt /media /boot /run/sshd " +
		"/run/lock /run/user /var/tmp /var/run /var/log /var/lib /var/cache /var/empty /var/empty/sshd /var/lib/empty " +
		"/usr/share/empty.sshd /usr/local /etc/ssh"
	system = "/ /bin /boot /dev /etc /home /lib /lib64 /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr /usr/bin /usr/lib " +
		"/usr/local /usr/sbin /usr/share /var /var/lib /var/log"
)

// list writes paths as the script's lists have them.
func list(paths string) string {
	var b strings.Builder
	for path := range strings.FieldsSeq(paths) {
		b.WriteString(path + "//")
	}
	return b.String()
}

// ValueError says which value cannot be put into a script.
type ValueError struct{ Value string }

func (e *ValueError) Error() string { return fmt.Sprintf("%.200q cannot be named to a shell", e.Value) }

// Render returns the script for a request, to be given to `sh -s`.
func Render(req protocol.Request) ([]byte, error) {
	var b strings.Builder
	var fault error
	word := func(s string) string {
		if strings.ContainsAny(s, "\x00\n\r") && fault == nil {
			fault = &ValueError{s}
		}
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	yes := func(on bool) string {
		if on {
			return "yes"
		}
		return "no"
	}
	// Before anything else.
	fmt.Fprintf(&b, "label=%s\n", word(req.Label))
	b.WriteString(`umask 077
# Where the library is gone that LD_PRELOAD names, every program complains.
unset HISTFILE LD_PRELOAD GREP_OPTIONS
LC_ALL=C
export LC_ALL
newline='
'
got=$(tr '\0\n' '\n\001' </proc/1/environ 2>/dev/null | while IFS= read -r line; do
    case $line in VAST_CONTAINERLABEL=*) printf '%s' "${line#*=}" && break ;; esac
done)
if [ -z "$label" ] || [ "$got" != "$label" ]; then
    printf 'vw1 X %s\n' "$(printf 'this is not the container that is meant' | od -An -v -tx1 | tr -d ' \n')"
    exit 0
fi
`)
	logins := slices.ContainsFunc(req.Rules, func(r protocol.Rule) bool { return r.Login })
	fmt.Fprintf(&b, "logins=%s\n", yes(logins))
	fmt.Fprintf(&b, "dir=%s op=%s processes=%s packages=%s\n", word(req.Dir), word(string(req.Op)), yes(req.Processes), yes(req.Packages))
	fmt.Fprintf(&b, "hash=%s\n", word(req.RulesHash()))
	fmt.Fprintf(&b, "needed=%s\nstanding=%s\nsystem=%s\n", word(list(needed)), word(list(standing)), word(list(system)))
	b.WriteString("volumes_hex='")
	for _, v := range req.Volumes {
		b.WriteString(hex.EncodeToString([]byte(v)) + " ")
	}
	b.WriteString("'\n")
	octal := func(variable string, list []string) {
		b.WriteString(variable + "='")
		for _, name := range list {
			for _, c := range []byte(name) {
				fmt.Fprintf(&b, `\0%03o`, c) // for printf's %b
			}
			b.WriteString("\n")
		}
		b.WriteString("'\n")
	}
	octal("keeps", req.Keep)
	octal("named", req.Named)
	glob := func(glob string) {
		list, ok := components(glob)
		if !ok && fault == nil {
			fault = &ValueError{glob}
		}
		for _, c := range list {
			b.WriteString(" " + word(c))
		}
		b.WriteString("\n")
	}
	b.WriteString("kept_patterns() {\n    :\n")
	for _, k := range req.KeepGlobs {
		b.WriteString("    rule 0 0 '' yes")
		glob(k)
	}
	b.WriteString("}\nrules() {\n    :\n")
	for i, r := range req.Rules {
		if r.Changed {
			fmt.Fprintf(&b, "    changed %d %d\n", i, r.Group)
			continue
		}
		flags := ""
		if r.Secret {
			flags += "s"
		}
		if r.Login {
			flags += "l"
		}
		fmt.Fprintf(&b, "    rule %d %d '%s' %s", i, r.Group, flags, yes(r.Tree))
		glob(r.Glob)
	}
	fmt.Fprintf(&b, "}\ntext() {\n    cat <<'%s'\n%s%s\n}\n%s", end, far, end, main)
	switch req.Op {
	case protocol.OpPlan, protocol.OpRun, protocol.OpFinish:
	default:
		return nil, fmt.Errorf("there is nothing called %q to do", req.Op)
	}
	// All of it in one command, so that the shell has read the script to its end before anything is done: what comes by the
	// pipe after it is a word to stop.
	fmt.Fprintf(&b, "{\nbegin\n%s\nexit 0\n}\n", req.Op)
	if fault != nil {
		return nil, fault
	}
	return []byte(b.String()), nil
}

// components splits a pattern: what has no wildcards becomes "=TEXT", which may be several components, and any other
// component "~PATTERN", a pattern of the shell. It fails for what shells do not agree on.
func components(glob string) (list []string, ok bool) {
	for part := range strings.SplitSeq(strings.TrimPrefix(glob, "/"), "/") {
		plain, literal := unescape(part)
		if !literal {
			pattern, ok := shellPattern(part)
			if !ok {
				return nil, false
			}
			list = append(list, "~"+pattern)
			continue
		}
		if last := len(list) - 1; last >= 0 && list[last][0] == '=' {
			list[last] += "/" + plain
		} else {
			list = append(list, "="+plain)
		}
	}
	return list, true
}

// shellPattern writes a pattern of path.Match for a shell, without backslashes: what they do in the value of a variable
// depends on the shell. So a pattern with a backslash to be matched cannot be written, nor one with escapes in a class. The
// shell's characters are bytes, for which ? stands.
func shellPattern(part string) (pattern string, ok bool) {
	var b strings.Builder
	class := false
	for i := 0; i < len(part); i++ {
		c := part[i]
		switch {
		case c == '\\' && (class || i+1 == len(part) || part[i+1] == '\\'):
			return "", false
		case c == '\\':
			i++
			b.WriteString("[" + part[i:i+1] + "]")
		case class:
			class = c != ']'
			b.WriteByte(c)
		case c == '[':
			class = true
			b.WriteByte(c)
			switch {
			case strings.HasPrefix(part[i+1:], "^"):
				i++
				b.WriteByte('!')
			case strings.HasPrefix(part[i+1:], "!"), strings.HasPrefix(part[i+1:], "]"):
				return "", false
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), !class
}

// unescape returns the only path that a pattern matches, if there is only one.
func unescape(glob string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; c {
		case '*', '?', '[':
			return "", false
		case '\\':
			if i++; i < len(glob) {
				b.WriteByte(glob[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}
