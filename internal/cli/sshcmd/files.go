package sshcmd

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/sshconf"
)

// maxSSHFile bounds our ssh_config files, in bytes.
const maxSSHFile = 4 << 20

// filesTimeout bounds the wait for another process that writes them.
const filesTimeout = 5 * time.Second

func sshParams(env *Env) (sshconf.Params, error) {
	dirs, cfg, err := env.load()
	if err != nil {
		return sshconf.Params{}, err
	}
	program, err := self()
	if err != nil {
		return sshconf.Params{}, err
	}
	return sshconf.Params{
		ProxyProgram: program,
		KnownHosts:   dirs.KnownHosts(),
		AgentSocket:  dirs.AgentSocket(),
		IdentityFile: dirs.PublicKey(),
		User:         cfg.User,
	}, nil
}

// writeLogin writes the file that vast-ssh itself gives to ssh.
func writeLogin(env *Env) error {
	params, err := sshParams(env)
	if err != nil {
		return err
	}
	content, err := sshconf.RenderLogin(params)
	if err != nil {
		return err
	}
	return writeIfChanged(env.dirs.LoginConfig(), content)
}

// writeHosts writes the file that users include in their own configuration, with the instances that the cache knows.
func writeHosts(env *Env, r *resolve.Resolver) error {
	params, err := sshParams(env)
	if err != nil {
		return err
	}
	path := env.dirs.SSHConfig()
	if err := atomicfile.EnsureDir(filepath.Dir(path)); err != nil {
		return err
	}
	// The list is read under the lock, so that the last writer has the latest list.
	ctx, cancel := context.WithTimeout(context.Background(), filesTimeout)
	defer cancel()
	unlock, err := atomicfile.Lock(ctx, filepath.Join(filepath.Dir(path), ".config.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	targets, err := r.Known()
	if err != nil {
		return err
	}
	var hosts []sshconf.Host
	for _, t := range targets {
		hosts = append(hosts, sshconf.Host{ID: t.ID, Label: t.Label})
	}
	content, err := sshconf.RenderConfig(params, hosts)
	if err != nil {
		return err
	}
	return writeIfChanged(path, content)
}

func writeIfChanged(path string, content []byte) error {
	if err := atomicfile.EnsureDir(filepath.Dir(path)); err != nil {
		return err
	}
	old, err := atomicfile.Read(path, maxSSHFile)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, atomicfile.ErrTooLarge) {
		return err
	}
	return atomicfile.Write(path, content)
}
