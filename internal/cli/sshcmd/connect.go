package sshcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"vast-ssh/config"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
	"vast-ssh/known"
)

// connect resolves name and opens the watched connection to it, with an agent running.
func connect(ctx context.Context, env *Env, name string, trace func(string, time.Duration)) (*proxy.Conn, resolve.Target, error) {
	return follow(ctx, env, way{name: name}, trace)
}

// follow opens the watched connection to where w leads, with an agent running. The target that comes with an error is
// the instance that it is about.
func follow(ctx context.Context, env *Env, w way, trace func(string, time.Duration)) (*proxy.Conn, resolve.Target, error) {
	if err := env.agent(ctx); err != nil {
		return nil, resolve.Target{}, err
	}
	r, err := env.resolver()
	if err != nil {
		return nil, resolve.Target{}, err
	}
	start := time.Now()
	target, err := find(ctx, r, w.name)
	if err != nil {
		return nil, target, err
	}
	if trace != nil {
		trace(fmt.Sprintf("%s is instance %d (%s)", term.Safe(w.name), target.ID, target.Source), time.Since(start))
	}
	stops, err := findStops(ctx, r, w.through, target)
	if err != nil {
		return nil, target, err
	}
	set := func(cfg *proxy.Config) {
		if w.client != 0 {
			cfg.Client = w.client
		}
	}
	if len(stops) == 0 {
		return reach(ctx, env, r, target, set, trace)
	}
	jump, at, err := goThrough(ctx, env, r, w.through, stops, trace)
	if err != nil {
		return nil, at, err
	}
	conn, target, err := reach(ctx, env, r, target, func(cfg *proxy.Config) {
		set(cfg)
		cfg.Through = jump
	}, trace)
	if err != nil {
		jump.Close()
	}
	return conn, target, err
}

// goThrough logs in at the stops, at each through the one before it.
func goThrough(
	ctx context.Context, env *Env, r *resolve.Resolver, stops []stop, targets []resolve.Target,
	trace func(string, time.Duration),
) (jump *proxy.Jump, at resolve.Target, err error) {
	for i, target := range targets {
		var conn *proxy.Conn
		before := jump
		conn, at, err = reach(ctx, env, r, target, func(cfg *proxy.Config) {
			cfg.Through = before
			if stops[i].user != "" {
				cfg.User = stops[i].user
			}
		}, trace)
		if err != nil {
			if before != nil {
				before.Close()
			}
			return nil, at, err
		}
		start := time.Now()
		if jump, err = proxy.OpenJump(ctx, conn, env.dirs.AgentSocket()); err != nil {
			return nil, at, err
		}
		if trace != nil {
			trace("logged in at "+conn.Name()+" to go on from there", time.Since(start))
		}
	}
	return jump, at, nil
}

// reach opens the connection to one instance. An address from the cache that does not answer is asked for once more,
// since the machine may have moved. set completes the configuration.
func reach(
	ctx context.Context, env *Env, r *resolve.Resolver, target resolve.Target, set func(*proxy.Config),
	trace func(string, time.Duration),
) (*proxy.Conn, resolve.Target, error) {
	target, err := meetable(ctx, env, r, target)
	if err != nil {
		return nil, target, err
	}
	cfg, err := proxyConfig(env, target, trace)
	if err != nil {
		return nil, target, err
	}
	set(&cfg)
	conn, err := proxy.Open(ctx, cfg)
	var unreachable *proxy.UnreachableError
	if !errors.As(err, &unreachable) || target.Source == resolve.Fetched {
		return conn, target, err
	}
	moved, refreshErr := r.Refresh(ctx, target.ID)
	switch {
	case is[*resolve.NotFoundError](refreshErr), is[*resolve.NotRunningError](refreshErr),
		is[*resolve.NoSSHError](refreshErr), is[*resolve.NoAddressError](refreshErr):
		return nil, target, refreshErr // which is why nothing answers
	case refreshErr != nil, slices.Equal(moved.Endpoints, target.Endpoints):
		return nil, target, err
	}
	cfg.Endpoints = moved.Endpoints
	conn, err = proxy.Open(ctx, cfg)
	return conn, moved, err
}

// findTimeout bounds the way from a name to an address, another process's lock included. One API call may take 20 s.
const findTimeout = 45 * time.Second

// find resolves a name. Since ssh knows a label by vast-<label>, that is tried as well.
func find(ctx context.Context, r *resolve.Resolver, name string) (resolve.Target, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	target, err := r.Resolve(ctx, name)
	if label, ok := strings.CutPrefix(name, "vast-"); ok && is[*resolve.NotFoundError](err) {
		if target, second := r.Resolve(ctx, label); !is[*resolve.NotFoundError](second) {
			return target, second
		}
	}
	return target, err
}

// meetAge is how old an address may be for a first contact. Where there is a pin, the pin decides and any address may be
// tried; where there is none, whoever has the address by now would be pinned.
const meetAge = 30 * time.Second

// meetable makes sure that an instance without a pin is met at an address that the API has just given.
func meetable(ctx context.Context, env *Env, r *resolve.Resolver, target resolve.Target) (resolve.Target, error) {
	file, err := env.pins()
	if err != nil {
		return target, err
	}
	pins, err := file.Of(target.ID)
	if err != nil || len(pins) > 0 {
		return target, err
	}
	if age := time.Since(target.At); target.Source != resolve.StaleCache && age >= 0 && age < meetAge {
		return target, nil
	}
	fresh, err := r.Refresh(ctx, target.ID)
	if err == nil && fresh.Source == resolve.StaleCache {
		err = fresh.Problem
	}
	if err != nil {
		return target, fmt.Errorf("instance %d has no pin yet, and its address is not known for certain: %w", target.ID, err)
	}
	return fresh, nil
}

// handshakeTimeout bounds the key exchange, the client's part of it included.
const handshakeTimeout = 60 * time.Second

func proxyConfig(env *Env, target resolve.Target, trace func(string, time.Duration)) (proxy.Config, error) {
	_, cfg, err := env.load()
	if err != nil {
		return proxy.Config{}, err
	}
	pins, err := env.pins()
	if err != nil {
		return proxy.Config{}, err
	}
	pc := proxy.Config{
		Instance:         target.ID,
		Machine:          target.Machine,
		User:             cfg.User,
		Endpoints:        target.Endpoints,
		Pins:             pins,
		Label:            target.Label,
		Client:           os.Getpid(),
		Witness:          env.witness,
		Withdraw:         env.withdraw,
		Delay:            cfg.GatewayDelay,
		DialTimeout:      cfg.DialTimeout,
		HandshakeTimeout: handshakeTimeout,
		Trace:            trace,
	}
	switch cfg.FirstContact {
	case config.ContactTOFU:
		pc.Least = known.Tofu
	case config.ContactTwoPath:
		pc.Least = known.TwoPath
	case config.ContactManual:
		pc.Least = known.Manual
	case config.ContactAsk:
		pc.Least, pc.Ask = known.Tofu, askFirstContact
	default:
		return proxy.Config{}, fmt.Errorf("unknown level of first contact %q", cfg.FirstContact)
	}
	return pc, nil
}

var errDeclined = errors.New("the first contact was declined, nothing was pinned")

// askFirstContact asks on the terminal, which is there also for a ProxyCommand, whose input and output are not.
func askFirstContact(ctx context.Context, pins []known.Pin) error {
	question := fmt.Sprintf("Instance %d has no pin yet. By %s it shows:\n", pins[0].Instance, pins[0].Via)
	for _, p := range pins {
		question += "  " + fingerprint(p.Key) + "\n"
	}
	yes, err := term.Confirm(ctx, question+"Pin these keys and connect?")
	if errors.Is(err, term.ErrNoTerminal) {
		return voice.Hinted(fmt.Errorf("first_contact is \"ask\" and there is no terminal to ask on"),
			fmt.Sprintf("vast-ssh %d   (in a terminal, once)", pins[0].Instance))
	}
	if err != nil {
		return err
	}
	if !yes {
		return errDeclined
	}
	return nil
}
