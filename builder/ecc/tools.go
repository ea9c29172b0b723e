// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

const (
	// maxDiagnostics bounds what is kept of a tool's messages, in bytes.
	maxDiagnostics = 4 << 20
	// minClang is the oldest clang that has -ffile-compilation-dir.
	minClang = 13
	// toolGrace is how long an interrupted tool's children may hold its pipes.
	toolGrace = 2 * time.Second
)

const installAdvice = "Install clang and llvm (Debian: apt-get install clang llvm) or build in a cluster: ebpm build --builder kubernetes."

// CompileError says that clang or llvm-strip refused its input. What the tool
// printed has gone to [Options.Diagnostics].
type CompileError struct {
	// Source is the file as the user named it.
	Source string
	// Tool is the program as the user named it.
	Tool string
	// ExitCode is that of the tool, or -1 when a signal ended it.
	ExitCode int
	Err      error
}

func (e *CompileError) Error() string {
	return fmt.Sprintf("compile %s: %s: %v", e.Source, e.Tool, e.Err)
}

func (e *CompileError) Unwrap() error { return e.Err }

// limitedBuffer keeps the first maxDiagnostics bytes and says what it dropped.
type limitedBuffer struct {
	bytes.Buffer
	dropped int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	keep := min(len(p), maxDiagnostics-b.Len())
	b.Buffer.Write(p[:keep])
	b.dropped += len(p) - keep
	return len(p), nil
}

func (b *limitedBuffer) bytes() []byte {
	if b.dropped > 0 {
		return fmt.Appendf(bytes.Clone(b.Bytes()), "\n(%d more bytes of messages are left out)\n", b.dropped)
	}
	return b.Bytes()
}

// run runs a program without a shell and returns what it printed on both
// streams. A program that cannot be found is a missing precondition.
func run(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	cmd.WaitDelay = toolGrace
	var output limitedBuffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if ctx.Err() != nil {
		return output.bytes(), context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("run %s: %w", name, err), installAdvice)
	}
	return output.bytes(), err
}

// toolEnv is the environment of the tools: without the variables by which
// clang changes what it reads or writes, and with messages in English.
func toolEnv(extra ...string) []string {
	drop := map[string]bool{
		"CPATH": true, "C_INCLUDE_PATH": true, "CPLUS_INCLUDE_PATH": true, "OBJC_INCLUDE_PATH": true,
		"CCC_OVERRIDE_OPTIONS": true, "CCC_ADD_ARGS": true, "COMPILER_PATH": true,
		"DEPENDENCIES_OUTPUT": true, "SUNPRO_DEPENDENCIES": true,
		"CC_PRINT_OPTIONS": true, "CC_PRINT_OPTIONS_FILE": true, "CC_LOG_DIAGNOSTICS": true,
		"CC_LOG_DIAGNOSTICS_FILE": true, "CC_PRINT_HEADERS": true, "CC_PRINT_HEADERS_FILE": true,
		"CC_PRINT_HEADERS_FORMAT": true, "CC_PRINT_HEADERS_FILTERING": true,
		"CC_PRINT_PROC_STAT": true, "CC_PRINT_PROC_STAT_FILE": true,
		"LC_ALL": true, "LANGUAGE": true,
	}
	var env []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !drop[name] {
			env = append(env, variable)
		}
	}
	return append(append(env, "LC_ALL=C"), extra...)
}

// clangFacts is what a clang says about itself.
type clangFacts struct {
	// version is the first line of clang --version.
	version string
	// includeDirs is where it looks for system headers of this machine.
	includeDirs []string
}

var clangVersion = regexp.MustCompile(`clang version (\d+)\.`)

// askClang returns the facts of the clang called name. A program that says
// nothing of the kind has none.
func askClang(ctx context.Context, name string) (clangFacts, error) {
	output, err := run(ctx, toolEnv(), name, "-v", "-E", "-x", "c", os.DevNull)
	if manifest.KindOf(err) == manifest.KindPrecondition || ctx.Err() != nil {
		return clangFacts{}, err
	}
	facts := parseClang(output)
	if m := clangVersion.FindStringSubmatch(facts.version); m != nil {
		if major, _ := strconv.Atoi(m[1]); major < minClang {
			return facts, manifest.WithKind(manifest.KindPrecondition,
				fmt.Errorf("%s is %q, too old for this compiler: version %d or later is needed", name, facts.version, minClang), installAdvice)
		}
	}
	return facts, nil
}

func parseClang(output []byte) clangFacts {
	var facts clangFacts
	inList := false
	for line := range strings.Lines(string(output)) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case facts.version == "" && strings.Contains(line, " version "):
			facts.version = line
		case strings.HasPrefix(line, "#include <...> search starts here:"):
			inList = true
		case strings.HasPrefix(line, "End of search list."):
			inList = false
		case inList && strings.HasPrefix(line, " "):
			dir := strings.TrimSpace(line)
			facts.includeDirs = append(facts.includeDirs, filepath.Clean(dir))
		}
	}
	return facts
}

// includeArch is the name of an architecture (GOARCH) in __TARGET_ARCH_ and
// below the folder vmlinux.
func includeArch(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86"
	case "ppc64", "ppc64le":
		return "powerpc"
	case "mips64", "mips64le":
		return "mips"
	case "riscv64":
		return "riscv"
	case "s390x":
		return "s390"
	case "loong64":
		return "loongarch"
	}
	return goarch
}
