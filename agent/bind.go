package agent

import (
	"errors"

	"golang.org/x/crypto/ssh"
)

const extSessionBind = "session-bind@openssh.com"

// binding is what a client says of its session, checked: OpenSSH PROTOCOL.agent section 1.
type binding struct {
	hostKey   ssh.PublicKey
	blob      []byte // hostKey on the wire
	sessionID []byte
}

// parseBinding parses and verifies the body of a session-bind extension. The host key comes back, also with an error,
// as soon as it is known. forwarded is true for every value of is_forwarding but 0.
func parseBinding(body []byte) (b binding, forwarded bool, err error) {
	var msg struct {
		HostKey      []byte
		SessionID    []byte
		Signature    []byte
		IsForwarding byte
	}
	if err := ssh.Unmarshal(body, &msg); err != nil {
		return binding{}, false, errors.New("binding does not parse")
	}
	b = binding{blob: msg.HostKey, sessionID: msg.SessionID}
	if b.hostKey, err = parseHostKey(msg.HostKey); err != nil {
		return b, false, err
	}
	if err := checkSessionID(msg.SessionID); err != nil {
		return b, false, err
	}
	sig, err := parseSignature(b.hostKey, msg.Signature)
	if err != nil {
		return b, false, err
	}
	if err := b.hostKey.Verify(msg.SessionID, sig); err != nil {
		return b, false, errors.New("the host key did not sign the session id")
	}
	return b, msg.IsForwarding != 0, nil
}
