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
	progType       progType
	strict         bool
	attach         []manifest.Attach
	handover       string
	carry          manifest.Carry
	resetState     bool
	iface          string
	root           string
	ready          string
	terminationLog string

	program string
	args    []string
	// own is the package of a standalone executable, in place of program.
	own *manifest.Package
}

// progType is what a program word names.
type progType string

const (
	typeUnknown progType = ""
	typeJSON    progType = "json"
	typeTar     progType = "tar"
	typeWasm    progType = "wasm"
)

func parseProgType(s string) (progType, error) {
	switch strings.ToLower(s) {
	case "json", "jsoneunomia":
		return typeJSON, nil
	case "tar":
		return typeTar, nil
	case "wasm", "wasmmodule":
		return typeWasm, nil
	}
	return typeUnknown, fmt.Errorf("unknown program type: %s. It is `json`, `tar` or `wasm`", s)
}

// typeOf guesses a type by how a name ends; only lower case counts, as in
// eunomia-bpf's ecli, which does not know the two names of a compressed tar.
func typeOf(name string) progType {
	for _, known := range []struct {
		end string
		progType
	}{
		{".json", typeJSON}, {".tar", typeTar}, {".tar.gz", typeTar}, {".tgz", typeTar}, {".wasm", typeWasm},
	} {
		if strings.HasSuffix(name, known.end) {
			return known.progType
		}
	}
	return typeUnknown
}

// parseFlags reads the words of `ecli run`. The first word that is no flag is
// the program; what follows belongs to it.
func parseFlags(words []string) (f *flags, help bool, err error) {
	f = &flags{}
	rest, _, err := parseWords(words, []option{
		{long: "--json", short: 'j', set: on(&f.json)},
		{long: "--prog-type", short: 'p', value: "PROG_TYPE", set: func(s string) (err error) {
			f.progType, err = parseProgType(s)
			return err
		}},
		{long: "--strict", set: on(&f.strict)},
		{long: "--attach", value: "PROG=TARGET", many: true, set: func(s string) error {
			a, err := manifest.ParseAttach(s)
			f.attach = append(f.attach, a)
			return err
		}},
		{long: "--handover", value: "DIR", set: text(&f.handover)},
		{long: "--carry", value: "MAP", many: true, set: func(s string) error {
			if s == "all" {
				f.carry.All = true
			} else {
				f.carry.Maps = append(f.carry.Maps, s)
			}
			return nil
		}},
		{long: "--reset-state", set: on(&f.resetState)},
		{long: "--interface", value: "NAME", set: text(&f.iface)},
		{long: "--root", value: "DIR", set: text(&f.root)},
		{long: "--ready", value: "SOCKET", set: text(&f.ready)},
		{long: "--termination-log", value: "FILE", set: text(&f.terminationLog)},
		{long: "--help", short: 'h', set: on(&help)},
	}, false)
	switch {
	case err != nil:
		return nil, false, err
	case help:
		return f, true, nil
	case len(rest) == 0:
		return nil, false, errMissing("<COMMAND_LINE>...")
	}
	if f.handover == "" && (f.resetState || f.carry.All || f.carry.Maps != nil) {
		return nil, false, errors.New("--carry and --reset-state say what a handover does: they need --handover DIR")
	}
	f.program, f.args = rest[0], rest[1:]
	return f, false, nil
}
