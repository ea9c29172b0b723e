// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"

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
			"  ebpm run --json examples/opensnoop",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Aliases: []string{"j"}, Usage: "print an object a line instead of a table"},
			&cli.StringFlag{Name: "interface", Usage: "the network `INTERFACE` of XDP programs"},
			&cli.BoolFlag{Name: "ignore-requirements", Usage: "run also where the package says that the kernel is too old"},
		},
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 1, 1)
			if err != nil {
				return err
			}
			pkg, requires, err := s.loadPackage(c.Context, args[0])
			if err != nil {
				return err
			}
			if err := checkKernel(requires); err != nil && !c.Bool("ignore-requirements") {
				return err
			}
			return ecli.Run(c.Context, ecli.Options{
				Package:   pkg,
				Args:      s.tail,
				JSON:      c.Bool("json"),
				Interface: c.String("interface"),
				Stdout:    s.out,
				Stderr:    s.err,
				Status:    func(manifest.Status) {},
			})
		},
	}
}

// loadPackage finds the package that word names: an existing path is a path,
// everything else a reference.
func (s *session) loadPackage(ctx context.Context, word string) (*manifest.Package, *manifest.Requires, error) {
	info, err := os.Stat(word)
	switch {
	case err == nil && (info.IsDir() || strings.HasSuffix(word, ".c")):
		fmt.Fprintf(s.err, "compiling %s\n", word)
		return s.compile(ctx, word)
	case err == nil:
		fmt.Fprintf(s.err, "running the file %s\n", word)
		pkg, err := readPackage(word)
		return pkg, nil, err
	case strings.ContainsRune(word, filepath.Separator) && (word[0] == '.' || word[0] == filepath.Separator):
		return nil, nil, manifest.WithKind(manifest.KindNotFound, err, "")
	}
	ref, err := s.reference(word)
	if err != nil {
		return nil, nil, err
	}
	pulled, err := s.fetchLocalFirst(ctx, ref.WithDefaultTag())
	if err != nil {
		return nil, nil, err
	}
	pkg, err := verifiedPackage(pulled)
	return pkg, pulled.Config.Requires, err
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
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxPackageSize+1))
	if err != nil {
		return nil, err
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return pkg, nil
}

// fetchLocalFirst looks in the store, as root also in that of the user who
// called sudo, and then in the registry.
func (s *session) fetchLocalFirst(ctx context.Context, ref manifest.Reference) (*registry.Pulled, error) {
	folders := []string{s.config.Store}
	if folder := sudoUserStore(); folder != "" {
		folders = append(folders, folder)
	}
	for _, folder := range folders {
		store, err := registry.OpenStore(folder)
		if err != nil {
			return nil, err
		}
		pulled, err := store.Fetch(ctx, ref, manifest.HostPlatform())
		if err == nil {
			fmt.Fprintf(s.err, "running %s from the store %s\n", pulled.Reference, folder)
			return pulled, nil
		}
		if manifest.KindOf(err) != manifest.KindNotFound {
			// A damaged store must not keep a package from running that the
			// registry has whole.
			s.log.Warnf("%v", err)
		}
	}
	store, err := s.openStore()
	if err != nil {
		return nil, err
	}
	client, err := s.client(store)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(s.err, "pulling %s\n", ref)
	pinned, err := client.PullToStore(ctx, ref)
	if err != nil {
		return nil, err
	}
	return store.Fetch(ctx, pinned, manifest.HostPlatform())
}

// sudoUserStore is the store of the user behind sudo, or "".
func sudoUserStore() string {
	name := os.Getenv("SUDO_USER")
	if os.Geteuid() != 0 || name == "" || name == "root" {
		return ""
	}
	home, err := homeOf(name)
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "share", "ebpm", "store")
}

func homeOf(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.HomeDir, nil
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
