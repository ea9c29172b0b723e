// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// libraryDirs are where the dynamic linker of Debian looks.
var libraryDirs = []string{
	"/lib/" + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-linux-gnu", "/lib64", "/lib", "/usr/lib",
}

// addProgram adds a program of the host in /usr/bin, with the dynamic linker
// and the libraries that it names, in their places.
func (r *initramfs) addProgram(name string, added map[string]bool) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("find program %s: %w", name, err)
	}
	if err := r.copy("/usr/bin/"+name, path); err != nil {
		return err
	}
	return r.addLibraries(path, added)
}

func (r *initramfs) addLibraries(path string, added map[string]bool) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read program %s: %w", path, err)
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read program %s: %w", path, err)
	}
	var files []string
	if interp := f.Section(".interp"); interp != nil {
		linker, err := interp.Data()
		if err != nil {
			return fmt.Errorf("read program %s: %w", path, err)
		}
		files = append(files, strings.TrimRight(string(linker), "\x00"))
	}
	for _, name := range names {
		file := findLibrary(name)
		if file == "" {
			return fmt.Errorf("find library %s of %s: it is in none of %v", name, path, libraryDirs)
		}
		files = append(files, file)
	}
	for _, file := range files {
		if added[file] {
			continue
		}
		added[file] = true
		if err := r.copy(file, file); err != nil {
			return err
		}
		if err := r.addLibraries(file, added); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(name string) string {
	for _, dir := range libraryDirs {
		if file := filepath.Join(dir, name); exists(file) {
			return file
		}
	}
	return ""
}
