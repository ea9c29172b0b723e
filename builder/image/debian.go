// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebpm/ebpm/manifest"
)

// recipe is part of the key of cached layers: raise it with every change of
// what is made of the packages.
const recipe = "1"

// debianPrograms are the programs that ecc runs.
var debianPrograms = []string{"usr/bin/clang", "usr/bin/llvm-strip"}

// debianHeaders returns the packages whose C headers sources may include,
// such as <linux/types.h> and <stdint.h>.
func debianHeaders(arch string) []string {
	headers := []string{"libc6-dev", "linux-libc-dev"}
	if arch == "amd64" {
		// The target bpf is not x86-64, so <features.h> asks for the headers of
		// the 32-bit C library.
		headers = append(headers, "libc6-dev-i386")
	}
	return headers
}

// debianLayer returns the layer of the image ebpm-builder that is made of
// Debian packages, from the cache folder where it is there.
func debianLayer(ctx context.Context, o Options) (*layer, error) {
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache of images: %w", err)
	}
	if err := prune(o.Cache, time.Now()); err != nil {
		o.log("clean the cache of images: %v", err)
	}
	l, err := makeDebianLayer(ctx, o)
	if !errors.Is(err, errApt) || ctx.Err() != nil {
		return l, err
	}
	// The lists are missing, or of a day whose packages are gone.
	if os.Geteuid() != 0 {
		return nil, manifest.WithKind(manifest.KindPrecondition, err, "Run `apt-get update` as root, then try again.")
	}
	o.log("updating the lists of Debian packages")
	if err := updateLists(ctx); err != nil {
		return nil, err
	}
	return makeDebianLayer(ctx, o)
}

// makeDebianLayer does the work of [debianLayer] with apt's lists as they are.
func makeDebianLayer(ctx context.Context, o Options) (_ *layer, err error) {
	tmp, err := os.MkdirTemp(o.Cache, ".tmp-")
	if err != nil {
		return nil, fmt.Errorf("make the cache of images: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	a, err := newApt(filepath.Join(tmp, "apt"))
	if err != nil {
		return nil, err
	}
	arch, err := a.architecture(ctx)
	if err != nil {
		return nil, err
	}
	headers := debianHeaders(arch)
	pkgs, err := a.resolve(ctx, append([]string{"base-files", "clang", "llvm"}, headers...))
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(o.Cache, "debian-"+arch+"-"+debianKey(pkgs, o.Epoch))
	l, err := cached(dir)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		o.log("making the layer anew: %v", err)
	}

	o.log("downloading %d Debian packages", len(pkgs))
	files, err := a.download(ctx, pkgs)
	if err != nil {
		return nil, err
	}
	o.log("unpacking them")
	all, err := unpackAll(ctx, pkgs, files, filepath.Join(tmp, "unpacked"))
	if err != nil {
		return nil, err
	}
	t, err := selectDebian(all, debianPrograms, headers)
	if err != nil {
		return nil, err
	}
	if err := addPackageStatus(ctx, t, pkgs, files); err != nil {
		return nil, err
	}
	t.identity()
	o.log("compressing what is needed of them")
	done := filepath.Join(tmp, "done")
	if err := writeCached(ctx, done, t, o.Epoch); err != nil {
		return nil, err
	}
	return keep(done, dir)
}

// debianKey is the name of the layer that is made of pkgs. Go's version is in
// it for its gzip.
func debianKey(pkgs []debPackage, epoch time.Time) string {
	h := sha256.New()
	fmt.Fprintln(h, recipe, runtime.Version(), epoch.Unix())
	for _, p := range pkgs {
		fmt.Fprintln(h, p.name, p.version, p.arch, p.checksum)
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// writeCached makes the folder dir, with the layer of t as [cached] reads it.
func writeCached(ctx context.Context, dir string, t tree, mtime time.Time) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, cachedLayer))
	if err != nil {
		return err
	}
	b, err := writeBlob(ctx, f, t, mtime)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, cachedBlob), text, 0o644)
}

// unpackAll returns the files of all packages, with their contents in the new
// folder dir.
func unpackAll(ctx context.Context, pkgs []debPackage, files []string, dir string) (tree, error) {
	trees := make([]tree, len(pkgs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range pkgs {
		g.Go(func() error {
			spool := filepath.Join(dir, strconv.Itoa(i))
			err := os.MkdirAll(spool, 0o755)
			if err == nil {
				trees[i], err = unpackDeb(ctx, p.name, files[i], spool)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := tree{}
	for _, t := range trees {
		for name, n := range t {
			if other, ok := all[name]; ok {
				return nil, fmt.Errorf("unpack package %s: package %s has a file %s as well", n.pkg, other.pkg, name)
			}
			all[name] = n
		}
	}
	return all, nil
}

// addPackageStatus adds what dpkg knows of each package of which something is
// in t, in the way in which scanners of images look for it where there is no
// dpkg: a file a package in status.d.
func addPackageStatus(ctx context.Context, t tree, pkgs []debPackage, files []string) error {
	taken := t.packages()
	for i, p := range pkgs {
		if !taken[p.name] {
			continue
		}
		control, err := run(ctx, "/", "dpkg-deb", "--field", files[i])
		if err != nil {
			return fmt.Errorf("read the description of package %s: %w", p, err)
		}
		t.addData("var/lib/dpkg/status.d/"+p.name, 0o644, control)
	}
	return nil
}
