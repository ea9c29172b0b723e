// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/manifest"
)

func (s *session) versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			if _, err := s.positionals(c, 0, 0); err != nil {
				return err
			}
			value := map[string]string{"version": manifest.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return s.print(c, result{
				value: value,
				names: []string{manifest.Version},
				table: [][]string{{fmt.Sprintf("ebpm %s (%s, %s)", manifest.Version, value["go"], value["platform"])}},
			})
		},
	}
}

// completions are scripts that ask ebpm itself for the words that may follow.
var completions = map[string]string{
	"bash": `_ebpm() {
  local cur="${COMP_WORDS[COMP_CWORD]}"
  COMPREPLY=($(compgen -W "$("${COMP_WORDS[@]:0:COMP_CWORD}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o default -F _ebpm ebpm
`,
	"zsh": `#compdef ebpm
_ebpm() {
  local -a words_
  words_=("${(@f)$("${(@)words[1,CURRENT-1]}" --generate-bash-completion 2>/dev/null)}")
  compadd -- $words_
}
compdef _ebpm ebpm
`,
	"fish": `complete -c ebpm -f -a '(eval (commandline -opc) --generate-bash-completion 2>/dev/null)'
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
