// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// completeFlag is the last word of a command line that a shell completes. Such
// a line is never run.
const completeFlag = "--complete-ebpm-words"

// completions are scripts that ask ebpm itself for the words that may follow.
var completions = map[string]string{
	"bash": `_ebpm() {
  local cur="${COMP_WORDS[COMP_CWORD]}"
  COMPREPLY=($(compgen -W "$("${COMP_WORDS[@]:0:COMP_CWORD}" ` + completeFlag + ` 2>/dev/null)" -- "$cur"))
}
complete -o default -F _ebpm ebpm
`,
	"zsh": `#compdef ebpm
_ebpm() {
  local -a candidates
  candidates=("${(@f)$("${(@)words[1,CURRENT-1]}" ` + completeFlag + ` 2>/dev/null)}")
  compadd -- $candidates
}
compdef _ebpm ebpm
`,
	"fish": `complete -c ebpm -f -a '(eval (commandline -opc) ` + completeFlag + ` 2>/dev/null)'
`,
}

func (s *session) completionCommand() *cli.Command {
	return &cli.Command{
		Name:        "completion",
		Usage:       "print the completion script of a shell: bash, zsh, fish",
		ArgsUsage:   "SHELL",
		Description: "Example:\n  source <(ebpm completion bash)",
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 1, 1)
			if err != nil {
				return err
			}
			script, ok := completions[args[0]]
			if !ok {
				return usageError(c, fmt.Sprintf("no completion for shell %q (known: bash, zsh, fish)", args[0]))
			}
			_, err = fmt.Fprint(s.out, script)
			return err
		},
	}
}

// completing reports whether a shell asks what may follow words.
func completing(args []string) (words []string, ok bool) {
	if len(args) < 2 || args[len(args)-1] != completeFlag {
		return nil, false
	}
	return args[1 : len(args)-1], true
}

// complete returns what may follow words: commands, flags, and the releases of
// the cluster where a command takes one.
func (s *session) complete(ctx context.Context, app *cli.App, words []string) []string {
	commands := app.Commands
	flags := app.Flags
	var command *cli.Command
	for _, word := range words {
		if word == "--" {
			return nil
		}
		if next := findCommand(commands, word); next != nil {
			command, commands = next, next.Subcommands
			flags = append(slices.Clone(app.Flags), next.Flags...)
		} else if command != nil && slices.Contains(programCommands, command.Name) && !isFlag(word) {
			return nil // the rest is the program's
		}
	}
	var found []string
	for _, c := range commands {
		if !c.Hidden {
			found = append(found, c.Name)
		}
	}
	if command == nil {
		return found
	}
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() {
			found = append(found, "--"+f.Names()[0])
		}
	}
	if strings.HasPrefix(command.ArgsUsage, "RELEASE") {
		// Nobody waits long for a cluster while they type.
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		found = append(found, releaseNames(ctx)...)
	}
	return found
}
