package wire

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// maxNames is how many names of a server's list OpenSSH looks at (its match.c), and no server lists as many.
	// Clients that list more than it does exist, so theirs are bounded by the packet alone.
	maxNames = 40

	// maxName is the longest name of RFC 4251 section 6.
	maxName = 64
)

// The names in a list of methods that are no methods, RFC 8308 section 2.1 and OpenSSH PROTOCOL section 1.9.
const (
	extInfoClient = "ext-info-c"
	extInfoServer = "ext-info-s"
	strictClient  = "kex-strict-c-v00@openssh.com"
	strictServer  = "kex-strict-s-v00@openssh.com"
)

// kexInit is what the negotiation needs of a KEXINIT, RFC 4253 section 7.1.
type kexInit struct {
	methods  []string
	hostKeys []string
	follows  bool // first_kex_packet_follows
}

func parseKexInit(payload []byte) (*kexInit, error) {
	r := reader{b: payload}
	r.bytes(1 + 16) // the message number and the cookie
	var lists [10][]string
	for i := range lists {
		lists[i] = r.nameList()
	}
	follows := r.bytes(1)
	reserved := r.uint32()
	r.end()
	if r.failed {
		return nil, parseError("a malformed KEXINIT")
	}
	if follows[0] > 1 || reserved != 0 {
		return nil, parseError("reserved bits in a KEXINIT")
	}
	return &kexInit{methods: lists[0], hostKeys: lists[1], follows: follows[0] == 1}, nil
}

// agreement is what both KEXINITs lead to.
type agreement struct {
	name    string // of the method
	method  method
	hostKey string // the host key algorithm, also the name in the signature
	keyType string // the type name in K_S
	strict  bool
}

func negotiate(client, server *kexInit) (*agreement, error) {
	for _, list := range [][]string{server.methods, server.hostKeys} {
		if len(list) > maxNames {
			return nil, &ProtocolError{FromServer, fmt.Sprintf("a list of %d algorithms", len(list))}
		}
	}
	if server.follows {
		return nil, &ProtocolError{FromServer, "first_kex_packet_follows is set, and there is nothing to guess"}
	}
	name, err := common(KeyExchange, client.methods, server.methods)
	if err != nil {
		return nil, err
	}
	hostKey, err := common(HostKey, client.hostKeys, server.hostKeys)
	if err != nil {
		return nil, err
	}
	m, ok := methods[name]
	if !ok {
		return nil, &UnsupportedError{What: KeyExchange, Name: name, Reason: whyNotMethod(name)}
	}
	keyType, ok := keyTypes[hostKey]
	if !ok {
		return nil, &UnsupportedError{What: HostKey, Name: hostKey, Reason: whyNotHostKey(hostKey)}
	}
	return &agreement{
		name:    name,
		method:  m,
		hostKey: hostKey,
		keyType: keyType,
		strict:  slices.Contains(client.methods, strictClient) && slices.Contains(server.methods, strictServer),
	}, nil
}

// common returns the first name of the client's that the server lists too.
func common(what Algorithm, client, server []string) (string, error) {
	for _, name := range client {
		switch name {
		case extInfoClient, extInfoServer, strictClient, strictServer:
			continue
		}
		if slices.Contains(server, name) {
			return name, nil
		}
	}
	return "", &NoCommonError{What: what, Client: client, Server: server}
}

// splitNames splits a name-list of RFC 4251 section 5: printable ASCII names with a comma between two.
func splitNames(list []byte) ([]string, bool) {
	if len(list) == 0 {
		return nil, true
	}
	names := strings.Split(string(list), ",")
	for _, name := range names {
		if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, false
		}
	}
	return names, true
}
