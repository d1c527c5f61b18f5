package vast

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
)

// VolumeUse is a volume that an instance has mounted, as its row says.
type VolumeUse struct {
	ID   uint64
	Name string
	// Path is where it is mounted, or empty where the API does not say.
	Path string
}

// Volume is storage that is rented apart from instances and outlives them.
type Volume struct {
	ID        uint64
	Label     string
	MachineID uint64
	Status    string
	// SizeGB is its size in GB, 0 if unknown.
	SizeGB float64
	// Instances use it. An answer that names none does not prove that there is none.
	Instances []uint64
}

const maxVolumes = 1000

// Volumes returns the volumes of the account, local and in the network.
func (c *Client) Volumes(ctx context.Context) ([]Volume, error) {
	body, err := c.call(ctx, request{endpoint: listVolumes, query: url.Values{"owner": {"me"}, "type": {"all_volume"}}})
	if err != nil {
		return nil, err
	}
	volumes, err := decodeVolumes(body)
	if err != nil {
		return nil, c.unreadable(listVolumes, err)
	}
	return volumes, nil
}

func decodeVolumes(body []byte) ([]Volume, error) {
	var list []json.RawMessage
	if raw, ok := object(body)["volumes"]; !ok || json.Unmarshal(raw, &list) != nil || list == nil {
		return nil, errors.New("the answer holds no list of volumes")
	}
	if len(list) > maxVolumes {
		return nil, fmt.Errorf("the answer holds %d volumes, more than %d", len(list), maxVolumes)
	}
	var volumes []Volume
	for _, raw := range list {
		f := object(raw)
		users, err := f.users()
		if err != nil {
			return nil, err
		}
		v := Volume{
			ID: f.uint("id"), Label: f.text("label", maxLabel), MachineID: f.uint("machine_id"),
			Status: f.text("status", maxWord), SizeGB: f.float("disk_space"), Instances: users,
		}
		if v.ID == 0 {
			return nil, errors.New("a volume has no usable id")
		}
		volumes = append(volumes, v)
	}
	return volumes, nil
}

// users gives the instances that a volume's row names: a list of ids or of rows, or a single id. One that cannot be read may be
// anybody, and is an error.
func (f fields) users() ([]uint64, error) {
	var users []uint64
	unread := false
	add := func(id uint64) {
		unread = unread || id == 0
		users = append(users, id)
	}
	for _, name := range []string{"instances", "instance_ids"} {
		var list []json.RawMessage
		if json.Unmarshal(f[name], &list) != nil {
			continue
		}
		for _, raw := range list {
			if row := object(raw); row != nil {
				add(row.uint("id"))
				continue
			}
			add(fields{"id": raw}.uint("id"))
		}
	}
	if id := f.uint("instance_id"); id != 0 {
		add(id)
	}
	if unread || len(users) > maxPage {
		return nil, errors.New("a volume is used by instances that cannot be read")
	}
	return users, nil
}

// volumeUses gives the volumes of an instance's row: a list of rows, or one row.
func (f fields) volumeUses(name string) []VolumeUse {
	var list []json.RawMessage
	if json.Unmarshal(f[name], &list) != nil {
		if object(f[name]) == nil {
			return nil
		}
		list = []json.RawMessage{f[name]}
	}
	var uses []VolumeUse
	for _, raw := range list[:min(len(list), maxVolumes)] {
		v := object(raw)
		use := VolumeUse{ID: v.uint("id"), Name: v.text("name", maxLabel)}
		for _, name := range []string{"mount_path", "mount_point", "path"} {
			if use.Path == "" {
				use.Path = v.text(name, maxLabel)
			}
		}
		if use.ID != 0 {
			uses = append(uses, use)
		}
	}
	return uses
}
