// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

// program is what a program word names, read and decoded.
type program struct {
	pkg *manifest.Package
	// types are those of this kernel where the input has them and the kernel shows
	// none.
	types []byte
}

// readProgram finds what the program word names: standard input, a file, a URL,
// or a reference (spec section C1). The last two are fetched by the ebpm beside
// this program.
func readProgram(ctx context.Context, f *flags, stdin io.Reader, stderr io.Writer) (*program, error) {
	word := f.program
	if word == "-" {
		if f.progType == typeUnknown {
			return nil, manifest.WithKind(manifest.KindUsage, errors.New("which type of program comes from standard input?"), "Say it in front of the dash: ecli run -p json -")
		}
		return decodeProgram(ctx, f, "standard input", f.progType, stdin)
	}
	info, err := os.Stat(word)
	switch {
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("read the package: %s is a directory, and ecli runs files", word)
	case err == nil:
		return readFile(ctx, f, word, word)
	case !isAbsent(err):
		return nil, fmt.Errorf("read the package: %w", err)
	}
	if scheme, ok := urlScheme(word); ok {
		if scheme != "http" && scheme != "https" {
			return nil, fmt.Errorf("%s: the URL scheme %s is not allowed; http and https are", word, scheme)
		}
		return fetchProgram(ctx, f, stderr)
	}
	missing := manifest.WithKind(manifest.KindNotFound, fmt.Errorf("read the package: there is no file %s", word), "")
	if looksLikeFile(word) {
		return nil, missing
	}
	// Any registry does: here only the grammar counts.
	if _, err := manifest.ParseReference(word, "registry.invalid"); err != nil {
		return nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("%w, and it is no reference: %w", missing, err), "")
	}
	return fetchProgram(ctx, f, stderr)
}

// isAbsent reports whether err says that no file can have that name.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.EINVAL)
}

// looksLikeFile reports whether a word that names no file was meant to.
func looksLikeFile(word string) bool {
	return strings.HasPrefix(word, ".") || strings.HasPrefix(word, "/") || typeOf(word) != typeUnknown
}

// urlScheme returns the scheme of a URL. HOST:PORT/NAME is none, although it has
// the form of one.
func urlScheme(word string) (string, bool) {
	scheme, rest, ok := strings.Cut(word, ":")
	scheme = strings.ToLower(scheme)
	return scheme, ok && (strings.HasPrefix(rest, "//") || scheme == "file")
}

// readFile reads a file; name is what the user calls it, and says its type.
func readFile(ctx context.Context, f *flags, path, name string) (*program, error) {
	kind := f.progType
	if kind == typeUnknown {
		kind = typeOf(name)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the package: %w", err)
	}
	defer file.Close()
	return decodeProgram(ctx, f, name, kind, file)
}

// fetchProgram runs what a URL or a reference names.
func fetchProgram(ctx context.Context, f *flags, stderr io.Writer) (_ *program, err error) {
	switch {
	case f.strict:
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("%s: --strict takes files only", f.program), "")
	case f.progType == typeWasm:
		return nil, errWasm(f.program)
	}
	if _, ok := urlScheme(f.program); ok && f.progType == typeUnknown && typeOf(f.program) == typeUnknown {
		return nil, errUnknownType(f.program)
	}
	dir, err := os.MkdirTemp("", "ecli-")
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", f.program, err)
	}
	defer func() {
		if left := os.RemoveAll(dir); err == nil {
			err = left
		}
	}()
	if err := runEbpm(ctx, ebpmCall{args: []string{"pull", "--program", dir, f.program}, stderr: stderr}); err != nil {
		return nil, fmt.Errorf("get %s: %w", f.program, err)
	}
	for _, name := range []string{pulledPackage, pulledModule, pulledFile} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		fetched := *f
		switch {
		case f.progType != typeUnknown || name == pulledFile:
		case name == pulledPackage:
			fetched.progType = typeJSON
		default:
			if fetched.progType, err = sniffModule(path); err != nil {
				return nil, fmt.Errorf("get %s: %w", f.program, err)
			}
		}
		p, err := readFile(ctx, &fetched, path, f.program)
		if err != nil {
			return nil, err
		}
		return p, p.addTypes(filepath.Join(dir, manifest.KernelBTFFile))
	}
	return nil, fmt.Errorf("get %s: the ebpm beside this ecli wrote nothing", f.program)
}

// addTypes takes the types of this kernel that came with a package of a registry.
func (p *program) addTypes(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	p.types, err = manifest.ReadBounded(file, manifest.MaxBTFSize)
	return err
}

// wasmMagic starts every Wasm module.
const wasmMagic = "\x00asm"

// sniffModule returns the type of what an image of modules holds: upstream's
// push calls a package.json a module too.
func sniffModule(path string) (progType, error) {
	file, err := os.Open(path)
	if err != nil {
		return typeUnknown, err
	}
	defer file.Close()
	start := make([]byte, len(wasmMagic))
	n, err := io.ReadFull(file, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return typeUnknown, err
	}
	if string(start[:n]) == wasmMagic {
		return typeWasm, nil
	}
	return typeJSON, nil
}

func errUnknownType(name string) error {
	return manifest.WithKind(manifest.KindUsage, fmt.Errorf("%s: its name does not say which type of program it is", name),
		"Names end in .json, .tar, .tar.gz, .tgz or .wasm; else give the type in front of it: -p json, tar or wasm.")
}

func errWasm(name string) error {
	return fmt.Errorf("%s: ecli will run Wasm modules in a later version; today it runs packages (json and tar)", name)
}

// decodeProgram reads a program of a type.
func decodeProgram(ctx context.Context, f *flags, name string, kind progType, in io.Reader) (*program, error) {
	var p *program
	var err error
	switch {
	case kind == typeUnknown:
		return nil, errUnknownType(name)
	case kind == typeWasm:
		return nil, errWasm(name)
	case kind == typeTar && f.strict:
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("%s: --strict takes no tar", name), "")
	case kind == typeTar:
		p, err = decodeTar(ctx, in)
	default:
		p, err = decodeJSON(f, &interruptible{ctx, in})
	}
	if err != nil {
		return nil, fmt.Errorf("read the package %s: %w", name, err)
	}
	return p, nil
}

func decodeJSON(f *flags, in io.Reader) (*program, error) {
	data, err := manifest.ReadBounded(in, manifest.MaxPackageSize)
	if err != nil {
		return nil, err
	}
	decode := manifest.DecodePackage
	if f.strict {
		decode = manifest.DecodeCanonical
	}
	pkg, err := decode(data)
	return &program{pkg: pkg}, err
}

// decodeTar reads a tar. Its types of kernels are looked at only where this
// kernel has none of its own.
func decodeTar(ctx context.Context, in io.Reader) (*program, error) {
	wantTypes := !ecli.KernelHasBTF() && os.Getenv("BTF_FILE_PATH") == ""
	var archive *os.File // to be read twice
	if wantTypes {
		file, ok := in.(*os.File)
		if !ok || !isRegular(file) {
			spool, err := spoolFile(&interruptible{ctx, in})
			if err != nil {
				return nil, err
			}
			defer spool.Close()
			file = spool
		}
		in, archive = file, file
	}
	tar, err := manifest.ReadTarPackage(&interruptible{ctx, in})
	if err != nil {
		return nil, err
	}
	pkg, err := manifest.DecodePackage(tar.JSON)
	if err != nil {
		return nil, err
	}
	p := &program{pkg: pkg}
	if !wantTypes || !tar.HasBTF {
		return p, nil
	}
	object, err := manifest.Inspect(pkg.Object)
	if err != nil {
		return nil, err
	}
	if needs, err := object.Needs(); err != nil || !needs.Features.BTF {
		return p, err
	}
	kernel, err := ecli.RunningKernel(false)
	if err != nil {
		return nil, err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	p.types, err = manifest.FindBTF(&interruptible{ctx, archive}, kernel)
	return p, err
}

func isRegular(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular()
}

// maxSpool bounds a tar that comes through a pipe and is read twice, in bytes.
const maxSpool = 1 << 30

// spoolFile keeps a stream in a file that has no name.
func spoolFile(in io.Reader) (_ *os.File, err error) {
	file, err := os.CreateTemp("", "ecli-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if err := os.Remove(file.Name()); err != nil {
		return nil, err
	}
	n, err := io.Copy(file, io.LimitReader(in, maxSpool+1))
	if err != nil {
		return nil, err
	}
	if n > maxSpool {
		return nil, fmt.Errorf("%w: more than %d bytes", manifest.ErrTooLarge, maxSpool)
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}

// interruptible ends a read when its context does, also one that waits for a
// terminal or a pipe. What such a read gets later is lost.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	size := min(len(p), 1<<20)
	go func() {
		buf := make([]byte, size)
		n, err := i.r.Read(buf)
		done <- result{buf[:n], err}
	}()
	select {
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	case r := <-done:
		return copy(p, r.data), r.err
	}
}
