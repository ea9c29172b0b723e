// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// maxFiles bounds the number of files of a source.
const maxFiles = 1024

// PackSource returns source.tar: the program, its header, the files of the
// folder that they include, ebpm.yaml, README.md and what ebpm.yaml lists under
// files; nothing else. It is deterministic: regular files in the order of their
// names, mode 0644, owner 0, the time of created, USTAR headers.
//
// A link that leaves the folder is refused, and so is an include of a file
// outside of it, which another machine would not have. The archive has at most
// [manifest.MaxSourceSize] bytes.
func PackSource(s *Source, created time.Time) ([]byte, error) {
	files, err := collect(s)
	if err != nil {
		return nil, fmt.Errorf("pack source: %w", err)
	}
	if created.IsZero() {
		created = time.Unix(0, 0)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := tar.Header{
			Typeflag: tar.TypeReg,
			Name:     name,
			Size:     int64(len(files[name])),
			Mode:     0o644,
			ModTime:  created,
			Format:   tar.FormatUSTAR,
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("pack source: %s: %w", s.path(name), err),
				"Names in a source are ASCII and at most 100 characters long.")
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, fmt.Errorf("pack source: %s: %w", s.path(name), err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack source: %w", err)
	}
	if buf.Len() > manifest.MaxSourceSize {
		return nil, fmt.Errorf("pack source: %w", tooLarge(s))
	}
	return buf.Bytes(), nil
}

func tooLarge(s *Source) error {
	return usage("%s: more than %d MiB", s.Dir, manifest.MaxSourceSize>>20)
}

// collector gathers the files of a source.
type collector struct {
	*Source
	root  *os.Root
	files map[string][]byte
	size  int
}

func collect(s *Source) (map[string][]byte, error) {
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	c := collector{Source: s, root: root, files: map[string][]byte{}}
	for _, name := range []string{s.File, s.Header} {
		if name == "" {
			continue
		}
		if found, err := c.addCode(name); err != nil {
			return nil, err
		} else if !found {
			return nil, fmt.Errorf("%s: %w", s.path(name), fs.ErrNotExist)
		}
	}
	for _, name := range []string{manifest.SpecFile, manifest.ReadmeFile} {
		if _, err := c.add(name); err != nil {
			return nil, err
		}
	}
	if n := len(c.files[manifest.ReadmeFile]); n > manifest.MaxReadmeSize {
		return nil, usage("%s has %d bytes, at most %d are allowed", s.path(manifest.ReadmeFile), n, manifest.MaxReadmeSize)
	}
	for _, name := range s.Spec.Files {
		name = path.Clean(name)
		if found, err := c.add(name); err != nil {
			return nil, err
		} else if !found {
			return nil, manifest.WithKind(manifest.KindNotFound,
				fmt.Errorf("`files` of %s: %s: %w", s.path(manifest.SpecFile), name, fs.ErrNotExist), "")
		}
	}
	return c.files, nil
}

// add reads a file of the folder; found is false when there is none.
func (c *collector) add(name string) (found bool, err error) {
	if _, ok := c.files[name]; ok {
		return true, nil
	}
	file := c.path(name)
	info, err := c.root.Stat(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := c.root.Lstat(filepath.FromSlash(name)); err == nil {
			return false, usage("%s is a link to nothing", file)
		}
		return false, nil
	}
	if err != nil {
		if _, followed := os.Stat(file); followed == nil {
			return false, manifest.WithKind(manifest.KindUsage, fmt.Errorf("%s is a link that leaves the folder", file),
				"A package holds its whole source: put the file itself there.")
		}
		return false, fmt.Errorf("%s: %w", file, err)
	}
	if !info.Mode().IsRegular() {
		return false, usage("%s is not a regular file", file)
	}
	if len(c.files) == maxFiles {
		return false, usage("%s: more than %d files", c.Dir, maxFiles)
	}
	left := int64(manifest.MaxSourceSize - c.size)
	if info.Size() > left {
		return false, tooLarge(c.Source)
	}
	f, err := c.root.Open(filepath.FromSlash(name))
	if err != nil {
		return false, fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	data, err := manifest.ReadBounded(f, left)
	if err != nil {
		return false, fmt.Errorf("%s: %w", file, err)
	}
	c.files[name] = data
	c.size += len(data)
	return true, nil
}

// addCode reads a C file and, of the folder, what it includes.
func (c *collector) addCode(name string) (found bool, err error) {
	if _, ok := c.files[name]; ok {
		return true, nil
	}
	if found, err = c.add(name); !found || err != nil {
		return found, err
	}
	for _, inc := range scanIncludes(c.files[name]) {
		if err := c.addInclude(name, inc); err != nil {
			return true, err
		}
	}
	return true, nil
}

// addInclude adds what an include may mean: a file beside the including one, or
// one in the folder of the program, where the compiler looks last.
func (c *collector) addInclude(from string, inc include) error {
	dirs := []string{path.Dir(c.File)}
	if !inc.angled && path.Dir(from) != dirs[0] {
		dirs = append(dirs, path.Dir(from))
	}
	for _, dir := range dirs {
		name := path.Join(dir, inc.path)
		if path.IsAbs(inc.path) {
			name = path.Clean(inc.path)
		}
		if !manifest.IsLocalPath(name) {
			file := filepath.FromSlash(name)
			if !path.IsAbs(name) {
				file = c.path(name)
			}
			if _, err := os.Stat(file); err == nil {
				return manifest.WithKind(manifest.KindUsage,
					fmt.Errorf("%s:%d: the include of %s leaves the source folder %s", c.path(from), inc.line, inc.path, c.Dir),
					"A package holds its whole source: put the file into the folder.")
			}
			continue
		}
		// A folder of that name is passed by, as the compiler does.
		if info, err := c.root.Stat(filepath.FromSlash(name)); err == nil && info.IsDir() {
			continue
		}
		if _, err := c.addCode(name); err != nil {
			return err
		}
	}
	return nil
}

// readTar returns the files of a source.tar. Anything but regular files with
// plain names inside the folder is refused.
func readTar(data []byte) (map[string][]byte, error) {
	if len(data) > manifest.MaxSourceSize {
		return nil, fmt.Errorf("larger than %d bytes", manifest.MaxSourceSize)
	}
	files, folders := map[string][]byte{}, map[string]bool{}
	// A header may claim more than the archive holds (sparse files).
	left := int64(manifest.MaxSourceSize)
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			for name := range files {
				if folders[name] {
					return nil, fmt.Errorf("%q is a file and a folder", name)
				}
			}
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		switch {
		case h.Typeflag != tar.TypeReg:
			return nil, fmt.Errorf("%q is not a regular file (type %q)", h.Name, h.Typeflag)
		case !manifest.IsLocalPath(h.Name) || path.Clean(h.Name) != h.Name || h.Name == "." || !filepath.IsLocal(filepath.FromSlash(h.Name)):
			return nil, fmt.Errorf("%q is not a plain path inside the folder", h.Name)
		case h.Size > left:
			return nil, fmt.Errorf("%q: unpacked, the source is larger than %d bytes", h.Name, manifest.MaxSourceSize)
		case len(files) == maxFiles:
			return nil, fmt.Errorf("more than %d files", maxFiles)
		}
		if _, ok := files[h.Name]; ok {
			return nil, fmt.Errorf("%q is there twice", h.Name)
		}
		for dir := path.Dir(h.Name); dir != "."; dir = path.Dir(dir) {
			folders[dir] = true
		}
		content, err := manifest.ReadBounded(r, left)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", h.Name, err)
		}
		left -= int64(len(content))
		files[h.Name] = content
	}
}

// UnpackSource writes the files of a source.tar into a folder, which it makes
// where it is missing. A file that is there already must be the same. An archive
// that [PackSource] would not write is refused with [manifest.KindUnverified]
// before anything is written.
func UnpackSource(data []byte, dir string) error {
	files, err := readTar(data)
	if err != nil {
		return manifest.WithKind(manifest.KindUnverified, fmt.Errorf("unpack source: %w", err), "")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("unpack source: %w", err)
	}
	// The root keeps links that were in the folder before from leading out.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack source: %w", err)
	}
	defer root.Close()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := writeFile(root, filepath.FromSlash(name), files[name]); err != nil {
			return fmt.Errorf("unpack source into %s: %w", dir, err)
		}
	}
	return nil
}

func writeFile(root *os.Root, name string, data []byte) error {
	if dir := filepath.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		if same(root, name, data) {
			return nil
		}
		return manifest.WithKind(manifest.KindConflict, fmt.Errorf("%s is there already, with other content", name),
			"Unpack into an empty folder.")
	}
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func same(root *os.Root, name string, data []byte) bool {
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(data)) {
		return false
	}
	old, err := root.ReadFile(name)
	return err == nil && bytes.Equal(old, data)
}

// readmeOf returns README.md of a source's files, nil where there is none.
func readmeOf(files map[string][]byte) []byte {
	readme := files[manifest.ReadmeFile]
	if strings.TrimSpace(string(readme)) == "" {
		return nil
	}
	return readme
}
