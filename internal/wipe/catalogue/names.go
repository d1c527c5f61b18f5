package catalogue

import (
	"slices"
	"strings"
	"sync"
)

// secretWords are words, or words in a row, which say of a variable that it holds a secret.
var secretWords = []string{
	"TOKEN", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "APIKEY", "API_KEY", "API_KEYS", "ACCESS_KEY",
	"PRIVATE_KEY", "SECRET_KEY", "AUTH_KEY", "AUTHKEY", "ACCOUNT_KEY", "MASTER_KEY", "SIGNING_KEY", "ENCRYPTION_KEY", "SSH_KEY",
	"SERVICE_KEY", "LICENSE_KEY", "STORAGE_KEY", "CREDENTIAL", "CREDENTIALS", "AUTH", "COOKIE", "DSN", "CONNECTION_STRING",
	"WEBHOOK_URL", "DATABASE_URL", "PAT",
}

// publicWords say that it holds none: a place, a number, a switch, or something meant to be seen.
var publicWords = []string{
	"PUBLIC", "PUB", "PATH", "FILE", "DIR", "DISABLE", "DISABLED", "ENABLE", "ENABLED", "LIMIT", "LENGTH", "COUNT", "SIZE",
	"MAX", "MIN", "NUM", "TTL", "EXPIRY", "SOCK", "TYPE", "METHOD", "MODE", "HELPER", "ASKPASS", "FINGERPRINT",
}

// publicNames read like secrets and are none.
var publicNames = []string{"PWD", "OLDPWD", "SSH_PUBLIC_KEY", "GPG_KEY", "XAUTHORITY", "SSH_AUTH_SOCK"}

var listedNames = sync.OnceValue(func() []string {
	var names []string
	for _, e := range entries() {
		if e.Kind == Environment {
			names = append(names, e.Paths...)
		}
	}
	return names
})

// IsSecretName tells whether an environment variable holds a secret, by its name alone: it is listed in the catalogue, or
// words in it say so. It is a guess, for what is reported by name; nothing is safe because it says no.
func IsSecretName(name string) bool {
	if slices.Contains(listedNames(), name) {
		return true
	}
	name = strings.ToUpper(name)
	if slices.Contains(publicNames, name) {
		return false
	}
	words := "_" + strings.NewReplacer("-", "_", ".", "_").Replace(name) + "_"
	has := func(word string) bool { return strings.Contains(words, "_"+word+"_") }
	return slices.ContainsFunc(secretWords, has) && !slices.ContainsFunc(publicWords, has)
}
