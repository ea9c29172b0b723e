// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// openTarget opens the program or library that a uprobe names, and returns its
// path as seen from root. A name without a slash is looked for in the folders
// where libbpf looks: of libraries if it has .so in it, else of programs.
func openTarget(root, name string) (*os.File, string, error) {
	if strings.Contains(name, "/") {
		f, err := openIn(root, name, 0)
		return f, name, err
	}
	dirs := searchPath(root, name)
	var mode uint32
	if !strings.Contains(name, ".so") {
		mode = 0o111
	}
	for _, dir := range dirs {
		full := path.Join(dir, name)
		f, err := openIn(root, full, mode)
		if err == nil {
			return f, full, nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return nil, "", err
		}
	}
	return nil, "", fmt.Errorf("%s is in none of %s", name, strings.Join(dirs, ", "))
}

// multiarch are Debian's names of the folders of libraries.
var multiarch = map[string]string{
	"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu", "386": "i386-linux-gnu", "arm": "arm-linux-gnueabihf",
	"ppc64le": "powerpc64le-linux-gnu", "s390x": "s390x-linux-gnu", "riscv64": "riscv64-linux-gnu", "loong64": "loongarch64-linux-gnu",
}

func searchPath(root, name string) []string {
	var dirs []string
	// This process's environment says nothing about another root.
	env := func(key string) {
		if root == "" {
			for _, dir := range filepath.SplitList(os.Getenv(key)) {
				if filepath.IsAbs(dir) {
					dirs = append(dirs, dir)
				}
			}
		}
	}
	if strings.Contains(name, ".so") {
		env("LD_LIBRARY_PATH")
		if triplet := multiarch[runtime.GOARCH]; triplet != "" {
			dirs = append(dirs, "/lib/"+triplet, "/usr/lib/"+triplet)
		}
		return append(dirs, "/usr/lib64", "/usr/lib", "/lib64", "/lib")
	}
	env("PATH")
	return append(dirs, "/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin")
}

// openIn opens a regular file that has any of the bits of mode, without ever
// leaving root, by links neither.
func openIn(root, name string, mode uint32) (*os.File, error) {
	// A pipe would be waited for, and to open a device can have effects: what it is
	// is looked at before it is opened.
	const flags = unix.O_PATH | unix.O_CLOEXEC
	var fd int
	var err error
	if root == "" {
		fd, err = unix.Open(name, flags, 0)
	} else {
		fd, err = openat2(root, name, flags)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // nothing was read by it
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s is not a regular file", name)
	case mode != 0 && st.Mode&mode == 0:
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrPermission}
	}
	opened, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(opened), name), nil
}

func openat2(root, name string, flags uint64) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		//nolint:errorlint // Not wrapped: it is not the file that is missing.
		return -1, fmt.Errorf("root %s: %v", root, err)
	}
	// With O_PATH nothing was read or written that could still fail.
	defer func() { _ = unix.Close(dir) }()
	how := unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range 16 {
		fd, err := unix.Openat2(dir, name, &how)
		if errors.Is(err, unix.ENOSYS) {
			return -1, errors.New("files of another root need openat2, which Linux has from 5.6 on")
		}
		// EAGAIN: something was renamed on the way.
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// maxStringTable bounds the names of symbols that are read from a file.
const maxStringTable = 256 << 20

// maxFunctions bounds the functions that a pattern may match; it is the
// kernel's own bound of uprobe.multi.
const maxFunctions = 1 << 20

// functionOffset returns where in the file a function begins. Exported symbols
// go before the others. A name may have a version behind it: name@VERSION.
func functionOffset(file io.ReaderAt, name string) (offset uint64, err error) {
	found := false
	err = withELF(file, func(f *elf.File) error {
		return eachTable(f, func(table *elf.Section) (bool, error) {
			var value uint64
			var err error
			if value, found, err = findFunction(f, table, name); err == nil && found {
				offset, err = fileOffset(f, value)
			}
			return found, err
		})
	})
	if err == nil && !found {
		err = fmt.Errorf("it has no function %s", name)
	}
	return offset, err
}

// functionOffsets returns where in the file the functions begin whose names
// match a pattern, sorted; at least one.
func functionOffsets(file io.ReaderAt, pattern string) ([]uint64, error) {
	found := map[uint64]bool{}
	err := withELF(file, func(f *elf.File) error {
		return eachTable(f, func(table *elf.Section) (bool, error) {
			return false, walkSymbols(f, table, func(name []byte, s symbol) error {
				// .symtab has the version in the name.
				name, _, _ = bytes.Cut(name, []byte{'@'})
				if !s.function || !matches(pattern, name) {
					return nil
				}
				// Functions of the file that are in no part of it that is executed
				// are never called.
				if offset, err := fileOffset(f, s.value); err == nil {
					found[offset] = true
				}
				if len(found) > maxFunctions {
					return fmt.Errorf("more than %d functions match %s", maxFunctions, pattern)
				}
				return nil
			})
		})
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("it has no function that matches %s", pattern)
	}
	return slices.Sorted(maps.Keys(found)), err
}

// checkOffset refuses an offset that is in no executable part of the file.
func checkOffset(file io.ReaderAt, offset uint64) error {
	return withELF(file, func(f *elf.File) error {
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && p.Off <= offset && offset-p.Off < p.Filesz {
				return nil
			}
		}
		return fmt.Errorf("offset %#x is in no executable part of it", offset)
	})
}

// withELF calls use with the headers of a program or library.
func withELF(file io.ReaderAt, use func(*elf.File) error) (err error) {
	defer func() {
		// Whoever may write the file must not be able to end this process.
		if p := recover(); p != nil {
			err = fmt.Errorf("read it as ELF: %v", p)
		}
	}()
	f, err := elf.NewFile(file)
	if err != nil {
		return fmt.Errorf("read it as ELF: %w", err)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("it is an ELF file of type %s, neither a program nor a library", f.Type)
	}
	return use(f)
}

// eachTable calls use with each table of symbols, that of the exported ones
// first, until one has what was looked for.
func eachTable(f *elf.File, use func(table *elf.Section) (done bool, err error)) error {
	tables := 0
	for _, kind := range []elf.SectionType{elf.SHT_DYNSYM, elf.SHT_SYMTAB} {
		table := f.SectionByType(kind)
		if table == nil {
			continue
		}
		tables++
		if done, err := use(table); done || err != nil {
			return err
		}
	}
	if tables == 0 {
		return errors.New("it has no symbols")
	}
	return nil
}

// maxVariables bounds the variables by whose names the places of one probe say
// where their arguments are. Each costs a reading of the file's symbols.
const maxVariables = 64

// variables are those of a file that were looked for.
type variables struct {
	f         *elf.File
	addresses map[string]uint64
}

// address returns the address that the file gives a variable.
func (v *variables) address(name string) (uint64, error) {
	if address, ok := v.addresses[name]; ok {
		return address, nil
	}
	if len(v.addresses) == maxVariables {
		return 0, fmt.Errorf("variable %s: arguments are at more than %d variables", name, maxVariables)
	}
	address, err := variableAddress(v.f, name)
	if err != nil {
		return 0, err
	}
	v.addresses[name] = address
	return address, nil
}

func variableAddress(f *elf.File, name string) (uint64, error) {
	var best symbol
	err := eachTable(f, func(table *elf.Section) (bool, error) {
		err := walkSymbols(f, table, func(symbolName []byte, s symbol) error {
			if s.function || string(symbolName) != name {
				return nil
			}
			return best.merge(s)
		})
		return best.defined, err
	})
	if err == nil && !best.defined {
		err = errors.New("it is not among the symbols of the file")
	}
	if err != nil {
		return 0, fmt.Errorf("variable %s: %w", name, err)
	}
	return best.value, nil
}

// findFunction looks for the function of a name in one table of symbols.
func findFunction(f *elf.File, table *elf.Section, name string) (value uint64, found bool, err error) {
	bare, version, _ := strings.Cut(name, "@")
	version = strings.TrimPrefix(version, "@")
	if version != "" && table.Type == elf.SHT_DYNSYM {
		return findVersion(f, bare, version)
	}
	var best symbol
	err = walkSymbols(f, table, func(symbolName []byte, s symbol) error {
		rest, ok := bytes.CutPrefix(symbolName, []byte(bare))
		if !s.function || !ok || len(rest) > 0 && rest[0] != '@' {
			return nil
		}
		// .symtab has the version in the name, @@ for the default one.
		if version != "" && string(bytes.TrimLeft(rest, "@")) != version {
			return nil
		}
		if err := best.merge(s); err != nil {
			return fmt.Errorf("function %s: %w", name, err)
		}
		return nil
	})
	return best.value, best.defined, err
}

// maxSymbolName bounds the name of a symbol; those of C++ are the longest.
const maxSymbolName = 1 << 16

// walkSymbols calls visit with each symbol that a table defines, reading the table a piece at a time: those of large programs take hundreds of
// megabytes when they are all read.
func walkSymbols(f *elf.File, table *elf.Section, visit func(name []byte, s symbol) error) error {
	if int(table.Link) >= len(f.Sections) {
		return errors.New("read its symbols: the table names no strings")
	}
	strtab := f.Sections[table.Link]
	if strtab.Size > maxStringTable {
		return fmt.Errorf("read its symbols: %d bytes of names, at most %d are read", strtab.Size, maxStringTable)
	}
	names, err := strtab.Data()
	if err != nil {
		return fmt.Errorf("read its symbols: %w", err)
	}
	size := elf.Sym64Size
	if f.Class == elf.ELFCLASS32 {
		size = elf.Sym32Size
	}
	r := io.NewSectionReader(table, 0, int64(table.FileSize))
	chunk := make([]byte, size*2048)
	for {
		n, err := io.ReadFull(r, chunk)
		for at := 0; at+size <= n; at += size {
			s, start := decodeSymbol(f, chunk[at:at+size])
			if !s.defined || uint64(start) >= uint64(len(names)) {
				continue
			}
			name := names[start:]
			end := bytes.IndexByte(name[:min(len(name), maxSymbolName)], 0)
			if end <= 0 {
				continue
			}
			if err := visit(name[:end], s); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read its symbols: %w", err)
		}
	}
}

// A symbol is a function or a variable that the file defines.
type symbol struct {
	value    uint64
	weak     bool
	defined  bool
	function bool
}

// merge takes other in as a further symbol of the same name: the same one,
// or one that is weak beside one that is not.
func (s *symbol) merge(other symbol) error {
	switch {
	case !s.defined || s.weak && !other.weak:
		*s = other
	case s.value == other.value || other.weak:
	default:
		return errors.New("there are several of that name")
	}
	return nil
}

func decodeSymbol(f *elf.File, b []byte) (s symbol, name uint32) {
	var info byte
	var section uint16
	name = f.ByteOrder.Uint32(b)
	if f.Class == elf.ELFCLASS32 {
		s.value, info, section = uint64(f.ByteOrder.Uint32(b[4:])), b[12], f.ByteOrder.Uint16(b[14:])
	} else {
		info, section, s.value = b[4], f.ByteOrder.Uint16(b[6:]), f.ByteOrder.Uint64(b[8:])
	}
	s.weak = elf.ST_BIND(info) == elf.STB_WEAK
	switch elf.ST_TYPE(info) {
	case elf.STT_FUNC:
		s.function = true
	case elf.STT_OBJECT, elf.STT_NOTYPE:
	default:
		return s, name
	}
	s.defined = elf.SectionIndex(section) != elf.SHN_UNDEF && s.value != 0
	return s, name
}

// findVersion looks for an exported function of one version.
func findVersion(f *elf.File, name, version string) (uint64, bool, error) {
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, false, fmt.Errorf("read its symbols: %w", err)
	}
	for _, s := range symbols {
		if s.Name == name && s.Version == version && elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Section != elf.SHN_UNDEF {
			return s.Value, true, nil
		}
	}
	return 0, false, nil
}

// fileOffset turns a function's address into its place in the file.
func fileOffset(f *elf.File, address uint64) (uint64, error) {
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && p.Vaddr <= address && address-p.Vaddr < p.Filesz {
			return address - p.Vaddr + p.Off, nil
		}
	}
	return 0, fmt.Errorf("address %#x is in no executable part of it", address)
}
