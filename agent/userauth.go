package agent

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

const (
	msgUserauthRequest = 50 // RFC 4252 section 6
	methodPublicKey    = "publickey"
	// methodHostBound is publickey with the server's host key at the end of the signed text: OpenSSH PROTOCOL section 3.1.
	methodHostBound = "publickey-hostbound-v00@openssh.com"
)

// userauth is the text that a client signs to log in: RFC 4252 section 7.
type userauth struct {
	sessionID []byte
	user      string
	hostKey   []byte // of methodHostBound, else nil
}

var errNotUserauth = errors.New("not a user authentication request")

// parseUserauth accepts exactly the two forms that a client may ask this agent to sign, for keyBlob and no other key.
// Anything else is an error: SSHSIG, another service, another algorithm, a trailing byte.
func parseUserauth(data, keyBlob []byte) (*userauth, error) {
	var head struct {
		SessionID []byte
		Message   byte
		User      string
		Service   string
		Method    string
		Rest      []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(data, &head); err != nil || head.Message != msgUserauthRequest {
		return nil, errNotUserauth
	}
	if err := checkSessionID(head.SessionID); err != nil {
		return nil, err
	}
	if head.Service != "ssh-connection" {
		return nil, fmt.Errorf("for the service %q", head.Service)
	}

	type publickey struct {
		HasSignature byte
		Algorithm    string
		Key          []byte
	}
	var pk publickey
	var hostKey []byte
	switch head.Method {
	case methodPublicKey:
		if err := ssh.Unmarshal(head.Rest, &pk); err != nil {
			return nil, errNotUserauth
		}
	case methodHostBound:
		var hb struct {
			HasSignature byte
			Algorithm    string
			Key          []byte
			HostKey      []byte
		}
		if err := ssh.Unmarshal(head.Rest, &hb); err != nil || len(hb.HostKey) == 0 {
			return nil, errNotUserauth
		}
		pk = publickey{hb.HasSignature, hb.Algorithm, hb.Key}
		hostKey = hb.HostKey
	default:
		return nil, fmt.Errorf("by the method %q", head.Method)
	}
	switch {
	case pk.HasSignature != 1:
		return nil, errNotUserauth
	case pk.Algorithm != ssh.KeyAlgoED25519:
		return nil, fmt.Errorf("with the algorithm %q", pk.Algorithm)
	case !bytes.Equal(pk.Key, keyBlob):
		return nil, errors.New("with another key inside")
	case head.User == "":
		return nil, errors.New("for no user")
	}
	return &userauth{sessionID: head.SessionID, user: head.User, hostKey: hostKey}, nil
}
