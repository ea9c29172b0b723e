// SPDX-License-Identifier: Apache-2.0

// Command cmd builds the container images of ebpm from the programs in a
// folder, writes them as OCI layouts, and pushes them to a registry. It prints
// a line an image: its name and its reference by digest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ebpm/ebpm/builder/image"
	"github.com/ebpm/ebpm/manifest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `usage: go run ./builder/image/cmd [-bin DIR] [-o DIR] [-push REGISTRY[/PATH] [-plain-http]]

Builds the images ebpm, for linux/amd64 and linux/arm64, and ebpm-builder, for
this machine's architecture, from the static programs amd64/ebpm, arm64/ebpm,
likewise ecli, and ecc. Writes them as OCI layouts and pushes them, each as one
index. SOURCE_DATE_EPOCH is the time of their files;
EBPM_PLAIN_HTTP=HOST:PORT,... names registries that are reached by plain HTTP.

`

// run does all that main does; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if err := build(ctx, args, stdout, stderr); err != nil {
		switch {
		case errors.Is(err, flag.ErrHelp):
			return 0
		case ctx.Err() != nil:
			fmt.Fprintln(stderr, "images: interrupted")
			return 130
		}
		fmt.Fprintf(stderr, "images: %v\n", err)
		if advice := manifest.AdviceOf(err); advice != "" {
			fmt.Fprintln(stderr, advice)
		}
		return int(manifest.KindOf(err))
	}
	return 0
}

func build(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	bin := flags.String("bin", "bin", "`DIR` of the programs")
	out := flags.String("o", "", "`DIR` to which the layouts are written")
	push := flags.String("push", "", "`REGISTRY[/PATH]` to which the images are pushed")
	plainHTTP := flags.Bool("plain-http", false, "reach the registry by plain HTTP")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return err
	case err != nil:
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case *out == "" && *push == "":
		err = errors.New("neither -o nor -push is given")
	}
	if err != nil {
		return manifest.WithKind(manifest.KindUsage, err, "Run it with -h for help.")
	}
	epoch, err := sourceDate()
	if err != nil {
		return err
	}

	images, err := image.Build(ctx, image.Options{Binaries: *bin, Epoch: epoch, Log: stderr})
	if err != nil {
		return err
	}
	for _, i := range images {
		for _, c := range i.Children {
			fmt.Fprintf(stderr, "%s for linux/%s: %.1f MB, %.1f MB compressed\n", i.Name, c.Architecture, float64(c.Uncompressed)/1e6, float64(c.Compressed)/1e6)
		}
	}
	var refs []manifest.Reference
	if *out != "" {
		if refs, err = image.WriteLayouts(ctx, *out, images); err != nil {
			return err
		}
	}
	if *push != "" {
		if refs, err = image.Push(ctx, *push, *plainHTTP || configuredPlain(*push), images); err != nil {
			return err
		}
	}
	for i, ref := range refs {
		fmt.Fprintln(stdout, images[i].Name, ref)
	}
	return nil
}

// sourceDate returns SOURCE_DATE_EPOCH, the Unix epoch by default.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, manifest.WithKind(manifest.KindUsage,
			fmt.Errorf("SOURCE_DATE_EPOCH is %q, not seconds since 1970", text), "")
	}
	return time.Unix(seconds, 0), nil
}

// configuredPlain reports whether the registry of prefix is spoken to by plain
// HTTP: this machine, and those in EBPM_PLAIN_HTTP.
func configuredPlain(prefix string) bool {
	registry, _, _ := strings.Cut(prefix, "/")
	return manifest.IsLoopbackHost(registry) || slices.Contains(strings.Split(os.Getenv("EBPM_PLAIN_HTTP"), ","), registry)
}
