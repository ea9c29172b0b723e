// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command ctl builds, starts and removes the cluster of package cluster.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ebpm/ebpm/e2e/cluster"
)

const usage = `usage: ctl VERB

  deps          install the Debian packages that the cluster needs
  build         build its programs into the user's cache
  up            start it, building what is missing
  images BIN    put ebpm's images together from the programs in BIN and push
                them to its registry
  status        list its programs; fails when one does not run
  env [BIN...]  print the shell lines that use it, with BIN folders in PATH
  down          remove it
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("ctl", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	verb, rest := flags.Arg(0), flags.Args()
	if verb == "" || (len(rest) > 1 && verb != "env" && verb != "images") || (verb == "images" && len(rest) != 2) {
		flags.Usage()
		return 2
	}
	var err error
	switch verb {
	case "deps":
		err = cluster.Deps(ctx, stderr)
	case "build":
		_, err = cluster.Build(ctx, stderr)
	case "up":
		_, err = cluster.Up(ctx, stderr)
	case "images":
		err = images(ctx, rest[1], stderr)
	case "status":
		err = cluster.Status(ctx, stdout)
	case "env":
		err = env(rest[1:], stdout, stderr)
	case "down":
		err = cluster.Down(ctx, stderr)
	default:
		flags.Usage()
		return 2
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "interrupted")
		return 130
	case err != nil:
		fmt.Fprintln(stderr, "error:", err)
		return 1
	}
	return 0
}

func images(ctx context.Context, bin string, stderr io.Writer) error {
	c, err := cluster.Open()
	if err != nil {
		return err
	}
	return cluster.PushImages(ctx, c, bin, stderr)
}

func env(binDirs []string, stdout, stderr io.Writer) error {
	c, err := cluster.Open()
	if err != nil {
		return err
	}
	for _, name := range []string{cluster.Image, cluster.BuilderImage} {
		reference, err := c.ImageReference(name)
		if err != nil {
			return err
		}
		if reference == "" {
			fmt.Fprintf(stderr, "the image %s is not in the cluster's registry yet: `make cluster-up` pushes it\n", name)
		}
	}
	lines, err := c.Env(binDirs...)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, cluster.Exports(lines))
	return err
}
