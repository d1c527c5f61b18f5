package daemon

import (
	"strings"
	"testing"
)

// A port that somebody else holds is an error of an explicit address, and the server says which.
func TestListeningNamesTheBusyPort(t *testing.T) {
	var l Log
	ready := l.Listening([]string{"127.0.0.1:2201", "127.0.0.1:2202"})
	l.Follow(strings.NewReader(`Server listening on 127.0.0.1 port 2201.
Bind to port 2202 on 127.0.0.1 failed: Address already in use.
Server listening on 127.0.0.1 port 2202.
`))
	if err := <-ready; err == nil || !strings.Contains(err.Error(), "2202") {
		t.Errorf("got %v", err)
	}
	if len(ready) != 0 {
		t.Error("reported twice")
	}
}
