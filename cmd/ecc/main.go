// SPDX-License-Identifier: Apache-2.0

// Command ecc compiles an eBPF source into a package.json. Its command line is
// that of eunomia-bpf's ecc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/manifest"
)

// The exit codes, which are those of eunomia-bpf's ecc.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	program := "ecc"
	if len(args) > 0 {
		program = filepath.Base(args[0])
		args = args[1:]
	}
	line, err := parse(args)
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		usage.print(stderr, program)
		return exitUsage
	case line.help != "":
		printHelp(stdout, program, line.help == "--help", getenv)
		return exitOK
	case line.version:
		fmt.Fprintln(stdout, "ecc", manifest.Version)
		return exitOK
	}
	if err := compile(ctx, line, getenv, stderr); err != nil {
		fmt.Fprintln(stderr, "Error:", err)
		if advice := manifest.AdviceOf(err); advice != "" {
			fmt.Fprintln(stderr, advice)
		}
		return exitFailure
	}
	return exitOK
}

func compile(ctx context.Context, line commandLine, getenv func(string) string, stderr io.Writer) error {
	btfhub := ""
	if line.btfgen {
		if btfhub = line.btfhub; btfhub == "" {
			btfhub = ecc.DefaultBTFHub(getenv)
		}
		if btfhub == "" {
			return errors.New("--btfgen: name the folder of the btfhub archive with --btfhub-archive")
		}
	}
	options := ecc.Options{
		Source:      line.source,
		Header:      line.header,
		Output:      line.output,
		CFlags:      line.cflags,
		Clang:       line.clang,
		LLVMStrip:   line.llvmStrip,
		Workspace:   line.workspace,
		HeaderOnly:  line.headerOnly,
		NoPackage:   line.noPackage,
		YAML:        line.yaml,
		WasmHeader:  line.wasmHeader,
		BTFHub:      btfhub,
		Standalone:  line.standalone,
		Diagnostics: stderr,
		Log:         slog.New(&logHandler{out: stderr, level: logLevel(line.verbose, getenv("RUST_LOG"))}),
	}
	facts := getenv(ecc.FactsVariable)
	if len(line.archs) > 0 {
		return compileForEach(ctx, options, line.archs, facts)
	}
	result, err := ecc.Compile(ctx, options)
	if err != nil {
		return err
	}
	return writeFacts(facts, result.Build)
}

// compileForEach gives each architecture a folder of its name in the output
// folder. The facts are written there, under the name that facts ends with.
func compileForEach(ctx context.Context, options ecc.Options, archs []string, facts string) error {
	output := options.Output
	if output == "" {
		output = filepath.Dir(options.Source)
	}
	for _, arch := range archs {
		if !slices.Contains(ecc.Architectures(), arch) {
			return fmt.Errorf("--target-arch %s: wanted one of %s", arch, strings.Join(ecc.Architectures(), ", "))
		}
	}
	for _, arch := range archs {
		options.Arch, options.Output = arch, filepath.Join(output, arch)
		if err := os.Mkdir(options.Output, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("output folder: %w", err)
		}
		result, err := ecc.Compile(ctx, options)
		if err != nil {
			return fmt.Errorf("%w (for %s)", err, arch)
		}
		if facts == "" {
			continue
		}
		if err := writeFacts(filepath.Join(options.Output, filepath.Base(facts)), result.Build); err != nil {
			return err
		}
	}
	return nil
}

// writeFacts writes how a source was compiled into file, unless that is empty.
func writeFacts(file string, facts manifest.BuildFacts) error {
	if file == "" {
		return nil
	}
	data, err := json.Marshal(facts)
	if err != nil {
		return fmt.Errorf("encode build facts: %w", err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return fmt.Errorf("write build facts: %w", err)
	}
	return nil
}
