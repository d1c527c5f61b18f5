package vast

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// parseBase checks the address that the API key will be sent to. Its errors are *URLError.
func parseBase(text string) (*url.URL, error) {
	if text == "" {
		text = DefaultURL
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, &URLError{Reason: "is not a URL"}
	}
	shown := &url.URL{Scheme: u.Scheme, Host: u.Host}
	bad := func(reason string) (*url.URL, error) { return nil, &URLError{URL: shown.String(), Reason: reason} }
	switch {
	case u.User != nil:
		return bad("must not hold a user or a password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return bad("must not hold a query or a fragment")
	case u.Hostname() == "":
		return bad("names no host")
	case u.Scheme == "https":
	case u.Scheme == "http" && isLoopback(u.Hostname()):
	case u.Scheme == "http":
		return bad("must be https: over http the API key would be readable on the way")
	default:
		return bad("must be https")
	}
	return u, nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  proxy,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  15 * time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
		ForceAttemptHTTP2:      true,
	}
}

// proxy follows the environment for https, which a proxy carries sealed. Plain http is for loopback hosts only and
// never passes a proxy, which would read the API key.
func proxy(req *http.Request) (*url.URL, error) {
	if req.URL.Scheme != "https" {
		return nil, nil
	}
	u, err := http.ProxyFromEnvironment(req)
	if err != nil {
		// The cause quotes the variable, which can hold a password.
		return nil, errors.New("the proxy address in the environment is not a URL")
	}
	return u, nil
}
