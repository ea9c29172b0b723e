// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

// maxDependencyFile bounds what is read of clang's list of files, in bytes.
const maxDependencyFile = 16 << 20

// checkIncludes returns the absolute paths of the files that clang read, but for
// ebpm's own headers. It fails when one of them lies outside of the folders that a source may read:
// its own, the header's, those of -I and its like, and the system's headers.
func (c *compilation) checkIncludes(depFile, headerFile string) ([]string, error) {
	read, err := dependenciesIn(depFile)
	if errors.Is(err, fs.ErrNotExist) {
		// clang writes none when a header is missing.
		read, err = headersIn(headerFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of included files: %w", err)
	}
	roots, files := c.readable()
	source := c.absolute(c.Source)
	paths := []string{source}
	seen := map[string]bool{source: true}
	for _, name := range read {
		path := c.absolute(name)
		if seen[path] {
			continue
		}
		seen[path] = true
		if !files[path] && !isBelowAny(roots, path) {
			return nil, manifest.WithKind(manifest.KindFailure,
				fmt.Errorf("compile %s: it includes %s, which lies outside of its folder and of the include folders", c.Source, name),
				"Copy the file into the folder of the source, or allow its folder with -a -I FOLDER.")
		}
		if !c.isOwnHeader(path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// isOwnHeader reports whether path is one of the headers that ebpm brings.
func (c *compilation) isOwnHeader(path string) bool {
	if c.Workspace == "" {
		if _, ok := below(c.includeRoot, path); ok {
			return true
		}
	}
	_, ok := below(c.scratch, path)
	return ok
}

// readable returns the folders below which, and the files which, a source may
// read, with every link resolved.
func (c *compilation) readable() (roots []string, files map[string]bool) {
	files = map[string]bool{c.absolute(c.Source): true}
	dirs := []string{c.sourceDir(), c.includeRoot, c.vmlinuxDir}
	dirs = append(dirs, c.clang.includeDirs...)
	if c.Header != "" {
		files[c.absolute(c.Header)] = true
		dirs = append(dirs, filepath.Dir(c.absolute(c.Header)))
	}
	eachPath(c.CFlags, func(flag, path string) {
		if flag == "-include" || flag == "-imacros" {
			files[c.absolute(path)] = true
		} else {
			dirs = append(dirs, c.absolute(path))
		}
	})
	for _, dir := range dirs {
		if resolved, err := filepath.EvalSymlinks(dir); dir != "" && err == nil {
			roots = append(roots, resolved)
		}
	}
	return roots, files
}

func isBelowAny(roots []string, path string) bool {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	if info, err := os.Stat(resolved); err != nil || !info.Mode().IsRegular() {
		return false
	}
	for _, root := range roots {
		if _, ok := below(root, resolved); ok {
			return true
		}
	}
	return false
}

// dependenciesIn reads a file that clang's -MF wrote.
func dependenciesIn(name string) ([]string, error) {
	data, err := readFile(name, maxDependencyFile)
	if err != nil {
		return nil, err
	}
	_, rule, ok := strings.Cut(string(data), ":")
	if !ok {
		return nil, fmt.Errorf("%s holds no rule", filepath.Base(name))
	}
	return parseDependencies(rule), nil
}

// parseDependencies splits the right side of a make rule as clang quotes it: a
// backslash before a blank or #, $ doubled, backslash-newline as a blank.
func parseDependencies(rule string) []string {
	var names []string
	var name []byte
	flush := func() {
		if len(name) > 0 {
			names = append(names, string(name))
			name = nil
		}
	}
	for i := 0; i < len(rule); i++ {
		switch c := rule[i]; c {
		case ' ', '\n', '\r':
			flush()
		case '\\':
			// Backslashes before a blank are doubled, others are not.
			run := 1
			for i+run < len(rule) && rule[i+run] == '\\' {
				run++
			}
			next := byte(0)
			if i+run < len(rule) {
				next = rule[i+run]
			}
			switch {
			case next == '\n' || next == '\r' && run == 1:
				name = append(name, strings.Repeat(`\`, run-1)...)
				flush()
				i += run
			case next == ' ':
				name = append(name, strings.Repeat(`\`, run/2)...)
				if run%2 == 1 {
					name = append(name, ' ')
				}
				i += run
			case next == '#':
				name = append(name, strings.Repeat(`\`, run-1)...)
				name = append(name, '#')
				i += run
			default:
				name = append(name, strings.Repeat(`\`, run)...)
				i += run - 1
			}
		case '$':
			if i+1 < len(rule) && rule[i+1] == '$' {
				i++
			}
			name = append(name, '$')
		default:
			name = append(name, c)
		}
	}
	flush()
	return names
}

// headersIn reads a file that clang wrote because of CC_PRINT_HEADERS_FILE: one
// line for each included file.
func headersIn(name string) ([]string, error) {
	data, err := readFile(name, maxDependencyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was included, or not even clang ran
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		path := strings.TrimRight(line, "\r\n")
		path = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(path)
		if path != "" {
			names = append(names, path)
		}
	}
	return names, nil
}
