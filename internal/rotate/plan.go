package rotate

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/custody"
)

// Status returns the rotation under way, as its journal has it. Without one the phase is None.
func (e *Engine) Status() (Report, error) {
	j, err := e.loadJournal()
	if errors.Is(err, fs.ErrNotExist) {
		key, err := custody.ReadPublic(e.cfg.PublicKey)
		if err != nil {
			return Report{}, err
		}
		return Report{Phase: None, Old: ssh.FingerprintSHA256(key), Instances: []Instance{}}, nil
	}
	if err != nil {
		return Report{}, err
	}
	return j.Report, nil
}

// Plan returns what Rotate would find, and changes nothing: all instances, with a Problem where one would keep the rotation
// from going on, and which keys the account's list has.
func (e *Engine) Plan(ctx context.Context) (Report, error) {
	rep, err := e.Status()
	if err != nil {
		return Report{}, err
	}
	list, err := e.cfg.API.Instances(ctx)
	if err != nil {
		return Report{}, err
	}
	keys, err := e.cfg.API.AccountKeys(ctx)
	if err != nil {
		return Report{}, err
	}
	rep.Account = AccountNeither
	for _, k := range keys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.PublicKey))
		if err != nil {
			continue
		}
		switch print := ssh.FingerprintSHA256(key); {
		case print == rep.Old && rep.Account == AccountNew, print == rep.New && rep.Account == AccountOld:
			rep.Account = AccountBoth
		case print == rep.Old:
			rep.Account = AccountOld
		case print == rep.New:
			rep.Account = AccountNew
		}
	}
	there := make(map[uint64]bool)
	for _, in := range list {
		if noSSH(in) {
			continue
		}
		there[in.ID] = true
		en := rep.entry(in.ID)
		en.Label, en.Problem = in.Label, ""
		if en.Stage == Rotated {
			continue
		}
		if err := e.cfg.Logins.Ready(in); err != nil {
			en.Problem = problem(err)
		}
	}
	for i := range rep.Instances {
		if en := &rep.Instances[i]; !there[en.ID] {
			en.Stage, en.Problem = Gone, ""
		}
	}
	return rep, nil
}
