package resolve

import (
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"vast-ssh/internal/vast"
)

// Route is the way to an instance.
type Route string

const (
	// Direct is a port of the rented machine itself, mapped to port 22 of the container.
	Direct Route = "direct"
	// Gateway is a port of a Vast.ai gateway, forwarded through a tunnel that the container holds open.
	Gateway Route = "gateway"
)

// Endpoint is an address at which an instance may be listening. Nothing vouches for it: another tenant may have
// it by now, and only a pinned host key tells.
type Endpoint struct {
	Route Route  `json:"route"`
	Host  string `json:"host"` // IP address or DNS name
	Port  uint16 `json:"port"` // never 0
}

// Addr returns the endpoint as net.Dial takes it.
func (e Endpoint) Addr() string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }

// Endpoints returns the addresses of a running instance in the order to try them, at least one. Otherwise the
// error is a *NoSSHError, *NotRunningError or *NoAddressError.
func Endpoints(inst vast.Instance) ([]Endpoint, error) {
	e := newEntry(inst)
	if err := e.refusal(); err != nil {
		return nil, err
	}
	return e.Endpoints, nil
}

// addresses applies the rules for addresses alone. The direct route needs a mapping of port 22, which is absent
// while the container starts and on hosts without open ports. machine_dir_ssh_port is not such a mapping.
func addresses(inst vast.Instance) []Endpoint {
	var list []Endpoint
	add := func(route Route, host string, port int) {
		if host = strings.TrimSpace(host); validHost(host) && port > 0 && port <= math.MaxUint16 {
			list = append(list, Endpoint{Route: route, Host: host, Port: uint16(port)})
		}
	}
	// Docker lists a binding for each address family. They lead to the same container, so one is enough.
	for _, binding := range inst.Ports["22/tcp"] {
		if binding.HostPort != 0 {
			add(Direct, inst.PublicIP, int(binding.HostPort))
			break
		}
	}
	// The gateway reaches a Jupyter instance at the next port in most accounts, and at the port itself in some.
	// Vast.ai does not document which, so both are tried.
	if inst.SSHPort != 0 {
		if strings.Contains(inst.ImageRuntype, "jupyter") {
			add(Gateway, inst.SSHHost, int(inst.SSHPort)+1)
		}
		add(Gateway, inst.SSHHost, int(inst.SSHPort))
	}
	return list
}

// maxHost is the longest DNS name, RFC 1035 section 2.3.4.
const maxHost = 253

// validHost reports whether an address that the API sent may be dialled and be an argument of a command: an IP
// address that is not unspecified, or a DNS name. Private and loopback addresses pass, since people have them.
func validHost(host string) bool {
	if len(host) > maxHost {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return !ip.IsUnspecified() && ip.Zone() == ""
	}
	last := ""
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notHostRune) {
			return false
		}
		last = label
	}
	// A name that ends in a number is a misspelt IPv4 address, which resolvers read in different ways.
	_, err := strconv.ParseUint(last, 0, 64)
	return err != nil
}

func notHostRune(c rune) bool {
	return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-'
}
