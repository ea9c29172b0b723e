// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
)

// option is one that a subcommand takes.
type option struct {
	long  string // --name
	short byte   // -n, or 0
	// value is what the help calls its value, or empty for a switch.
	value string
	// many says that it may be there several times.
	many bool
	// set takes the value; a switch is set with "".
	set func(value string) error
}

// name is how messages write an option.
func (o *option) name() string {
	if o.value == "" {
		return o.long
	}
	return o.long + " <" + o.value + ">"
}

// text returns a function that keeps a value.
func text(to *string) func(string) error {
	return func(s string) error {
		*to = s
		return nil
	}
}

// on returns a function that notes a switch.
func on(to *bool) func(string) error {
	return func(string) error {
		*to = true
		return nil
	}
}

// parseWords reads options as eunomia-bpf's ecli does (clap 4.5): --name VALUE,
// --name=VALUE, -nVALUE, -n=VALUE, -n VALUE, several switches behind one dash.
// Without interleaved the first word that is no option ends them, and it and all
// that follow are returned; with it they may be anywhere in front of "--". seen
// has the long names of the options that are there.
func parseWords(words []string, options []option, interleaved bool) (rest []string, seen map[string]bool, err error) {
	seen = map[string]bool{}
	for len(words) > 0 {
		word := words[0]
		if word == "--" {
			return append(rest, words[1:]...), seen, nil
		}
		if len(word) < 2 || word[0] != '-' {
			if !interleaved {
				return words, seen, nil
			}
			rest, words = append(rest, word), words[1:]
			continue
		}
		words = words[1:]
		name, value, glued := strings.Cut(word, "=")
		i := slices.IndexFunc(options, func(o option) bool { return o.long == name })
		if word[1] != '-' {
			name = word[:2]
			i = slices.IndexFunc(options, func(o option) bool { return o.short == word[1] })
			value, glued = strings.TrimPrefix(word[2:], "="), len(word) > 2
			if i >= 0 && options[i].value == "" && glued && word[2] != '=' {
				words, glued = append([]string{"-" + word[2:]}, words...), false
			}
		}
		if i < 0 {
			return nil, nil, fmt.Errorf("unexpected argument '%s' found", name)
		}
		o := &options[i]
		if seen[o.long] && !o.many {
			return nil, nil, fmt.Errorf("the argument '%s' cannot be used multiple times", o.name())
		}
		seen[o.long] = true
		switch {
		case o.value == "" && glued:
			return nil, nil, fmt.Errorf("unexpected value '%s' for '%s' found; no more were expected", value, o.long)
		case o.value == "":
		case glued:
		case len(words) == 0 || len(words[0]) > 1 && words[0][0] == '-':
			return nil, nil, fmt.Errorf("a value is required for '%s' but none was supplied", o.name())
		default:
			value, words = words[0], words[1:]
		}
		if err := o.set(value); err != nil {
			return nil, nil, fmt.Errorf("invalid value '%s' for '%s': %w", value, o.name(), err)
		}
		if seen["--help"] {
			return nil, seen, nil
		}
	}
	return rest, seen, nil
}

// errMissing says which words a command needs.
func errMissing(words ...string) error {
	return fmt.Errorf("the following required arguments were not provided:\n  %s", strings.Join(words, "\n  "))
}
