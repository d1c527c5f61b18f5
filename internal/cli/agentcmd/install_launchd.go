package agentcmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/service"
)

func (in *installer) plistPath() string {
	return filepath.Join(in.env.Dirs.Home, "Library", "LaunchAgents", service.Label+".plist")
}

// launchdDomain is the graphical session of this user, launchctl(1).
func launchdDomain() string { return fmt.Sprintf("gui/%d", os.Getuid()) }

func launchdService() string { return launchdDomain() + "/" + service.Label }

func (in *installer) launchdInstall(ctx context.Context) error {
	a, err := in.agent()
	if err != nil {
		return err
	}
	text, err := a.Plist()
	if err != nil {
		return err
	}
	path := in.plistPath()
	changed, err := in.write(file{path, text})
	if err != nil {
		return err
	}
	loaded := false
	if !in.dry {
		if err := command(ctx, "launchctl", "print", launchdDomain()); err != nil {
			return voice.Hinted(fmt.Errorf("the file is in place and nothing is started: no launchd session answers: %w", err),
				fmt.Sprintf("launchctl bootstrap %s '%s'", launchdDomain(), path))
		}
		loaded = command(ctx, "launchctl", "print", launchdService()) == nil
		if loaded && !changed {
			in.say("%s is loaded", service.Label)
			return nil
		}
	}
	if loaded {
		if err := in.run(ctx, "launchctl", "bootout", launchdService()); err != nil {
			return err
		}
	}
	err = in.handOver(ctx, func() error {
		return in.run(ctx, "launchctl", "bootstrap", launchdDomain(), path)
	})
	if err != nil {
		return err
	}
	return in.await(ctx, "launchctl print "+launchdService())
}

func (in *installer) launchdUninstall(ctx context.Context) error {
	files, err := in.present(in.plistPath())
	if err != nil {
		return err
	}
	if len(files) == 0 {
		in.say("vast-agent is not installed as a service")
		return nil
	}
	if in.dry || command(ctx, "launchctl", "print", launchdService()) == nil {
		if err := in.run(ctx, "launchctl", "bootout", launchdService()); err != nil {
			return err
		}
	}
	return in.remove(files...)
}
