package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// Config is what a configuration file of sshd is made of. Paths are as sshd sees them.
type Config struct {
	// Listen are addresses, "host:port".
	Listen []string
	// HostKeys are files.
	HostKeys []string
	// AuthorizedKeysFile is sshd_config's option of that name.
	AuthorizedKeysFile string
	// KexAlgorithms is sshd_config's option of that name. Empty leaves sshd's own list.
	KexAlgorithms string
	// SetEnv is NAME=value that every session has.
	SetEnv string
	// Extra are lines of sshd_config. They stand first, and sshd takes the first value of an option. From a Match
	// line on they stand last.
	Extra []string
}

// Text is the file for the sshd that program is. Only keys get in, and a client that was refused is not punished.
func (c Config) Text(program string) []byte {
	var b bytes.Buffer
	setEnv := ""
	if c.SetEnv != "" {
		setEnv = "SetEnv " + c.SetEnv
	}
	var conditional []string
	for i, line := range c.Extra {
		word, rest, _ := strings.Cut(line, " ")
		if strings.EqualFold(word, "Match") {
			conditional = c.Extra[i:]
			break
		}
		// Only the first SetEnv of a configuration counts, so ours joins it.
		if strings.EqualFold(word, "SetEnv") && setEnv != "" {
			line, setEnv = setEnv+" "+rest, ""
		}
		fmt.Fprintln(&b, line)
	}
	if setEnv != "" {
		fmt.Fprintln(&b, setEnv)
	}
	for _, addr := range c.Listen {
		fmt.Fprintf(&b, "ListenAddress %s\n", addr)
	}
	for _, file := range c.HostKeys {
		fmt.Fprintf(&b, "HostKey %s\n", file)
	}
	if c.KexAlgorithms != "" {
		fmt.Fprintf(&b, "KexAlgorithms %s\n", c.KexAlgorithms)
	}
	if supportsPenalties(program) {
		// One wrong key from 127.0.0.1 would close the door to every other client of the test.
		fmt.Fprintln(&b, "PerSourcePenalties no")
	}
	fmt.Fprintf(&b, `AuthorizedKeysFile %s
AcceptEnv none
KbdInteractiveAuthentication no
LogLevel VERBOSE
LoginGraceTime 600
MaxSessions 100
MaxStartups 1000
PasswordAuthentication no
PermitRootLogin prohibit-password
PermitUserRC no
PidFile none
PrintLastLog no
PrintMotd no
StrictModes no
Subsystem sftp internal-sftp
UsePAM no
`, c.AuthorizedKeysFile)
	for _, line := range conditional {
		fmt.Fprintln(&b, line)
	}
	return b.Bytes()
}

// supportsPenalties reports whether this sshd (9.8 and later) knows PerSourcePenalties; an older one would refuse
// the whole configuration.
var supportsPenalties = func() func(string) bool {
	var mu sync.Mutex
	known := make(map[string]bool)
	return func(program string) bool {
		mu.Lock()
		defer mu.Unlock()
		if answer, ok := known[program]; ok {
			return answer
		}
		ctx, cancel := context.WithTimeout(context.Background(), StartTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, "-t", "-f", os.DevNull, "-o", "PerSourcePenalties=no")
		cmd.Env = []string{}
		// A failure says nothing, since there may be no host key: the complaint about the option does.
		out, _ := cmd.CombinedOutput()
		known[program] = !bytes.Contains(bytes.ToLower(out), []byte("persourcepenalties"))
		return known[program]
	}
}()
