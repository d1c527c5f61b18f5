package catalogue

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// root is what an ordinary container has.
var root = []string{"/root"}

func TestEveryEntryHasItsFields(t *testing.T) {
	count := map[Kind]int{}
	for _, e := range Entries() {
		count[e.Kind]++
		if e.Tool == "" || e.What == "" || strings.Trim(e.Source, "? ") == "" || len(e.Paths) == 0 {
			t.Errorf("%v: a field is missing", e)
		}
	}
	for _, k := range kinds {
		if count[k] == 0 {
			t.Errorf("no entry of kind %s", k)
		}
	}
}

// TestEveryPathExpands finds entries that a guard would silence.
func TestEveryPathExpands(t *testing.T) {
	for _, e := range Entries() {
		for _, p := range e.Paths {
			one := Entry{Kind: e.Kind, Paths: []string{p}}
			if got := one.Expand(root, nil); (len(got) == 0) != (e.Kind == Environment) {
				t.Errorf("%s, %s: %q expands to %v", e.Tool, e.What, p, got)
			}
		}
	}
}

// TestPlacesAreWhereUsersWrite holds every pattern of an ordinary container to a list of places.
func TestPlacesAreWhereUsersWrite(t *testing.T) {
	below := []string{"/root/", "/workspace/", "/etc/", "/var/log/", "/var/lib/", "/var/spool/", "/var/mail/", "/var/crash", "/var/core",
		"/var/cache/", "/var/run/utmp", "/run/", "/tmp/", "/var/tmp/", "/opt/syncthing/", "/opt/ngrok/", "/home_ssh/", "/cores",
		"/core", "/onstart.sh", "/.launch"}
	for _, e := range Entries() {
		for _, p := range e.Expand(root, nil) {
			if !slices.ContainsFunc(below, func(b string) bool { return strings.HasPrefix(p.Glob, b) }) {
				t.Errorf("%s: %q is in none of the expected places", e.Tool, p.Glob)
			}
			if p.Tree && strings.HasPrefix(p.Glob, "/etc/") && strings.ContainsAny(strings.Split(p.Glob, "/")[2], "*?[") {
				t.Errorf("%s: %q takes whole trees of /etc by a glob", e.Tool, p.Glob)
			}
		}
	}
}

// TestLoginIsApart: what is needed for logging in is in no other entry, as long as the environment is not hostile.
func TestLoginIsApart(t *testing.T) {
	homes := []string{"/root", "/home/user"}
	keys := []string{"/root/.ssh/authorized_keys", "/home/user/.ssh/authorized_keys2", "/home_ssh/root/.ssh/authorized_keys",
		"/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key.pub", "/etc/shadow",
		"/etc/ssh/authorized_keys/root", "/etc/ssh/authorized_keys.d/user"}
	samples := Samples(homes, nil)
	for _, s := range samples {
		if s.Entry.Kind == Login {
			keys = append(keys, s.Path)
		}
	}
	for _, key := range keys {
		var kinds []Kind
		for _, s := range samples {
			if covers(s.Pattern, key) {
				kinds = append(kinds, s.Entry.Kind)
			}
		}
		if !slices.Equal(kinds, []Kind{Login}) {
			t.Errorf("%s is in entries of the kinds %v", key, kinds)
		}
	}
}

// TestSpecialBeforeGeneral: the entry that a file belongs to is the one people expect.
func TestSpecialBeforeGeneral(t *testing.T) {
	samples := Samples(root, map[string]string{"HF_HOME": "/workspace/.hf_home", "WORKSPACE": "/workspace"})
	for file, want := range map[string]string{
		"/root/.cache/huggingface/token":                    "Hugging Face: access token",
		"/workspace/.hf_home/token":                         "Hugging Face: access token",
		"/workspace/.hf_home/hub/models--x/blobs/abc":       "Hugging Face: models and datasets",
		"/root/.ssh/id_ed25519":                             "OpenSSH: private keys and all else that is no login",
		"/root/.ssh/a":                                      "OpenSSH: private keys and all else that is no login",
		"/root/.ssh/auth.pem":                               "OpenSSH: private keys and all else that is no login",
		"/root/.ssh/@work":                                  "OpenSSH: private keys and all else that is no login",
		"/root/.ssh/aws.pem":                                "OpenSSH: private keys and all else that is no login",
		"/root/.ssh/cm/socket":                              "OpenSSH: private keys and all else that is no login",
		"/root/.ssh/.hidden":                                "OpenSSH: private keys and all else that is no login",
		"/root/.ssh/known_hosts.old":                        "OpenSSH: addresses of other machines",
		"/root/.ollama/history":                             "Ollama: prompts",
		"/root/.ollama/id_ed25519":                          "Ollama: key of the account",
		"/root/.claude/.credentials.json":                   "Claude Code: tokens and settings",
		"/root/.claude/projects/a/b.jsonl":                  "Claude Code: transcripts",
		"/root/.cache/anything/below":                       "any program: all other caches of users",
		"/root/.config/vastai/vast_api_key":                 "Vast.ai CLI: account API key and second-factor session key",
		"/root/.psql_history":                               "PostgreSQL: statements",
		"/root/.unheard_of_history":                         "readline programs: lines typed into programs",
		"/var/log/auth.log.1":                               "logins: who logged in, from where",
		"/root/.ipython/profile_default/history.sqlite-wal": "IPython: statements",
	} {
		got := ""
		if i := slices.IndexFunc(samples, func(s Sample) bool { return covers(s.Pattern, file) }); i >= 0 {
			got = samples[i].Entry.Tool + ": " + samples[i].Entry.What
		}
		if got != want {
			t.Errorf("%s belongs to %q, want %q", file, got, want)
		}
	}
}

// covers tells whether a file is a match of the pattern, or below one of a tree.
func covers(p Pattern, file string) bool {
	for ; file != "/"; file = path.Dir(file) {
		if ok, _ := path.Match(p.Glob, file); ok {
			return true
		}
		if !p.Tree {
			return false
		}
	}
	return false
}

func TestSamples(t *testing.T) {
	homes := []string{"/root", "/home/a[b]*c"}
	env := map[string]string{"HF_HOME": `/data/models?\here`, "WORKSPACE": "/data/work"}
	samples := Samples(homes, env)
	count := 0
	for _, e := range Entries() {
		count += len(e.Expand(homes, env))
	}
	if len(samples) != count {
		t.Errorf("%d samples of %d patterns", len(samples), count)
	}
	var paths []string
	for _, s := range samples {
		match := s.Path
		if s.Pattern.Tree {
			match = path.Dir(s.Path)
		}
		if ok, err := path.Match(s.Pattern.Glob, match); !ok || err != nil {
			t.Errorf("%q does not match %q", match, s.Pattern.Glob)
		}
		paths = append(paths, s.Path)
	}
	for _, p := range paths {
		for dir := path.Dir(p); dir != "/"; dir = path.Dir(dir) {
			if slices.Contains(paths, dir) {
				t.Errorf("%s and %s cannot both be files", dir, p)
			}
		}
	}
}

func TestVariables(t *testing.T) {
	names := Variables()
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("not sorted, or some twice: %v", names)
	}
	for _, want := range []string{"HF_HOME", "HF_TOKEN_PATH", "WORKSPACE", "XDG_CONFIG_HOME", "NETRC"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, name := range names {
		if slices.Contains(listedNames(), name) {
			t.Errorf("%s is said to hold a secret, and would be read as a path", name)
		}
	}
}

func TestIsSecretName(t *testing.T) {
	for name, want := range map[string]bool{
		"HF_TOKEN": true, "CONTAINER_API_KEY": true, "WANDB_API_KEY": true, "MY_SERVICE_TOKEN": true, "db_password": true,
		"FOO_SECRET": true, "GOOGLE_APPLICATION_CREDENTIALS": true, "X_APIKEY": true, "SOME_PRIVATE_KEY": true, "PGPASSWORD": true,
		"DATABASE_URL": true, "FAL_KEY": true, "app.secret": true, "my-api-key": true,
		"SSH_PUBLIC_KEY": false, "PATH": false, "PWD": false, "OLDPWD": false, "GPG_KEY": false, "TOKENIZERS_PARALLELISM": false,
		"MAX_TOKENS": false, "HF_TOKEN_PATH": false, "HF_HUB_DISABLE_IMPLICIT_TOKEN": false, "SSH_AUTH_SOCK": false, "KEYBOARD": false,
		"MONKEY": false, "GIT_ASKPASS": false, "PASSENGER_COUNT": false, "VAST_CONTAINERLABEL": false, "": false,
	} {
		if got := IsSecretName(name); got != want {
			t.Errorf("IsSecretName(%q) = %v", name, got)
		}
	}
}
