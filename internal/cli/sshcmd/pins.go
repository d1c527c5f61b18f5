package sshcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
	"vast-ssh/known"
)

// pinInfo is a pin as it is reported.
type pinInfo struct {
	Instance    uint64    `json:"instance"`
	Type        string    `json:"type"`
	Fingerprint string    `json:"fingerprint"`
	Via         known.Via `json:"via"`
	At          time.Time `json:"at"`
	Machine     uint64    `json:"machine_id,omitempty"`
	SharedBy    []uint64  `json:"shared_with,omitempty"`
}

func keyPrint(p known.Pin) string { return ssh.FingerprintSHA256(p.Key) }

func pinInfos(pins []known.Pin, shared map[string][]uint64) []pinInfo {
	infos := []pinInfo{}
	for _, p := range pins {
		info := pinInfo{
			Instance: p.Instance, Type: p.Key.Type(), Fingerprint: keyPrint(p), Via: p.Via, At: p.At, Machine: p.Machine,
		}
		for _, id := range shared[info.Fingerprint] {
			if id != p.Instance {
				info.SharedBy = append(info.SharedBy, id)
			}
		}
		infos = append(infos, info)
	}
	return infos
}

func pinsCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "pins",
		Usage: "list the pinned host keys, or forget some with \"pins rm\"",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return wrongSubcommand(c)
			}
			file, err := env.pins()
			if err != nil {
				return err
			}
			pins, err := file.Pins()
			if err != nil {
				return err
			}
			infos := pinInfos(pins, known.Shared(pins))
			if c.Bool("json") {
				return printJSON(env, infos)
			}
			return printPins(env, infos)
		},
		Subcommands: []*cli.Command{{
			Name:      "rm",
			Usage:     "forget the pins of instances, so that the next login meets them anew",
			ArgsUsage: "<instance id>...",
			Flags:     []cli.Flag{&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}},
			Action:    func(c *cli.Context) error { return removePins(c, env) },
		}},
	}
}

func printPins(env *Env, infos []pinInfo) error {
	if len(infos) == 0 {
		fmt.Fprintln(env.Stderr, "nothing is pinned yet")
		return nil
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCE\tTYPE\tFINGERPRINT\tVIA\tSINCE\tNOTE")
	for _, p := range infos {
		note := ""
		if len(p.SharedBy) > 0 {
			note = fmt.Sprintf("also the key of %v: an image with a key baked in", p.SharedBy)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", p.Instance, p.Type, p.Fingerprint, p.Via, p.At.Format(time.DateOnly), note)
	}
	return w.Flush()
}

var errAborted = errors.New("aborted, nothing was changed")

func removePins(c *cli.Context, env *Env) error {
	if c.NArg() == 0 {
		return &voice.UsageError{Reason: "pins rm takes the ids of instances", Next: "vast-ssh pins"}
	}
	file, err := env.pins()
	if err != nil {
		return err
	}
	var ids []uint64
	for _, arg := range c.Args().Slice() {
		id, _, err := resolve.ParseName(arg)
		if err != nil || id == 0 {
			return &voice.UsageError{Reason: fmt.Sprintf("%q is not an instance id", arg), Next: "vast-ssh pins"}
		}
		pins, err := file.Of(id)
		if err != nil {
			return err
		}
		if len(pins) == 0 {
			return voice.Hinted(fmt.Errorf("instance %d is not pinned", id), "vast-ssh pins")
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if !c.Bool("yes") {
		yes, err := term.Confirm(c.Context, fmt.Sprintf("Forget the host keys of %s? The next login trusts whatever answers.", idList(ids)))
		if errors.Is(err, term.ErrNoTerminal) {
			return voice.Hinted(errors.New("there is no terminal to ask on"), "vast-ssh pins rm --yes "+strings.Trim(fmt.Sprint(ids), "[]"))
		}
		if err != nil {
			return err
		}
		if !yes {
			return errAborted
		}
	}
	for _, id := range ids {
		removed, err := file.Remove(c.Context, id)
		if err != nil {
			return err
		}
		for _, p := range removed {
			fmt.Fprintf(env.Stderr, "forgot %s of instance %d\n", fingerprint(p.Key), id)
		}
	}
	return nil
}

func idList(ids []uint64) string {
	if len(ids) == 1 {
		return fmt.Sprintf("instance %d", ids[0])
	}
	return fmt.Sprintf("the %d instances %s", len(ids), strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ", "), "[]"))
}

func pinCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:      "pin",
		Usage:     "pin the host key of an instance by its fingerprint",
		ArgsUsage: "<instance>",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "fingerprint", Usage: "`SHA256:…` as ssh-keygen -lf prints it on the machine"},
			&cli.BoolFlag{Name: "replace", Usage: "in place of the keys that are pinned now"},
		},
		Action: func(c *cli.Context) error {
			name, err := oneArgument(c, "<instance>")
			if err != nil {
				return err
			}
			if len(c.StringSlice("fingerprint")) == 0 {
				return &voice.UsageError{Reason: "pin needs --fingerprint SHA256:…", Next: "vast-ssh pin --help"}
			}
			return pinByFingerprint(c.Context, env, name, c.StringSlice("fingerprint"), c.Bool("replace"))
		},
	}
}

// pinByFingerprint pins the keys with the given fingerprints, which the machine must show, and no others: what else it shows
// came over the same network and is vouched for by nobody.
func pinByFingerprint(ctx context.Context, env *Env, name string, prints []string, replace bool) error {
	for _, p := range prints {
		if !validFingerprint(p) {
			return &voice.UsageError{Reason: fmt.Sprintf("%q is no fingerprint of the form SHA256:…", p),
				Next: "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub   (on the machine)"}
		}
	}
	_, cfg, err := env.load()
	if err != nil {
		return err
	}
	file, err := env.pins()
	if err != nil {
		return err
	}
	r, err := env.resolver()
	if err != nil {
		return err
	}
	target, err := r.Resolve(ctx, name)
	if err != nil {
		return err
	}
	old, err := file.Of(target.ID)
	if err != nil {
		return err
	}
	pins, err := shownKeys(ctx, target, prints, cfg.DialTimeout)
	if err != nil {
		return err
	}
	if len(old) > 0 && !replace {
		if confirmed, ok := confirm(old, pins); ok {
			pins = confirmed
		} else {
			return wrongPin(target.ID, prints)
		}
	}
	if err := file.Replace(ctx, target.ID, pins); err != nil {
		return err
	}
	for _, p := range pins {
		if p.Via == known.Manual {
			fmt.Fprintf(env.Stderr, "pinned instance %d to %s\n", target.ID, fingerprint(p.Key))
		}
	}
	return nil
}

// confirm returns the old pins with those that a person has now vouched for marked so. It is false if one of these is new.
func confirm(old, vouched []known.Pin) ([]known.Pin, bool) {
	pins := slices.Clone(old)
	for _, v := range vouched {
		i := slices.IndexFunc(pins, func(p known.Pin) bool { return bytes.Equal(p.Key.Marshal(), v.Key.Marshal()) })
		if i < 0 {
			return nil, false
		}
		pins[i] = v
	}
	return pins, true
}

func wrongPin(id uint64, prints []string) error {
	return voice.Hinted(fmt.Errorf("instance %d is pinned to another key", id),
		fmt.Sprintf("vast-ssh pin %d --replace --fingerprint %s", id, prints[0]))
}

func validFingerprint(s string) bool {
	digest, ok := strings.CutPrefix(s, "SHA256:")
	return ok && len(digest) == 43 && strings.Trim(digest, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") == ""
}

// notShownError reports that the machine does not show a key with the fingerprint that a person gave.
type notShownError struct {
	target resolve.Target
	wanted string
	shown  []ssh.PublicKey
}

func (e *notShownError) Error() string {
	return fmt.Sprintf("the machine that answers for instance %d shows no host key %s", e.target.ID, e.wanted)
}

func (e *notShownError) Details() []string {
	var lines []string
	for _, k := range e.shown {
		lines = append(lines, "it shows  "+fingerprint(k))
	}
	return lines
}

func (e *notShownError) Hint() string {
	return "compare with the machine itself, from its Jupyter terminal: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
}

// shownKeys finds the keys with the wanted fingerprints at the first route of target that answers.
func shownKeys(ctx context.Context, target resolve.Target, prints []string, timeout time.Duration) ([]known.Pin, error) {
	var keys []ssh.PublicKey
	var failed error
	for _, e := range target.Endpoints {
		var err error
		if keys, err = proxy.Scan(ctx, e, timeout); err == nil {
			break
		}
		failed = errors.Join(failed, err)
	}
	if keys == nil {
		return nil, failed
	}
	now := time.Now().UTC().Truncate(time.Second)
	var pins []known.Pin
	for _, want := range prints {
		i := slices.IndexFunc(keys, func(k ssh.PublicKey) bool { return ssh.FingerprintSHA256(k) == want })
		if i < 0 {
			return nil, &notShownError{target, want, keys}
		}
		pins = append(pins, known.Pin{Instance: target.ID, Key: keys[i], Via: known.Manual, At: now, Machine: target.Machine})
	}
	return pins, nil
}
