package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// key describes one setting: a TOML string, or an array of them.
type key struct {
	name     string
	fallback string
	// wants completes the sentence "KEY must be …".
	wants string
	// set puts text into c and reports whether text is acceptable. It is nil for an array.
	set func(c *Config, text string) bool
	// add puts one more element of an array into c and reports whether it is acceptable. It is nil for a string. The
	// fallback of an array is empty.
	add func(c *Config, text string) bool
}

// maxElements bounds the elements of an array.
const maxElements = 256

// keys holds every setting in the order of Values.
var keys = []key{
	choice("custody", []string{string(CustodyFile), string(CustodyKeyring)},
		func(c *Config, s string) { c.Custody = Custody(s) }),
	choice("first_contact",
		[]string{string(ContactTOFU), string(ContactTwoPath), string(ContactManual), string(ContactAsk)},
		func(c *Config, s string) { c.FirstContact = FirstContact(s) }),
	{name: "user", fallback: "root", wants: "a user name: " + userWants, set: setUser},
	{name: "users", wants: `user names ("ubuntu"), for one instance with its id ("ubuntu@1234567"): ` + userWants, add: addUser},
	choice("accept", []string{string(AcceptWitness), string(AcceptBind)}, func(c *Config, s string) { c.Accept = Accept(s) }),
	{name: "hops", wants: `pairs of instance ids, such as "1234567>2345678"`, add: addHop},
	choice("confirm", []string{string(ConfirmNever), string(ConfirmFirst), string(ConfirmAlways)},
		func(c *Config, s string) { c.Confirm = Confirm(s) }),
	{name: "askpass", wants: "empty or the absolute path of an askpass program", set: setAskpass},
	onOff("notify", "off", func(c *Config) *bool { return &c.Notify }),
	duration("idle_lock", "0s", "0s", "24h", func(c *Config) *time.Duration { return &c.IdleLock }),
	onOff("screen_lock", "on", func(c *Config) *bool { return &c.ScreenLock }),
	duration("witness_life", "30s", "1s", "5m", func(c *Config) *time.Duration { return &c.WitnessLife }),
	duration("cache_fresh", "5m", "0s", "1h", func(c *Config) *time.Duration { return &c.CacheFresh }),
	duration("api_timeout", "20s", "1s", "2m", func(c *Config) *time.Duration { return &c.APITimeout }),
	duration("dial_timeout", "10s", "1s", "2m", func(c *Config) *time.Duration { return &c.DialTimeout }),
	duration("gateway_delay", "250ms", "0s", "10s", func(c *Config) *time.Duration { return &c.GatewayDelay }),
	{name: "ssh", wants: "empty or the absolute path of the ssh program", set: setSSH},
	{name: apiURLKey, fallback: "https://console.vast.ai", wants: apiURLWants, set: setAPIURL},
}

const (
	apiURLKey   = "api_url"
	apiURLWants = "an https URL, or an http URL of this machine, with no user, query or fragment"
)

// choice is a key with a closed list of values, of which the first is the default.
func choice(name string, allowed []string, put func(*Config, string)) key {
	wants := `one of "` + strings.Join(allowed, `", "`) + `"`
	return key{name: name, fallback: allowed[0], wants: wants, set: func(c *Config, text string) bool {
		put(c, text)
		return slices.Contains(allowed, text)
	}}
}

// onOff is a key for a switch.
func onOff(name, fallback string, field func(*Config) *bool) key {
	return key{name: name, fallback: fallback, wants: `"on" or "off"`, set: func(c *Config, text string) bool {
		*field(c) = text == "on"
		return text == "on" || text == "off"
	}}
}

// duration is a key for a time from low to high, both included.
func duration(name, fallback, low, high string, field func(*Config) *time.Duration) key {
	least, most := mustDuration(low), mustDuration(high)
	wants := fmt.Sprintf("a duration from %s to %s, such as %q", low, high, fallback)
	return key{name: name, fallback: fallback, wants: wants, set: func(c *Config, text string) bool {
		d, err := time.ParseDuration(text)
		*field(c) = d
		return err == nil && d >= least && d <= most
	}}
}

func mustDuration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return d
}

// userName is what useradd accepts. It also keeps the name clear of everything that ssh_config or a shell reads.
var userName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

func setUser(c *Config, text string) bool {
	c.User = text
	return userName.MatchString(text)
}

const userWants = "a small letter or _, then up to 31 of a-z, 0-9, _ and -"

func addUser(c *Config, text string) bool {
	name, at, one := strings.Cut(text, "@")
	u := UserAt{Name: name}
	if one {
		var ok bool
		if u.Instance, ok = instanceID(at); !ok {
			return false
		}
	}
	c.Users = append(c.Users, u)
	return userName.MatchString(name)
}

func addHop(c *Config, text string) bool {
	from, to, _ := strings.Cut(text, ">")
	var h Hop
	var fromOK, toOK bool
	h.From, fromOK = instanceID(strings.TrimSpace(from))
	h.To, toOK = instanceID(strings.TrimSpace(to))
	c.Hops = append(c.Hops, h)
	return fromOK && toOK && h.From != h.To
}

// instanceID reads an id as people write it, with "vast-" before it or not.
func instanceID(text string) (uint64, bool) {
	id, err := strconv.ParseUint(strings.TrimPrefix(text, "vast-"), 10, 64)
	return id, err == nil && id != 0
}

func setSSH(c *Config, text string) bool {
	c.SSH = text
	return isProgram(text)
}

func setAskpass(c *Config, text string) bool {
	c.Askpass = text
	return isProgram(text)
}

func isProgram(text string) bool {
	return text == "" || filepath.IsAbs(text) && !strings.ContainsFunc(text, unprintable)
}

func unprintable(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }

func setAPIURL(c *Config, text string) bool {
	c.APIURL = text
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery ||
		strings.Contains(text, "#") || strings.ContainsFunc(text, unprintable) {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
