package vast

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Instance is what the API says about one instance. All of it but the id may be missing (zero), and all text is the
// server's or the renter's: quote it when showing it.
type Instance struct {
	ID uint64
	// Label is at most 1024 bytes.
	Label string
	// ActualStatus is what the container does ("running", "loading", …; empty while it is set up), IntendedStatus
	// what its user wants, CurState and NextState what the contract is at.
	ActualStatus, IntendedStatus, CurState, NextState string
	StatusMsg                                         string
	// Image is the name of the container image; ImageRuntype its access modes, as in "ssh_direc ssh_proxy".
	Image, ImageRuntype string
	// PublicIP is the machine's address, without the blanks that the API adds.
	PublicIP string
	// SSHHost and SSHPort are the gateway's.
	SSHHost string
	SSHPort uint16
	// Ports maps "22/tcp" to where the machine publishes it. Nil when nothing is published or nothing is known.
	Ports             map[string][]PortBinding
	MachineID, HostID uint64
	GPUName           string
	NumGPUs           int
	// DPHTotal is the price of an hour in US dollars.
	DPHTotal float64
	Started  time.Time
	// Volumes are those that are mounted into it.
	Volumes []VolumeUse
}

// PortBinding is one published port of the machine. HostPort is never 0.
type PortBinding struct {
	HostIP   string
	HostPort uint16
}

const (
	pageSize = 25 // the API's maximum
	maxPages = 100
	// listTimeouts bounds a whole list in timeouts of one page.
	listTimeouts = 6
)

// Instances returns all instances of the account, in the order of their ids. It fails as a whole when a page does,
// since a list with a hole would pass for the truth.
func (c *Client) Instances(ctx context.Context) ([]Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeouts*c.timeout)
	defer cancel()
	var all []Instance
	ids, tokens := make(map[uint64]bool), make(map[string]bool)
	query := url.Values{"limit": {fmt.Sprint(pageSize)}, "order_by": {`[{"col":"id","dir":"asc"}]`}}
	for range maxPages {
		body, err := c.call(ctx, request{endpoint: listInstances, query: query})
		if err != nil {
			return nil, err
		}
		page, next, err := decodeList(body)
		if err != nil {
			return nil, c.unreadable(listInstances, err)
		}
		for _, inst := range page {
			// An instance that is listed twice because the list moved between two pages is still one.
			if !ids[inst.ID] {
				ids[inst.ID] = true
				all = append(all, inst)
			}
		}
		if next == "" {
			return all, nil
		}
		if tokens[next] {
			return nil, c.unreadable(listInstances, errors.New("the list of instances goes in a circle"))
		}
		tokens[next] = true
		query.Set("after_token", next)
	}
	return nil, c.unreadable(listInstances, fmt.Errorf("the list of instances has more than %d pages", maxPages))
}

// Instance returns one instance, or a *NotFoundError.
func (c *Client) Instance(ctx context.Context, id uint64) (Instance, error) {
	body, err := c.call(ctx, request{endpoint: showInstance, id: id, query: url.Values{"owner": {"me"}}})
	if err != nil {
		return Instance{}, err
	}
	inst, found, err := decodeOne(body)
	switch {
	case err != nil:
		return Instance{}, c.unreadable(showInstance, err)
	case !found:
		return Instance{}, &NotFoundError{ID: id}
	case inst.ID != id:
		return Instance{}, c.unreadable(showInstance, fmt.Errorf("asked for instance %d, told about %d", id, inst.ID))
	}
	return inst, nil
}

// Destroy ends an instance and deletes its data; it cannot be undone. A *NotFoundError means that there was nothing to
// destroy. After an *UnavailableError the instance may be destroyed or not: ask Instance. A destroyed instance can
// linger in the API's answers for a while.
func (c *Client) Destroy(ctx context.Context, id uint64) error {
	_, err := c.call(ctx, request{endpoint: destroyInstance, id: id, body: struct{}{}})
	return err
}

// Start asks for a stopped instance to run. It returns once the API has taken the wish, not when the instance runs.
func (c *Client) Start(ctx context.Context, id uint64) error {
	return c.change(ctx, id, "state", "running")
}

// Stop asks for an instance to stop, like Start. Its data stays.
func (c *Client) Stop(ctx context.Context, id uint64) error {
	return c.change(ctx, id, "state", "stopped")
}

// SetLabel gives an instance a label of at most 1024 bytes; empty removes it.
func (c *Client) SetLabel(ctx context.Context, id uint64, label string) error {
	if len(label) > maxLabel {
		return fmt.Errorf("a label must not be longer than %d bytes", maxLabel)
	}
	return c.change(ctx, id, "label", label)
}

func (c *Client) change(ctx context.Context, id uint64, field, value string) error {
	_, err := c.call(ctx, request{endpoint: changeInstance, id: id, body: map[string]string{field: value}})
	return err
}
