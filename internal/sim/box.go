package sim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
)

// BoxOptions are the properties of a Box. The zero value is a machine with one RTX 4090 that lets nobody in.
type BoxOptions struct {
	// Hostname is what the machine calls itself: "C.0" if empty.
	Hostname string
	GPUName  string
	NumGPUs  int
	// AuthorizedKeys are lines of authorized_keys.
	AuthorizedKeys []string
	// RSA adds an RSA host key to the ed25519 and ECDSA ones.
	RSA bool
	// Files are more files of the machine: content by absolute path.
	Files map[string]string
}

// Limits of a Box. What is over them is refused, never kept waiting.
const (
	maxConns         = 64
	maxSessions      = 16
	maxLine          = 4096
	maxFile          = 1 << 20
	handshakeTimeout = 30 * time.Second
)

// Banner is what every Box shows to everybody who connects, as on a real instance.
const Banner = "Welcome to vast.ai. This machine is simulated: it runs no programs.\nHave fun!\n"

// Box is a simulated instance: an ssh server for the user root, with a handful of commands built in, over a
// directory of its own that is removed by Close. It starts no program of this machine, and its commands cannot
// leave the directory. Its methods may be called from several goroutines.
type Box struct {
	opts    BoxOptions
	config  *ssh.ServerConfig
	keys    []ssh.PublicKey
	dir     string
	root    *os.Root
	started time.Time
	// working counts the goroutines.
	working sync.WaitGroup

	// mu protects the following.
	mu         sync.Mutex
	closed     bool
	listeners  []net.Listener
	conns      map[net.Conn]bool
	authorized map[string]bool
}

// NewBox returns a machine with new host keys. It is reachable after Listen.
func NewBox(opts BoxOptions) (*Box, error) {
	setDefault(&opts.Hostname, "C.0")
	setDefault(&opts.GPUName, "RTX 4090")
	setDefault(&opts.NumGPUs, 1)
	b := &Box{opts: opts, started: time.Now(), conns: make(map[net.Conn]bool), authorized: make(map[string]bool)}
	for _, line := range opts.AuthorizedKeys {
		if err := b.Authorize(line); err != nil {
			return nil, err
		}
	}
	b.config = &ssh.ServerConfig{
		PublicKeyCallback: b.authenticate,
		MaxAuthTries:      6,
		BannerCallback:    func(ssh.ConnMetadata) string { return Banner },
		ServerVersion:     "SSH-2.0-simulated",
	}
	if err := b.makeHostKeys(); err != nil {
		return nil, fmt.Errorf("simulated instance: host keys: %w", err)
	}
	if err := b.makeFiles(); err != nil {
		if b.root != nil {
			b.root.Close()
		}
		os.RemoveAll(b.dir)
		return nil, fmt.Errorf("simulated instance: files: %w", err)
	}
	return b, nil
}

func (b *Box) makeHostKeys() error {
	var keys []crypto.Signer
	_, ed, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	keys = append(keys, ed, ec)
	if b.opts.RSA {
		key, err := rsa.GenerateKey(rand.Reader, 3072)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		signer, err := ssh.NewSignerFromSigner(key)
		if err != nil {
			return err
		}
		b.config.AddHostKey(signer)
		b.keys = append(b.keys, signer.PublicKey())
	}
	return nil
}

func (b *Box) makeFiles() error {
	var err error
	if b.dir, err = os.MkdirTemp("", "vast-ssh-box-"); err != nil {
		return err
	}
	if b.root, err = os.OpenRoot(b.dir); err != nil {
		return err
	}
	files := map[string]string{
		"/etc/hostname":          b.opts.Hostname + "\n",
		"/root/onstart.sh":       "#!/bin/bash\n",
		"/workspace/README.md":   "This machine is simulated.\n",
		"/workspace/model/train": "epoch 3/10  loss 0.4213\n",
	}
	for name, content := range b.opts.Files {
		files[name] = content
	}
	for name, content := range files {
		name = inside(name)
		if err := b.root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := b.root.WriteFile(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// inside turns a path of the machine into one below the root of its directory.
func inside(name string) string {
	name = path.Clean("/" + name)
	if name == "/" {
		return "."
	}
	return name[1:]
}

// HostKeys returns the host keys: ed25519, ECDSA, and RSA if there is one.
func (b *Box) HostKeys() []ssh.PublicKey { return slices.Clone(b.keys) }

// Authorize lets root in with the key of a line of authorized_keys, from now on.
func (b *Box) Authorize(line string) error {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return fmt.Errorf("simulated instance: authorized key: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.authorized[string(key.Marshal())] = true
	return nil
}

var errRefused = errors.New("not authorized")

func (b *Box) authenticate(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if meta.User() != "root" || !b.authorized[string(key.Marshal())] {
		return nil, errRefused
	}
	return nil, nil
}

// Listen makes the machine reachable at an address of loopback, port 0 being a free one, and returns the address.
// Every call adds one, all with the same host keys: a direct route and a gateway are two.
func (b *Box) Listen(addr string) (string, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("simulated instance: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("simulated instance: address %q is not on loopback", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("simulated instance: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		l.Close()
		return "", net.ErrClosed
	}
	b.listeners = append(b.listeners, l)
	b.working.Go(func() { b.accept(l) })
	return l.Addr().String(), nil
}

// Unplug takes the machine from all its addresses and cuts its connections. Keys and files stay, and Listen brings
// it back, elsewhere or at the same place.
func (b *Box) Unplug() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.listeners {
		l.Close()
	}
	b.listeners = nil
	for conn := range b.conns {
		conn.Close()
		delete(b.conns, conn)
	}
}

// Close unplugs the machine for good and removes its directory.
func (b *Box) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	b.Unplug()
	b.working.Wait()
	return errors.Join(b.root.Close(), os.RemoveAll(b.dir))
}

func (b *Box) accept(l net.Listener) {
	// A listener that fails for another reason than Unplug is as good as unplugged.
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		// A connection that was accepted while Unplug closed the listener would be missed by it.
		if !slices.Contains(b.listeners, l) || len(b.conns) >= maxConns {
			b.mu.Unlock()
			conn.Close()
			continue
		}
		b.conns[conn] = true
		b.working.Go(func() { b.serve(conn) })
		b.mu.Unlock()
	}
}

func (b *Box) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		b.mu.Lock()
		delete(b.conns, conn)
		b.mu.Unlock()
	}()
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	server, channels, requests, err := ssh.NewServerConn(conn, b.config)
	if err != nil {
		return
	}
	defer server.Close()
	conn.SetDeadline(time.Time{})

	var sessions sync.WaitGroup
	defer sessions.Wait()
	// The answers to keepalives, and to requests for remote forwarding, are "no".
	sessions.Go(func() { ssh.DiscardRequests(requests) })
	slots := make(chan struct{}, maxSessions)
	for offer := range channels {
		if offer.ChannelType() != "session" {
			offer.Reject(ssh.Prohibited, "this machine is simulated and forwards nothing")
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			offer.Reject(ssh.ResourceShortage, "too many sessions")
			continue
		}
		channel, requests, err := offer.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() {
			defer func() { <-slots }()
			b.session(channel, requests)
		})
	}
}

// session serves one channel: a command or a shell, RFC 4254 section 6.
func (b *Box) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	var terminal bool
	for request := range requests {
		switch request.Type {
		case "pty-req":
			terminal = true
			request.Reply(true, nil)
		case "window-change":
			request.Reply(true, nil)
		case "exec", "shell":
			var exec struct{ Command string }
			if request.Type == "exec" && (ssh.Unmarshal(request.Payload, &exec) != nil || len(exec.Command) > maxLine) {
				request.Reply(false, nil)
				return
			}
			request.Reply(true, nil)
			done := make(chan struct{})
			go func() {
				defer close(done)
				ssh.DiscardRequests(requests)
			}()
			s := &shell{box: b, in: channel, out: channel, err: channel.Stderr(), dir: "/root"}
			switch {
			case request.Type == "exec" && terminal:
				// A terminal wants carriage returns.
				s.out = term.NewTerminal(channel, "")
				s.err = s.out
				s.run(exec.Command)
			case request.Type == "exec":
				s.run(exec.Command)
			case terminal:
				s.interact(channel)
			default:
				s.script()
			}
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(s.status)}))
			channel.Close()
			<-done
			return
		default:
			// Among them env, which a real instance does not accept either, subsystems, and agent forwarding.
			request.Reply(false, nil)
		}
	}
}

// fingerprint is the name of the machine's GPU in tables, made from its host key so that it stays the same.
func (b *Box) fingerprint(gpu int) string {
	sum := bytes.Clone(b.keys[0].Marshal())
	sum = sum[len(sum)-16:]
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x%02x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:15], gpu)
}
