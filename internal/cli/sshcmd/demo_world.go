package sshcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"vast-ssh/config"
	"vast-ssh/internal/launch"
	"vast-ssh/internal/sim"
)

const (
	demoLabel    = "trainbox"
	demoID       = 1234567
	demoOtherID  = 7654321
	demoStopTime = 10 * time.Second
)

// demoWorld is a HOME that is removed in the end, a simulated account, and simulated instances: all of it in this process
// but the programs that the demo runs in that HOME.
type demoWorld struct {
	home    string
	program string
	environ []string
	dirs    config.Dirs
	account *sim.Account
	boxes   map[uint64]*sim.Box
	evil    *sim.Box
	direct  string // address of the instance of the demo
	gateway string
}

func newDemoWorld() (*demoWorld, error) {
	w := &demoWorld{boxes: make(map[uint64]*sim.Box)}
	if err := w.build(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// maxTempDir is the longest directory for temporary files below which sockets can have a path, in bytes.
const maxTempDir = 40

func (w *demoWorld) build() (err error) {
	if w.program, err = self(); err != nil {
		return err
	}
	temp := os.TempDir()
	if len(temp) > maxTempDir {
		temp = "/tmp"
	}
	if w.home, err = os.MkdirTemp(temp, "vast-ssh-demo-"); err != nil {
		return err
	}
	if w.dirs, err = config.LocateDirs(func(name string) string {
		if name == "HOME" {
			return w.home
		}
		return ""
	}); err != nil {
		return err
	}
	w.account = sim.NewAccount(sim.Options{OnAttach: func(id uint64, key string) {
		if box := w.boxes[id]; box != nil {
			// A key that the box cannot take in shows at the login.
			_ = box.Authorize(key)
		}
	}})
	if err := w.account.Start(); err != nil {
		return err
	}
	for id, label := range map[uint64]string{demoID: demoLabel, demoOtherID: "render"} {
		box, err := sim.NewBox(sim.BoxOptions{Hostname: fmt.Sprintf("C.%d", id)})
		if err != nil {
			return err
		}
		w.boxes[id] = box
		direct, gateway, err := plug(box)
		if err != nil {
			return err
		}
		if id == demoID {
			w.direct, w.gateway = direct, gateway
		}
		w.account.Add(sim.Instance{ID: id, Label: label, Direct: direct, Gateway: gateway})
	}
	w.environ = []string{
		"HOME=" + w.home, "TMPDIR=" + w.home, "SHELL=/bin/sh", "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8",
		"VAST_URL=" + w.account.URL(),
		// The key of the simulated account, which is a random number of this process.
		"VAST_API_KEY=" + w.account.Key().Reveal(),
	}
	return nil
}

// plug makes the box reachable by two routes.
func plug(box *sim.Box) (direct, gateway string, err error) {
	if direct, err = box.Listen("127.0.0.1:0"); err != nil {
		return "", "", err
	}
	gateway, err = box.Listen("127.0.0.1:0")
	return direct, gateway, err
}

// moveBox takes the instance of the demo to other addresses, and tells the account.
func (w *demoWorld) moveBox() (err error) {
	box := w.boxes[demoID]
	box.Unplug()
	if w.direct, w.gateway, err = plug(box); err != nil {
		return err
	}
	w.account.Move(demoID, w.direct, w.gateway)
	return nil
}

// takeOldAddress moves the instance away once more and puts another machine in its place, with the user's key let in.
func (w *demoWorld) takeOldAddress() error {
	key, err := os.ReadFile(w.dirs.PublicKey())
	if err != nil {
		return err
	}
	if w.evil, err = sim.NewBox(sim.BoxOptions{Hostname: "impostor", AuthorizedKeys: []string{string(key)}}); err != nil {
		return err
	}
	// Whoever else uses the network of this machine can take the port first: then the instance moves again.
	for attempt := 1; ; attempt++ {
		old := w.direct
		if err := w.moveBox(); err != nil {
			return err
		}
		if _, err = w.evil.Listen(old); err == nil || attempt == moves {
			return err
		}
	}
}

// moves bounds how often the instance of the demo moves to let another machine take its place.
const moves = 5

// close ends the agent of the demo and removes everything.
func (w *demoWorld) close() error {
	var errs []error
	if w.home != "" {
		errs = append(errs, w.stopAgent())
	}
	for _, box := range w.boxes {
		errs = append(errs, box.Close())
	}
	if w.evil != nil {
		errs = append(errs, w.evil.Close())
	}
	if w.account != nil {
		w.account.Close()
	}
	if w.home != "" {
		errs = append(errs, os.RemoveAll(w.home))
	}
	return errors.Join(errs...)
}

func (w *demoWorld) stopAgent() error {
	if _, err := os.Lstat(w.dirs.ControlSocket()); err != nil {
		return nil
	}
	program, err := launch.Program("vast-agent")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), demoStopTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "stop")
	cmd.Env = w.environ
	cmd.Dir = filepath.Dir(w.home)
	return cmd.Run()
}
