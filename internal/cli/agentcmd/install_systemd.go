package agentcmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/service"
)

// unitDir is where systemd looks for the units that a user has made, systemd.unit(5).
func (in *installer) unitDir() string {
	return filepath.Join(filepath.Dir(in.env.Dirs.Config), "systemd", "user")
}

// systemctl is a command to the systemd of this user.
func systemctl(args ...string) []string {
	return append([]string{"systemctl", "--user"}, args...)
}

func (in *installer) systemdInstall(ctx context.Context) error {
	a, err := in.agent()
	if err != nil {
		return err
	}
	socketText, err := a.Socket()
	if err != nil {
		return err
	}
	serviceText, err := a.Service()
	if err != nil {
		return err
	}
	dir := in.unitDir()
	changed, err := in.write(file{filepath.Join(dir, service.ServiceUnit), serviceText},
		file{filepath.Join(dir, service.SocketUnit), socketText})
	if err != nil {
		return err
	}
	if !in.dry {
		if err := command(ctx, systemctl("show", "--property=Version")...); err != nil {
			return voice.Hinted(fmt.Errorf("the units are in place and nothing is started: no systemd answers for this user: %w", err),
				"systemctl --user daemon-reload && systemctl --user enable --now "+service.SocketUnit)
		}
		active := command(ctx, systemctl("is-active", "--quiet", service.SocketUnit)...) == nil
		enabled := command(ctx, systemctl("is-enabled", "--quiet", service.SocketUnit)...) == nil
		if !changed && active && enabled {
			in.say("%s is active", service.SocketUnit)
			return nil
		}
	}
	if err := in.run(ctx, systemctl("daemon-reload")...); err != nil {
		return err
	}
	// Sockets and an agent of earlier units would stay as they are.
	if err := in.run(ctx, systemctl("stop", service.SocketUnit, service.ServiceUnit)...); err != nil {
		return err
	}
	err = in.handOver(ctx, func() error {
		return in.run(ctx, systemctl("enable", "--now", service.SocketUnit)...)
	})
	if err != nil {
		return err
	}
	return in.await(ctx, "journalctl --user --unit "+service.ServiceUnit)
}

func (in *installer) systemdUninstall(ctx context.Context) error {
	dir := in.unitDir()
	units, err := in.present(filepath.Join(dir, service.SocketUnit), filepath.Join(dir, service.ServiceUnit))
	if err != nil {
		return err
	}
	if len(units) == 0 {
		in.say("vast-agent is not installed as a service")
		return nil
	}
	answers := in.dry || command(ctx, systemctl("show", "--property=Version")...) == nil
	if answers {
		// The socket goes first, or it would start the agent again.
		if err := in.run(ctx, systemctl("disable", "--now", service.SocketUnit)...); err != nil {
			return err
		}
		if err := in.run(ctx, systemctl("stop", service.ServiceUnit)...); err != nil {
			return err
		}
	} else {
		in.say("no systemd answers for this user: nothing is stopped")
		enabled := filepath.Join(dir, "sockets.target.wants", service.SocketUnit)
		if _, err := os.Readlink(enabled); err == nil {
			units = append(units, enabled)
		}
	}
	if err := in.remove(units...); err != nil {
		return err
	}
	if !answers {
		return nil
	}
	return in.run(ctx, systemctl("daemon-reload")...)
}
