// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command cmd runs the demo of make demo.
//
//	demo [-readme README.md]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/ebpm/ebpm/e2e/demo"
)

func main() {
	readme := flag.String("readme", "", "write the transcript into this `FILE`, between the lines that mark it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *readme)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, readme string) error {
	d := &demo.Demo{Out: os.Stdout, Log: os.Stderr}
	if err := d.Run(ctx); err != nil {
		return err
	}
	if readme == "" || !d.OwnCluster() {
		return nil
	}
	return demo.WriteTranscript(readme, d.Transcript())
}
