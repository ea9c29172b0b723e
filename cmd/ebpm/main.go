// SPDX-License-Identifier: Apache-2.0

// Command ebpm compiles eBPF programs, ships them as versioned OCI artifacts
// and runs them on the nodes of a Kubernetes cluster or on this machine.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	// A static binary in an image without /etc/ssl still verifies registries.
	_ "golang.org/x/crypto/x509roots/fallback"
	"golang.org/x/term"
)

func main() {
	// A reader that goes away (| head) is an error of the write, so that what is
	// attached is detached first.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args, stdio{in: os.Stdin, out: &resultWriter{w: os.Stdout}, err: os.Stderr,
		outTerminal: term.IsTerminal(int(os.Stdout.Fd())), errTerminal: term.IsTerminal(int(os.Stderr.Fd()))})
	os.Exit(code)
}
