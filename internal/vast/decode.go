package vast

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Bounds on what one answer may hold. A string over its bound counts as absent, so that no cut text is ever taken for
// the whole; only the free text of a status is shortened instead.
const (
	maxPage      = 1000 // instances on one page; the API documents 25
	maxToken     = 4096
	maxLabel     = 1024
	maxStatusMsg = 4096
	maxWord      = 256
	maxHost      = 253
	maxPorts     = 1024
	maxBindings  = 16
	maxKeys      = 1000
	maxPublicKey = 16 << 10
	maxResultURL = 4096
)

// fields is a JSON object. Its methods take a value of any type and give the zero value for one that is missing or
// not usable, so that one bad field costs only itself.
type fields map[string]json.RawMessage

// object returns nil for anything but a JSON object.
func object(raw []byte) fields {
	var f fields
	if json.Unmarshal(raw, &f) != nil {
		return nil
	}
	return f
}

// text gives a string, or a number as it is written.
func (f fields) text(name string, limit int) string {
	var s string
	if json.Unmarshal(f[name], &s) != nil {
		var n json.Number
		if json.Unmarshal(f[name], &n) != nil {
			return ""
		}
		s = n.String()
	}
	if len(s) > limit {
		return ""
	}
	return s
}

// said gives whatever a field says, for an error text.
func (f fields) said(name string) string {
	var s string
	if json.Unmarshal(f[name], &s) == nil {
		return s
	}
	if raw := string(f[name]); raw != "false" {
		return raw
	}
	return ""
}

// truth gives a boolean, also written as a number or a string.
func (f fields) truth(name string) (value, known bool) {
	switch strings.ToLower(strings.Trim(string(f[name]), `"`)) {
	case "true", "1":
		return true, true
	case "false", "0":
		return false, true
	}
	return false, false
}

func (f fields) float(name string) float64 {
	n, err := strconv.ParseFloat(strings.TrimSpace(f.text(name, 64)), 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0
	}
	return n
}

// uint gives a whole number that is not negative, also written as a string or as 7.0.
func (f fields) uint(name string) uint64 {
	if n, err := strconv.ParseUint(strings.TrimSpace(f.text(name, 64)), 10, 64); err == nil {
		return n
	}
	// Above 2^53 a float no longer names one integer.
	if n := f.float(name); n > 0 && n == math.Trunc(n) && n <= 1<<53 {
		return uint64(n)
	}
	return 0
}

func (f fields) port(name string) uint16 {
	if n := f.uint(name); n <= math.MaxUint16 {
		return uint16(n)
	}
	return 0
}

// host gives a host name or an address that is safe as an argument and in a file: the API is known to add blanks, and
// anything else but letters, digits and ".:_-" is no host.
func (f fields) host(name string) string {
	host := strings.TrimSpace(f.text(name, maxHost+16))
	if len(host) > maxHost || strings.HasPrefix(host, "-") {
		return ""
	}
	for _, r := range host {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(".:_-", r):
		default:
			return ""
		}
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
			return ""
		}
	}
	return host
}

func (f fields) time(name string) time.Time {
	sec := f.float(name)
	if sec <= 0 || sec >= 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(sec), 0)
}

// ports gives the port map of a container, in which a host port is a string or a number.
func (f fields) ports(name string) map[string][]PortBinding {
	all := object(f[name])
	if len(all) > maxPorts {
		return nil
	}
	ports := make(map[string][]PortBinding)
	for port, raw := range all {
		var list []json.RawMessage
		if len(port) > maxWord || json.Unmarshal(raw, &list) != nil || len(list) > maxBindings {
			continue
		}
		for _, raw := range list {
			b := object(raw)
			if hostPort := b.port("HostPort"); hostPort != 0 {
				ports[port] = append(ports[port], PortBinding{HostIP: b.host("HostIp"), HostPort: hostPort})
			}
		}
	}
	if len(ports) == 0 {
		return nil
	}
	return ports
}

func decodeInstance(raw []byte) (Instance, error) {
	f := object(raw)
	if f == nil {
		return Instance{}, errors.New("an instance is not a JSON object")
	}
	id := f.uint("id")
	if id == 0 {
		return Instance{}, errors.New("an instance has no usable id")
	}
	return Instance{
		ID:             id,
		Label:          f.text("label", maxLabel),
		ActualStatus:   f.text("actual_status", maxWord),
		IntendedStatus: f.text("intended_status", maxWord),
		CurState:       f.text("cur_state", maxWord),
		NextState:      f.text("next_state", maxWord),
		StatusMsg:      cut(f.text("status_msg", maxBody), maxStatusMsg),
		Image:          f.text("image_uuid", maxLabel),
		ImageRuntype:   f.text("image_runtype", maxWord),
		PublicIP:       f.host("public_ipaddr"),
		SSHHost:        f.host("ssh_host"),
		SSHPort:        f.port("ssh_port"),
		Ports:          f.ports("ports"),
		MachineID:      f.uint("machine_id"),
		HostID:         f.uint("host_id"),
		GPUName:        f.text("gpu_name", maxWord),
		NumGPUs:        int(min(f.uint("num_gpus"), math.MaxUint16)),
		DPHTotal:       f.float("dph_total"),
		Started:        f.time("start_date"),
		Volumes:        f.volumeUses("volume_info"),
	}, nil
}

// decodeList reads one page of instances and the token of the next page, "" on the last one.
func decodeList(body []byte) (page []Instance, next string, err error) {
	f := object(body)
	var list []json.RawMessage
	if raw, ok := f["instances"]; !ok || json.Unmarshal(raw, &list) != nil || list == nil {
		return nil, "", errors.New("the answer holds no list of instances")
	}
	if len(list) > maxPage {
		return nil, "", fmt.Errorf("the answer holds %d instances, more than %d", len(list), maxPage)
	}
	for _, raw := range list {
		inst, err := decodeInstance(raw)
		if err != nil {
			return nil, "", err
		}
		page = append(page, inst)
	}
	var token *string
	if raw, ok := f["next_token"]; ok && json.Unmarshal(raw, &token) != nil {
		return nil, "", errors.New("the token of the next page is not a string")
	}
	if token != nil {
		next = *token
	}
	if len(next) > maxToken {
		return nil, "", errors.New("the token of the next page is too long")
	}
	return page, next, nil
}

// decodeOne reads one instance: {"instances": {…}}, or the bare object. {"instances": null} is how the API says that
// there is none.
func decodeOne(body []byte) (inst Instance, found bool, err error) {
	f := object(body)
	if f == nil {
		return Instance{}, false, errors.New("the answer is not a JSON object")
	}
	raw, wrapped := f["instances"]
	if !wrapped {
		raw = body
	} else if string(raw) == "null" {
		return Instance{}, false, nil
	}
	inst, err = decodeInstance(raw)
	return inst, err == nil, err
}

// decodeKeys reads a list of public keys: an array, or an object with "ssh_keys", which is an array or a string that
// holds one. Keys marked as deleted are left out.
func decodeKeys(body []byte) ([]SSHKey, error) {
	raw := bytes.TrimSpace(body)
	if f := object(body); f != nil {
		var ok bool
		if raw, ok = f["ssh_keys"]; !ok {
			return nil, errors.New("the answer holds no list of keys")
		}
		var inner string
		if json.Unmarshal(raw, &inner) == nil {
			raw = []byte(strings.TrimSpace(inner))
		}
		if len(raw) == 0 {
			return nil, nil
		}
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil, errors.New("the answer holds no list of keys")
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("the answer holds %d keys, more than %d", len(list), maxKeys)
	}
	var keys []SSHKey
	for _, raw := range list {
		f := object(raw)
		if f == nil {
			return nil, errors.New("a key is not a JSON object")
		}
		if gone := f.said("deleted_at"); gone != "" {
			continue
		}
		keys = append(keys, SSHKey{ID: f.uint("id"), Name: f.text("name", maxLabel), PublicKey: f.publicKey()})
	}
	return keys, nil
}

// publicKey gives the one line of a key, which the API calls by either name.
func (f fields) publicKey() string {
	for _, name := range []string{"public_key", "key"} {
		if line := strings.TrimSpace(f.text(name, maxPublicKey)); line != "" && !strings.ContainsAny(line, "\r\n") {
			return line
		}
	}
	return ""
}
