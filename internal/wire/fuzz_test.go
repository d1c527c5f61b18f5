package wire

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

// FuzzExchange feeds two streams whole, by the byte, and mixed in pieces of every size.
func FuzzExchange(f *testing.F) {
	for _, r := range recordings(f) {
		f.Add(r.FromClient, r.FromServer, uint64(len(r.FromServer)))
	}
	for i, rule := range rules {
		c := goodTalk()
		rule.change(c)
		if server := c.server(); len(server) < 4096 {
			f.Add(c.client(), server, uint64(i))
		}
	}
	f.Fuzz(func(t *testing.T, client, server []byte, seed uint64) {
		if len(client)+len(server) > 256<<10 {
			return
		}
		a := run(client, server, whole)
		checkStream(t, a, server)
		b := run(client, server, oneByte)
		checkStream(t, b, server)
		checkSame(t, a, b)

		m := mixed(client, server, rand.New(rand.NewPCG(seed, 1)))
		checkStream(t, m, server)
		if m.err == nil && a.err == nil && !reflect.DeepEqual(m.x.Reply(), a.x.Reply()) {
			t.Fatalf("the order decides: %v, %v", m.x.Reply(), a.x.Reply())
		}
	})
}
