package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

func fingerprintOf(k ssh.PublicKey) string { return ssh.FingerprintSHA256(k) }

// ageCache sets every time in the cache's files back.
func ageCache(dir string, d time.Duration) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			return err
		}
		if data, err = json.Marshal(older(v, d)); err != nil {
			return err
		}
		if err := os.WriteFile(f, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func older(v any, d time.Duration) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = older(v[k], d)
		}
	case []any:
		for i := range v {
			v[i] = older(v[i], d)
		}
	case string:
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil && strings.Contains(v, "T") {
			return at.Add(-d).Format(time.RFC3339Nano)
		}
	}
	return v
}
