package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/xrash/smetrics"
	"golang.org/x/sys/unix"
)

const (
	maxFile = 64 << 10
	// maxKeyShown is below the length of an API key, so that one pasted on the wrong side of "=" is not repeated.
	maxKeyShown = 32
)

// urlVariable is the environment variable that goes before api_url.
const urlVariable = "VAST_URL"

// Load reads the configuration file at path, which may be missing, and the environment. The error is an *Error,
// or an *fs.PathError when the file cannot be read.
func Load(path string, getenv func(string) string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	c := &Config{values: make([]Value, len(keys))}
	for i, k := range keys {
		c.values[i] = Value{Key: k.name, Text: k.fallback, Source: "default"}
		if k.add != nil {
			c.values[i].Text = "[]"
		} else if !k.set(c, k.fallback) {
			panic("config: the default of " + k.name + " is not valid")
		}
	}
	if err := c.parse(path, data); err != nil {
		return nil, err
	}
	if text := getenv(urlVariable); text != "" {
		if !setAPIURL(c, text) {
			return nil, &Error{Key: urlVariable, Reason: "must be " + apiURLWants}
		}
		i := slices.IndexFunc(keys, func(k key) bool { return k.name == apiURLKey })
		c.values[i] = Value{Key: apiURLKey, Text: text, Source: "environment " + urlVariable}
	}
	return c, nil
}

// read returns the content of the file at path, nothing for a missing file, and an error for a file that somebody
// else could have written: it says which host keys are accepted and where the API key is sent.
func read(path string) ([]byte, error) {
	// O_NONBLOCK: a FIFO in this place must not hang every command.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{File: path, Reason: "is not a regular file"}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() && st.Uid != 0 {
		return nil, &Error{File: path, Reason: "belongs to another user, who could change it"}
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return nil, &Error{File: path, Reason: fmt.Sprintf("could be changed by others (mode %04o)", perm),
			advice: fmt.Sprintf("chmod go-w '%s'", path)}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, &Error{File: path, Reason: fmt.Sprintf("is larger than %d bytes", maxFile)}
	}
	return data, nil
}

// parse applies the settings in data. It walks the syntax tree, not a decoded map, because every effective value
// tells its line.
func (c *Config) parse(path string, data []byte) error {
	var p unstable.Parser
	// The parser finds positions by the capacity of slices.
	p.Reset(slices.Clip(data))
	for p.NextExpression() {
		if err := c.apply(&p, p.Expression()); err != nil {
			err.File = path
			return err
		}
	}
	if p.Error() == nil {
		return nil
	}
	e := &Error{File: path, Reason: "not valid TOML"}
	var syntax *unstable.ParserError
	if errors.As(p.Error(), &syntax) {
		at := p.Shape(p.Range(syntax.Highlight)).Start
		e.Line, e.Column = at.Line, at.Column
		e.Reason += ": " + syntax.Message
	}
	return e
}

func (c *Config) apply(p *unstable.Parser, expr *unstable.Node) *Error {
	var parts []string
	e := new(Error)
	for it := expr.Key(); it.Next(); {
		if parts == nil {
			at := p.Shape(it.Node().Raw).Start
			e.Line, e.Column = at.Line, at.Column
		}
		parts = append(parts, string(it.Node().Data))
	}
	name := strings.Join(parts, ".")
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 || len(parts) != 1 {
		return unknown(e, name)
	}
	e.Key = name
	switch {
	case expr.Kind != unstable.KeyValue:
		e.Reason = fmt.Sprintf("%s is a key, not a table", name)
		return e
	case c.values[i].Source != "default":
		e.Reason = fmt.Sprintf("%s is set a second time", name)
		return e
	}
	text, err := keys[i].take(c, expr.Value())
	if err != nil {
		e.Reason = err.Error()
		return e
	}
	c.values[i] = Value{Key: name, Text: text, Source: fmt.Sprintf("file:%d", e.Line)}
	return nil
}

// take puts the value in node into c and returns it as it is shown to people.
func (k key) take(c *Config, node *unstable.Node) (string, error) {
	refused := fmt.Errorf("%s must be %s", k.name, k.wants)
	if k.add == nil {
		if node.Kind != unstable.String {
			return "", fmt.Errorf("%s must be a string in quotes: %s", k.name, k.wants)
		}
		text := string(node.Data)
		if !k.set(c, text) {
			return "", refused
		}
		return text, nil
	}
	if node.Kind != unstable.Array {
		return "", fmt.Errorf("%s must be an array of strings in quotes: %s", k.name, k.wants)
	}
	var shown []string
	for it := node.Children(); it.Next(); {
		text := string(it.Node().Data)
		if it.Node().Kind != unstable.String || len(shown) == maxElements || !k.add(c, text) {
			return "", refused
		}
		shown = append(shown, strconv.Quote(text))
	}
	return "[" + strings.Join(shown, ", ") + "]", nil
}

// unknown completes e for a name that is no key of ours.
func unknown(e *Error, name string) *Error {
	if len(name) > maxKeyShown {
		e.Reason = "unknown key"
		return e
	}
	e.Key = name
	if namesSecret(name) {
		e.Reason = fmt.Sprintf("%q does not belong here: this file holds no secrets", name)
		e.advice = "remove the line; the API key is read from VAST_API_KEY or ~/.config/vastai/vast_api_key"
		return e
	}
	e.Reason = fmt.Sprintf("unknown key %q", name)
	e.Nearest = nearest(name)
	return e
}

func namesSecret(name string) bool {
	name = strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(name))
	return slices.ContainsFunc([]string{"apikey", "token", "secret", "password", "passphrase", "privatekey"},
		func(word string) bool { return strings.Contains(name, word) })
}

// nearest returns the key that is name but for a few slips, or nothing.
func nearest(name string) string {
	best, least := "", 1+len(name)/3
	for _, k := range keys {
		if d := smetrics.WagnerFischer(strings.ToLower(name), k.name, 1, 1, 1); d < least {
			best, least = k.name, d
		}
	}
	return best
}
