// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/ebpm/ebpm/e2e/upstream"
)

// The loads. A rate of 0 is what all processors can make.
const (
	steadyRate = 100_000
	steadyTime = 2 * time.Second
	rampTime   = time.Second
)

var rampRates = []int{50_000, 100_000, 200_000, 300_000, 400_000, 600_000, 800_000, 1_000_000, 0}

// manyPrograms are how many programs a package has that is idle.
var manyPrograms = []int{1, 8, 64}

// benchRunner holds the runner against eunomia-bpf's and bpftrace.
func (b *bench) benchRunner(ctx context.Context) error {
	if os.Getuid() != 0 {
		return errors.New("this bench loads eBPF programs: run it as root")
	}
	contenders := []contender{ecliContender("ebpm's ecli", filepath.Join(b.root, "bin", "ecli"))}
	if path := upstream.Cached(); path != "" {
		contenders = append(contenders, ecliContender(upstream.Crate+" "+upstream.Version, path))
	} else {
		fmt.Fprintln(b.log, "eunomia-bpf's ecli is not compared: make interop installs it")
	}
	if path, err := exec.LookPath("bpftrace"); err == nil {
		contenders = append(contenders, bpftraceContender(path))
	} else {
		fmt.Fprintln(b.log, "bpftrace is not compared: it is not installed")
	}
	packages, err := b.loadPackages(ctx)
	if err != nil {
		return err
	}
	t := newTable("the runner", contenders)
	for run := range b.runs {
		fmt.Fprintf(b.log, "runner: run %d of %d\n", run+1, b.runs)
		for i, c := range contenders {
			if err := b.contend(ctx, t, i, c, packages); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return t.write(b.out)
}

// loadPackages builds the packages: core and plain are the program with and
// without relocations, a number is that of plain's programs.
func (b *bench) loadPackages(ctx context.Context) (map[string]string, error) {
	source, err := os.ReadFile(filepath.Join(b.root, "e2e", "bench", "testdata", "load.bpf.c"))
	if err != nil {
		return nil, err
	}
	header, err := os.ReadFile(filepath.Join(b.root, "e2e", "bench", "testdata", "load.h"))
	if err != nil {
		return nil, err
	}
	packages := map[string]string{}
	build := func(name string, programs int, flags ...string) error {
		dir := filepath.Join(b.work, "load-"+name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		text := slices.Clone(source)
		for i := 1; i < programs; i++ {
			text = fmt.Appendf(text, "\nSEC(\"tracepoint/syscalls/sys_enter_openat\")\nint program_%d(struct sys_enter *ctx)\n{\n\treturn count_and_send(ctx);\n}\n", i)
		}
		file := filepath.Join(dir, "load.bpf.c")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "load.h"), header, 0o644); err != nil {
			return err
		}
		packages[name] = filepath.Join(dir, "package.json")
		_, err := b.command(ctx, filepath.Join(b.root, "bin", "ecc"), append(flags, file, filepath.Join(dir, "load.h"))...)
		return err
	}
	if err := build("core", 1, "-a=-DBENCH_CORE"); err != nil {
		return nil, err
	}
	for _, n := range manyPrograms {
		if err := build(strconv.Itoa(n), n); err != nil {
			return nil, err
		}
	}
	packages["plain"] = packages["1"]
	return packages, nil
}

// contend measures one contender once.
func (b *bench) contend(ctx context.Context, t *table, column int, c contender, packages map[string]string) error {
	formats := []string{"text", "JSON"}
	if !c.packages {
		formats = formats[:1]
	}
	for _, format := range formats {
		json := format == "JSON"
		if err := b.contendIn(ctx, t, column, c, packages["plain"], format, json); err != nil {
			return err
		}
	}
	starts := []string{"plain", "core"}
	if !c.packages {
		starts = starts[:1]
	}
	for _, name := range starts {
		const programs = 1
		tr, err := begin(ctx, c, packages[name], true, programs)
		if err != nil {
			return err
		}
		what := map[string]string{"plain": "start to first event", "core": "start to first event, CO-RE"}[name]
		t.add(what, column, "ms", float64(tr.first.Microseconds())/1e3)
		if _, err := tr.end(); err != nil {
			return err
		}
	}
	for _, n := range manyPrograms {
		if !c.packages && n > 1 {
			break
		}
		tr, err := begin(ctx, c, packages[strconv.Itoa(n)], true, uint64(n))
		if err != nil {
			return err
		}
		bytes, err := resident(tr.cmd.Process.Pid)
		if err != nil {
			return err
		}
		t.add(fmt.Sprintf("resident idle, programs: %d", n), column, "MB", float64(bytes)/1e6)
		if _, err := tr.end(); err != nil {
			return err
		}
	}
	return nil
}

// contendIn measures what depends on the format of the output.
func (b *bench) contendIn(ctx context.Context, t *table, column int, c contender, pkg, format string, json bool) error {
	tr, err := begin(ctx, c, pkg, json, 1)
	if err != nil {
		return err
	}
	m, err := tr.measure(ctx, steadyRate, steadyTime)
	if err != nil {
		return err
	}
	if _, err := tr.end(); err != nil {
		return err
	}
	t.add("CPU per million events to "+format, column, "s", m.cpuPerMillion())
	t.add("resident at 100,000 events/s, "+format, column, "MB", float64(m.resident)/1e6)
	t.add("lost at 100,000 events/s, "+format, column, "%", 100*m.lost())
	best, lossy := 0.0, 0
	for _, rate := range rampRates {
		if rate != 0 && lossy == 2 {
			continue // one could be chance
		}
		if tr, err = begin(ctx, c, pkg, json, 1); err != nil {
			return err
		}
		m, err := tr.measure(ctx, rate, rampTime)
		if err != nil {
			return err
		}
		missing, err := tr.end()
		if err != nil {
			return err
		}
		fmt.Fprintf(b.log, "%s, %s: %.0f events/s, %d of %d printed in time, %.2f CPU s per million\n",
			c.name, format, m.rate, m.printed, m.made, m.cpuPerMillion())
		if rate == 0 {
			t.add("events/s made flat out, "+format, column, "", m.rate)
			t.add("lost flat out, "+format, column, "%", 100*m.lost())
		}
		if m.lost() == 0 && missing == 0 {
			best = max(best, m.rate)
		} else {
			lossy++
		}
	}
	t.add("events/s without loss, "+format, column, "", best)
	return nil
}
