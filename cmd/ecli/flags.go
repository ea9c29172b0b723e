// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

// flags are the words before, and with, the program word.
type flags struct {
	json           bool
	progType       string
	strict         bool
	iface          string
	root           string
	ready          string
	terminationLog string

	program string
	args    []string
	// own is the package of a standalone executable, in place of program.
	own *manifest.Package
}

// parseFlags reads the words of `ecli run`. The first word that is no flag is
// the program; what follows belongs to it.
func parseFlags(words []string) (f *flags, help bool, err error) {
	f = &flags{}
	seen := map[string]bool{}
	values := map[string]*string{
		"--prog-type":       &f.progType,
		"--interface":       &f.iface,
		"--root":            &f.root,
		"--ready":           &f.ready,
		"--termination-log": &f.terminationLog,
	}
	switches := map[string]*bool{
		"--json":   &f.json,
		"--strict": &f.strict,
		"--help":   &help,
	}
	shorts := map[byte]string{'j': "--json", 'p': "--prog-type", 'h': "--help"}
	for len(words) > 0 && !help {
		word := words[0]
		if word == "--" {
			words = words[1:]
			break
		}
		if len(word) < 2 || word[0] != '-' {
			break
		}
		words = words[1:]
		name, value, glued := strings.Cut(word, "=")
		if word[1] != '-' {
			// -j, -p T, -pT, -p=T, -jpT
			long, ok := shorts[word[1]]
			if !ok {
				return nil, false, fmt.Errorf("unexpected argument '-%s' found", word[1:2])
			}
			rest := word[2:]
			name, value, glued = long, strings.TrimPrefix(rest, "="), rest != ""
			if switches[name] != nil && rest != "" && rest[0] != '=' {
				words = append([]string{"-" + rest}, words...)
				glued = false
			}
		}
		if seen[name] {
			return nil, false, fmt.Errorf("the argument '%s' cannot be used multiple times", name)
		}
		seen[name] = true
		switch {
		case switches[name] != nil && glued:
			return nil, false, fmt.Errorf("unexpected value '%s' for '%s' found; no more were expected", value, name)
		case switches[name] != nil:
			*switches[name] = true
		case values[name] == nil:
			return nil, false, fmt.Errorf("unexpected argument '%s' found", name)
		case glued:
			*values[name] = value
		case len(words) == 0 || len(words[0]) > 1 && words[0][0] == '-':
			return nil, false, fmt.Errorf("a value is required for '%s' but none was supplied", name)
		default:
			*values[name] = words[0]
			words = words[1:]
		}
	}
	if help {
		return f, true, nil
	}
	switch t := strings.ToLower(f.progType); t {
	case "", "json", "jsoneunomia", "tar", "wasm", "wasmmodule":
	default:
		return nil, false, fmt.Errorf("invalid value '%s' for '--prog-type': it is json, jsoneunomia, tar, wasm or wasmmodule", f.progType)
	}
	if len(words) == 0 {
		return nil, false, errors.New("which program is to be run? Give a package")
	}
	f.program, f.args = words[0], words[1:]
	return f, false, nil
}
