package companion

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// show speaks to the notification daemon of the session, by the Desktop Notifications Specification 1.2.
func show(ctx context.Context, summary, body string) error {
	// No session bus is started for it: nobody would see what is shown there.
	bus, err := dbus.SessionBusPrivateNoAutoStartup(dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer bus.Close()
	if err := bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return err
	}
	if err := bus.Hello(); err != nil {
		return err
	}
	daemon := bus.Object("org.freedesktop.Notifications", "/org/freedesktop/Notifications")
	var can []string
	if err := daemon.CallWithContext(ctx, "org.freedesktop.Notifications.GetCapabilities", 0).Store(&can); err != nil {
		return err
	}
	if slices.Contains(can, "body-markup") {
		body = markup.Replace(body)
	}
	return daemon.CallWithContext(ctx, "org.freedesktop.Notifications.Notify", 0,
		"vast-ssh", uint32(0), "", summary, body, []string{}, map[string]dbus.Variant{}, int32(-1)).Err
}

// markup makes text what shows as that text, section "Markup" of the specification. A summary has no markup.
var markup = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
