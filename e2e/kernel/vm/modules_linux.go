// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A module is a kernel module, as it goes into the machine.
type module struct {
	name string
	data []byte
}

// modules returns those named and what they depend on, in the order in which
// they load. Those that are part of the kernel itself are left out.
func (k *Kernel) modules(ctx context.Context, names []string) ([]module, error) {
	root, err := k.one("lib/modules/*")
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(root, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	inKernel := map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		inKernel[moduleName(strings.TrimSpace(line))] = true
	}
	files := map[string]string{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), ".ko") {
			files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var all []module
	var add func(name string) error
	add = func(name string) error {
		if inKernel[name] || slices.ContainsFunc(all, func(m module) bool { return m.name == name }) {
			return nil
		}
		file, ok := files[name]
		if !ok {
			return fmt.Errorf("find module %s: Debian package %s has none", name, k.Package)
		}
		data, err := readModule(ctx, file)
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		needs, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return fmt.Errorf("module %s: %w", name, err)
			}
		}
		all = append(all, module{name, data})
		return nil
	}
	for _, name := range names {
		if err := add(moduleName(name)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// moduleName is the kernel's name of the module in a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readModule(ctx context.Context, file string) ([]byte, error) {
	if strings.HasSuffix(file, ".xz") {
		return command(ctx, "/", "xz", "-dc", file)
	}
	return os.ReadFile(file)
}

// dependencies reads the names of the modules that a module needs loaded.
func dependencies(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			names := strings.Split(list, ",")
			for i := range names {
				names[i] = moduleName(names[i])
			}
			return names, nil
		}
	}
	return nil, nil
}
