package sim

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// publicKey reads the body of a request that brings a key. Its reply is the refusal, if ok is false.
func (c *call) publicKey() (key string, refusal reply, ok bool) {
	var body struct {
		SSHKey string `json:"ssh_key"`
		// ID is what the official tool repeats from the path when it updates a key.
		ID *uint64 `json:"id"`
	}
	switch {
	case !c.decode(&body) || body.ID != nil && c.route.endpoint != UpdateAccountKeyEndpoint:
		c.unexpected = "a body of another form"
		return "", refuse(http.StatusBadRequest, "invalid_request", "Invalid request parameters"), false
	case body.SSHKey == "":
		c.unexpected = "no ssh key"
		return "", refuse(http.StatusBadRequest, "no_ssh_key", "No ssh key provided"), false
	case strings.Contains(body.SSHKey, "PRIVATE KEY"):
		c.unexpected = "a private key"
		return "", refuse(http.StatusBadRequest, "invalid_request", "Invalid ssh key"), false
	case !validKey(body.SSHKey):
		c.unexpected = "text that is no ssh key"
		return "", refuse(http.StatusBadRequest, "invalid_request", "Invalid ssh key"), false
	}
	return body.SSHKey, reply{}, true
}

func hasKey(keys []SSHKey, key string) bool {
	return slices.ContainsFunc(keys, func(k SSHKey) bool { return sameKey(k.PublicKey, key) })
}

func (a *Account) listAccountKeys(*call) reply {
	if len(a.keys) == 0 && a.opts.Shapes.NoKeysIs404 {
		return refuse(http.StatusNotFound, "not_found", "No SSH keys found for the user.")
	}
	field := "public_key"
	if a.opts.Shapes.KeyField {
		field = "key"
	}
	list := make([]jsonObject, len(a.keys))
	for i, k := range a.keys {
		list[i] = accountKey(k, field)
	}
	if a.opts.Shapes.WrappedKeys {
		return ok(jsonObject{"ssh_keys": list})
	}
	return ok(list)
}

func accountKey(k SSHKey, field string) jsonObject {
	return jsonObject{
		"id": k.ID, "user_id": userID, field: k.PublicKey, "created_at": k.CreatedAt.UTC().Format(time.RFC3339),
		"deleted_at": nil,
	}
}

func (a *Account) addAccountKey(c *call) reply {
	key, refusal, valid := c.publicKey()
	switch {
	case !valid:
		return refusal
	case c.key.Team:
		return refuse(http.StatusBadRequest, "team_ssh_keys_not_supported",
			"Team SSH keys are not supported. SSH keys can only be created in personal context.")
	case hasKey(a.keys, key):
		return refuse(http.StatusBadRequest, "invalid_args", "The SSH key already exists on this account")
	}
	k := SSHKey{ID: a.newID(), PublicKey: key, CreatedAt: a.opts.Now()}
	a.keys = append(a.keys, k)
	if a.opts.Shapes.KeysReachInstances {
		for id, row := range a.instances {
			row.born = append(row.born, key)
			c.after = append(c.after, func() { a.arrive(id, key) })
		}
	}
	return ok(jsonObject{"success": true, "key": accountKey(k, "public_key")})
}

func noSuchKey() reply { return refuse(http.StatusBadRequest, "no_ssh_key", "No ssh key provided") }

func (a *Account) updateAccountKey(c *call) reply {
	key, refusal, valid := c.publicKey()
	if !valid {
		return refusal
	}
	i := slices.IndexFunc(a.keys, func(k SSHKey) bool { return k.ID == c.keyID() })
	if i < 0 {
		return noSuchKey()
	}
	a.keys[i].PublicKey = key
	return ok(jsonObject{"success": true, "key": accountKey(a.keys[i], "public_key")})
}

// deleteAccountKey leaves the key on the instances that have it.
func (a *Account) deleteAccountKey(c *call) reply {
	i := slices.IndexFunc(a.keys, func(k SSHKey) bool { return k.ID == c.keyID() })
	if !c.empty() || i < 0 {
		return noSuchKey()
	}
	a.keys = slices.Delete(a.keys, i, i+1)
	return success("")
}

func (a *Account) listInstanceKeys(c *call) reply {
	row := a.live(c)
	if row == nil {
		return noSuchInstance()
	}
	list := make([]jsonObject, len(row.keys))
	for i, k := range row.keys {
		_, name, _ := strings.Cut(strings.TrimSpace(k.PublicKey), " ")
		_, name, _ = strings.Cut(name, " ")
		list[i] = jsonObject{"id": k.ID, "name": name, "public_key": k.PublicKey}
	}
	if a.opts.Shapes.InstanceKeysArray {
		return ok(jsonObject{"success": true, "ssh_keys": list})
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return ok(jsonObject{"success": true, "ssh_keys": string(text)})
}

func (a *Account) attach(c *call) reply {
	key, refusal, valid := c.publicKey()
	if !valid {
		return refusal
	}
	row := a.live(c)
	if row == nil {
		return noSuchInstance()
	}
	if hasKey(row.keys, key) {
		r := ok(jsonObject{"success": false, "msg": "SSH key already associated with instance."})
		if a.opts.Shapes.DuplicateAttachIs400 {
			r.status = http.StatusBadRequest
		}
		return r
	}
	row.keys = append(row.keys, SSHKey{ID: a.newID(), PublicKey: key, CreatedAt: a.opts.Now()})
	c.after = append(c.after, func() { a.arrive(row.ID, key) })
	return success("SSH key attached successfully")
}

// arrive tells the hook, after the attach delay, about a key that the instance shall have.
func (a *Account) arrive(id uint64, key string) {
	if a.opts.OnAttach != nil {
		a.later(func() { a.opts.OnAttach(id, key) })
	}
}

// leave tells the hook, after the same delay, about a key that the instance shall have no longer.
func (a *Account) leave(id uint64, key string) {
	if a.opts.OnDetach != nil {
		a.later(func() { a.opts.OnDetach(id, key) })
	}
}

func (a *Account) detach(c *call) reply {
	if !c.empty() {
		return refuse(http.StatusBadRequest, "invalid_request", "Invalid request parameters")
	}
	row := a.live(c)
	if row == nil {
		return noSuchInstance()
	}
	i := slices.IndexFunc(row.keys, func(k SSHKey) bool { return k.ID == c.keyID() })
	if i < 0 {
		return refuse(http.StatusNotFound, "no_such_ssh_key", "SSH key not found.")
	}
	key := row.keys[i].PublicKey
	row.keys = slices.Delete(row.keys, i, i+1)
	c.after = append(c.after, func() { a.leave(row.ID, key) })
	return success("SSH key removed from instance.")
}
