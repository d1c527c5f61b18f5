package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/resolve"
	"vast-ssh/known"
)

// meet makes the first contact: it collects all host keys of the machine at the endpoint that answered and, if there is
// a second route, compares what that one shows.
func meet(ctx context.Context, cfg *Config, first resolve.Endpoint) ([]known.Pin, error) {
	via, reason, keys, err := survey(ctx, cfg, first)
	if err != nil {
		return nil, err
	}
	if !via.AtLeast(cfg.Least) {
		return nil, &FirstContactError{Instance: cfg.Instance, Least: cfg.Least, Reached: via, Keys: keys, Reason: reason}
	}
	pins := makePins(cfg.Instance, cfg.Machine, via, keys)
	if cfg.Ask != nil {
		if err := cfg.Ask(ctx, pins); err != nil {
			return nil, err
		}
	}
	return pins, nil
}

func makePins(instance, machine uint64, via known.Via, keys []ssh.PublicKey) []known.Pin {
	now := time.Now().UTC().Truncate(time.Second)
	var pins []known.Pin
	for _, k := range keys {
		pins = append(pins, known.Pin{Instance: instance, Key: k, Via: via, At: now, Machine: machine})
	}
	return pins
}

// secondRouteTimeout bounds the wait for a second route that is not demanded: editors give a login 15 s. It is longer in tests.
var secondRouteTimeout = 5 * time.Second

// survey scans the endpoint that answered and those of other routes at the same time. reason tells why the
// level is not higher.
func survey(ctx context.Context, cfg *Config, first resolve.Endpoint) (via known.Via, reason string, keys []ssh.PublicKey, err error) {
	var others []resolve.Endpoint
	var other Shown
	otherErr := errors.New("there is no second route")
	if cfg.Through != nil {
		// Who stands there stands on all routes.
		otherErr = fmt.Errorf("every route goes through %s", cfg.Through.way)
	} else {
		for _, e := range cfg.Endpoints {
			if e.Route != first.Route {
				others = append(others, e)
			}
		}
	}
	var wg sync.WaitGroup
	if len(others) > 0 {
		wg.Go(func() {
			second := *cfg
			second.Endpoints = others
			if known.Tofu.AtLeast(cfg.Least) {
				second.DialTimeout = min(cfg.DialTimeout, secondRouteTimeout)
			}
			l, err := dial(ctx, &second)
			if err != nil {
				otherErr = err
				return
			}
			l.conn.Close()
			other.Endpoint = l.endpoint
			other.Keys, otherErr = Scan(ctx, l.endpoint, second.DialTimeout)
		})
	}
	keys, err = scan(ctx, cfg.dialer(), first, cfg.DialTimeout)
	wg.Wait()
	switch {
	case err != nil:
		return "", "", nil, fmt.Errorf("first contact with instance %d: %w", cfg.Instance, err)
	case otherErr != nil:
		return known.Tofu, otherErr.Error(), keys, nil
	case !sameKeys(keys, other.Keys):
		return "", "", nil, &RoutesDifferError{cfg.Instance, []Shown{{first, keys}, other}}
	}
	return known.TwoPath, "", keys, nil
}

func sameKeys(a, b []ssh.PublicKey) bool {
	return slices.EqualFunc(a, b, func(x, y ssh.PublicKey) bool { return bytes.Equal(x.Marshal(), y.Marshal()) })
}

// scanned are the host key algorithms that are asked for one at a time, so that a server shows every key it has.
var scanned = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256},
	{ssh.KeyAlgoECDSA384},
	{ssh.KeyAlgoECDSA521},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

// scanAttempts is how often one key is asked for: a busy sshd drops connections at random (MaxStartups).
const scanAttempts = 3

// scanAtOnce is how many connections a scan makes at a time. Two routes end at one sshd, which may drop connections at
// random from ten on that have not logged in.
const scanAtOnce = 2

// Scan returns the host keys that the server at endpoint owns, in a fixed order of types: for each it has proved
// possession by signing the exchange hash of a connection of ours. It does not log in. timeout bounds each connection.
func Scan(ctx context.Context, e resolve.Endpoint, timeout time.Duration) ([]ssh.PublicKey, error) {
	return scan(ctx, dialTCP, e, timeout)
}

func scan(ctx context.Context, dial dialer, e resolve.Endpoint, timeout time.Duration) ([]ssh.PublicKey, error) {
	found := make([]ssh.PublicKey, len(scanned))
	errs := make([]error, len(scanned))
	var wg sync.WaitGroup
	slots := make(chan struct{}, scanAtOnce)
	for i, algorithms := range scanned {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			for range scanAttempts {
				if found[i], errs[i] = scanOne(ctx, dial, e, algorithms, timeout); errs[i] == nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("host keys of %s %s: %w", e.Route, e.Addr(), err)
	}
	keys := slices.DeleteFunc(found, func(k ssh.PublicKey) bool { return k == nil })
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	return keys, nil
}

// errSeen ends a scan's handshake once the host key was seen.
var errSeen = errors.New("host key seen")

// whatHostKey is how x/crypto names the host key algorithm in an AlgorithmNegotiationError.
const whatHostKey = "host key"

// scanOne returns the key that the server has for algorithms, or nil if it has none.
func scanOne(
	ctx context.Context, dial dialer, e resolve.Endpoint, algorithms []string, timeout time.Duration,
) (ssh.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dial(ctx, e.Addr())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	var seen ssh.PublicKey
	_, _, _, err = ssh.NewClientConn(conn, e.Addr(), &ssh.ClientConfig{
		HostKeyAlgorithms: algorithms,
		// x/crypto calls this after it has verified the signature over the exchange hash.
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			seen = key
			return errSeen
		},
	})
	var none *ssh.AlgorithmNegotiationError
	switch {
	case seen != nil && known.Pinnable(seen) != nil:
		return nil, nil
	case seen != nil:
		return seen, nil
	case errors.As(err, &none) && none.What == whatHostKey:
		return nil, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, err
}
