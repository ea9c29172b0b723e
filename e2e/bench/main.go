// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command bench prints the figures that the documentation quotes. Without
// arguments it measures all of
//
//	runner    ecli beside eunomia-bpf's own and bpftrace: events a second, CPU,
//	          memory, start
//	handover  what a dispatcher costs an event, how long a handover takes and what
//	          it loses, beside the naive ways
//	compiler  ecc beside the bare clang command
//	cluster   on the machine's test cluster, how long a deploy, an upgrade and a
//	          rollback take until every node has attached every program, beside
//	          kubectl with the same DaemonSet; and the sizes of the images
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	runs := flag.Int("runs", 3, "how often each is measured; the median counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *runs, flag.Args(), os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	root, work string
	runs       int
	env        []string
	out, log   io.Writer
}

func run(ctx context.Context, runs int, parts []string, out, log io.Writer) (err error) {
	b := &bench{runs: runs, env: os.Environ(), out: out, log: log}
	all := []struct {
		name    string
		measure func(context.Context) error
	}{
		{"runner", b.benchRunner},
		{"handover", func(ctx context.Context) error { return handovers(ctx, b.out) }},
		{"compiler", b.benchCompiler},
		{"cluster", b.benchCluster},
	}
	for _, part := range parts {
		if !slices.ContainsFunc(all, func(known struct {
			name    string
			measure func(context.Context) error
		}) bool {
			return known.name == part
		}) {
			return fmt.Errorf("there is no bench %s", part)
		}
	}
	if b.root, err = os.Getwd(); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "ebpm-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	for _, part := range all {
		if len(parts) > 0 && !slices.Contains(parts, part.name) {
			continue
		}
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

func (b *bench) command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "env", append([]string{name}, args...)...)
	cmd.Dir, cmd.Env = b.root, b.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}
