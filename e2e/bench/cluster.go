// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command bench prints the figures that the documentation quotes, measured on
// the machine's test cluster: how long a deploy, an upgrade and a rollback take
// until every node has attached every program, and how long kubectl takes for
// the same DaemonSet in the same run; and the sizes of the images.
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
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/ebpm/ebpm/builder/image"
	"github.com/ebpm/ebpm/e2e/cluster"
)

func main() {
	runs := flag.Int("runs", 3, "how often each is measured; the median counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *runs, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	root, work string
	env        []string
	out, log   io.Writer
}

func run(ctx context.Context, runs int, out, log io.Writer) (err error) {
	b := &bench{out: out, log: log}
	if b.root, err = os.Getwd(); err != nil {
		return err
	}
	c, err := cluster.Up(ctx, log)
	if err != nil {
		return err
	}
	programs := filepath.Join(b.root, "bin", "image")
	if err := cluster.PushImages(ctx, c, programs, log); err != nil {
		return err
	}
	env, err := c.Env(filepath.Join(b.root, "bin"))
	if err != nil {
		return err
	}
	b.env = append(os.Environ(), env...)
	if b.work, err = os.MkdirTemp("", "ebpm-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	if err := b.packages(ctx); err != nil {
		return err
	}
	times := map[string][]time.Duration{}
	for i := range runs + 1 {
		measured := map[string]time.Duration{}
		if err := b.ebpm(ctx, measured); err != nil {
			return err
		}
		if err := b.bare(ctx, measured); err != nil {
			return err
		}
		if i == 0 {
			continue // pulls the images and fills the nodes' caches
		}
		for name, d := range measured {
			times[name] = append(times[name], d)
		}
	}
	return b.report(ctx, times, programs)
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

// timed runs a command and notes how long it took.
func (b *bench) timed(ctx context.Context, measured map[string]time.Duration, what, name string, args ...string) error {
	start := time.Now()
	if _, err := b.command(ctx, name, args...); err != nil {
		return err
	}
	measured[what] += time.Since(start)
	return nil
}

// packages pushes two versions of an example.
func (b *bench) packages(ctx context.Context) error {
	changed := filepath.Join(b.work, "opensnoop")
	if err := os.CopyFS(changed, os.DirFS(filepath.Join(b.root, "examples", "opensnoop"))); err != nil {
		return err
	}
	source := filepath.Join(changed, "opensnoop.bpf.c")
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if err := os.WriteFile(source, bytes.Replace(data, []byte("256 * 1024"), []byte("512 * 1024"), 1), 0o644); err != nil {
		return err
	}
	store := filepath.Join(b.work, "store")
	for dir, ref := range map[string]string{"examples/opensnoop": "bench:1.0.0", changed: "bench:1.1.0"} {
		for _, args := range [][]string{{"build", dir, "-t", ref, "--builder", "local", "--store", store}, {"push", ref, "--store", store}} {
			if _, err := b.command(ctx, "ebpm", args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle is longer than minReadySeconds: a rollout that follows closely on
// another one is another thing than one that finds everything at rest.
const settle = 7 * time.Second

func (b *bench) ebpm(ctx context.Context, measured map[string]time.Duration) error {
	for _, step := range []struct {
		what string
		args []string
	}{
		{"deploy", []string{"deploy", "bench:1.0.0", "--all"}},
		{"upgrade", []string{"deploy", "bench:1.1.0"}},
		{"rollback", []string{"rollback", "bench"}},
	} {
		if err := b.timed(ctx, measured, "ebpm "+step.what, "ebpm", step.args...); err != nil {
			return err
		}
		time.Sleep(settle)
	}
	_, err := b.command(ctx, "ebpm", "delete", "bench")
	return err
}

// bare applies the very DaemonSets that ebpm would.
func (b *bench) bare(ctx context.Context, measured map[string]time.Duration) error {
	files := map[string]string{}
	for _, version := range []string{"1.0.0", "1.1.0"} {
		yaml, err := b.command(ctx, "ebpm", "deploy", "bench:"+version, "--all", "--dry-run", "client", "-o", "yaml")
		if err != nil {
			return err
		}
		files[version] = filepath.Join(b.work, version+".yaml")
		if err := os.WriteFile(files[version], []byte(yaml), 0o644); err != nil {
			return err
		}
	}
	status := []string{"-n", "ebpm", "rollout", "status", "daemonset/bench", "--timeout=2m"}
	for _, step := range []struct {
		what string
		args []string
	}{
		{"deploy", []string{"apply", "-f", files["1.0.0"]}},
		{"upgrade", []string{"apply", "-f", files["1.1.0"]}},
		{"rollback", []string{"-n", "ebpm", "rollout", "undo", "daemonset/bench"}},
	} {
		for _, args := range [][]string{step.args, status} {
			if err := b.timed(ctx, measured, "kubectl "+step.what, "kubectl", args...); err != nil {
				return err
			}
		}
		time.Sleep(settle)
	}
	_, err := b.command(ctx, "kubectl", "-n", "ebpm", "delete", "daemonset/bench", "--cascade=foreground")
	return err
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

func (b *bench) report(ctx context.Context, times map[string][]time.Duration, programs string) error {
	w := tabwriter.NewWriter(b.out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "until attached on both nodes\tebpm\tkubectl\tratio\t")
	for _, what := range []string{"deploy", "upgrade", "rollback"} {
		ours, theirs := median(times["ebpm "+what]), median(times["kubectl "+what])
		fmt.Fprintf(w, "%s\t%.1f s\t%.1f s\t%.2f\t\n", what, ours.Seconds(), theirs.Seconds(), ours.Seconds()/theirs.Seconds())
	}
	images, err := image.Build(ctx, image.Options{Binaries: programs, Log: b.log})
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "image\tuncompressed\tcompressed\t\t")
	for _, i := range images {
		fmt.Fprintf(w, "%s\t%.1f MB\t%.1f MB\t\t\n", i.Name, float64(i.Uncompressed)/1e6, float64(i.Compressed)/1e6)
	}
	return w.Flush()
}
