// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/builder"
	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

func (s *session) runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Category:  categoryRun,
		Usage:     "run a package on this machine until it is interrupted",
		ArgsUsage: "REF|FOLDER|FILE [ARGS...]",
		Description: "A folder or a .bpf.c file is compiled first; a package.json runs as it is.\n" +
			"What follows belongs to the program (try --help there).\n\n" +
			"Examples:\n" +
			"  ebpm run examples/opensnoop\n" +
			"  ebpm run opensnoop:1.0.0 --failed\n" +
			"  ebpm run --json examples/opensnoop\n" +
			"  ebpm run --attach report_syns='veth*' examples/xdpsyn\n" +
			"  ebpm run --watch examples/opensnoop\n\n" +
			watchHelp + "\n\n" +
			attachHelp,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Aliases: []string{"j"}, Usage: "print an object a line instead of a table"},
			&cli.StringSliceFlag{Name: "attach", Usage: "attach a program of the package there, as `PROGRAM=TARGET`; may be given several times"},
			&cli.StringFlag{Name: "interface", Usage: "the network `INTERFACE` of programs that attach to one (XDP, tc, socket filters)"},
			&cli.BoolFlag{Name: "ignore-requirements", Usage: "run also where the package says that the kernel is too old"},
			&cli.BoolFlag{Name: "watch", Usage: "build a folder or a .bpf.c file again with each save, and move to the new build"},
			&cli.StringFlag{Name: "handover", Usage: "take over from the instance that meets others in this `DIR`, and be taken over from"},
			&cli.StringSliceFlag{Name: "carry", Usage: "also carry this `MAP` over (.data, .bss), or all; may be given several times"},
			&cli.BoolFlag{Name: "reset-state", Usage: "let maps start empty whose layout has changed"},
		},
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 1, 1)
			if err != nil {
				return err
			}
			o, err := s.runOptions(c)
			if err != nil {
				return err
			}
			if c.Bool("watch") {
				if info, err := os.Stat(args[0]); err == nil && !info.IsDir() && !strings.HasSuffix(args[0], ".c") {
					return usageError(c, "--watch takes a folder or a .bpf.c file: "+args[0]+" is built already")
				}
				return s.adviseFlagOrder(s.watch(c.Context, args[0], c.Bool("ignore-requirements"), o))
			}
			pkg, requires, types, err := s.loadPackage(c.Context, args[0])
			if err != nil {
				return err
			}
			if err := checkKernel(requires); err != nil && !c.Bool("ignore-requirements") {
				return err
			}
			o.Package, o.KernelBTF = pkg, types
			err = ecli.Run(c.Context, o)
			return s.adviseFlagOrder(err)
		},
	}
}

// watchHelp says what --watch does.
const watchHelp = "With --watch, a save builds the source again, and the new build takes over from\n" +
	"the running one: no event is lost, and the content of its maps is kept. What does\n" +
	"not compile, or what the kernel refuses, leaves the running one as it is."

// runOptions are what the flags say of a run.
func (s *session) runOptions(c *cli.Context) (ecli.Options, error) {
	attach, err := parseAttach(c)
	if err != nil {
		return ecli.Options{}, err
	}
	o := ecli.Options{
		Args:       s.tail,
		JSON:       c.Bool("json"),
		Attach:     attach,
		Interface:  c.String("interface"),
		Stdout:     s.runnerOutput(),
		Stderr:     s.err,
		Handover:   c.String("handover"),
		Revision:   uint64(time.Now().UnixNano()),
		ResetState: c.Bool("reset-state"),
		Status:     func(manifest.Status) {},
		// Who hangs in the kernel is ended by nobody else, and the other instance waits
		// for that end.
		Hung: func(err error) {
			s.complain(err)
			os.Exit(int(manifest.KindOf(err)))
		},
	}
	for _, word := range c.StringSlice("carry") {
		if word == "all" {
			o.Carry.All = true
		} else {
			o.Carry.Maps = append(o.Carry.Maps, word)
		}
	}
	switch moves := c.Bool("watch") || o.Handover != ""; {
	case c.Bool("watch") && o.Handover != "":
		return o, usageError(c, "--watch has a folder of its own for handovers: --handover does not go with it")
	case !moves && (o.ResetState || c.IsSet("carry")):
		return o, usageError(c, "--carry and --reset-state say what a handover does: they need --watch or --handover DIR")
	}
	return o, nil
}

// attachHelp says what --attach takes.
const attachHelp = "The TARGET of --attach depends on what the program is attached to:\n" +
	"  uprobe, uretprobe, usdt   BINARY:FUNCTION[,pid=PID | ,container=ID], or pid=PID alone\n" +
	"  XDP, tc, socket filter    an interface, several with commas, a pattern such as 'veth*'\n" +
	"  cgroup, sockops           the path of a cgroup (lsm_cgroup, too)\n" +
	"  perf_event                EVENT[@HZ] or @HZ, such as cpu-clock@99\n" +
	"  every other               what follows the hook in its section: a function, a tracepoint"

func parseAttach(c *cli.Context) ([]manifest.Attach, error) {
	var list []manifest.Attach
	for _, word := range c.StringSlice("attach") {
		a, err := manifest.ParseAttach(word)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// adviseFlagOrder helps who typed one of ebpm's own flags behind the package,
// where it is the program's, and the program does not know it.
func (s *session) adviseFlagOrder(err error) error {
	if manifest.KindOf(err) != manifest.KindUsage {
		return err
	}
	for _, word := range s.tail {
		name, _, _ := strings.Cut(word, "=")
		if slices.Contains([]string{"--attach", "--interface", "--json", "--ignore-requirements", "--watch", "--handover", "--carry", "--reset-state"}, name) {
			return manifest.WithKind(manifest.KindUsage, err, "What follows the package is the program's; ebpm's own "+name+" belongs in front of it.")
		}
	}
	return err
}

// loadPackage finds the package that word names: an existing path is a path,
// everything else a reference. types are those of the running kernel where the
// package has them and the kernel does not show its own.
func (s *session) loadPackage(ctx context.Context, word string) (pkg *manifest.Package, requires *manifest.Requires, types []byte, err error) {
	info, err := os.Stat(word)
	switch {
	case err == nil && (info.IsDir() || strings.HasSuffix(word, ".c")):
		s.progress("compiling %s", word)
		pkg, requires, err := s.compile(ctx, word)
		return pkg, requires, nil, err
	case err == nil:
		s.progress("running the file %s", word)
		pkg, err := readPackage(word)
		return pkg, nil, nil, err
	case looksLikePath(word):
		return nil, nil, nil, manifest.WithKind(manifest.KindNotFound, err, "")
	}
	ref, err := s.reference(word)
	if err != nil {
		return nil, nil, nil, err
	}
	pulled, err := s.fetchLocalFirst(ctx, ref.WithDefaultTag())
	if err != nil {
		return nil, nil, nil, err
	}
	if pkg, err = verifiedPackage(pulled); err != nil {
		return nil, nil, nil, err
	}
	object, err := manifest.Inspect(pkg.Object)
	if err != nil {
		return nil, nil, nil, err
	}
	types, err = kernelBTF(pulled, object, false)
	return pkg, pulled.Config.Requires, types, err
}

// looksLikePath reports whether a word that is no file was meant to be one.
func looksLikePath(word string) bool {
	return strings.HasPrefix(word, ".") || strings.HasPrefix(word, "/") || strings.HasSuffix(word, ".c") || strings.HasSuffix(word, ".json")
}

func (s *session) compile(ctx context.Context, path string) (*manifest.Package, *manifest.Requires, error) {
	source, err := builder.ReadSource(path, "")
	if err != nil {
		return nil, nil, err
	}
	pkg, err := builder.Compile(ctx, source, builder.Toolchain{}, s.err)
	return pkg, source.Spec.Requires, err
}

func readPackage(file string) (*manifest.Package, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := manifest.ReadBounded(f, manifest.MaxPackageSize)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return pkg, nil
}

// fetchLocalFirst looks in the store, as root also in that of the user who
// called sudo, and then in the registry. A package of the store that is not for
// this machine ends the search: the name is known here.
func (s *session) fetchLocalFirst(ctx context.Context, ref manifest.Reference) (*registry.Pulled, error) {
	own, err := s.storeFolder()
	if err != nil {
		return nil, err
	}
	folders := []string{own}
	if folder := sudoUserStore(); folder != "" {
		folders = append(folders, folder)
	}
	var elsewhere error
	for _, folder := range folders {
		pulled, err := fetchStored(ctx, folder, ref)
		if platform := (*registry.PlatformError)(nil); errors.As(err, &platform) {
			elsewhere = err
			continue
		}
		if err == nil {
			s.progress("running %s from the store %s", pulled.Reference, folder)
			return pulled, nil
		}
		if manifest.KindOf(err) != manifest.KindNotFound {
			// A damaged store must not keep a package from running that the
			// registry has whole.
			s.say("warning: %v", err)
		}
	}
	if elsewhere != nil {
		return nil, elsewhere
	}
	store, client, err := s.storeAndClient()
	if err != nil {
		return nil, err
	}
	s.progress("pulling %s", ref)
	pinned, err := client.PullToStore(ctx, ref)
	if err != nil {
		return nil, err
	}
	return store.Fetch(ctx, pinned, manifest.HostPlatform())
}

func fetchStored(ctx context.Context, folder string, ref manifest.Reference) (*registry.Pulled, error) {
	store, err := registry.OpenStore(folder)
	if err != nil {
		return nil, err
	}
	return store.Fetch(ctx, ref, manifest.HostPlatform())
}

// sudoUserStore is the store of the user behind sudo, or "".
func sudoUserStore() string {
	name := os.Getenv("SUDO_USER")
	if os.Geteuid() != 0 || name == "" || name == "root" {
		return ""
	}
	u, err := user.Lookup(name)
	if err != nil {
		return ""
	}
	return userStore(u.HomeDir)
}

// checkKernel holds the running kernel against what the author asks for.
func checkKernel(requires *manifest.Requires) error {
	release := kernelRelease()
	if release == "" || requires == nil {
		return nil
	}
	ok, err := requires.AllowsKernel(release)
	if err != nil || ok {
		return err
	}
	return manifest.WithKind(manifest.KindPrecondition,
		fmt.Errorf("the package asks for a kernel %s, this one is %s", requires.Kernel, release),
		"Vendors backport features; --ignore-requirements tries anyway.")
}
