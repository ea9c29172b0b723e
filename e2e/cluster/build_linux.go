// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// CacheDir returns the folder in which Build keeps the programs, one folder a
// component and version. It may be removed at any time when no cluster runs.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w (set HOME or XDG_CACHE_HOME)", err)
	}
	return filepath.Join(base, "ebpm", "cluster"), nil
}

// Build makes the programs that are not in the cache yet and returns where all
// of them are. It writes progress lines to log. A build that was interrupted
// goes on where it was when Build runs again, since the Go command caches each
// package that it compiled; of two builds at once the second waits for the
// first. A cold build takes about a quarter of an hour on two processors, and
// runs with a low priority.
func Build(ctx context.Context, log io.Writer) (_ *Programs, err error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	programs := &Programs{cache: cache, keys: map[string]string{}}
	var missing []component
	for _, c := range components() {
		programs.keys[c.name] = c.key()
		if !isDir(programs.Dir(c.name)) {
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return programs, nil
	}

	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache folder: %w", err)
	}
	lock := flock.New(filepath.Join(cache, "build.lock"))
	if locked, err := lock.TryLock(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	} else if !locked {
		fmt.Fprintf(log, "another build is running in %s: waiting for it\n", cache)
		if _, err := lock.TryLockContext(ctx, time.Second); err != nil {
			return nil, fmt.Errorf("wait for the other build: %w", err)
		}
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	missing = slices.DeleteFunc(missing, func(c component) bool { return isDir(programs.Dir(c.name)) })

	b := &build{cache: cache, log: log}
	if b.goTool, err = goTool(); err != nil {
		return nil, err
	}
	if err := b.run(ctx, missing); err != nil {
		if ctx.Err() != nil {
			fmt.Fprintln(log, "the build was interrupted; the next one goes on from here")
		}
		return nil, err
	}
	return programs, nil
}

// goTool finds the go command in the PATH.
func goTool() (string, error) {
	path, err := exec.LookPath("go")
	if err != nil {
		return "", fmt.Errorf("find the go command: %w (install Go from https://go.dev/dl)", err)
	}
	return path, nil
}

// key names the folder of a component in the cache. It changes with the
// version and with all that the build is given.
func (c component) key() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %v", c.module, c.packages, c.tags, c.ldflags, c.cgo)
	for _, name := range slices.Sorted(maps.Keys(c.sources)) {
		fmt.Fprintf(h, " %q %q", name, c.sources[name])
	}
	return fmt.Sprintf("%s-%s-%s-%s-%s", c.name, c.version, runtime.GOOS, runtime.GOARCH, hex.EncodeToString(h.Sum(nil))[:8])
}

// args returns the arguments of the Go command `verb` for the component.
func (c component) args(verb string, more ...string) []string {
	args := []string{verb, "-mod=mod", "-trimpath", "-buildvcs=false", "-tags", c.tags, "-ldflags", c.ldflags}
	return append(append(args, more...), c.packages...)
}

// build is one run of Build: the components that it makes, and how far it is.
type build struct {
	cache, goTool string
	log           io.Writer
	progress      *progress
}

func (b *build) run(ctx context.Context, missing []component) (err error) {
	var names []string
	for _, c := range missing {
		names = append(names, c.name+" "+c.version)
	}
	fmt.Fprintf(b.log, "building %s\n", strings.Join(names, ", "))

	defer func() {
		for _, c := range missing {
			err = errors.Join(err, os.RemoveAll(b.workDir(c)))
		}
	}()
	b.progress = &progress{start: time.Now(), log: b.log}
	for _, c := range missing {
		dir, err := b.prepare(ctx, c)
		if err != nil {
			return fmt.Errorf("prepare the build of %s %s: %w", c.name, c.version, err)
		}
		stale, err := b.stale(ctx, c, dir)
		if err != nil {
			return fmt.Errorf("list what %s %s is made of: %w", c.name, c.version, err)
		}
		b.progress.add(stale, len(c.packages))
	}
	b.progress.compiling()
	for _, c := range missing {
		if err := b.compile(ctx, c, b.workDir(c)); err != nil {
			return fmt.Errorf("build %s %s: %w", c.name, c.version, err)
		}
		b.progress.linked(len(c.packages), c.name+" "+c.version)
	}
	return nil
}

func (b *build) workDir(c component) string {
	return filepath.Join(b.cache, c.key()+".tmp")
}

// prepare writes the module that requires the component.
func (b *build) prepare(ctx context.Context, c component) (string, error) {
	dir := b.workDir(c)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return "", err
	}
	for name, content := range c.sources {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return "", err
		}
	}
	var replace []string
	if c.staging {
		var err error
		if replace, err = b.stagingModules(ctx, c, dir); err != nil {
			return "", err
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, "go.mod"), c.goMod(replace), 0o644)
}

// stagingModules returns the modules that c's own go.mod requires as v0.0.0.
// Outside of its repository they are their published releases.
func (b *build) stagingModules(ctx context.Context, c component, dir string) ([]string, error) {
	var download struct{ GoMod, Error string }
	if err := b.goJSON(ctx, dir, &download, "mod", "download", "-json", c.module+"@"+c.version); err != nil {
		return nil, err
	}
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := b.goJSON(ctx, dir, &mod, "mod", "edit", "-json", download.GoMod); err != nil {
		return nil, err
	}
	var modules []string
	for _, r := range mod.Require {
		if r.Version == "v0.0.0" {
			modules = append(modules, r.Path)
		}
	}
	return modules, nil
}

// stale returns how many packages the component's build has to compile.
func (b *build) stale(ctx context.Context, c component, dir string) (int, error) {
	cmd := b.command(ctx, c, dir, c.args("list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}")...)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := b.follow(cmd, func(line string) {
		if module, ok := strings.CutPrefix(line, "go: downloading "); ok {
			b.progress.downloading(module)
		}
	})
	return len(strings.Fields(out.String())), err
}

// compile builds the programs and moves them to their place at once.
func (b *build) compile(ctx context.Context, c component, dir string) error {
	bin := filepath.Join(dir, "bin")
	target := bin + string(filepath.Separator)
	if len(c.packages) == 1 {
		target = filepath.Join(bin, c.name)
	}
	cmd := b.command(ctx, c, dir, c.args("build", "-v", "-o", target)...)
	if err := b.follow(cmd, func(string) { b.progress.compiled() }); err != nil {
		return err
	}
	return os.Rename(bin, filepath.Join(b.cache, c.key()))
}

// command makes a Go command. The user's GOFLAGS are left out: they are meant
// for other modules.
func (b *build) command(ctx context.Context, c component, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "10", b.goTool}, args...)...)
	cmd.Dir = dir
	cgo := "0"
	if c.cgo {
		cgo = "1"
	}
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH, "CGO_ENABLED="+cgo)
	// The Go command ends its compilers on an interrupt; killed, it would
	// leave them running.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	// And where this process is killed, so that the next build meets no other.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGINT}
	return cmd
}

func (b *build) goJSON(ctx context.Context, dir string, v any, args ...string) error {
	cmd := b.command(ctx, component{}, dir, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := b.follow(cmd, func(string) {}); err != nil {
		return err
	}
	return json.Unmarshal(out.Bytes(), v)
}

// follow runs cmd, hands each line of its standard error to line, and puts the
// last of them into the error when it fails.
func (b *build) follow(cmd *exec.Cmd, line func(string)) error {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	const keep = 20
	var last []string
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		last = append(last, lines.Text())
		if len(last) > keep {
			last = last[1:]
		}
		line(lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[2:], " "), err, strings.Join(last, "\n"))
	}
	return nil
}
