// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/builder"
	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

// cacheLimit bounds the store of a node, in bytes. What was used least recently
// goes first.
const cacheLimit = 1 << 30

func (s *session) pullCommand() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Category:  categoryMake,
		Usage:     "pull a package into the local store, or its files into a folder",
		ArgsUsage: "REF",
		Flags: append(ecliPullFlags(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write package.json and source.tar into this `FOLDER`"},
			&cli.StringFlag{Name: "platform", Usage: "the `PLATFORM` whose files to pull, such as linux/arm64 (default: this machine's; into the store: all)"},
			&cli.BoolFlag{Name: "canonical", Usage: "write only package.json, in the form that ecli run --strict takes"},
			&cli.BoolFlag{Name: "source", Usage: "unpack the source into the folder instead"},
		),
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 1, 1)
			if err != nil {
				return err
			}
			switch {
			case c.IsSet("program"):
				return s.pullProgram(c.Context, args[0], c.String("program"))
			case c.IsSet("module"):
				return s.pullModule(c, args[0], c.String("module"))
			}
			ref, err := s.reference(args[0])
			if err != nil {
				return err
			}
			dir := c.String("output")
			if dir == "" && (c.Bool("canonical") || c.Bool("source")) {
				return usageError(c, "--canonical and --source need a folder: -o FOLDER")
			}
			platform := manifest.HostPlatform()
			if c.IsSet("platform") {
				if platform, err = manifest.ParsePlatform(c.String("platform")); err != nil {
					return err
				}
				if dir == "" || c.Bool("source") {
					return usageError(c, "--platform chooses among the files that -o FOLDER writes; the store gets all platforms, and the source is the same for each")
				}
			}
			if c.Bool("source") {
				client, err := s.client(nil)
				if err != nil {
					return err
				}
				return builder.PullSource(c.Context, client, ref, dir)
			}
			if dir == "" {
				return s.pullToStore(c, ref)
			}
			return s.pullFiles(c, ref, platform, dir)
		},
	}
}

func (s *session) pullToStore(c *cli.Context, ref manifest.Reference) error {
	_, client, err := s.storeAndClient()
	if err != nil {
		return err
	}
	pinned, err := client.PullToStore(c.Context, ref.WithDefaultTag())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, pinned)
	return err
}

// pullFiles writes a package's files into a folder. The store serves it as a
// cache: what is there is not fetched again, and a store that cannot be used
// keeps nobody from running the package.
func (s *session) pullFiles(c *cli.Context, ref manifest.Reference, platform manifest.Platform, dir string) error {
	store, err := s.openStore()
	if err != nil {
		s.say("warning: going on without the store: %v", err)
		store = nil
	}
	client, err := s.client(store)
	if err != nil {
		return err
	}
	pulled, err := client.Fetch(c.Context, ref.WithDefaultTag(), platform)
	if err != nil {
		return err
	}
	if err := s.writePulled(pulled, dir, c.Bool("canonical")); err != nil {
		return err
	}
	// A node pulls whatever is deployed on it; what it no longer runs must not
	// fill its disk. A person's store holds what they built: that is theirs.
	if c.Bool("canonical") && store != nil {
		if _, err := store.Trim(c.Context, cacheLimit, []digest.Digest{pulled.Reference.Digest}); err != nil {
			s.say("warning: trim the store %s: %v", store.Dir(), err)
		}
	}
	_, err = fmt.Fprintln(s.out, pulled.Reference)
	return err
}

// writePulled writes the files of a package whose config is the truth.
func (s *session) writePulled(pulled *registry.Pulled, dir string, canonical bool) error {
	pkg, err := verifiedPackage(pulled)
	if err != nil {
		return err
	}
	files := map[string][]byte{manifest.PackageFile: pulled.Package, manifest.SourceFile: pulled.Source}
	if canonical {
		object, err := manifest.Inspect(pkg.Object)
		if err != nil {
			return err
		}
		if err := object.CheckMaps(); err != nil {
			return fmt.Errorf("%s: %w", pulled.Reference, err)
		}
		data, err := pkg.EncodeCanonical()
		if err != nil {
			return err
		}
		files = map[string][]byte{manifest.PackageFile: data}
		types, err := kernelBTF(pulled, object, true)
		if err != nil {
			return err
		}
		if types != nil {
			files[manifest.KernelBTFFile] = types
		}
	} else {
		if pulled.Readme != nil {
			files[manifest.ReadmeFile] = pulled.Readme
		}
		if pulled.BTF != nil {
			files[manifest.BTFFile] = pulled.BTF
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if err := writeFile(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	return nil
}

// kernelBTF returns the types of the running kernel from the package, or nil
// where the kernel shows them itself, the program needs none or the package has
// none. container says that this may be another system than the kernel's.
func kernelBTF(pulled *registry.Pulled, object *manifest.Object, container bool) ([]byte, error) {
	if pulled.BTF == nil || runtime.GOOS != "linux" || ecli.KernelHasBTF() {
		return nil, nil
	}
	needs, err := object.Needs()
	if err != nil || !needs.Features.BTF {
		return nil, err
	}
	kernel, err := ecli.RunningKernel(container)
	if err != nil {
		return nil, err
	}
	types, err := manifest.FindBTF(bytes.NewReader(pulled.BTF), kernel)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pulled.Reference, err)
	}
	return types, nil
}

// verifiedPackage decodes a pulled package and holds its config against what
// the object needs.
func verifiedPackage(pulled *registry.Pulled) (*manifest.Package, error) {
	pkg, err := manifest.DecodePackage(pulled.Package)
	if err != nil {
		return nil, manifest.WithKind(manifest.KindUnverified, fmt.Errorf("%s: %w", pulled.Reference, err), "")
	}
	if err := pulled.Config.Verify(pkg); err != nil {
		return nil, fmt.Errorf("%s: %w", pulled.Reference, err)
	}
	return pkg, nil
}

// writeFile writes a file whole or not at all.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
