// SPDX-License-Identifier: Apache-2.0

// Command ecli runs a package on the kernel of this machine. Its command line
// is that of eunomia-bpf's ecli.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

func main() {
	pkg, err := ownPackage()
	switch {
	case err != nil:
		os.Exit(fail(os.Stderr, exitFailure, err, manifest.AdviceOf(err)))
	case pkg != nil:
		os.Exit(runFlags(&flags{own: pkg, args: os.Args[1:]}, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const (
	exitFailure = 1
	exitUsage   = 2
)

const usage = `Run eBPF packages on this machine.

Usage: ecli run [OPTIONS] PROGRAM [ARGS]...
       ecli ready [SOCKET]
       ecli PROGRAM [ARGS]...

PROGRAM is a package.json, or - for standard input. Every word behind it is the
program's own: ecli run PROGRAM --help lists its arguments.

Options of run:
  -j, --json                    Print each event as a line of JSON
  -p, --prog-type <TYPE>        What PROGRAM is: json
      --strict                  Take only the canonical form of a package
      --interface <NAME>        Attach programs of interfaces (XDP, tc, socket filters) to this one
      --root <DIR>              Look for the targets of uprobes in this folder
      --ready <SOCKET>          Listen here once every program is attached
      --termination-log <FILE>  Write the cause of a failure there, too
  -h, --help                    Print help

ready ends with 0 when a runner listens on SOCKET (` + ecli.DefaultReadySocket + `).
`

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "ready":
		return ready(args[1:], stderr)
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	case "push", "pull":
		return fail(stderr, exitUsage, fmt.Errorf("this ecli does not %s packages", command), fmt.Sprintf("Use ebpm %s.", command))
	case "run":
		args = args[1:]
	}
	f, help, err := parseFlags(args)
	switch {
	case err != nil:
		return fail(stderr, exitUsage, err, "ecli --help lists the options.")
	case help:
		fmt.Fprint(stdout, usage)
		return 0
	}
	return runFlags(f, stdin, stdout, stderr)
}

// runFlags runs a package until it is told to end.
func runFlags(f *flags, stdin io.Reader, stdout, stderr io.Writer) int {
	// A reader of stdout that goes away is an error of the write, not a signal.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends it at once
	if err := runPackage(ctx, f, stdin, stdout, stderr); err != nil {
		if f.terminationLog != "" {
			if logErr := os.WriteFile(f.terminationLog, ecli.TerminationMessage(err), 0o644); logErr != nil {
				fmt.Fprint(stderr, ecli.TextFor(stderr, fmt.Sprintf("Error: write the termination log: %v\n", logErr)))
			}
		}
		return fail(stderr, exitFailure, err, manifest.AdviceOf(err))
	}
	return 0
}

func fail(stderr io.Writer, code int, err error, advice string) int {
	text := fmt.Sprintf("Error: %s\n", ecli.FullMessage(err))
	if advice != "" {
		text += advice + "\n"
	}
	fmt.Fprint(stderr, ecli.TextFor(stderr, text))
	return code
}

func ready(args []string, stderr io.Writer) int {
	socket := ecli.DefaultReadySocket
	switch {
	case len(args) == 1 && !strings.HasPrefix(args[0], "-"):
		socket = args[0]
	case len(args) > 0:
		return fail(stderr, exitUsage, errors.New("ready takes the path of a socket, and nothing else"), "")
	}
	if err := ecli.CheckReady(socket); err != nil {
		return fail(stderr, exitFailure, err, "")
	}
	return 0
}

func runPackage(ctx context.Context, f *flags, stdin io.Reader, stdout, stderr io.Writer) error {
	pkg := f.own
	if pkg == nil {
		var err error
		if pkg, err = readPackage(f, stdin); err != nil {
			return err
		}
	}
	return ecli.Run(ctx, ecli.Options{
		Package:     pkg,
		Args:        f.args,
		JSON:        f.json,
		Stdout:      stdout,
		Stderr:      stderr,
		Root:        f.root,
		Interface:   f.iface,
		ReadySocket: f.ready,
	})
}

// readPackage reads the program word: a file, or - for standard input.
func readPackage(f *flags, stdin io.Reader) (*manifest.Package, error) {
	if f.progType == "" {
		switch {
		case strings.HasSuffix(f.program, ".wasm"):
			f.progType = "wasm"
		case strings.HasSuffix(f.program, ".tar"):
			f.progType = "tar"
		}
	}
	switch strings.ToLower(f.progType) {
	case "", "json", "jsoneunomia":
	default:
		return nil, fmt.Errorf("%s: this ecli does not run programs of type %s, only json", f.program, f.progType)
	}
	in := stdin
	if f.program != "-" {
		file, err := os.Open(f.program)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("read the package: there is no file %s", f.program),
				"A package in a registry or store is run by `ebpm run REFERENCE`; this ecli runs files.")
		}
		if err != nil {
			return nil, fmt.Errorf("read the package: %w", err)
		}
		defer file.Close()
		in = file
	}
	data, err := manifest.ReadBounded(in, manifest.MaxPackageSize)
	if err != nil {
		return nil, fmt.Errorf("read the package %s: %w", f.program, err)
	}
	decode := manifest.DecodePackage
	if f.strict {
		decode = manifest.DecodeCanonical
	}
	pkg, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("read the package %s: %w", f.program, err)
	}
	return pkg, nil
}
