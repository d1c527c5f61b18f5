package service

import (
	"fmt"
	"strings"
)

// Names of the units.
const (
	ServiceUnit = "vast-agent.service"
	SocketUnit  = "vast-agent.socket"
)

const socketText = `# ` + mark + ` Changes belong into a drop-in: systemctl --user edit ` + SocketUnit + `

[Unit]
Description=Sockets of the ssh-agent for Vast.ai instances

[Socket]
ListenStream=%s
ListenStream=%s
FileDescriptorName=vast-agent
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
`

// What is left out, and why, is in docs/service.md.
const serviceText = `# ` + mark + ` Changes belong into a drop-in: systemctl --user edit ` + ServiceUnit + `

[Unit]
Description=ssh-agent for Vast.ai instances
Requires=` + SocketUnit + `
After=` + SocketUnit + `
# Each connection to the sockets starts it again, as often as somebody stops it.
StartLimitBurst=20

[Service]
Type=exec
ExecStart=:%s run
%sUnsetEnvironment=VAST_API_KEY VASTAI_API_KEY
WorkingDirectory=/
UMask=0077
# The agent finishes what is in flight, with the process beside it that asks people.
KillMode=mixed
TimeoutStopSec=15

# Memory: no core dumps, no swap, room for locked keys, and an end to growth.
LimitCORE=0
LimitMEMLOCK=1M
MemoryMax=512M
MemorySwapMax=0
TasksMax=1024

# All of this holds for askpass programs as well.
NoNewPrivileges=yes
KeyringMode=private
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp
SystemCallFilter=~@aio @chown @keyring @privileged @resources @setuid
SystemCallFilter=~process_vm_readv process_vm_writev userfaultfd
`

// Socket returns the text of SocketUnit, or a *TextError.
func (a Agent) Socket() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	var paths [2]string
	for i, path := range []string{a.AgentSocket, a.ControlSocket} {
		if strings.ContainsFunc(path, escaped) || strings.HasSuffix(path, " ") {
			return nil, &TextError{What: "the path of a socket", Text: path,
				Reason: "has a quote, a backslash, a space at its end, or a character beyond ASCII, with which systemd loses the socket",
				Fix:    "set XDG_STATE_HOME to a directory with a plain path"}
		}
		paths[i] = noSpecifier(path)
	}
	return fmt.Appendf(nil, socketText, paths[0], paths[1]), nil
}

// Service returns the text of ServiceUnit, or a *TextError.
func (a Agent) Service() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	if strings.ContainsAny(a.Program, `"'\`) {
		return nil, &TextError{What: "the path of the program", Text: a.Program,
			Reason: "has a quote or a backslash, which systemd does not take",
			Fix:    "sh install.sh --prefix /another/directory"}
	}
	var env strings.Builder
	for _, kv := range a.Env {
		fmt.Fprintf(&env, "Environment=%s\n", word(kv))
	}
	return fmt.Appendf(nil, serviceText, word(a.Program), env.String()), nil
}

// escaped reports whether systemd (252) writes r in another way when it notes its open sockets for a reload of itself. It
// does not find such a path again: the socket stays and nobody listens any more.
func escaped(r rune) bool { return r >= 0x7f || strings.ContainsRune(`"'\`, r) }

// noSpecifier keeps systemd from expanding what follows a percent sign, systemd.unit(5).
func noSpecifier(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// word quotes text as one word of a setting, systemd.syntax(7).
func word(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(noSpecifier(text)) + `"`
}
