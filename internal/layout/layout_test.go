// Package layout holds the tests that keep the shape of the project: which package may import which, and why.
package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rows are the layers of docs/architecture.md, lowest first. A package may import packages of lower rows only.
var rows = [][]string{
	{"internal/secret", "internal/atomicfile", "internal/term", "internal/version", "internal/testenv",
		"internal/sshsession", "internal/wipe/protocol", "internal/wipe/catalogue"},
	{"internal/unixsock"},
	{"known", "config", "internal/vast", "internal/custody", "internal/wire", "internal/ipc", "internal/launch",
		"internal/chainlog", "internal/companion", "internal/logind", "internal/sandbox", "internal/service",
		"internal/wipe/script", "internal/wipe/remote"},
	{"internal/resolve", "internal/sim", "internal/sim/sshd/daemon", "internal/job", "internal/wipe/destroy",
		"internal/wipe/deploy", "internal/wipe/deploy/build", "internal/wipe/helper"},
	{"agent", "internal/proxy", "internal/sshconf", "internal/sim/sshd", "internal/sim/overlay",
		"internal/sim/simtest", "internal/wipe"},
	{"internal/rotate"},
	{"internal/cli/voice", "internal/cli/cmdline", "internal/cli/meter"},
	{"internal/cli/agentcmd", "internal/cli/sshcmd"},
	{"cmd/vast-agent", "cmd/vast-ssh"},
	{"bench", "internal/layout", "internal/e2e"},
}

// never are imports that no reordering of rows makes right.
var never = []struct {
	from, to string // from: a package, or "*"; to: an import path prefix
	except   []string
	why      string
}{
	{"agent", "vast-ssh/config", nil, "the policy agent is handed what it needs, so that it can be tested and read alone"},
	{"agent", "vast-ssh/internal/chainlog", nil, "the policy agent says what it decided, and others where that is kept"},
	{"agent", "vast-ssh/internal/companion", nil, "the policy agent asks an Approver, whoever that is"},
	{"internal/companion", "vast-ssh/internal/custody", nil, "the process beside the agent holds no key"},
	{"internal/wire", "net", nil, "the parser of hostile bytes does no I/O"},
	{"internal/wire", "crypto/", nil, "the parser decides nothing that needs cryptography"},
	{"*", "github.com/urfave/cli/v2", []string{"internal/cli/agentcmd", "internal/cli/sshcmd", "internal/cli/cmdline"}, "only the verbs know the command line library"},
	{"*", "vast-ssh/internal/sim", []string{"internal/sim", "internal/sim/sshd", "internal/sim/overlay", "internal/sim/simtest", "internal/cli/sshcmd", "bench", "internal/e2e"}, "a simulated account is for the demo and for tests"},
	{"*", "testing", []string{"internal/testenv", "internal/sim/sshd", "internal/sim/overlay", "internal/sim/simtest", "internal/e2e"}, "test code does not ship"},
}

// unreachable are packages that a program must not link, directly or not.
var unreachable = []struct{ program, pkg, why string }{
	{"cmd/vast-agent", "net/http", "the process that holds the key cannot speak to the network"},
	{"cmd/vast-agent", "vast-ssh/internal/vast", "the process that holds the key knows no API key"},
	{"cmd/vast-agent", "vast-ssh/internal/resolve", "the process that holds the key resolves nothing"},
	{"cmd/vast-agent", "vast-ssh/internal/sim", "a simulated account is for the demo and for tests"},
	{"cmd/vast-agent", "testing", "test code does not ship"},
	{"cmd/vast-ssh", "testing", "test code does not ship"},
	{"cmd/vast-ssh", "vast-ssh/internal/wipe/remote", "what overwrites and removes runs on the rented machine only"},
	{"internal/wipe/helper", "net/http", "the helper speaks to nobody but the connection that started it"},
	{"cmd/vast-ssh", "vast-ssh/agent", "the policy that signs lives in the process that holds the key"},
}

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

const module = "vast-ssh/"

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", "vast-ssh/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func row(path string) int {
	return slices.IndexFunc(rows, func(r []string) bool { return slices.Contains(r, strings.TrimPrefix(path, module)) })
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range list(t) {
		from := row(p.ImportPath)
		if from < 0 {
			t.Errorf("%s is in no row: put it where a reader would look for it, here and in docs/architecture.md", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, module) {
				continue
			}
			if to := row(imp); to >= from && !within(imp, p.ImportPath) {
				t.Errorf("%s imports %s, which is not below it", p.ImportPath, imp)
			}
		}
	}
}

// within allows a package to import its own subfolders.
func within(inner, outer string) bool { return strings.HasPrefix(inner, outer+"/") }

func TestImportsThatAreNeverRight(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, rule := range never {
			if rule.from != "*" && rule.from != name || slices.Contains(rule.except, name) {
				continue
			}
			for _, imp := range p.Imports {
				if imp == rule.to || strings.HasPrefix(imp, strings.TrimSuffix(rule.to, "/")+"/") {
					t.Errorf("%s imports %s: %s", name, imp, rule.why)
				}
			}
		}
	}
}

func TestProgramsDoNotLink(t *testing.T) {
	pkgs := list(t)
	for _, rule := range unreachable {
		i := slices.IndexFunc(pkgs, func(p pkg) bool { return p.ImportPath == module+rule.program })
		if i < 0 {
			t.Errorf("no package %s", rule.program)
			continue
		}
		if slices.Contains(pkgs[i].Deps, rule.pkg) {
			t.Errorf("%s links %s: %s", rule.program, rule.pkg, rule.why)
		}
	}
}

func TestEveryPackageHasOneDocComment(t *testing.T) {
	for _, p := range list(t) {
		var documented []string
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				documented = append(documented, f)
			}
		}
		if len(p.GoFiles) > 0 && len(documented) != 1 {
			t.Errorf("%s has its package comment in %v, want one file", p.ImportPath, documented)
		}
	}
}

// TestArchitecturePageNamesEveryPackage keeps docs/architecture.md true.
func TestArchitecturePageNamesEveryPackage(t *testing.T) {
	page, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list(t) {
		if name := strings.TrimPrefix(p.ImportPath, module); !bytes.Contains(page, []byte("`"+name+"`")) {
			t.Errorf("docs/architecture.md does not name `%s`", name)
		}
	}
}

// TestOnlyTheVoicePrints keeps stray output off stdout and stderr, which may be an SSH stream.
func TestOnlyTheVoicePrints(t *testing.T) {
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if rel == ".git" || rel == "bench" || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// The helper and what builds it are programs, too, and speak over their standard streams.
		ours := slices.ContainsFunc([]string{"internal/cli/", "cmd/", "internal/wipe/helper/", "internal/wipe/deploy/build/"}, func(dir string) bool {
			return strings.HasPrefix(rel, dir)
		})
		for _, bad := range []string{"fmt.Print", "log.Print", "log.Fatal", "os.Exit(", "os.Stdout", "os.Stderr"} {
			if bytes.Contains(src, []byte(bad)) && !ours {
				t.Errorf("%s uses %s: only internal/cli speaks", rel, bad)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
