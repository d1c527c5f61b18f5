package vast

import (
	"net/http"
	"strings"
	"testing"
)

func TestPublicKeyIsCheckedBeforeItIsSent(t *testing.T) {
	const certificate = "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIA=="
	c := over(t, "", func(*http.Request) (*http.Response, error) {
		t.Error("something was sent")
		return response(200, `{"success":true}`), nil
	})
	for _, text := range []string{
		"", "hunter2", "# comment", "/home/me/.ssh/id_ed25519.pub", certificate,
		"-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n",
		"ssh-ed25519 AAAA PRIVATE KEY hunter2",
		publicKey + " PRIVATE KEY",
		publicKey + "\n" + publicKey,
		publicKey + "\rx",
		publicKey + "\x00",
		publicKey + "\x1b[31m",
		`command="hunter2" ` + publicKey,
		"ssh-rsa " + strings.TrimPrefix(publicKey, "ssh-ed25519 "),
		publicKey + strings.Repeat("x", maxPublicKey),
	} {
		for _, add := range []func() (bool, error){
			func() (bool, error) { return c.AttachKey(t.Context(), 7, text) },
			func() (bool, error) { return c.AddAccountKey(t.Context(), text) },
		} {
			if _, err := add(); err == nil {
				t.Errorf("%.40q was taken", text)
			} else if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the text: %v", err)
			}
		}
	}
}

func TestSetLabelBound(t *testing.T) {
	c := serve(t, says(200, `{"success":true}`))
	if err := c.SetLabel(t.Context(), 7, strings.Repeat("x", 1024)); err != nil {
		t.Error(err)
	}
	if err := c.SetLabel(t.Context(), 7, strings.Repeat("x", 1025)); err == nil {
		t.Error("a label of 1025 bytes was taken")
	}
}
