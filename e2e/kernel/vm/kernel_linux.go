// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// metaPackages are Debian's packages that depend on the newest kernel of a
// series, by the series.
var metaPackages = map[string]string{
	"6.1":  "linux-image-cloud-amd64",
	"6.12": "linux-image-6.12-cloud-amd64",
}

// Series are the kernels that there are, oldest first.
var Series = []string{"6.1", "6.12"}

// A Kernel is a Debian kernel package, unpacked.
type Kernel struct {
	// Series is the major and the minor version, such as "6.12".
	Series string
	// Package is the Debian package, with its version.
	Package string

	dir string
}

// programs are the host's programs that a machine needs, by Debian package.
var programs = map[string]string{
	"qemu-system-x86": "qemu-system-x86_64",
	"busybox-static":  "busybox",
	"xz-utils":        "xz",
}

// installPrograms installs those of programs that are missing.
func installPrograms(ctx context.Context, log io.Writer) error {
	var missing []string
	for _, pkg := range slices.Sorted(maps.Keys(programs)) {
		if _, err := exec.LookPath(programs[pkg]); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("install %s: not root; install them, then try again", list)
	}
	fmt.Fprintln(log, "installing", list)
	// Another apt may be at work; wait for it rather than fail.
	args := append([]string{"-o", "DPkg::Lock::Timeout=600", "install", "-y", "--no-install-recommends"}, missing...)
	err := withLists(ctx, log, func() error {
		_, err := command(ctx, "/", "apt-get", args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("install %s: %w", list, err)
	}
	return nil
}

// withLists does what needs apt's lists of packages, and once more with newer
// lists when it fails: they may be missing, or of a day whose packages are gone.
func withLists(ctx context.Context, log io.Writer, do func() error) error {
	err := do()
	if err == nil || ctx.Err() != nil || os.Geteuid() != 0 {
		return err
	}
	fmt.Fprintln(log, "updating the lists of Debian packages")
	if _, updateErr := command(ctx, "/", "apt-get", "-o", "DPkg::Lock::Timeout=600", "update"); updateErr != nil {
		return errors.Join(err, updateErr)
	}
	return do()
}

// OpenKernel returns the newest kernel of a series that apt offers, from the
// user's cache folder or else downloaded into it. It installs the programs that
// [Run] needs where they are missing.
func OpenKernel(ctx context.Context, series string, log io.Writer) (*Kernel, error) {
	meta, ok := metaPackages[series]
	if !ok {
		return nil, fmt.Errorf("find kernel %s: there are %s", series, strings.Join(Series, " and "))
	}
	if err := installPrograms(ctx, log); err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(cache, "ebpm", "kernels", series)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	var k *Kernel
	err = withLists(ctx, log, func() error {
		pkg, err := newest(ctx, meta)
		if err != nil {
			return err
		}
		k = &Kernel{Series: series, Package: pkg, dir: filepath.Join(folder, pkg)}
		if _, err := os.Stat(k.dir); err == nil {
			return nil
		}
		fmt.Fprintln(log, "downloading", pkg)
		return k.download(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("fetch kernel %s (Debian package %s): %w", series, meta, err)
	}
	return k, nil
}

var dependsLine = regexp.MustCompile(`(?m)^Depends: (linux-image-[a-z0-9.+-]+) \(= ([0-9][A-Za-z0-9.+~:-]*)\)$`)

// newest returns NAME=VERSION of the package that meta depends on.
func newest(ctx context.Context, meta string) (string, error) {
	out, err := command(ctx, "/", "apt-cache", "show", "--no-all-versions", meta)
	if err != nil {
		return "", err
	}
	m := dependsLine.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("read what apt-cache printed of %s: it depends on no kernel", meta)
	}
	return fmt.Sprintf("%s=%s", m[1], m[2]), nil
}

// download fetches the package, whose checksum apt verifies, and unpacks it.
func (k *Kernel) download(ctx context.Context) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(k.dir), ".tmp-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if _, err := command(ctx, tmp, "apt-get", "download", k.Package); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	if len(debs) != 1 {
		return fmt.Errorf("apt-get downloaded %d packages, not one", len(debs))
	}
	root := filepath.Join(tmp, "root")
	if _, err := command(ctx, tmp, "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	err = os.Rename(root, k.dir)
	if _, statErr := os.Stat(k.dir); statErr == nil {
		return nil // another process was quicker
	}
	return err
}

// one returns the only file that a pattern matches in the package.
func (k *Kernel) one(pattern string) (string, error) {
	files, err := filepath.Glob(filepath.Join(k.dir, pattern))
	if err != nil {
		return "", err
	}
	if len(files) != 1 {
		return "", fmt.Errorf("find %s in Debian package %s: %d files", pattern, k.Package, len(files))
	}
	return files[0], nil
}

// Config returns the value of an option of the kernel's build, such as y or m,
// or "" for one that is not set.
func (k *Kernel) Config(option string) (string, error) {
	file, err := k.one("boot/config-*")
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), option+"="); ok {
			return value, nil
		}
	}
	return "", nil
}

// command returns what a program wrote to stdout. Its error holds the end of
// what it wrote to stderr.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		text := strings.TrimSpace(stderr.String())
		if len(text) > 2000 {
			text = "…" + text[len(text)-2000:]
		}
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, text)
	}
	return stdout.Bytes(), nil
}
