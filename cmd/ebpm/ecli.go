// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

// ecli speaks to no network: the ebpm beside it does that, by the hidden flags
// of this file.

// Files in the folder of `pull --program`: one of them is there.
const (
	programPackage = manifest.PackageFile
	programModule  = "module"   // what an image of eunomia-bpf's ecli holds
	programFile    = "download" // what a URL names
)

// maxDownload bounds what a URL names, in bytes: a tar may have the types of
// many kernels.
const maxDownload = 1 << 30

func ecliPullFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "program", Hidden: true}, // DIR
		&cli.StringFlag{Name: "module", Hidden: true},  // FILE
		&cli.BoolFlag{Name: "account", Hidden: true},   // on stdin
	}
}

func ecliPushFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "module", Hidden: true}, // FILE
		&cli.StringSliceFlag{Name: "annotation", Hidden: true},
		&cli.BoolFlag{Name: "account", Hidden: true}, // on stdin
	}
}

// pullProgram puts into dir what `ecli run WORD` is to run: that of a URL, a
// package, or the module of an image.
func (s *session) pullProgram(ctx context.Context, word, dir string) error {
	if strings.Contains(word, "://") {
		client, err := s.client(nil)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(dir, programFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(client.Download(ctx, word, f, maxDownload), f.Close())
	}
	ref, err := s.reference(word)
	if err != nil {
		return err
	}
	ref = ref.WithDefaultTag()
	pulled, err := s.fetchLocalFirst(ctx, ref)
	if other := (*registry.NotAPackageError)(nil); errors.As(err, &other) && ref.Scheme == manifest.SchemeRegistry {
		client, err := s.client(nil)
		if err != nil {
			return err
		}
		module, err := client.PullModule(ctx, ref)
		if err != nil {
			return err
		}
		return writeFile(filepath.Join(dir, programModule), module.Data)
	}
	if err != nil {
		return err
	}
	pkg, err := verifiedPackage(pulled)
	if err != nil {
		return err
	}
	object, err := manifest.Inspect(pkg.Object)
	if err != nil {
		return err
	}
	types, err := kernelBTF(pulled, object, false)
	if err != nil {
		return err
	}
	if types != nil {
		if err := writeFile(filepath.Join(dir, manifest.KernelBTFFile), types); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, programPackage), pulled.Package)
}

// pullModule writes the module of an image into a file, as `ecli pull` does.
func (s *session) pullModule(c *cli.Context, word, file string) error {
	ref, client, err := s.moduleClient(c, word)
	if err != nil {
		return err
	}
	module, err := client.PullModule(c.Context, ref)
	if err != nil {
		return err
	}
	if err := replaceFile(file, module.Data); err != nil {
		return fmt.Errorf("write the module: %w", err)
	}
	return nil
}

// replaceFile writes a regular file whole or not at all. Anything else that is
// there, such as a device, a pipe or a link to one, is written to.
func replaceFile(file string, data []byte) error {
	info, err := os.Lstat(file)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Mode().IsRegular() {
		return writeFile(file, data)
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// pushModule writes an image with the bytes of a file, as `ecli push` does.
func (s *session) pushModule(c *cli.Context, word, file string) error {
	ref, client, err := s.moduleClient(c, word)
	if err != nil {
		return err
	}
	annotations := map[string]string{"org.opencontainers.image.title": file}
	for _, pair := range c.StringSlice("annotation") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return usageError(c, fmt.Sprintf("annotation %q: wanted KEY=VALUE", pair))
		}
		annotations[key] = value
	}
	data, err := readModule(file)
	if err != nil {
		return fmt.Errorf("read the module: %w", err)
	}
	_, err = client.PushModule(c.Context, data, annotations, ref)
	return err
}

func readModule(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := manifest.ReadBounded(f, registry.MaxModuleSize)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return data, nil
}

const maxAccountSize = 64 << 10

// moduleClient returns the client of ecli's push and pull. An account comes by
// stdin: the words of a command line can be read by everybody.
func (s *session) moduleClient(c *cli.Context, word string) (manifest.Reference, *registry.Client, error) {
	ref, err := s.reference(word)
	if err != nil {
		return ref, nil, err
	}
	options := s.registryOptions(nil)
	if c.Bool("account") {
		data, err := manifest.ReadBounded(s.in, maxAccountSize)
		if err != nil {
			return ref, nil, fmt.Errorf("read the account: %w", err)
		}
		var account struct{ Username, Password string }
		if err := json.Unmarshal(data, &account); err != nil {
			return ref, nil, fmt.Errorf("read the account: %w", err)
		}
		options.Account = &registry.Account{Registry: ref.Registry, Username: account.Username, Password: account.Password}
	}
	client, err := registry.New(options)
	return ref, client, err
}
