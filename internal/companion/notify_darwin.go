package companion

import (
	"context"
	"os/exec"
	"strings"
)

// display shows its two arguments, which are text to it in every case.
const display = `on run argv
display notification (item 2 of argv) with title (item 1 of argv)
end run`

func show(ctx context.Context, summary, body string) error {
	// An argument with a "-" in front would be an option of osascript.
	return exec.CommandContext(ctx, "/usr/bin/osascript", "-e", display, strings.TrimLeft(summary, "-"), body).Run()
}
