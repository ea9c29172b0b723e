// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

const (
	sourceSuffix = ".bpf.c"
	// vmlinuxHeader holds the kernel's types; it is never the header of events.
	vmlinuxHeader = "vmlinux.h"
	maxSpecSize   = 1 << 20
)

// Source is a folder with an eBPF program.
type Source struct {
	// Dir is the folder, as the user named it.
	Dir string
	// File is the program, relative to Dir, with slashes.
	File string
	// Header has the structs of the events, relative to Dir, with slashes; empty
	// is none.
	Header string
	// Spec is ebpm.yaml. It is never nil, and has a name also without ebpm.yaml.
	Spec *manifest.Spec
}

// ReadSource looks at a folder or a .bpf.c file. In a folder the program is the
// one that ebpm.yaml names under source, else the only *.bpf.c. The header is
// the given one, else NAME.h beside NAME.bpf.c, else the only *.h beside it that
// is not vmlinux.h, else none. Errors that the user can mend are of
// [manifest.KindUsage], a path that is not there is of [manifest.KindNotFound].
func ReadSource(file, header string) (*Source, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("read source: %w", err), "")
	}
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	s := Source{Dir: filepath.Clean(file)}
	if !info.IsDir() {
		if filepath.Ext(file) != ".c" {
			return nil, usage("read source: %s is neither a folder nor a %s file", file, sourceSuffix)
		}
		s.Dir, s.File = filepath.Dir(file), filepath.Base(file)
	}
	spec, err := readSpec(s.Dir)
	if err != nil {
		return nil, err
	}
	s.Spec = spec
	if err := s.findFile(); err != nil {
		return nil, err
	}
	if s.Spec.Name == "" {
		s.Spec.Name = manifest.SourceName(s.File)
	}
	if s.Spec.Name == "" {
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("read source: %s gives no name", s.path(s.File)),
			"Set `name` in "+manifest.SpecFile+", or rename the file to NAME"+sourceSuffix+".")
	}
	if header == "" {
		s.Header, err = s.findHeader()
	} else {
		s.Header, err = s.relative(header)
	}
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// path returns a path of the source as the user would type it.
func (s *Source) path(p string) string { return filepath.Join(s.Dir, filepath.FromSlash(p)) }

func readSpec(dir string) (*manifest.Spec, error) {
	name := filepath.Join(dir, manifest.SpecFile)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return &manifest.Spec{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	defer f.Close()
	data, err := manifest.ReadBounded(f, maxSpecSize)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	spec, err := manifest.ParseSpec(data)
	if err != nil {
		return nil, fmt.Errorf("read source in %s: %w", dir, err)
	}
	return spec, nil
}

func (s *Source) findFile() error {
	named := path.Clean(s.Spec.Source)
	switch {
	case s.Spec.Source == "" && s.File != "":
		return nil
	case s.Spec.Source != "" && s.File != "" && s.File != named:
		return manifest.WithKind(manifest.KindUsage,
			fmt.Errorf("read source: %s is about %s, not about %s", s.path(manifest.SpecFile), named, s.File),
			"Name the other file, or give this one a folder of its own.")
	case s.Spec.Source != "":
		info, err := os.Stat(s.path(named))
		if err != nil {
			return manifest.WithKind(manifest.KindNotFound, fmt.Errorf("read source: `source` of %s: %w", s.path(manifest.SpecFile), err), "")
		}
		if !info.Mode().IsRegular() {
			return usage("read source: `source` of %s: %s is not a file", s.path(manifest.SpecFile), s.path(named))
		}
		s.File = named
		return nil
	}
	found, err := s.list(".", sourceSuffix)
	if err != nil {
		return err
	}
	switch len(found) {
	case 1:
		s.File = found[0]
		return nil
	case 0:
		return manifest.WithKind(manifest.KindUsage, fmt.Errorf("read source: no *%s in %s", sourceSuffix, s.Dir),
			"A source is a folder with one NAME"+sourceSuffix+" in it.")
	}
	return manifest.WithKind(manifest.KindUsage,
		fmt.Errorf("read source: %s has several programs: %s", s.Dir, strings.Join(found, ", ")),
		"Name one of the files, or set `source` in "+manifest.SpecFile+".")
}

func (s *Source) findHeader() (string, error) {
	dir := path.Dir(s.File)
	found, err := s.list(dir, ".h")
	if err != nil {
		return "", err
	}
	var others []string
	for _, h := range found {
		switch path.Base(h) {
		case manifest.SourceName(s.File) + ".h":
			return h, nil
		case vmlinuxHeader:
		default:
			others = append(others, h)
		}
	}
	if len(others) == 1 {
		return others[0], nil
	}
	return "", nil
}

// list returns the files in a folder of the source with an ending, sorted.
func (s *Source) list(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	var found []string
	for _, e := range entries {
		if !e.IsDir() && strings.HasSuffix(e.Name(), suffix) {
			found = append(found, path.Join(dir, e.Name()))
		}
	}
	return found, nil
}

// relative returns the path of a file of the source relative to its folder.
func (s *Source) relative(file string) (string, error) {
	if _, err := os.Stat(file); err != nil {
		return "", manifest.WithKind(manifest.KindNotFound, fmt.Errorf("read header: %w", err), "")
	}
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return "", fmt.Errorf("read header: %w", err)
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", fmt.Errorf("read header: %w", err)
	}
	rel, err := filepath.Rel(dir, abs)
	if err != nil || !filepath.IsLocal(rel) {
		return "", manifest.WithKind(manifest.KindUsage, fmt.Errorf("read header: %s is not in the source folder %s", file, s.Dir),
			"A package holds its whole source: put the header beside "+s.File+".")
	}
	return filepath.ToSlash(rel), nil
}

// SourceDateEpoch reads SOURCE_DATE_EPOCH: seconds since 1970, which are 0 when
// value is empty (https://reproducible-builds.org/specs/source-date-epoch).
func SourceDateEpoch(value string) (time.Time, error) {
	if value == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	// The last second of the year 9999, beyond which RFC 3339 has no spelling.
	const latest = 253402300799
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 || n > latest {
		return time.Time{}, usage("SOURCE_DATE_EPOCH=%s: wanted a number of seconds since 1970", value)
	}
	return time.Unix(n, 0).UTC(), nil
}

func usage(format string, args ...any) error {
	return manifest.WithKind(manifest.KindUsage, fmt.Errorf(format, args...), "")
}
