// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// debPackage is one version of a Debian package, as apt offers it today.
type debPackage struct {
	name, version, arch string
	checksum            string // as apt prints it: ALGORITHM:HEX
}

func (p debPackage) String() string { return p.name + "=" + p.version }

// errApt is found by errors.Is when apt could not name or fetch packages, which
// newer lists may mend.
var errApt = errors.New("apt-get")

// apt runs the machine's apt-get and dpkg-deb. It knows nothing of what is
// installed here, changes nothing here, and needs no root.
type apt struct {
	dir string // scratch
}

func newApt(dir string) (*apt, error) {
	for _, tool := range []string{"apt-get", "dpkg", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("find %s: %w", tool, err),
				"The image ebpm-builder is made of Debian packages: build it on a Debian system.")
		}
	}
	a := &apt{dir: dir}
	if err := os.MkdirAll(filepath.Join(a.archives(), "partial"), 0o755); err != nil {
		return nil, err
	}
	return a, os.WriteFile(a.status(), nil, 0o644)
}

func (a *apt) status() string   { return filepath.Join(a.dir, "status") }
func (a *apt) archives() string { return filepath.Join(a.dir, "archives") }

// get runs apt-get as if nothing were installed and nothing downloaded.
func (a *apt) get(ctx context.Context, args ...string) ([]byte, error) {
	return run(ctx, a.archives(), "apt-get", append([]string{
		"-o", "Dir::State::status=" + a.status(),
		"-o", "Dir::Cache::archives=" + a.archives(),
		"-o", "Debug::NoLocking=1",
	}, args...)...)
}

// architecture is Debian's name of the machine's.
func (a *apt) architecture(ctx context.Context) (string, error) {
	out, err := run(ctx, a.dir, "dpkg", "--print-architecture")
	return strings.TrimSpace(string(out)), err
}

// resolve returns the packages that names need, themselves included, sorted.
func (a *apt) resolve(ctx context.Context, names []string) ([]debPackage, error) {
	out, err := a.get(ctx, append([]string{"install", "-y", "--no-install-recommends", "--print-uris", "-o", "Acquire::ForceHash=SHA256"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("resolve Debian packages: %w: %w", errApt, err)
	}
	return parseURIs(string(out))
}

// uriLine is a line of apt-get --print-uris: 'URI' NAME_VERSION_ARCH.deb SIZE
// CHECKSUM.
var uriLine = regexp.MustCompile(`^'[^']+' ([a-z0-9][a-z0-9+.-]*)_([^_ /]+)_([a-z0-9-]+)\.deb [0-9]+ (\S+)$`)

// debVersion is the grammar of deb-version(7).
var debVersion = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~:-]*$`)

// parseURIs reads the output of apt-get --print-uris. It fails when a package
// has no checksum, since nothing then says that tomorrow's is the same.
func parseURIs(out string) ([]debPackage, error) {
	var pkgs []debPackage
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, "'") {
			continue // what apt tells people
		}
		m := uriLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("read what apt-get printed: %q is no package with a checksum", line)
		}
		// apt escapes the colon of an epoch, and a version has no other character
		// that it would escape.
		version := strings.ReplaceAll(m[2], "%3a", ":")
		if !debVersion.MatchString(version) {
			return nil, fmt.Errorf("read what apt-get printed: %q is no version, in %q", m[2], line)
		}
		pkgs = append(pkgs, debPackage{name: m[1], version: version, arch: m[3], checksum: m[4]})
	}
	if len(pkgs) == 0 {
		return nil, errors.New("read what apt-get printed: it names no package")
	}
	slices.SortFunc(pkgs, func(a, b debPackage) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(pkgs); i++ {
		if pkgs[i].name == pkgs[i-1].name {
			return nil, fmt.Errorf("read what apt-get printed: two of package %s", pkgs[i].name)
		}
	}
	return pkgs, nil
}

// download fetches pkgs, whose checksums apt verifies, and returns the file of
// each.
func (a *apt) download(ctx context.Context, pkgs []debPackage) ([]string, error) {
	args := []string{"download"}
	for _, p := range pkgs {
		args = append(args, p.String())
	}
	if _, err := a.get(ctx, args...); err != nil {
		return nil, fmt.Errorf("download Debian packages: %w: %w", errApt, err)
	}
	files := make([]string, len(pkgs))
	for i, p := range pkgs {
		files[i] = filepath.Join(a.archives(), fmt.Sprintf("%s_%s_%s.deb", p.name, strings.ReplaceAll(p.version, ":", "%3a"), p.arch))
		if _, err := os.Stat(files[i]); err != nil {
			return nil, fmt.Errorf("download Debian package %s: %w", p, err)
		}
	}
	return files, nil
}

// updateLists brings the machine's lists of packages up to date, which only root
// may.
func updateLists(ctx context.Context) error {
	// Another apt may be at work; wait for it rather than fail.
	if _, err := run(ctx, "/", "apt-get", "-o", "DPkg::Lock::Timeout=600", "update"); err != nil {
		return fmt.Errorf("update the lists of Debian packages: %w", err)
	}
	return nil
}

// run returns what a command wrote to stdout. Its error holds the end of what
// it wrote to stderr.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second // for what apt-get leaves behind when it is killed
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, commandError(ctx, err, stderr.String())
	}
	return stdout.Bytes(), nil
}

func commandError(ctx context.Context, err error, stderr string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	const most = 2000
	text := strings.TrimSpace(stderr)
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}
