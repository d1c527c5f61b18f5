package vast

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// SSHKey is a public key that the API keeps for an instance or for the account.
type SSHKey struct {
	// ID is what DetachKey and DeleteAccountKey take; 0 when the API gave none.
	ID   uint64
	Name string
	// PublicKey is one line as in authorized_keys, as it was given to the API: it need not parse.
	PublicKey string
}

// InstanceKeys returns the keys attached to an instance.
func (c *Client) InstanceKeys(ctx context.Context, id uint64) ([]SSHKey, error) {
	body, err := c.call(ctx, request{endpoint: listInstanceKeys, id: id})
	if err != nil {
		return nil, err
	}
	keys, err := decodeKeys(body)
	if err != nil {
		return nil, c.unreadable(listInstanceKeys, err)
	}
	return keys, nil
}

// AttachKey lets the key of an authorized_keys line into an instance, and reports whether it was attached already. The
// instance follows within about 20 seconds. After an *UnavailableError it can be called again: a key cannot be
// attached twice.
func (c *Client) AttachKey(ctx context.Context, id uint64, authorizedKey string) (already bool, err error) {
	return c.addKey(ctx, request{endpoint: attachKey, id: id}, authorizedKey)
}

// DetachKey takes a key, by its ID, off an instance.
func (c *Client) DetachKey(ctx context.Context, id, keyID uint64) error {
	_, err := c.call(ctx, request{endpoint: detachKey, id: id, keyID: keyID, body: struct{}{}})
	return err
}

// AccountKeys returns the keys of the account, which new instances start with.
func (c *Client) AccountKeys(ctx context.Context) ([]SSHKey, error) {
	body, err := c.call(ctx, request{endpoint: listAccountKeys})
	if refused := (*APIError)(nil); errors.As(err, &refused) && refused.Status == http.StatusNotFound &&
		(refused.Code != "" || strings.Contains(strings.ToLower(refused.Msg), "key")) {
		// The documented answer for an account without keys. Any other 404 is about the route.
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keys, err := decodeKeys(body)
	if err != nil {
		return nil, c.unreadable(listAccountKeys, err)
	}
	return keys, nil
}

// AddAccountKey adds the key of an authorized_keys line to the account, and reports whether it was there already. The
// key of a team cannot do that: an *APIError whose Hint says what to do instead.
func (c *Client) AddAccountKey(ctx context.Context, authorizedKey string) (already bool, err error) {
	return c.addKey(ctx, request{endpoint: addAccountKey}, authorizedKey)
}

// DeleteAccountKey takes a key, by its ID, off the account. The instances that have it keep it.
func (c *Client) DeleteAccountKey(ctx context.Context, keyID uint64) error {
	_, err := c.call(ctx, request{endpoint: dropAccountKey, keyID: keyID, body: struct{}{}})
	return err
}

func (c *Client) addKey(ctx context.Context, r request, authorizedKey string) (already bool, err error) {
	line, err := publicKeyLine(authorizedKey)
	if err != nil {
		return false, err
	}
	r.body = map[string]string{"ssh_key": line}
	_, err = c.call(ctx, r)
	if refused := (*APIError)(nil); errors.As(err, &refused) {
		// A duplicate has no code of its own, and comes with status 200 or 400.
		msg := strings.ToLower(refused.Msg)
		if strings.Contains(msg, "already associated") || strings.Contains(msg, "already exists") {
			return true, nil
		}
	}
	return false, err
}

// publicKeyLine checks that text is one public key, and nothing that must stay here. Its errors do not show the text,
// which could be a private key.
func publicKeyLine(text string) (string, error) {
	line := strings.TrimSpace(text)
	switch {
	case strings.Contains(text, "PRIVATE KEY"):
		return "", errors.New("this is a private key, which must not be sent to anybody: give the public key")
	case len(line) > maxPublicKey:
		return "", errors.New("the public key is too long")
	case strings.ContainsFunc(line, unicode.IsControl):
		return "", errors.New("a public key is one line of text")
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", errors.New("this is not a public key line")
	}
	if _, cert := key.(*ssh.Certificate); cert || len(options) > 0 {
		return "", errors.New("a public key without options is wanted, and no certificate")
	}
	return line, nil
}
