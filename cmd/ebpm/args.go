// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// splitArgs makes a command line that urfave/cli understands out of one that
// people type: it moves flags in front of positionals, at the level that
// defines them, because the library stops at the first positional and would
// take `deploy NAME --all` for three names. What belongs to the program comes
// back as tail: everything behind "--", and for the commands in
// programCommands everything behind the first positional.
//
// A flag that no level defines stays with its command, where the library
// refuses it by name.
func splitArgs(app *cli.App, args []string) (head, tail []string) {
	if len(args) == 0 {
		return args, nil
	}
	var global, local, positionals []string
	commands, flags := app.Commands, app.Flags
	var path []string
	var command *cli.Command
	rest := args[1:]
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		if arg == "--" {
			tail = rest
			break
		}
		if isFlag(arg) {
			name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			words := []string{arg}
			flag := findFlag(flags, name)
			isGlobal := flag == nil && command != nil && findFlag(app.Flags, name) != nil
			if isGlobal {
				flag = findFlag(app.Flags, name)
			}
			if flag != nil && !hasValue && takesValue(flag) && len(rest) > 0 {
				words = append(words, rest[0])
				rest = rest[1:]
			}
			if isGlobal || command == nil {
				global = append(global, words...)
			} else {
				local = append(local, words...)
			}
			continue
		}
		if next := findCommand(commands, arg); next != nil && len(positionals) == 0 {
			command, commands, flags = next, next.Subcommands, next.Flags
			path = append(path, arg)
			continue
		}
		positionals = append(positionals, arg)
		if command != nil && slices.Contains(programCommands, command.Name) {
			tail = rest
			if len(tail) > 0 && tail[0] == "--" {
				tail = tail[1:]
			}
			break
		}
	}
	head = append(head, args[0])
	head = append(head, global...)
	head = append(head, path...)
	head = append(head, local...)
	if len(positionals) > 0 {
		head = append(head, "--")
		head = append(head, positionals...)
	}
	return head, tail
}

// programCommands take the words behind their first positional for the
// program's own, as docker run does.
var programCommands = []string{"run"}

// isFlag reports whether arg is a flag; a lone dash names standard input.
func isFlag(arg string) bool { return len(arg) > 1 && arg[0] == '-' }

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}
