//go:build linux

package remote

import (
	"strings"

	"vast-ssh/internal/wipe/protocol"
)

// bounded cuts a text for a message.
func bounded(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// item makes an item whose text is that of err.
func item(code protocol.Code, group int, path string, err error) protocol.Item {
	it := protocol.Item{Code: code, Group: group, Path: bounded(path, protocol.MaxPath)}
	if err != nil {
		it.Text = bounded(err.Error(), protocol.MaxText)
	}
	return it
}

// notes are the items and secrets of a plan or a result, within the bounds of a message.
type notes struct {
	items    []protocol.Item
	secrets  []protocol.Secret
	unlisted int64
	counts   map[protocol.Code]int64
}

func (n *notes) item(it protocol.Item) {
	if n.counts == nil {
		n.counts = make(map[protocol.Code]int64)
	}
	n.counts[it.Code]++
	if n.counts[it.Code] > it.Code.Listed() || len(n.items) == protocol.MaxItems {
		n.unlisted++
		return
	}
	n.items = append(n.items, it)
}

func (n *notes) secret(s protocol.Secret) {
	for _, known := range n.secrets {
		if known == s {
			return
		}
	}
	if len(n.secrets) == protocol.MaxSecrets {
		n.unlisted++
		return
	}
	n.secrets = append(n.secrets, s)
}
