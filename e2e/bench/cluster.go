// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/ebpm/ebpm/builder/image"
	"github.com/ebpm/ebpm/e2e/cluster"
)

// benchCluster measures on the test cluster.
func (b *bench) benchCluster(ctx context.Context) error {
	c, err := cluster.Up(ctx, b.log)
	if err != nil {
		return err
	}
	programs := filepath.Join(b.root, "bin", "image")
	if err := cluster.PushImages(ctx, c, programs, b.log); err != nil {
		return err
	}
	env, err := c.Env(filepath.Join(b.root, "bin"))
	if err != nil {
		return err
	}
	b.env = append(b.env, env...)
	if err := b.packages(ctx); err != nil {
		return err
	}
	times := map[string][]float64{}
	for i := range b.runs + 1 {
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
			times[name] = append(times[name], d.Seconds())
		}
	}
	return b.report(ctx, times, programs)
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

func (b *bench) report(ctx context.Context, times map[string][]float64, programs string) error {
	w := tabwriter.NewWriter(b.out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "until attached on both nodes\tebpm\tkubectl\tratio\t")
	for _, what := range []string{"deploy", "upgrade", "rollback"} {
		ours, theirs := median(times["ebpm "+what]), median(times["kubectl "+what])
		fmt.Fprintf(w, "%s\t%.1f s\t%.1f s\t%.2f\t\n", what, ours, theirs, ours/theirs)
	}
	images, err := image.Build(ctx, image.Options{Binaries: programs, Log: b.log})
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "image\tuncompressed\tcompressed\t\t")
	for _, i := range images {
		for _, c := range i.Children {
			fmt.Fprintf(w, "%s %s\t%.1f MB\t%.1f MB\t\t\n", i.Name, c.Architecture, float64(c.Uncompressed)/1e6, float64(c.Compressed)/1e6)
		}
	}
	return w.Flush()
}
