package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// key describes one setting. All of them are TOML strings.
type key struct {
	name     string
	fallback string
	// wants completes the sentence "KEY must be …".
	wants string
	// set puts text into c and reports whether text is acceptable.
	set func(c *Config, text string) bool
}

// keys holds every setting in the order of Values.
var keys = []key{
	choice("custody", []string{string(CustodyFile), string(CustodyKeyring)},
		func(c *Config, s string) { c.Custody = Custody(s) }),
	choice("first_contact",
		[]string{string(ContactTOFU), string(ContactTwoPath), string(ContactManual), string(ContactAsk)},
		func(c *Config, s string) { c.FirstContact = FirstContact(s) }),
	{"user", "root", "a user name: a small letter or _, then up to 31 of a-z, 0-9, _ and -", setUser},
	duration("witness_life", "30s", "1s", "5m", func(c *Config) *time.Duration { return &c.WitnessLife }),
	duration("cache_fresh", "5m", "0s", "1h", func(c *Config) *time.Duration { return &c.CacheFresh }),
	duration("api_timeout", "20s", "1s", "2m", func(c *Config) *time.Duration { return &c.APITimeout }),
	duration("dial_timeout", "10s", "1s", "2m", func(c *Config) *time.Duration { return &c.DialTimeout }),
	duration("gateway_delay", "250ms", "0s", "10s", func(c *Config) *time.Duration { return &c.GatewayDelay }),
	{"ssh", "", "empty or the absolute path of the ssh program", setSSH},
	{apiURLKey, "https://console.vast.ai", apiURLWants, setAPIURL},
}

const (
	apiURLKey   = "api_url"
	apiURLWants = "an https URL, or an http URL of this machine, with no user, query or fragment"
)

// choice is a key with a closed list of values, of which the first is the default.
func choice(name string, allowed []string, put func(*Config, string)) key {
	return key{name, allowed[0], `one of "` + strings.Join(allowed, `", "`) + `"`, func(c *Config, text string) bool {
		put(c, text)
		return slices.Contains(allowed, text)
	}}
}

// duration is a key for a time from low to high, both included.
func duration(name, fallback, low, high string, field func(*Config) *time.Duration) key {
	least, most := mustDuration(low), mustDuration(high)
	wants := fmt.Sprintf("a duration from %s to %s, such as %q", low, high, fallback)
	return key{name, fallback, wants, func(c *Config, text string) bool {
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

func setSSH(c *Config, text string) bool {
	c.SSH = text
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
