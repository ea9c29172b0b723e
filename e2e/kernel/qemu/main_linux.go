// SPDX-License-Identifier: Apache-2.0

// Command qemu runs the tests of Go packages on other kernels, in QEMU.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ebpm/ebpm/e2e/kernel/vm"
)

const usage = `Run the tests of Go packages on Debian's kernels, in QEMU.

  go run ./e2e/kernel/qemu [FLAGS] PACKAGE... [-- FLAGS OF THE TEST BINARIES]

  go run ./e2e/kernel/qemu -run TestTC ./deployer/ecli
  go run ./e2e/kernel/qemu -kernel 6.1 -v ./deployer/ecli ./manifest -- -test.short

A test binary is static and finds its package's testdata folder. It runs as root,
with busybox in PATH, and with proc, sysfs, tracefs, bpffs, cgroup2 and loopback
up, on a kernel with lsm=bpf; EBPM_TEST_KERNEL is 6.1 or 6.12. All packages run in
one boot of each kernel, which takes about 20 seconds. The kernels are kept in the
user's cache folder; QEMU, busybox and xz are installed by apt where missing.

Output of failed and skipped tests is printed; the exit code is 1 if any failed.
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("qemu", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage, "\nFlags:\n")
		flags.PrintDefaults()
	}
	kernels := flags.String("kernel", strings.Join(vm.Series, ","), "the `KERNELS`, one after the other")
	pattern := flags.String("run", "", "only the tests that match this `REGEXP`")
	verbose := flags.Bool("v", false, "print the output of all tests")
	asJSON := flags.Bool("json", false, "print the events of test2json, as go test -json does")
	console := flags.Bool("console", false, "print the machine's console to stderr")
	timeout := flags.Duration("timeout", 10*time.Minute, "of each kernel")
	modules := flags.String("modules", strings.Join(vm.DefaultModules, ","), "the kernel `MODULES` to load, with those that they need")
	programs := flags.String("programs", strings.Join(vm.DefaultPrograms, ","), "the host's `PROGRAMS` that the machine has beside busybox, with their libraries")
	var o vm.Options
	flags.IntVar(&o.CPUs, "cpus", 2, "processors")
	flags.IntVar(&o.Memory, "memory", 1024, "memory in MiB")
	var env, files list
	flags.Var(&env, "env", "add `NAME=VALUE` to the environment of the tests (repeat)")
	flags.Var(&files, "file", "put a file or folder into the machine, `FROM:TO` (repeat)")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	packages := flags.Args()
	for i, arg := range packages {
		if arg == "--" {
			packages, o.Args = packages[:i], packages[i+1:]
			break
		}
	}
	if len(packages) == 0 {
		flags.Usage()
		return 2
	}
	if *pattern != "" {
		o.Args = append(o.Args, "-test.run="+*pattern)
	}
	if *console {
		o.Console = stderr
	}
	if *modules != "" {
		o.Modules = strings.Split(*modules, ",")
	}
	if *programs != "" {
		o.Programs = strings.Split(*programs, ",")
	}
	o.Env = env
	o.Files = map[string]string{}
	for _, f := range files {
		from, to, ok := strings.Cut(f, ":")
		if !ok {
			fmt.Fprintf(stderr, "qemu: -file %s: wanted FROM:TO\n", f)
			return 2
		}
		o.Files[to] = from
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &printer{out: stdout, verbose: *verbose, json: *asJSON, output: map[string][]string{}}
	err := runKernels(ctx, strings.Split(*kernels, ","), packages, o, *timeout, stderr, p)
	if err != nil {
		fmt.Fprintln(stderr, "qemu:", err)
		return 1
	}
	if p.failed > 0 {
		return 1
	}
	return 0
}

func runKernels(ctx context.Context, kernels, packages []string, o vm.Options, timeout time.Duration, log io.Writer, p *printer) (err error) {
	suite, err := vm.Build(ctx, packages)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, suite.Close()) }()
	for _, series := range kernels {
		k, err := vm.OpenKernel(ctx, series, log)
		if err != nil {
			return err
		}
		fmt.Fprintf(log, "booting %s\n", k.Package)
		started := time.Now()
		limited, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it took longer than %s", timeout))
		before := *p
		err = vm.Run(limited, k, suite, o, p.event)
		cancel()
		if err != nil {
			return err
		}
		fmt.Fprintf(log, "%s: %d passed, %d failed, %d skipped in %.0f s\n", series,
			p.passed-before.passed, p.failed-before.failed, p.skipped-before.skipped, time.Since(started).Seconds())
	}
	return nil
}

// A printer prints events and counts tests, and packages that failed.
type printer struct {
	out                     io.Writer
	verbose, json           bool
	output                  map[string][]string
	passed, failed, skipped int
}

func (p *printer) event(e vm.Event) {
	if p.json {
		_ = json.NewEncoder(p.out).Encode(e) // a closed stdout ends nothing
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		switch {
		case p.json:
		case p.verbose || e.Test == "" && !strings.HasPrefix(e.Output, "PASS"):
			fmt.Fprint(p.out, e.Output)
		default:
			p.output[key] = append(p.output[key], e.Output)
		}
		return
	case "pass":
		if e.Test != "" {
			p.passed++
		}
	case "fail":
		p.failed++
	case "skip":
		p.skipped++
	default:
		return
	}
	if e.Action != "pass" {
		fmt.Fprint(p.out, strings.Join(p.output[key], ""))
	}
	delete(p.output, key)
}
