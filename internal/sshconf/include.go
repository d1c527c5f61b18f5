package sshconf

import (
	"bytes"
	"strings"
)

// IncludeLine returns the line, without an end, by which an ssh_config includes the file at path. The path is
// absolute or begins with "~/", and holds nothing that ssh acts on in an Include: no double quote, backslash, percent
// or dollar sign, control or pattern character.
func IncludeLine(path string) string {
	if strings.ContainsAny(path, " #'=") {
		path = `"` + path + `"`
	}
	return "Include " + path
}

// HasInclude reports whether config includes what line does, for every host: before its first Host or Match.
// A line after that belongs to the block it stands in, even if it is not indented.
func HasInclude(config []byte, line string) bool {
	_, wanted := fields(line)
	if len(wanted) != 1 {
		return false
	}
	for l := range bytes.Lines(config) {
		keyword, args := fields(string(l))
		switch keyword {
		case "host", "match":
			return false
		case "include":
			for _, arg := range args {
				if fromHome(arg) == fromHome(wanted[0]) {
					return true
				}
			}
		}
	}
	return false
}

// AddInclude returns config with line, which IncludeLine made, as its first line, unless HasInclude. There it goes
// before everything that could make it conditional or win over it. All other bytes stay as they are.
func AddInclude(config []byte, line string) (out []byte, changed bool) {
	if HasInclude(config, line) {
		return config, false
	}
	end := "\n"
	if first, _, _ := bytes.Cut(config, []byte("\n")); bytes.HasSuffix(first, []byte("\r")) {
		end = "\r\n"
	}
	return append([]byte(line+end), config...), true
}

// fromHome gives the one form that ssh has for a relative path in a user's file: below ~/.ssh.
func fromHome(path string) string {
	if strings.HasPrefix(path, "/") || strings.HasPrefix(path, "~") {
		return path
	}
	return "~/.ssh/" + path
}

const blanks = " \t\r\n\f"

// fields splits a line of ssh_config into its keyword, in lower case, and its arguments, as ssh does: by blanks,
// with one "=" allowed after the keyword, words in quotes, and a comment at the end. An argument that ssh would read
// in another way than plainly ends the list.
func fields(line string) (keyword string, args []string) {
	line = strings.Trim(line, blanks)
	end := strings.IndexAny(line, blanks+"=")
	if end < 0 || line[0] == '#' {
		return "", nil
	}
	keyword = strings.ToLower(strings.Trim(line[:end], `"`))
	line = strings.TrimLeft(line[end:], blanks)
	line = strings.TrimLeft(strings.TrimPrefix(line, "="), blanks)
	for line != "" && line[0] != '#' {
		arg, rest, ok := cutWord(line)
		if !ok {
			break
		}
		args = append(args, arg)
		line = strings.TrimLeft(rest, blanks)
	}
	return keyword, args
}

// cutWord takes the first word off line, which is not empty. It is not ok with an escape, an open quote, or quotes
// that are part of a longer word.
func cutWord(line string) (word, rest string, ok bool) {
	if q := line[:1]; q == `"` || q == "'" {
		word, rest, ok = strings.Cut(line[1:], q)
		return word, rest, ok && !strings.Contains(word, `\`) && (rest == "" || strings.ContainsAny(rest[:1], blanks))
	}
	end := strings.IndexAny(line, blanks)
	if end < 0 {
		end = len(line)
	}
	return line[:end], line[end:], !strings.ContainsAny(line[:end], `\"'`)
}
