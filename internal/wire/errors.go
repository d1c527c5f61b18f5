package wire

import (
	"errors"
	"fmt"
	"strings"
)

// errOver is for a caller that goes on after the reply.
var errOver = errors.New("the key exchange has its reply already")

// Sender names who sent something.
type Sender string

// The two ends of a connection.
const (
	FromClient Sender = "client"
	FromServer Sender = "server"
)

// Algorithm names one of the two things that are negotiated here.
type Algorithm string

// The lists of a KEXINIT that are read.
const (
	KeyExchange Algorithm = "key exchange method"
	HostKey     Algorithm = "host key algorithm"
	// Client stands for the program itself.
	Client Algorithm = "client"
)

// ProtocolError reports bytes that are not the start of an SSH connection as this package accepts it. Text of the peer
// in Reason is quoted.
type ProtocolError struct {
	Sender Sender
	Reason string
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("refused what the %s sent: %s", e.Sender, e.Reason)
}

// UnsupportedError reports that client and server agree on an algorithm that is refused here.
type UnsupportedError struct {
	What   Algorithm
	Name   string // as it was negotiated
	Reason string
}

func (e *UnsupportedError) Error() string {
	if e.What == Client {
		return fmt.Sprintf("the client %q is not served: %s", e.Name, e.Reason)
	}
	return fmt.Sprintf("client and server agree on the %s %q: %s", e.What, e.Name, e.Reason)
}

// Hint returns advice for the person at the client.
func (e *UnsupportedError) Hint() string {
	switch e.What {
	case Client:
		return "use OpenSSH, PuTTY or a program that runs one of them"
	case HostKey:
		return "have the client ask for ssh-ed25519, ecdsa-sha2-nistp256 or rsa-sha2-512 host keys first"
	}
	return "have the client prefer curve25519-sha256 or a hybrid of it"
}

// NoCommonError reports that client and server have no algorithm in common. The lists are as they were sent.
type NoCommonError struct {
	What           Algorithm
	Client, Server []string
}

func (e *NoCommonError) Error() string {
	return fmt.Sprintf("client and server have no %s in common: the server has %q, the client %q",
		e.What, strings.Join(e.Server, ","), strings.Join(e.Client, ","))
}

// parseError is a ProtocolError that does not know its sender yet.
type parseError string

func (e parseError) Error() string { return string(e) }

func parseErrorf(format string, args ...any) error { return parseError(fmt.Sprintf(format, args...)) }
