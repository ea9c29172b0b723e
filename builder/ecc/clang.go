// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

// commonFlags are the flags of every compile, as upstream gives them (spec
// section A4). The target bpf has the byte order of this machine, which is that
// of all [Architectures].
func (c *compilation) commonFlags() []string {
	return []string{"-g", "-O2", "-target", "bpf", "-Wno-unknown-attributes",
		"-D__TARGET_ARCH_" + includeArch(c.Arch)}
}

// sourceArg is the source as an argument: a name that starts with a dash is no
// flag.
func (c *compilation) sourceArg() string {
	if strings.HasPrefix(c.Source, "-") {
		return "./" + c.Source
	}
	return c.Source
}

// typedDir is the folder part of the source as the user wrote it, with its
// final slash; empty for a bare file name.
func (c *compilation) typedDir() string {
	return c.Source[:len(c.Source)-len(filepath.Base(c.Source))]
}

func (c *compilation) absolute(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(c.cwd, name)
}

func (c *compilation) sourceDir() string { return filepath.Dir(c.absolute(c.Source)) }

// frontendArgs are the arguments by which clang reads the source. The order of
// the include folders is upstream's.
func (c *compilation) frontendArgs() ([]string, error) {
	args := c.commonFlags()
	for _, dir := range c.clang.includeDirs {
		args = append(args, "-idirafter", dir)
	}
	args = append(args, "-I"+c.includeRoot)
	if c.vmlinuxDir != "" {
		args = append(args, "-I"+c.vmlinuxDir)
	}
	args = append(args, c.CFlags...)
	// The folder of the source as the user named it, so that messages name the
	// files in it likewise.
	args = append(args, "-I"+filepath.Dir(c.sourceArg()))
	args = append(args, c.reproducibleFlags()...)
	// clang 14 cannot read back the bitcode of an empty file.
	if len(c.structs) > 0 || len(c.source) == 0 {
		overlay, err := c.overlay()
		if err != nil {
			return nil, err
		}
		args = append(args, "-ivfsoverlay", overlay)
	}
	return append(args, "-x", "c", c.sourceArg()), nil
}

// overlay makes clang read the source with the lines for the export structs
// behind it, under the source's own name: its messages and its quoted includes
// stay those of the user's file. It returns the file that says so to clang.
func (c *compilation) overlay() (string, error) {
	type entry struct {
		Name     string  `json:"name"`
		Type     string  `json:"type"`
		External string  `json:"external-contents,omitempty"`
		Contents []entry `json:"contents,omitempty"`
	}
	extended := filepath.Join(c.scratch, "source.c")
	if err := os.WriteFile(extended, withExports(c.source, c.Header, c.structs), 0o600); err != nil {
		return "", err
	}
	path := c.absolute(c.Source)
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // clang's YAML reader knows no \u003c
	err := encoder.Encode(struct {
		Version       int     `json:"version"`
		CaseSensitive bool    `json:"case-sensitive"`
		ExternalNames bool    `json:"use-external-names"`
		Roots         []entry `json:"roots"`
	}{
		CaseSensitive: true,
		Roots: []entry{{
			Name: filepath.Dir(path), Type: "directory",
			Contents: []entry{{Name: filepath.Base(path), Type: "file", External: extended}},
		}},
	})
	if err != nil {
		return "", err
	}
	name := filepath.Join(c.scratch, "overlay.json")
	return name, os.WriteFile(name, text.Bytes(), 0o600)
}

// run is [run] that says at level debug what it runs, in upstream's words.
func (c *compilation) run(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	if c.Log.Enabled(ctx, slog.LevelDebug) {
		quoted := make([]string, len(args))
		for i, arg := range args {
			quoted[i] = strconv.Quote(arg)
		}
		c.Log.Debug(fmt.Sprintf("$ %q CommandArgs { inner: [%s] }", name, strings.Join(quoted, ", ")))
	}
	return run(ctx, env, name, args...)
}

// object compiles the source and returns the stripped object and the files that
// clang read.
func (c *compilation) object(ctx context.Context) (data []byte, dependencies []string, err error) {
	object := filepath.Join(c.scratch, c.objectFile())
	dependencies, err = c.compileAtOnce(ctx, object)
	if errors.Is(err, errInSteps) {
		dependencies, err = c.compileInSteps(ctx, object)
	}
	if err != nil {
		return nil, nil, err
	}
	if data, err = c.strip(ctx, object); err != nil {
		return nil, nil, err
	}
	return data, dependencies, nil
}

// strip takes debug information and bitcode out of an object, and reads it.
func (c *compilation) strip(ctx context.Context, object string) ([]byte, error) {
	messages, err := c.run(ctx, toolEnv(), c.LLVMStrip, "-g", "--remove-section="+bitcodeSection, "--remove-section="+commandSection, object)
	c.print(messages)
	if err := c.toolFailed(c.LLVMStrip, err); err != nil {
		return nil, err
	}
	data, err := readFile(object, manifest.MaxObjectSize)
	if err != nil {
		return nil, fmt.Errorf("read the object of %s: %w", c.Source, err)
	}
	return data, nil
}

// errInSteps says that a compile at once does not do.
var errInSteps = errors.New("compile in steps")

// compileAtOnce runs clang once, which puts the bitcode from which it makes the
// object into it. The error is errInSteps unless that shows that only instructions
// went through the assembler, and that all lines of source in BTF are those that
// clang read; clang's messages are unseen then. Of most sources it does.
func (c *compilation) compileAtOnce(ctx context.Context, object string) ([]string, error) {
	messages, dependencies, compileErr, err := c.frontend(ctx, "-Xclang", "-fembed-bitcode=all", "-c", "-o", object)
	switch {
	case err != nil:
		return nil, err
	case compileErr != nil:
		return nil, errInSteps
	}
	file, err := os.Open(object)
	if err != nil {
		return nil, fmt.Errorf("read what %s made of %s: %w", c.Clang, c.Source, err)
	}
	defer file.Close()
	if !isPlainObject(file) {
		return nil, errInSteps
	}
	c.print(messages)
	c.warnOfForeignHeaders(dependencies)
	return dependencies, nil
}

// compileInSteps runs clang twice: from C to LLVM's bitcode and from there to the
// object. What is checked between the two is exactly what becomes the object; a
// check of the source could be shown another text than the compiler (by
// __has_include of a file below /proc, for one).
func (c *compilation) compileInSteps(ctx context.Context, object string) (dependencies []string, err error) {
	bitcode := filepath.Join(c.scratch, "module.bc")
	back := c.backendArgs(bitcode)
	messages, dependencies, compileErr, err := c.frontend(ctx, "-emit-llvm", "-c", "-o", bitcode)
	if err != nil {
		return nil, err
	}
	if compileErr == nil {
		err = c.checkAssembly(ctx, bitcode, back)
	} else {
		err = c.checkFailedAssembly(ctx)
	}
	if err != nil {
		return nil, err
	}
	c.print(messages)
	if compileErr != nil {
		return nil, c.adviseOn(messages, c.toolFailed(c.Clang, compileErr))
	}
	c.warnOfForeignHeaders(dependencies)

	back = append(back, "-c", "-o", object)
	messages, compileErr = c.run(ctx, toolEnv(), c.Clang, back...)
	if compileErr == nil && bytes.Contains(messages, droppedDebugInfo) {
		if dependencies, err = c.completeSources(ctx, bitcode); err != nil {
			return nil, err
		}
		messages, compileErr = c.run(ctx, toolEnv(), c.Clang, back...)
	}
	if err := c.toolFailed(c.Clang, compileErr); err != nil {
		if isCompileError(err) {
			messages = c.explainBackend(ctx, messages)
			c.print(messages)
		}
		return nil, c.adviseOn(messages, err)
	}
	c.print(c.userNames(messages))
	if bytes.Contains(messages, droppedDebugInfo) {
		return nil, fmt.Errorf("compile %s: %s dropped the debug information, without which there is no BTF", c.Source, c.Clang)
	}
	return dependencies, nil
}

// frontend compiles the source; flags say to what. It returns clang's messages
// and the files that it read. The messages quote lines of what was read: err says
// that they must not be shown, compileErr that clang refused the source.
func (c *compilation) frontend(ctx context.Context, flags ...string) (messages []byte, dependencies []string, compileErr, err error) {
	args, err := c.frontendArgs()
	if err != nil {
		return nil, nil, nil, err
	}
	deps := filepath.Join(c.scratch, "module.d")
	headers := filepath.Join(c.scratch, "headers.txt")
	args = append(append(args, "-MD", "-MT", "o", "-MF", deps), flags...)
	messages, compileErr = c.run(ctx, toolEnv("CC_PRINT_HEADERS=1", "CC_PRINT_HEADERS_FILE="+headers), c.Clang, args...)
	if err := c.toolFailed(c.Clang, compileErr); err != nil && !isCompileError(err) {
		return nil, nil, nil, err
	}
	dependencies, err = c.checkIncludes(deps, headers)
	return messages, dependencies, compileErr, err
}

// backendArgs are the arguments by which clang reads what the front end made.
func (c *compilation) backendArgs(module string) []string {
	args := append(c.commonFlags(), c.CFlags...)
	return append(args, "-Qunused-arguments", "-Xclang", "-disable-llvm-passes", "-x", "ir", module)
}

// explainBackend returns the messages of a compile in one step, which know the
// place of what the second step refuses, or those of the second step.
func (c *compilation) explainBackend(ctx context.Context, messages []byte) []byte {
	front, err := c.frontendArgs()
	if err != nil {
		return c.userNames(messages)
	}
	front = slices.DeleteFunc(front, func(arg string) bool { return strings.HasPrefix(arg, prefixMapFlag) })
	better, err := c.run(ctx, toolEnv(), c.Clang, append(front, "-c", "-o", filepath.Join(c.scratch, "explained.o"))...)
	if isCompileError(c.toolFailed(c.Clang, err)) && len(better) > 0 {
		return better
	}
	return c.userNames(messages)
}

// userNames undoes in messages of the second step what [compilation.prefixMaps]
// did to the name of the source.
func (c *compilation) userNames(messages []byte) []byte {
	base := filepath.Base(c.Source)
	return bytes.ReplaceAll(messages, []byte("./"+base+":"), []byte(c.Source+":"))
}

func (c *compilation) print(messages []byte) {
	// A writer that fails must not fail the compile.
	_, _ = c.Diagnostics.Write(messages)
}

// toolFailed makes err, which [run] returned, an error for the user.
func (c *compilation) toolFailed(tool string, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &CompileError{Source: c.Source, Tool: tool, ExitCode: exit.ExitCode(), Err: err}
	}
	return err
}

func isCompileError(err error) bool {
	var c *CompileError
	return errors.As(err, &c)
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := manifest.ReadBounded(file, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return data, nil
}
