package service

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// Label is the agent's name with launchd.
const Label = "com.vast-ssh.vast-agent"

// launchd has sockets of its own kind, which take a library that this project does not link: the agent listens itself.
const plistText = `<?xml version="1.0" encoding="UTF-8"?> <!-- ` + mark + ` -->
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>` + Label + `</string>
	<key>ProgramArguments</key>
	<array>
		<string>%s</string>
		<string>run</string>
	</array>
	<key>EnvironmentVariables</key>
	<dict>%s</dict>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<dict>
		<key>SuccessfulExit</key>
		<false/>
	</dict>
	<key>StandardErrorPath</key>
	<string>%s</string>
	<key>WorkingDirectory</key>
	<string>/</string>
	<key>Umask</key>
	<integer>63</integer>
	<key>SoftResourceLimits</key>
	<dict>
		<key>Core</key>
		<integer>0</integer>
	</dict>
	<key>HardResourceLimits</key>
	<dict>
		<key>Core</key>
		<integer>0</integer>
	</dict>
	<key>ExitTimeOut</key>
	<integer>15</integer>
</dict>
</plist>
`

// Plist returns the text of the property list, launchd.plist(5), or a *TextError.
func (a Agent) Plist() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	var env strings.Builder
	for _, kv := range a.Env {
		name, value, _ := strings.Cut(kv, "=")
		fmt.Fprintf(&env, "\n\t\t<key>%s</key>\n\t\t<string>%s</string>", escape(name), escape(value))
	}
	if env.Len() > 0 {
		env.WriteString("\n\t")
	}
	return fmt.Appendf(nil, plistText, escape(a.Program), env.String(), escape(a.Log)), nil
}

func escape(text string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(text)) // a Builder takes everything
	return b.String()
}
