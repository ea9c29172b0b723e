// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ebpm/ebpm/manifest"
)

// FactsVariable is the environment variable that names the file into which the
// command ecc writes [manifest.BuildFacts] as JSON. eunomia-bpf's ecc has none:
// package.json has no place for them.
const FactsVariable = "EBPM_BUILD_FACTS"

// maxSourceSize bounds a source and its header, in bytes.
const maxSourceSize = 16 << 20

// Options say what [Compile] compiles, and with what.
type Options struct {
	// Source is the eBPF C file. Header is the file whose structs the package
	// exports; empty means none.
	Source, Header string
	// Output is the folder for the results, which must exist; empty means the
	// folder of Source.
	Output string
	// CFlags are further flags for clang, one argument each.
	CFlags []string
	// Clang and LLVMStrip are the programs; empty means clang and llvm-strip.
	Clang, LLVMStrip string
	// Workspace is a folder whose include/ takes the place of the embedded
	// headers.
	Workspace string
	// Vmlinux is the file that is vmlinux.h instead of the embedded one. The
	// word running, for the types of the running kernel, is refused so far.
	Vmlinux string
	// HeaderOnly compiles Source, a header, as its own export header.
	HeaderOnly bool
	// NoPackage leaves package.json unwritten.
	NoPackage bool
	// YAML writes NAME.skel.yaml and package.yaml instead of the files of JSON.
	YAML bool
	// WasmHeader writes ewasm-skel.h too, a C header that holds package.json.
	// With NoPackage or YAML it is an error, after all else was written.
	WasmHeader bool
	// BTFHub is the folder of a btfhub archive: ID/VERSION_ID/ARCH/
	// RELEASE.btf.tar.xz. What the object needs of the types of each kernel in it
	// becomes [Result.BTF], and NAME.tar is written too, which holds them and
	// the package. Empty does nothing of it.
	BTFHub string
	// Standalone writes NAME.out too, an executable that runs the package.
	Standalone bool
	// Arch is the architecture to compile for as Go names it; empty means that
	// of this machine.
	Arch string
	// Diagnostics gets the messages of clang and llvm-strip as they printed
	// them; nil discards them.
	Diagnostics io.Writer
	// Log gets what the compiler does; nil discards it.
	Log *slog.Logger
}

// Architectures are those, as Go names them, whose kernel's types are inside ecc:
// what a source that includes vmlinux.h compiles for.
func Architectures() []string { return []string{"amd64", "arm64"} }

// Result is what [Compile] made.
type Result struct {
	Package *manifest.Package
	// Object is the object without debug information, as in Package.
	Object []byte
	// Name is the base of the output files' names.
	Name string
	// Dependencies are the absolute paths of the files that were read, the
	// source first, without the headers that ebpm brings. Those of the system
	// are among them.
	Dependencies []string
	// Build has everything but the digest of the source layer.
	Build manifest.BuildFacts
	// BTF has the types that the object needs of the kernels in Options.BTFHub.
	BTF []manifest.ArchivedBTF
}

// Compile makes NAME.bpf.o, NAME.skel.json and package.json of a source, NAME
// being its base name up to the first dot (spec sections A2 to A5). The results
// appear in the output folder when all of them are complete. A refusal of clang
// is a [*CompileError]; a missing program is of [manifest.KindPrecondition].
func Compile(ctx context.Context, opts Options) (result *Result, err error) {
	c, err := newCompilation(opts)
	if err != nil {
		return nil, err
	}
	if c.scratch, err = os.MkdirTemp("", "ecc-*"); err != nil {
		return nil, fmt.Errorf("create temporary folder: %w", err)
	}
	defer func() {
		if left := os.RemoveAll(c.scratch); left != nil {
			result, err = nil, errors.Join(err, fmt.Errorf("remove temporary folder: %w", left))
		}
	}()
	return c.compile(ctx)
}

// compilation is one run of [Compile].
type compilation struct {
	Options
	name string // base of the output files' names
	// packagePath is that of the package's file in the words of the user.
	packagePath string
	source      []byte
	structs     []exportedStruct
	scratch     string
	cwd         string

	clang       clangFacts
	includeRoot string // holds bpf/ and vmlinux/
	vmlinuxDir  string // holds vmlinux.h; empty when there is none
	build       manifest.BuildFacts
}

func newCompilation(opts Options) (*compilation, error) {
	c := &compilation{Options: opts}
	if c.Clang == "" {
		c.Clang = "clang"
	}
	if c.LLVMStrip == "" {
		c.LLVMStrip = "llvm-strip"
	}
	if c.Arch == "" {
		c.Arch = runtime.GOARCH
	}
	if c.Diagnostics == nil {
		c.Diagnostics = io.Discard
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.BTFHub != "" && c.NoPackage {
		return nil, errors.New("btfgen: its archive holds package.json, which --no-generate-package-json leaves out: call ecc without that flag")
	}
	if c.HeaderOnly {
		c.Header = c.Source
	}
	base := filepath.Base(c.Source)
	if c.Source == "" || strings.HasSuffix(c.Source, "/") || base == "." || base == ".." {
		return nil, fmt.Errorf("source %q is not a file", c.Source)
	}
	c.name, _, _ = strings.Cut(base, ".")
	c.packagePath = strings.TrimSuffix(c.Output, "/") + "/" + c.packageFile()
	if c.Output == "" {
		c.Output = filepath.Dir(c.Source)
		c.packagePath = c.typedDir() + c.packageFile()
	}
	var err error
	if c.cwd, err = os.Getwd(); err != nil {
		return nil, err
	}
	if info, err := os.Stat(c.Output); err != nil {
		return nil, fmt.Errorf("output folder: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("output folder: %s is not a folder", c.Output)
	}
	if c.source, err = readText(c.Source); err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	if c.Header != "" {
		header, err := readText(c.Header)
		if err != nil {
			return nil, fmt.Errorf("read export header: %w", err)
		}
		c.structs = exportedStructs(header)
	}
	return c, nil
}

// readText reads a file of at most maxSourceSize bytes of UTF-8.
func readText(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	text, err := manifest.ReadBounded(file, maxSourceSize)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("%s is not valid UTF-8", name)
	}
	return text, nil
}

func (c *compilation) compile(ctx context.Context) (*Result, error) {
	var err error
	if c.clang, err = askClang(ctx, c.Clang); err != nil {
		return nil, err
	}
	if err := c.prepareHeaders(); err != nil {
		return nil, err
	}
	c.Log.Info("Compiling bpf object...")
	data, dependencies, err := c.object(ctx)
	if err != nil {
		return nil, err
	}
	meta, err := c.meta(data)
	if err != nil {
		return nil, err
	}
	result := &Result{
		Package:      &manifest.Package{Object: data, Meta: *meta},
		Object:       data,
		Name:         c.name,
		Dependencies: dependencies,
		Build:        c.build,
	}
	if c.BTFHub != "" {
		if result.BTF, err = c.tailoredBTF(ctx, data); err != nil {
			return nil, err
		}
	}
	if err := c.write(ctx, result); err != nil {
		return nil, err
	}
	return result, nil
}

// meta describes the object for the package.
func (c *compilation) meta(data []byte) (meta *manifest.Meta, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read object: malformed ELF: %v", r)
		}
	}()
	o, err := openObject(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Source, err)
	}
	meta = &manifest.Meta{EunomiaVersion: manifest.Version}
	if meta.Skeleton, err = o.skeleton(c.objectFile()); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Source, err)
	}
	notes := annotator{file: c.Source, log: c.Log, warn: func(line string) { c.print([]byte(line)) }}
	if err := notes.annotate(&meta.Skeleton, c.source); err != nil {
		return nil, err
	}
	if c.Header != "" {
		c.Log.Info("Generating export types...")
		names := map[string]bool{}
		for _, s := range c.structs {
			names[s.name] = true
		}
		if meta.ExportTypes, err = o.exportTypes(names); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Source, err)
		}
	}
	c.warnOfEvents(o, meta)
	return meta, nil
}

func (c *compilation) objectFile() string { return c.name + ".bpf.o" }

func (c *compilation) packageFile() string { return "package." + c.extension() }

// extension is that of what describes the object.
func (c *compilation) extension() string {
	if c.YAML {
		return "yaml"
	}
	return "json"
}

// asWritten returns JSON in the language of the output.
func (c *compilation) asWritten(data []byte) ([]byte, error) {
	if c.YAML {
		return yamlFromJSON(data)
	}
	return data, nil
}

// prepareHeaders makes the folders of headers that stand in for installed ones.
func (c *compilation) prepareHeaders() error {
	arch := includeArch(c.Arch)
	vmlinux, libbpf := headersFor(arch)
	c.build = manifest.BuildFacts{Ebpm: manifest.Version, Compiler: c.clang.version, Flags: c.portableFlags()}
	if c.Workspace != "" {
		root, err := filepath.Abs(filepath.Join(c.Workspace, "include"))
		if err != nil {
			return err
		}
		if _, err := os.Stat(root); err != nil {
			return fmt.Errorf("workspace: %w", err)
		}
		sum, err := digestTree(root)
		if err != nil {
			return fmt.Errorf("workspace: %w", err)
		}
		c.includeRoot, c.build.HeadersDigest = root, sum.String()
		c.vmlinuxDir = filepath.Join(root, "vmlinux", arch)
		c.build.Vmlinux = "file"
		sum, err = digestFile(filepath.Join(c.vmlinuxDir, "vmlinux.h"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			c.build.Vmlinux = ""
		case err != nil:
			return fmt.Errorf("workspace: %w", err)
		default:
			c.build.VmlinuxDigest = sum.String()
		}
	} else {
		files := libbpf
		if vmlinux.path != "" {
			files = append(slices.Clone(libbpf), vmlinux)
		}
		root, err := extractHeaders(files, c.scratch)
		if err != nil {
			return err
		}
		c.includeRoot, c.build.HeadersDigest = root, digestOf(libbpf).String()
		if vmlinux.path != "" {
			c.vmlinuxDir = filepath.Join(root, "vmlinux", arch)
			c.build.Vmlinux, c.build.VmlinuxDigest = "embedded", "sha256:"+vmlinux.sum
		}
	}
	switch c.Vmlinux {
	case "":
		return c.includedVmlinux()
	case "running":
		return errors.New("vmlinux running is not supported yet: write the kernel's types to a file (bpftool btf dump file /sys/kernel/btf/vmlinux format c) and name that")
	default:
		return c.ownVmlinux()
	}
}

// includedVmlinux leaves our vmlinux.h out of the search where the user's flags
// name a folder that has one. Upstream's would come first, so that nobody could
// compile for the types of another kernel.
func (c *compilation) includedVmlinux() error {
	for _, dir := range includeDirsOf(c.CFlags) {
		name := filepath.Join(c.absolute(dir), "vmlinux.h")
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		sum, err := digestFile(name)
		if err != nil {
			return fmt.Errorf("vmlinux: %w", err)
		}
		c.vmlinuxDir = ""
		c.build.Vmlinux, c.build.VmlinuxDigest = "file", sum.String()
		return nil
	}
	return nil
}

// ownVmlinux puts the user's vmlinux.h in place of the embedded one.
func (c *compilation) ownVmlinux() error {
	text, err := readFile(c.Vmlinux, maxVmlinuxSize)
	if err != nil {
		return fmt.Errorf("vmlinux: %w", err)
	}
	c.vmlinuxDir = filepath.Join(c.scratch, "vmlinux")
	name := filepath.Join(c.vmlinuxDir, "vmlinux.h")
	if err := os.Mkdir(c.vmlinuxDir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(name, text, 0o600); err != nil {
		return err
	}
	sum, err := digestFile(name)
	if err != nil {
		return err
	}
	c.build.Vmlinux, c.build.VmlinuxDigest = "file", sum.String()
	return nil
}

// write puts the results into the output folder, each in one step, the package
// last.
func (c *compilation) write(ctx context.Context, result *Result) error {
	skel, err := result.Package.Meta.Encode()
	if err != nil {
		return err
	}
	if skel, err = c.asWritten(skel); err != nil {
		return err
	}
	files := []outputFile{
		{name: c.objectFile(), data: result.Object},
		{name: c.name + ".skel." + c.extension(), data: skel},
	}
	if !c.NoPackage {
		c.Log.Info("Generating package json..")
		packed, err := result.Package.Encode()
		if err != nil {
			return err
		}
		if c.WasmHeader && !c.YAML {
			files = append(files, outputFile{name: wasmHeaderFile, data: wasmHeader(packed)})
		}
		if c.Standalone {
			executable, err := c.standalone(packed)
			if err != nil {
				return err
			}
			files = append(files, outputFile{name: c.name + ".out", data: executable, executable: true})
		}
		if c.BTFHub != "" {
			more, err := c.btfFiles(result.BTF, packed, result.Object)
			if err != nil {
				return err
			}
			files = append(files, more...)
		}
		if packed, err = c.asWritten(packed); err != nil {
			return err
		}
		files = append(files, outputFile{name: c.packageFile(), data: packed})
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := writeAll(c.Output, files); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if !c.NoPackage {
		c.Log.Info(fmt.Sprintf("Packing ebpf object and config into %s...", c.packagePath))
	}
	return c.checkWasmHeader()
}
