// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// selection is what is taken of the files of all packages.
type selection struct {
	all   tree
	taken tree
	// searched are the folders in which the dynamic linker looks, besides those
	// that a file names.
	searched []string
}

// selectDebian takes from all what the image ebpm-builder needs: programs with
// the libraries that they load, the C headers of the packages in headers,
// clang's own headers, what says which Debian this is, and the licenses of all
// that is taken.
func selectDebian(all tree, programs, headers []string) (tree, error) {
	s := &selection{all: all, taken: tree{}}
	for _, p := range programs {
		real, err := s.takeELF(p, nil)
		if err != nil {
			return nil, fmt.Errorf("take program %s: %w", p, err)
		}
		if path.Base(p) == "clang" {
			// clang finds its headers from where it is itself.
			if err := s.takeFolder(path.Join(path.Dir(real), "../lib/clang"), func(name string, _ *node) bool {
				return strings.Contains(name, "/include/")
			}); err != nil {
				return nil, fmt.Errorf("take clang's headers: %w", err)
			}
		}
	}
	for _, h := range headers {
		if err := s.takeFolder("usr/include", func(_ string, n *node) bool { return n.pkg == h }); err != nil {
			return nil, fmt.Errorf("take the headers of %s: %w", h, err)
		}
	}
	for _, name := range []string{"etc/os-release", "etc/debian_version"} {
		if _, err := s.take(name); err != nil {
			return nil, err
		}
	}
	if err := s.takeFolder("usr/share/common-licenses", func(string, *node) bool { return true }); err != nil {
		return nil, err
	}
	if err := s.takeLicenses(); err != nil {
		return nil, err
	}
	for _, top := range topFolders {
		if s.has("usr/" + top) {
			s.taken.addLink(top, "usr/"+top)
		}
	}
	return s.taken, nil
}

// take takes the file that name leads to, and the links on the way. It returns
// the file's own path.
func (s *selection) take(name string) (string, error) {
	real, links, err := s.all.resolve(name)
	if err != nil {
		return "", err
	}
	n, ok := s.all[real]
	if !ok {
		return "", fmt.Errorf("take %s: no package has it", name)
	}
	for _, l := range links {
		s.taken[l] = s.all[l]
	}
	s.taken[real] = n
	return real, nil
}

// takeFolder takes those entries under folder that match passes, and what they
// link to. It is an error when there are none.
func (s *selection) takeFolder(folder string, match func(string, *node) bool) error {
	found := false
	for name, n := range s.all {
		if !strings.HasPrefix(name, folder+"/") || !match(name, n) {
			continue
		}
		found = true
		if n.typ == tar.TypeSymlink {
			// A link to a folder, or to a package that is not taken, is of no use.
			real, _, err := s.all.resolve(name)
			if err != nil {
				return err
			}
			if _, ok := s.all[real]; !ok {
				continue
			}
		}
		if _, err := s.take(name); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no package has files in %s", folder)
	}
	return nil
}

// takeELF takes an ELF file, its interpreter, and the libraries that these
// load. seen holds the files whose libraries are being taken.
func (s *selection) takeELF(name string, seen map[string]bool) (string, error) {
	real, err := s.take(name)
	if err != nil {
		return "", err
	}
	if seen == nil {
		seen = map[string]bool{}
	}
	if seen[real] {
		return real, nil
	}
	seen[real] = true
	d, err := s.dynamic(real)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", real, err)
	}
	if d.interpreter != "" {
		linker, err := s.takeELF(d.interpreter, seen)
		if err != nil {
			return "", fmt.Errorf("%s: %w", real, err)
		}
		s.search(path.Dir(linker))
	}
	for _, lib := range d.libraries {
		at, err := s.find(lib, path.Dir(real), d.runpath)
		if err != nil {
			return "", fmt.Errorf("%s: %w", real, err)
		}
		if _, err := s.takeELF(at, seen); err != nil {
			return "", err
		}
	}
	return real, nil
}

func (s *selection) dynamic(name string) (*dynamic, error) {
	n := s.all[name]
	if n.typ != tar.TypeReg || n.file == "" {
		return nil, errors.New("it is no regular file")
	}
	f, err := os.Open(n.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readDynamic(f)
}

// search adds the folder of the dynamic linker, which on Debian is that of the
// architecture, and what every linker searches.
func (s *selection) search(folder string) {
	for _, f := range []string{folder, "usr/lib"} {
		if !slices.Contains(s.searched, f) {
			s.searched = append(s.searched, f)
		}
	}
}

// find returns the path of a library as the dynamic linker finds it.
func (s *selection) find(lib, origin string, runpath []string) (string, error) {
	var folders []string
	for _, p := range runpath {
		folders = append(folders, strings.NewReplacer("$ORIGIN", "/"+origin, "${ORIGIN}", "/"+origin).Replace(p))
	}
	for _, f := range append(folders, s.searched...) {
		name := path.Join(f, lib)
		real, _, err := s.all.resolve(name)
		if err != nil {
			return "", err
		}
		if _, ok := s.all[real]; ok {
			return name, nil
		}
	}
	return "", fmt.Errorf("find library %s: no package has it in %s", lib, strings.Join(append(folders, s.searched...), ", "))
}

// takeLicenses takes the copyright file of every package of which something is
// taken. It may be in another package's folder, which then counts as well.
func (s *selection) takeLicenses() error {
	for done := 0; ; {
		pkgs := s.taken.packages()
		if len(pkgs) == done {
			return nil
		}
		for p := range pkgs {
			if _, err := s.take("usr/share/doc/" + p + "/copyright"); err != nil {
				return err
			}
		}
		done = len(pkgs)
	}
}

// has reports whether something is taken under folder.
func (s *selection) has(folder string) bool {
	for name := range s.taken {
		if strings.HasPrefix(name, folder+"/") {
			return true
		}
	}
	return false
}
