package custody

import (
	"errors"
	"fmt"
	"os"
)

// sessionBus returns an error when this user has no D-Bus session. The client library would start one, with no
// keyring on it and nobody to end it.
func sessionBus() error {
	if address := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" && address != "autolaunch:" {
		return nil
	}
	for _, name := range []string{"bus", "dbus-session"} {
		if _, err := os.Stat(fmt.Sprintf("/run/user/%d/%s", os.Getuid(), name)); err == nil {
			return nil
		}
	}
	return errors.New("there is no D-Bus session (DBUS_SESSION_BUS_ADDRESS is not set)")
}
