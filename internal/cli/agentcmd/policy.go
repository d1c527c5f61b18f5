package agentcmd

import (
	"slices"
	"sync"
	"time"

	"vast-ssh/agent"
	"vast-ssh/config"
)

// policies gives the agent the configuration of the moment. It is read again when the file has changed, so that what a
// person settles holds at once; a file that is wrong means that nothing is signed.
type policies struct {
	path   string
	getenv func(string) string

	mu   sync.Mutex // protects the following
	seen *fileState // of the file when cfg was read; nil if it may be other by now
	cfg  *config.Config
}

// Config returns the configuration of the moment.
func (p *policies) Config() (*config.Config, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	state, err := stateOf(p.path)
	if err == nil && p.seen != nil && *p.seen == state {
		return p.cfg, nil
	}
	p.seen = nil
	cfg, loadErr := config.Load(p.path, p.getenv)
	if loadErr != nil {
		return nil, loadErr
	}
	p.cfg = cfg
	if err == nil && state.old(now) {
		p.seen = &state
	}
	return cfg, nil
}

// Policy is what the configuration asks of the agent.
func (p *policies) Policy() (agent.Policy, error) {
	cfg, err := p.Config()
	if err != nil {
		return agent.Policy{}, err
	}
	policy := agent.Policy{
		Users:       users(cfg),
		AcceptBind:  cfg.Accept == config.AcceptBind,
		WitnessLife: cfg.WitnessLife,
	}
	for _, h := range cfg.Hops {
		policy.Hops = append(policy.Hops, agent.Hop(h))
	}
	switch cfg.Confirm {
	case config.ConfirmFirst:
		policy.Confirm = agent.ConfirmFirst
	case config.ConfirmAlways:
		policy.Confirm = agent.ConfirmAlways
	}
	return policy, nil
}

// users lets in the user of all instances, and those that are named besides.
func users(cfg *config.Config) func(uint64, string) bool {
	return func(instance uint64, user string) bool {
		return user == cfg.User || slices.ContainsFunc(cfg.Users, func(u config.UserAt) bool {
			return u.Name == user && (u.Instance == 0 || u.Instance == instance)
		})
	}
}
