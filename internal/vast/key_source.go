package vast

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"vast-ssh/internal/atomicfile"
	"vast-ssh/internal/secret"
)

const maxKey = 4096

// Key is an API key and where it was found.
type Key struct {
	Value secret.Value
	// Source is the environment variable or the file, for people.
	Source string
	// Fallback is for Config.Fallback: the next key, when Value is that of a two-factor session, which ends after a
	// week. Zero otherwise.
	Fallback secret.Value
	// Warning tells that other users of the machine can read a key file, and how to end that. Empty when all is well.
	Warning string
}

// NoKeyError says that there is no API key. Looked names every place in the order of the search, each with what was
// found there.
type NoKeyError struct{ Looked []string }

func (e *NoKeyError) Error() string {
	return "no API key found; looked at " + strings.Join(e.Looked, ", ")
}

// Hint says how to get and set a key.
func (e *NoKeyError) Hint() string { return setKey }

// BadKeyError says that what stands where an API key should be cannot be one, or cannot be read. It never shows it.
type BadKeyError struct{ Source, Reason string }

func (e *BadKeyError) Error() string { return e.Source + " " + e.Reason }

// Hint says how to get and set a key.
func (e *BadKeyError) Hint() string { return setKey }

// FindKey looks for the API key where the official command line tool does, and in its order: VAST_API_KEY, the
// two-factor session, the key file, the key file of old versions; VASTAI_API_KEY, which other tools use, comes second.
// A variable or a file that holds nothing counts as missing. The error is a *NoKeyError, or a *BadKeyError for the
// first place that holds something unusable.
func FindKey(getenv func(string) string, home string) (Key, error) {
	missing := &NoKeyError{}
	for _, name := range []string{"VAST_API_KEY", "VASTAI_API_KEY"} {
		text := strings.TrimSpace(getenv(name))
		if text == "" {
			missing.Looked = append(missing.Looked, name+" (not set or empty)")
			continue
		}
		if reason := badKey(text); reason != "" {
			return Key{}, &BadKeyError{Source: name, Reason: reason}
		}
		return Key{Value: secret.New(text), Source: name}, nil
	}

	files := keyFiles(getenv, home)
	for i, path := range files {
		value, state, err := readKey(path)
		if err != nil {
			return Key{}, err
		}
		if value.IsZero() {
			missing.Looked = append(missing.Looked, shown(path)+" ("+state+")")
			continue
		}
		key := Key{Value: value, Source: shown(path)}
		open := openToOthers(nil, path)
		if filepath.Base(path) == sessionFile {
			for _, next := range files[i+1:] {
				// A bad file here is no reason to refuse a session that works.
				if value, _, err := readKey(next); err == nil && !value.IsZero() {
					key.Fallback = value
					open = openToOthers(open, next)
					break
				}
			}
		}
		key.Warning = warning(open)
		return key, nil
	}
	return Key{}, missing
}

const sessionFile = "vast_tfa_key"

func keyFiles(getenv func(string) string, home string) []string {
	var files []string
	config := getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(config) && home != "" { // a relative one is void by the XDG specification
		config = filepath.Join(home, ".config")
	}
	if filepath.IsAbs(config) {
		dir := filepath.Join(config, "vastai")
		files = append(files, filepath.Join(dir, sessionFile), filepath.Join(dir, "vast_api_key"))
	}
	if home != "" {
		files = append(files, filepath.Join(home, ".vast_api_key"))
	}
	return files
}

// readKey returns the key in a file, or why there is none.
func readKey(path string) (value secret.Value, state string, err error) {
	data, err := atomicfile.Read(path, maxKey)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return secret.Value{}, "no such file", nil
	case errors.Is(err, atomicfile.ErrTooLarge):
		return secret.Value{}, "", &BadKeyError{Source: shown(path), Reason: "is too large to be an API key"}
	case err != nil:
		var cause *fs.PathError
		reason := "cannot be read"
		if errors.As(err, &cause) {
			reason += ": " + cause.Err.Error()
		}
		return secret.Value{}, "", &BadKeyError{Source: shown(path), Reason: reason}
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return secret.Value{}, "empty", nil
	}
	if reason := badKey(text); reason != "" {
		return secret.Value{}, "", &BadKeyError{Source: shown(path), Reason: reason}
	}
	return secret.New(text), "", nil
}

// badKey says why text cannot go into an Authorization header as a key, or "".
func badKey(text string) string {
	switch {
	case text == "":
		return "is empty"
	case len(text) > maxKey:
		return "is too long to be an API key"
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "does not hold an API key: blanks, line breaks and characters beyond ASCII are not part of one"
	}
	return ""
}

// openToOthers adds path to open if group or others can read it.
func openToOthers(open []string, path string) []string {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o044 != 0 {
		return append(open, path)
	}
	return open
}

func warning(open []string) string {
	if len(open) == 0 {
		return ""
	}
	text := "other users of this machine can read your API key: chmod 600"
	for _, path := range open {
		if !printable(path) {
			return fmt.Sprintf("other users of this machine can read your API key: give %q the mode 0600", open)
		}
		text += " '" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return text
}

// shown is a path of the user's for an error text: as it is, unless that would break the line.
func shown(path string) string {
	if printable(path) {
		return path
	}
	return fmt.Sprintf("%q", path)
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
