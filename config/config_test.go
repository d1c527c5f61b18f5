package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func noEnv(string) string { return "" }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	c, err := Load(filepath.Join(t.TempDir(), "absent.toml"), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	want := []Value{
		{"custody", "file", "default"},
		{"first_contact", "tofu", "default"},
		{"user", "root", "default"},
		{"users", "[]", "default"},
		{"accept", "witness", "default"},
		{"hops", "[]", "default"},
		{"confirm", "never", "default"},
		{"askpass", "", "default"},
		{"notify", "off", "default"},
		{"idle_lock", "0s", "default"},
		{"screen_lock", "on", "default"},
		{"witness_life", "30s", "default"},
		{"cache_fresh", "5m", "default"},
		{"api_timeout", "20s", "default"},
		{"dial_timeout", "10s", "default"},
		{"gateway_delay", "250ms", "default"},
		{"ssh", "", "default"},
		{"api_url", "https://console.vast.ai", "default"},
	}
	if got := c.Values(); !reflect.DeepEqual(got, want) {
		t.Errorf("values\n%v\nwant\n%v", got, want)
	}
	c.values = nil
	wantConfig := &Config{Custody: CustodyFile, FirstContact: ContactTOFU, User: "root", Accept: AcceptWitness,
		Confirm: ConfirmNever, ScreenLock: true, WitnessLife: 30 * time.Second,
		CacheFresh: 5 * time.Minute, APITimeout: 20 * time.Second, DialTimeout: 10 * time.Second,
		GatewayDelay: 250 * time.Millisecond, APIURL: "https://console.vast.ai"}
	if !reflect.DeepEqual(c, wantConfig) {
		t.Errorf("config %+v, want %+v", c, wantConfig)
	}
}

func TestLoad(t *testing.T) {
	path := write(t, `# mine
custody = "keyring"

first_contact = 'ask'
user = "ubuntu"
users = [ "dev", 'a@12',
  "b@vast-13" ]
accept = "bind"
hops = ["12>13", "vast-13 > 12"]
confirm = "first"
askpass = "/usr/bin/ssh-askpass"
notify = "on"
idle_lock = "30m"
screen_lock = "off"
"witness_life" = "1s"
cache_fresh = "0"
api_timeout = "2m"
dial_timeout = "1m30s"
gateway_delay = "10s" # slow
ssh = "/opt/my ssh/bin/ssh"
api_url = "http://127.0.0.1:8080/base"`)
	c, err := Load(path, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	want := []Value{
		{"custody", "keyring", "file:2"},
		{"first_contact", "ask", "file:4"},
		{"user", "ubuntu", "file:5"},
		{"users", `["dev", "a@12", "b@vast-13"]`, "file:6"},
		{"accept", "bind", "file:8"},
		{"hops", `["12>13", "vast-13 > 12"]`, "file:9"},
		{"confirm", "first", "file:10"},
		{"askpass", "/usr/bin/ssh-askpass", "file:11"},
		{"notify", "on", "file:12"},
		{"idle_lock", "30m", "file:13"},
		{"screen_lock", "off", "file:14"},
		{"witness_life", "1s", "file:15"},
		{"cache_fresh", "0", "file:16"},
		{"api_timeout", "2m", "file:17"},
		{"dial_timeout", "1m30s", "file:18"},
		{"gateway_delay", "10s", "file:19"},
		{"ssh", "/opt/my ssh/bin/ssh", "file:20"},
		{"api_url", "http://127.0.0.1:8080/base", "file:21"},
	}
	if got := c.Values(); !reflect.DeepEqual(got, want) {
		t.Errorf("values\n%v\nwant\n%v", got, want)
	}
	c.values = nil
	wantConfig := &Config{Custody: CustodyKeyring, FirstContact: ContactAsk, User: "ubuntu", WitnessLife: time.Second,
		Users: []UserAt{{"dev", 0}, {"a", 12}, {"b", 13}}, Accept: AcceptBind, Hops: []Hop{{12, 13}, {13, 12}},
		Confirm: ConfirmFirst, Askpass: "/usr/bin/ssh-askpass", Notify: true, IdleLock: 30 * time.Minute,
		APITimeout: 2 * time.Minute, DialTimeout: 90 * time.Second, GatewayDelay: 10 * time.Second,
		SSH: "/opt/my ssh/bin/ssh", APIURL: "http://127.0.0.1:8080/base"}
	if !reflect.DeepEqual(c, wantConfig) {
		t.Errorf("config %+v, want %+v", c, wantConfig)
	}
}

func TestEnvironmentGoesBeforeFile(t *testing.T) {
	path := write(t, `api_url = "https://file.example"`)
	c, err := Load(path, env("VAST_URL", "https://env.example"))
	if err != nil {
		t.Fatal(err)
	}
	if c.APIURL != "https://env.example" {
		t.Errorf("APIURL = %q", c.APIURL)
	}
	if got := c.Values()[17]; got != (Value{"api_url", "https://env.example", "environment VAST_URL"}) {
		t.Errorf("value %v", got)
	}
	_, err = Load(path, env("VAST_URL", "https://user:canary@env.example"))
	var e *Error
	if !errors.As(err, &e) || e.File != "" || e.Key != "VAST_URL" {
		t.Fatalf("err = %v", err)
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the error repeats the value: %v", err)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		text string
		line int
		want string // the error after "FILE:LINE: "
		hint string
	}{
		{"\n\nacept = \"canary\"", 3, `unknown key "acept"`, `did you mean "accept"?`},
		{"zzz = \"canary\"", 1, `unknown key "zzz"`, ``},
		{"custdy = \"canary\"", 1, `unknown key "custdy"`, `did you mean "custody"?`},
		{"user = \"a\"\nFirst-Contact = \"canary\"", 2, `unknown key "First-Contact"`, `did you mean "first_contact"?`},
		{"api_urls = \"canary\"", 1, `unknown key "api_urls"`, `did you mean "api_url"?`},
		{"[canary_table]\nx = 1", 1, `unknown key "canary_table"`, ``},
		{"[user]\nname = \"canary\"", 1, `user is a key, not a table`, ``},
		{"[[user]]\nname = \"canary\"", 1, `user is a key, not a table`, ``},
		{"user.name = \"canary\"", 1, `unknown key "user.name"`, ``},
		{"\"us\\ner\" = \"canary\"", 1, `unknown key "us\ner"`, `did you mean "user"?`},
		{"user = \"root\"\nuser = \"canary\"", 2, `user is set a second time`, ``},
		{"user = 17", 1, `user must be a string in quotes: a user name: ` +
			`a small letter or _, then up to 31 of a-z, 0-9, _ and -`, ``},
		{"witness_life = 30", 1, `witness_life must be a string in quotes: ` +
			`a duration from 1s to 5m, such as "30s"`, ``},
		{"ssh = [\"canary\"]", 1, `ssh must be a string in quotes: empty or the absolute path of the ssh program`, ``},
		{"ssh = {canary=1}", 1, `ssh must be a string in quotes: empty or the absolute path of the ssh program`, ``},
		{"users = \"canary\"", 1, `users must be an array of strings in quotes: user names ("ubuntu"), for one instance ` +
			`with its id ("ubuntu@1234567"): a small letter or _, then up to 31 of a-z, 0-9, _ and -`, ``},
		{"hops = [[\"canary\"]]", 1, `hops must be pairs of instance ids, such as "1234567>2345678"`, ``},
		{"hops = [17]", 1, `hops must be pairs of instance ids, such as "1234567>2345678"`, ``},
		{"custody = \"canary\"", 1, `custody must be one of "file", "keyring"`, ``},
		{"first_contact = \"Tofu\"", 1, `first_contact must be one of "tofu", "two-path", "manual", "ask"`, ``},
		{"first_contact = \"canary", 1, `not valid TOML: unterminated basic string`, ``},
		{"user = \"root\"\ncanary", 2, `not valid TOML: expected '=' after key`, ``},
		{"user = root", 1, `not valid TOML: unexpected character U+0072 'r' at start of value`, ``},
		{"user = \"\xff\"", 1, `not valid TOML: invalid UTF-8 character in basic string`, ``},
		{"user =", 1, `not valid TOML: expected value, not end of input`, ``},
		{"canarycanarycanarycanarycanarycanary = \"x\"", 1, `unknown key`, ``},
		{"api_key = \"canary\"", 1, `"api_key" does not belong here: this file holds no secrets`, secretHint},
		{"VAST-API-KEY = \"canary\"", 1, `"VAST-API-KEY" does not belong here: this file holds no secrets`, secretHint},
		{"api.key = \"canary\"", 1, `"api.key" does not belong here: this file holds no secrets`, secretHint},
		{"passphrase = \"canary\"", 1, `"passphrase" does not belong here: this file holds no secrets`, secretHint},
	} {
		path := write(t, tt.text)
		_, err := Load(path, noEnv)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: err = %v, want an *Error", tt.text, err)
			continue
		}
		got, ok := strings.CutPrefix(err.Error(), path+":")
		if !ok {
			t.Errorf("%q: %q does not begin with the file", tt.text, err)
		}
		if _, got, _ = strings.Cut(got, ": "); got != tt.want {
			t.Errorf("%q:\n%q, want\n%q", tt.text, got, tt.want)
		}
		if e.Line != tt.line || e.Column < 1 || e.File != path {
			t.Errorf("%q: at %s:%d:%d, want line %d", tt.text, e.File, e.Line, e.Column, tt.line)
		}
		if e.Hint() != tt.hint {
			t.Errorf("%q: hint %q, want %q", tt.text, e.Hint(), tt.hint)
		}
		if strings.Contains(err.Error()+e.Hint(), "canary") && !strings.Contains(tt.want, "canary_table") {
			t.Errorf("%q: the error repeats the value: %v", tt.text, err)
		}
	}
}

const secretHint = "remove the line; the API key is read from VAST_API_KEY or ~/.config/vastai/vast_api_key"

func TestColumn(t *testing.T) {
	_, err := Load(write(t, "user = \"root\"\n  acept = 1"), noEnv)
	var e *Error
	if !errors.As(err, &e) || e.Line != 2 || e.Column != 3 {
		t.Errorf("err = %#v, want line 2 column 3", err)
	}
}

func TestValues(t *testing.T) {
	for _, tt := range []struct {
		key  string
		good []string
		bad  []string
	}{
		{"user", []string{"root", "_apt", "a", "a-b_9", strings.Repeat("a", 32)},
			[]string{"", "Root", "9a", "-a", "a b", "a%h", "a\\n", "a.b", strings.Repeat("a", 33)}},
		{"witness_life", []string{"1s", "5m", "1m0.5s"}, []string{"", "999ms", "5m1ns", "-1s", "30", "s", "1d"}},
		{"cache_fresh", []string{"0", "0s", "1h"}, []string{"-1ns", "61m", "1h1ns"}},
		{"api_timeout", []string{"1s", "2m"}, []string{"0", "121s"}},
		{"dial_timeout", []string{"1s", "2m"}, []string{"0", "121s"}},
		{"gateway_delay", []string{"0", "10s"}, []string{"-1s", "10.1s", "9223372036854775807h"}},
		{"ssh", []string{"", "/usr/bin/ssh", "/a b/ssh", "/ü/ssh"},
			[]string{"ssh", "./ssh", "~/ssh", "/a\\u0000b", "/a\\nb", "/a\\u202eb"}},
		{"api_url", []string{"https://console.vast.ai", "https://h:444/", "http://127.0.0.1:1", "http://localhost:80/x",
			"http://[::1]:8080"},
			[]string{"", "console.vast.ai", "http://console.vast.ai", "http://10.0.0.1", "ftp://localhost", "https://",
				"https://:443", "https://u@h", "https://u:p@h", "https://h?x=1", "https://h?", "https://h#x",
				"https://h#", "https://h/\\u202e", "https://h\\n", "http://localhost.evil.example",
				"http://127.0.0.1.evil.example", "file:///etc"}},
	} {
		for _, text := range tt.good {
			if _, err := Load(write(t, tt.key+` = "`+text+`"`), noEnv); err != nil {
				t.Errorf("%s = %q: %v", tt.key, text, err)
			}
		}
		for _, text := range tt.bad {
			_, err := Load(write(t, tt.key+` = "`+text+`"`), noEnv)
			var e *Error
			if !errors.As(err, &e) || e.Key != tt.key {
				t.Errorf("%s = %q: err = %v, want an *Error", tt.key, text, err)
			}
		}
	}
}

func TestArrays(t *testing.T) {
	many := strings.Repeat(`"a",`, maxElements)
	for key, tt := range map[string]struct{ good, bad []string }{
		"users": {
			[]string{``, `"root"`, `"root", "a@1", "a@vast-1"`, many},
			[]string{`""`, `"Root"`, `"a@"`, `"a@0"`, `"a@b"`, `"@1"`, `"a@1@2"`, `"a@-1"`, `"a%h"`, `"a", "B"`, `1`,
				`"a@99999999999999999999"`, many + `"a"`},
		},
		"hops": {
			[]string{``, `"1>2"`, `"vast-1 > vast-2", "2>1"`},
			[]string{`""`, `"1"`, `">"`, `"1>"`, `">1"`, `"1>1"`, `"1>2>3"`, `"0>1"`, `"a>b"`, `"1<2"`, `["1>2"]`},
		},
	} {
		for _, text := range tt.good {
			if _, err := Load(write(t, key+" = ["+text+"]"), noEnv); err != nil {
				t.Errorf("%s = [%.60s]: %v", key, text, err)
			}
		}
		for _, text := range tt.bad {
			_, err := Load(write(t, key+" = ["+text+"]"), noEnv)
			var e *Error
			if !errors.As(err, &e) || e.Key != key {
				t.Errorf("%s = [%.60s]: err = %v, want an *Error", key, text, err)
			}
		}
	}
}

func TestFileItself(t *testing.T) {
	dir := t.TempDir()
	bad := map[string]func(path string) error{
		"group writable": func(path string) error { return writeMode(path, "", 0o620) },
		"world writable": func(path string) error { return writeMode(path, "", 0o602) },
		"large":          func(path string) error { return writeMode(path, strings.Repeat("#", maxFile+1), 0o600) },
		"fifo":           func(path string) error { return unix.Mkfifo(path, 0o600) },
		"directory":      func(path string) error { return os.Mkdir(path, 0o700) },
	}
	if os.Geteuid() == 0 {
		bad["foreign"] = func(path string) error {
			if err := writeMode(path, "", 0o600); err != nil {
				return err
			}
			return os.Chown(path, 12345, 12345)
		}
	}
	for name, make := range bad {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, noEnv)
		var e *Error
		if !errors.As(err, &e) || e.File != path {
			t.Errorf("%s: err = %v, want an *Error", name, err)
		}
	}
	path := filepath.Join(dir, "group writable")
	_, err := Load(path, noEnv)
	var e *Error
	if !errors.As(err, &e) || e.Hint() != "chmod go-w '"+path+"'" {
		t.Errorf("err = %v, want one with a hint", err)
	}

	full := filepath.Join(dir, "full")
	if err := writeMode(full, strings.Repeat("#", maxFile), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(full, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(link, noEnv); err != nil {
		t.Errorf("a link to a file of %d bytes: %v", maxFile, err)
	}
	if _, err := Load(filepath.Join(full, "x"), noEnv); !errors.As(err, new(*fs.PathError)) {
		t.Errorf("err = %v, want a path error", err)
	}
}

// writeMode sets the mode apart from the umask.
func writeMode(path, text string, mode os.FileMode) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "user = \"root\"\r\n", "user =", "[user]", "a.b=1", "x = {a=[1,{b=2}]}",
		"hops=['1>2',[],{}]", "users=['a\x7f@1']", "\"\\u0000\"=''", "user=\"\"\"\n",
		"# \xff", "d = 1979-05-27T07:32:00Z", "ssh=\"/\\u007f\""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &Config{values: make([]Value, len(keys))}
		for i, k := range keys {
			c.values[i] = Value{Key: k.name, Source: "default"}
		}
		err := c.parse("f", data)
		if err == nil {
			for _, v := range c.Values() {
				if strings.ContainsFunc(v.Text, unprintable) {
					t.Errorf("%s has an unprintable value %q", v.Key, v.Text)
				}
			}
			return
		}
		var e *Error
		if !errors.As(err, &e) || e.File != "f" || e.Reason == "" ||
			e.Line < 0 || e.Line > 1+strings.Count(string(data), "\n") {
			t.Errorf("err = %#v", err)
		}
	})
}
