package sim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"
)

// shell is a session of a Box. It knows words in quotes, variables, and the operators ; && || between commands.
// It is no shell, and every command it has is in the table below.
type shell struct {
	box      *Box
	in       io.Reader
	out, err io.Writer
	dir      string
	status   int
	exited   bool
}

// commands are the programs of a Box: each returns its exit status.
var commands map[string]func(s *shell, args []string) int

func init() {
	commands = map[string]func(s *shell, args []string) int{
		"true":   func(*shell, []string) int { return 0 },
		"false":  func(*shell, []string) int { return 1 },
		"whoami": func(s *shell, _ []string) int { return s.print("root\n") },
		"id":     func(s *shell, _ []string) int { return s.print("uid=0(root) gid=0(root) groups=0(root)\n") },
		"uname":  func(s *shell, _ []string) int { return s.print("Linux\n") },
		"hostname": func(s *shell, _ []string) int {
			return s.print(s.box.opts.Hostname + "\n")
		},
		"pwd":        func(s *shell, _ []string) int { return s.print(s.dir + "\n") },
		"echo":       func(s *shell, args []string) int { return s.print(strings.Join(args, " ") + "\n") },
		"env":        (*shell).printEnv,
		"cd":         (*shell).cd,
		"ls":         (*shell).ls,
		"cat":        (*shell).cat,
		"uptime":     (*shell).uptime,
		"nvidia-smi": (*shell).nvidiaSMI,
		"help":       (*shell).help,
		"exit":       (*shell).exit,
		"logout":     (*shell).exit,
	}
}

func (s *shell) print(text string) int {
	if _, err := io.WriteString(s.out, text); err != nil {
		return 1
	}
	return 0
}

func (s *shell) complain(format string, args ...any) int {
	fmt.Fprintf(s.err, format+"\n", args...)
	return 1
}

// interact is a shell at a terminal.
func (s *shell) interact(rw io.ReadWriter) {
	t := term.NewTerminal(rw, "")
	s.in, s.out, s.err = strings.NewReader(""), t, t
	s.print("This machine is simulated. Type help for its commands.\n")
	for !s.exited {
		t.SetPrompt(fmt.Sprintf("root@%s:%s# ", s.box.opts.Hostname, s.dir))
		line, err := t.ReadLine()
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			return
		}
		if len(line) > maxLine {
			s.complain("line too long")
			continue
		}
		s.run(line)
	}
}

// script is a shell without a terminal: it reads lines to the end of its input.
func (s *shell) script() {
	lines := bufio.NewScanner(s.in)
	lines.Buffer(make([]byte, maxLine), maxLine)
	s.in = strings.NewReader("")
	for !s.exited && lines.Scan() {
		s.run(lines.Text())
	}
	if lines.Err() != nil {
		s.status = s.complain("cannot read the commands")
	}
}

// run runs a line and leaves its exit status in s.status.
func (s *shell) run(line string) {
	tokens, err := split(line)
	if err != nil {
		s.complain("sh: %v", err)
		s.status = 2
		return
	}
	skip := false
	for len(tokens) > 0 && !s.exited {
		end := slices.IndexFunc(tokens, func(t token) bool { return t.operator != "" })
		command := tokens
		operator := ""
		if end >= 0 {
			command, operator = tokens[:end], tokens[end].operator
			tokens = tokens[end+1:]
		} else {
			tokens = nil
		}
		if !skip && len(command) > 0 {
			s.command(command)
		}
		switch operator {
		case ";":
			skip = false
		case "&&":
			skip = s.status != 0
		case "||":
			skip = s.status == 0
		}
	}
}

func (s *shell) command(tokens []token) {
	words := make([]string, len(tokens))
	for i, t := range tokens {
		for _, p := range t.parts {
			if p.variable {
				words[i] += s.variable(p.text)
			} else {
				words[i] += p.text
			}
		}
	}
	run, found := commands[words[0]]
	if !found {
		s.complain("sh: %s: command not found (this machine is simulated, see help)", words[0])
		s.status = 127
		return
	}
	s.status = run(s, words[1:])
}

func (s *shell) env() map[string]string {
	id := strings.TrimPrefix(s.box.opts.Hostname, "C.")
	return map[string]string{
		"HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash", "PATH": "/usr/local/bin:/usr/bin:/bin",
		"PWD": s.dir, "CONTAINER_ID": id, "VAST_CONTAINERLABEL": "C." + id,
	}
}

func (s *shell) variable(name string) string {
	if name == "?" {
		return fmt.Sprint(s.status)
	}
	return s.env()[name]
}

func (s *shell) printEnv([]string) int {
	env := s.env()
	for _, name := range slices.Sorted(maps.Keys(env)) {
		s.print(name + "=" + env[name] + "\n")
	}
	return 0
}

// abs is the absolute path of a name, which inside keeps below the root.
func (s *shell) abs(name string) string {
	if name == "~" || strings.HasPrefix(name, "~/") {
		name = "/root" + name[1:]
	}
	if !path.IsAbs(name) {
		name = path.Join(s.dir, name)
	}
	return path.Clean(name)
}

// reason is the text of an error without the path of the directory on this machine.
func reason(err error) string {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return pathError.Err.Error()
	}
	return "failed"
}

func (s *shell) cd(args []string) int {
	dir := "/root"
	if len(args) > 0 {
		dir = s.abs(args[0])
	}
	info, err := s.box.root.Stat(inside(dir))
	if err != nil {
		return s.complain("cd: %s: %s", dir, reason(err))
	}
	if !info.IsDir() {
		return s.complain("cd: %s: not a directory", dir)
	}
	s.dir = dir
	return 0
}

func (s *shell) ls(args []string) int {
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return strings.HasPrefix(arg, "-") })
	if len(args) == 0 {
		args = []string{s.dir}
	}
	status := 0
	for _, arg := range args {
		name := inside(s.abs(arg))
		info, err := s.box.root.Stat(name)
		if err == nil && !info.IsDir() {
			s.print(arg + "\n")
			continue
		}
		var entries []fs.DirEntry
		if err == nil {
			entries, err = fs.ReadDir(s.box.root.FS(), name)
		}
		if err != nil {
			status = s.complain("ls: %s: %s", arg, reason(err))
			continue
		}
		for _, e := range entries {
			s.print(e.Name() + "\n")
		}
	}
	return status
}

func (s *shell) cat(args []string) int {
	if len(args) == 0 {
		if _, err := io.Copy(s.out, s.in); err != nil {
			return 1
		}
		return 0
	}
	status := 0
	for _, arg := range args {
		if err := s.catFile(inside(s.abs(arg))); err != nil {
			status = s.complain("cat: %s: %s", arg, reason(err))
		}
	}
	return status
}

func (s *shell) catFile(name string) error {
	info, err := s.box.root.Stat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	f, err := s.box.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(s.out, io.LimitReader(f, maxFile))
	return err
}

func (s *shell) uptime([]string) int {
	up := time.Since(s.box.started).Round(time.Second)
	return s.print(fmt.Sprintf(" up %v,  1 user,  load average: 0.42, 0.37, 0.31\n", up))
}

func (s *shell) help([]string) int {
	return s.print("commands: " + strings.Join(slices.Sorted(maps.Keys(commands)), " ") + "\n")
}

func (s *shell) exit(args []string) int {
	s.exited = true
	status := s.status
	if len(args) > 0 {
		if _, err := fmt.Sscanf(args[0], "%d", &status); err != nil {
			return 2
		}
	}
	return status & 0xff
}

// nvidiaSMI prints a table like the one of NVIDIA's program, with numbers of no real machine.
func (s *shell) nvidiaSMI(args []string) int {
	var b strings.Builder
	if len(args) > 0 && args[0] == "-L" {
		for gpu := range s.box.opts.NumGPUs {
			fmt.Fprintf(&b, "GPU %d: NVIDIA GeForce %s (UUID: %s)\n", gpu, s.box.opts.GPUName, s.box.fingerprint(gpu))
		}
		return s.print(b.String())
	}
	rule := func(columns ...int) {
		for _, n := range columns {
			b.WriteString("+" + strings.Repeat("-", n))
		}
		b.WriteString("+\n")
	}
	rule(77)
	fmt.Fprintf(&b, "| %-75s |\n", "NVIDIA-SMI 560.35.03    Driver Version: 560.35.03    CUDA Version: 12.6")
	rule(31, 22, 22)
	fmt.Fprintf(&b, "| %-29s | %-20s | %-20s |\n", "GPU  Name", "Temp      Power", "Memory-Usage   Util")
	rule(31, 22, 22)
	for gpu := range s.box.opts.NumGPUs {
		name := fmt.Sprintf("%3d  NVIDIA %s", gpu, s.box.opts.GPUName)
		power := fmt.Sprintf("%dC  %dW / 450W", 38+gpu%5, 22+gpu%7)
		fmt.Fprintf(&b, "| %-29.29s | %-20s | %-20s |\n", name, power, "17MiB/24564MiB   0%")
	}
	rule(31, 22, 22)
	return s.print(b.String())
}

// token is a word, in parts, or an operator.
type token struct {
	parts    []part
	operator string
}

// part is a piece of a word: text, or the name of a variable.
type part struct {
	text     string
	variable bool
}

// split takes a line apart. What a real shell would do more with (pipes, redirections, substitutions, globs,
// background) is an error, so that nobody takes the answer for the result of it.
func split(line string) ([]token, error) {
	var tokens []token
	var word *token
	add := func(p part) {
		if word == nil {
			word = &token{}
		}
		word.parts = append(word.parts, p)
	}
	finish := func() {
		if word != nil {
			tokens = append(tokens, *word)
			word = nil
		}
	}
	for line != "" {
		c, rest := line[0], line[1:]
		switch {
		case c == ' ' || c == '\t' || c == '\r':
			finish()
		case c == ';' || c == '\n':
			finish()
			tokens = append(tokens, token{operator: ";"})
		case strings.HasPrefix(line, "&&") || strings.HasPrefix(line, "||"):
			finish()
			tokens = append(tokens, token{operator: line[:2]})
			rest = line[2:]
		case c == '#' && word == nil:
			_, rest, _ = strings.Cut(line, "\n")
		case c == '\'':
			text, after, closed := strings.Cut(rest, "'")
			if !closed {
				return nil, errors.New("a quote is open")
			}
			add(part{text: text})
			rest = after
		case c == '"':
			text, after, closed := strings.Cut(rest, `"`)
			if !closed {
				return nil, errors.New("a quote is open")
			}
			if strings.ContainsAny(text, "`\\") {
				return nil, fmt.Errorf("%q is more than this simulated shell can do", text)
			}
			add(part{})
			for text != "" {
				before, name, found := strings.Cut(text, "$")
				add(part{text: before})
				if !found {
					break
				}
				if name, text = variableName(name); name == "" {
					return nil, errors.New("\"$\" is more than this simulated shell can do")
				}
				add(part{text: name, variable: true})
			}
			rest = after
		case c == '$':
			var name string
			if name, rest = variableName(rest); name == "" {
				return nil, errors.New("\"$\" is more than this simulated shell can do")
			}
			add(part{text: name, variable: true})
		case strings.IndexByte("|&<>()`*?[{}!\\", c) >= 0:
			return nil, fmt.Errorf("%q is more than this simulated shell can do", c)
		default:
			n := strings.IndexAny(line, " \t\r\n;|&<>()`*?[{}!\\'\"$")
			if n < 0 {
				n = len(line)
			}
			add(part{text: line[:n]})
			rest = line[n:]
		}
		line = rest
	}
	finish()
	return tokens, nil
}

// variableName takes the name of a variable, also "?", from the start of a text.
func variableName(text string) (name, rest string) {
	if strings.HasPrefix(text, "?") {
		return "?", text[1:]
	}
	const letters = "_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	if text == "" || strings.IndexByte(letters, text[0]) < 0 {
		return "", text
	}
	rest = strings.TrimLeft(text, letters+"0123456789")
	return text[:len(text)-len(rest)], rest
}
