// Package cmdline makes the command line library take what people type: options on either side of the arguments, "help"
// in front of a verb, and words that are nearly a verb.
package cmdline

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
)

// Arrange returns args, of which the first is the program, with "help [verb]" and "version" turned into the options
// they mean, and with the options of a verb moved before its arguments, where the library wants them. What comes
// behind "--" stays where it is.
func Arrange(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	program, rest := args[:1:1], args[1:]
	switch rest[0] {
	case "help":
		return append(append(program, rest[1:]...), "--help")
	case "version", "-V":
		return append(program, "--version")
	}
	commands := app.Commands
	var verbs []string
	var flags []cli.Flag
	for len(rest) > 0 {
		cmd := find(commands, rest[0])
		if cmd == nil {
			break
		}
		if cmd.SkipFlagParsing {
			return args
		}
		verbs, rest = append(verbs, rest[0]), rest[1:]
		commands, flags = cmd.Subcommands, cmd.Flags
	}
	if verbs == nil {
		return args
	}
	options, arguments := split(flags, rest)
	return slices.Concat(program, verbs, options, arguments)
}

func find(commands []*cli.Command, name string) *cli.Command {
	i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(name) })
	if i < 0 {
		return nil
	}
	return commands[i]
}

// split parts args into options, each with its value, and arguments.
func split(flags []cli.Flag, args []string) (options, arguments []string) {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			return options, append(arguments, args[i:]...)
		case len(arg) < 2 || arg[0] != '-':
			arguments = append(arguments, arg)
		default:
			options = append(options, arg)
			if takesValue(flags, arg) && i+1 < len(args) {
				i++
				options = append(options, args[i])
			}
		}
	}
	return options, arguments
}

// takesValue tells whether the option arg is followed by its value.
func takesValue(flags []cli.Flag, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isSwitch := f.(*cli.BoolFlag)
			return !isSwitch
		}
	}
	return false
}

// maxEdits is how many letters a word may be away from a verb to be taken for it.
const maxEdits = 2

// Nearest returns the visible verb that word is nearly, or nothing.
func Nearest(app *cli.App, word string) string {
	best, nearest := maxEdits+1, ""
	for _, cmd := range app.VisibleCommands() {
		edits := smetrics.WagnerFischer(word, cmd.Name, 1, 1, 1)
		if edits < best && edits < len(cmd.Name) {
			best, nearest = edits, cmd.Name
		}
	}
	return nearest
}
